"""Prompts as other programs write them into files, and what is told where a file holds none."""

from __future__ import annotations

import html
import json
import time

import pytest
from PIL import Image

from comfyui_fewshot.augmentation.gallery.formats import read_other
from comfyui_fewshot.augmentation.gallery.index import Gallery
from comfyui_fewshot.augmentation.gallery.metadata import find_prompt, read_prompt
from comfyui_fewshot.augmentation.gallery.prompts import NotFound
from comfyui_fewshot.augmentation.gallery.rewrite import rewrite
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Concept
from comfyui_fewshot.tests.augmentation.gallery.graphs import CAT, UGLY, both, encoded, node, saved
from comfyui_fewshot.tests.augmentation.gallery.test_gallery import exif_picture, png

GRAPH = json.dumps(both() | saved(["6", 0], ["7", 0]))
WORKFLOW = json.dumps({"nodes": [
    {"id": 6, "type": "CLIPTextEncode", "widgets_values": [CAT], "inputs": []},
    {"id": 7, "type": "CLIPTextEncode", "widgets_values": [UGLY], "inputs": []},
    {"id": 3, "type": "KSampler", "widgets_values": [], "inputs": [
        {"name": "positive", "link": 1}, {"name": "negative", "link": 2}]},
], "links": [[1, 6, 0, 3, 0, "*"], [2, 7, 0, 3, 1, "*"]]})  # fmt: skip
LINES = f"{CAT}\nNegative prompt: {UGLY}\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 24x16, Model: dream"
XMP = f"""<x:xmpmeta><rdf:RDF><exif:UserComment><rdf:Alt><rdf:li xml:lang="x-default">{
    html.escape(json.dumps({"c": CAT, "uc": UGLY, "seed": 5, "steps": 20, "scale": 7, "sampler": "Euler"}))
}</rdf:li></rdf:Alt></exif:UserComment></rdf:RDF></x:xmpmeta>"""
FORMS = {
    "A1111": {"parameters": LINES},
    "SD.Next": {"parameters": f"{CAT}\nNegative prompt: {UGLY}\nSteps: 20, Size: 24x16, Seed: 5, App: SD.Next"},
    "InvokeAI": {"invokeai_metadata": json.dumps({
        "positive_prompt": CAT, "negative_prompt": UGLY, "seed": 5, "model": {"name": "dream"}})},
    "InvokeAI 2": {"Dream": f'"{CAT} [{UGLY}]" -s 20 -S 5 -W 512 -H 512 -C 7.5 -A k_lms'},
    "NovelAI": {"Software": "NovelAI", "Description": CAT, "Comment": json.dumps({
        "prompt": CAT, "uc": UGLY, "seed": 5, "steps": 28, "scale": 6})},
    "Fooocus": {"fooocus_scheme": "fooocus", "parameters": json.dumps({
        "prompt": CAT, "negative_prompt": UGLY, "seed": "5", "styles": "['x']"})},
    "SwarmUI": {"parameters": json.dumps({"sui_image_params": {
        "prompt": CAT, "negativeprompt": UGLY, "seed": 5, "cfgscale": 7.0}})},
    "Draw Things": {"XML:com.adobe.xmp": XMP},
    "Tensor.Art": {"generation_data": json.dumps({"prompt": CAT, "negativePrompt": UGLY, "seed": 5})},
    "Easy Diffusion": {"prompt": CAT, "negative_prompt": UGLY, "seed": "5"},
    "ComfyUI": {"prompt": GRAPH, "workflow": "{}"},
    "ComfyUI, workflow alone": {"workflow": WORKFLOW},
    "ComfyUI, not understood, with A1111's text beside it": {
        "prompt": json.dumps({"6": node("Unknown Text"), "3": node("KSampler", positive=["6", 0])}),
        "parameters": LINES},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_the_forms_of_other_programs(tmp_path, form):
    found = find_prompt(png(tmp_path / "a.png", **FORMS[form]))
    assert (found.positive, found.negative) == (CAT, UGLY)
    assert found.parameters["width"] == 24 and found.parameters.get("seed", 5) == 5


@pytest.mark.parametrize("sign", ["negative prompt:", "Negative Prompt:", "NEGATIVE PROMPT:", "\n  Negative prompt:"])
def test_the_sign_of_the_negative_in_any_case(tmp_path, sign):
    for text in (LINES, f"{CAT}\nNegative prompt: {UGLY}"):
        found = read_prompt(png(tmp_path / "a.png", parameters=text.replace("Negative prompt:", sign)))
        assert (found.positive, found.negative) == (CAT, UGLY)


@pytest.mark.parametrize("sign", ["Negative:", "negatives: ", " Negative prompt :", "Negative prompts:"])
def test_another_sign_of_the_negative_is_no_positive(tmp_path, sign):
    path = png(tmp_path / "a.png", parameters=LINES.replace("Negative prompt:", sign))
    with pytest.raises(NotFound, match="no form that is known"):
        find_prompt(path)


@pytest.mark.parametrize("text", [
    "\n" * 100_000 + "Steps: 20", "Steps: 20\n" + "a," + "a" * 100_000, "Steps: 20," + " " * 100_000 + "x",
    '"a"' + " -aaaaaaaaaaaa" * 5000 + " x y", "Negative" * 10_000,
])  # fmt: skip
def test_long_texts_of_other_programs_are_read_at_once(text):
    start = time.process_time()
    read_other({"parameters": text, "Dream": text})
    assert time.process_time() - start < 1


@pytest.mark.parametrize("part", ["<exif:UserComment>", "<exif:UserComment><rdf:li>", "<rdf:li "])
def test_long_xmp_is_read_at_once(part):
    start = time.process_time()
    assert read_other({"XML:com.adobe.xmp": part * 20_000}) is None
    assert time.process_time() - start < 1


@pytest.mark.parametrize("part", ["a", "a_", " ", "\n", "-s ", "<rdf:li ", "<lora:", "dog-", "embedding:"])
def test_long_prompts_are_rewritten_at_once(part):
    start = time.process_time()
    rewrite(part * (20_000 // len(part)), Concept("sks", "cat"))
    assert time.process_time() - start < 1


def test_a_line_of_the_prompt_may_look_like_settings(tmp_path):
    found = read_prompt(png(tmp_path / "a.png", parameters=f"Steps: 3 lead to\n{LINES}"))
    assert (found.positive, found.negative, found.parameters["steps"]) == (f"Steps: 3 lead to {CAT}", UGLY, 20)


MAKE, MODEL, DESCRIPTION = 0x010F, 0x0110, 0x010E
UNICODE = b"UNICODE\0"
EXIFS = {
    "ComfyUI's own": ({MODEL: f"prompt:{GRAPH}", MAKE: f"workflow:{WORKFLOW}"}, b""),
    "its workflow alone": ({MAKE: f"workflow:{WORKFLOW}"}, b""),
    "WAS Image Save": ({MAKE: f"Prompt:{GRAPH}", DESCRIPTION: f"Workflow:{WORKFLOW}"}, b""),
    "a comment of the graph": ({}, b"ASCII\0\0\0" + GRAPH.encode()),
    "a comment of both": ({}, UNICODE + f'{{"prompt": {GRAPH}, "workflow": {WORKFLOW}}}'.encode("utf-16-be")),
    "a comment of the graph as text": (
        {},
        UNICODE + json.dumps({"prompt": GRAPH, "workflow": WORKFLOW}).encode("utf-16-be"),
    ),
    "a comment of the workflow": ({}, b"ASCII\0\0\0" + WORKFLOW.encode()),
    "A1111": ({}, UNICODE + LINES.encode("utf-16-be")),
    "SwarmUI": ({}, UNICODE + FORMS["SwarmUI"]["parameters"].encode("utf-16-le")),
    "Fooocus": ({}, b"ASCII\0\0\0" + FORMS["Fooocus"]["parameters"].encode()),
    "Civitai": ({}, UNICODE + json.dumps(json.loads(GRAPH) | {"extraMetadata": "{}"}).encode("utf-16-be")),
}


@pytest.mark.parametrize("ending", ["webp", "jpg"])
@pytest.mark.parametrize("form", EXIFS)
def test_exif_of_other_programs(tmp_path, form, ending):
    found = find_prompt(exif_picture(tmp_path / f"a.{ending}", *EXIFS[form]))
    assert (found.positive, found.negative) == (CAT, UGLY)


@pytest.mark.parametrize("texts, why", [
    ({}, "no metadata"),
    ({"Comment": "made with love"}, "no form that is known"),
    ({"parameters": "hello"}, "no form that is known"),
    ({"parameters": "\nNegative prompt: ugly\nSteps: 20, Seed: 5"}, "prompt is empty"),
    ({"prompt": "{"}, "no graph"),
    ({"prompt": '{"3": {"class_type": "Unknown", "inputs": {}}}'}, "no sampler in it is known, nor is Unknown"),
    ({"workflow": '{"nodes": [{"id": 1, "type": "KSampler", "inputs": [3]}]}'}, "not as ComfyUI writes it"),
    ({"invokeai_metadata": '{"positive_prompt": 3}'}, "no form that is known"),
])  # fmt: skip
def test_why_there_is_no_prompt_is_told(tmp_path, texts, why):
    path = png(tmp_path / "a.png", **texts)
    with pytest.raises(NotFound, match=why):
        find_prompt(path)
    assert read_prompt(path) is None


def test_reasons_are_told_in_groups(tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    unknown = json.dumps(encoded("6", ["1", 0]) | {"1": node("LLM")} | saved(["6", 0], ["6", 0]))
    for name in "abc":
        png(folder / f"{name}.png", prompt=unknown)
    Image.new("RGB", (8, 8)).save(folder / "plain.png")
    gallery = Gallery(folder, tmp_path / "a.sqlite")
    update = gallery.update()
    assert update.unfound == (
        ("it goes through LLM, which is not known", 3, "a.png"),
        ("it holds no metadata in which a prompt is looked for", 1, "plain.png"),
    )
    assert "4 without a prompt that can be found:\n3: it goes through LLM, which is not known (a.png)" in str(update)
    assert gallery.update().unfound == update.unfound, "also where no file is read anew"
    with pytest.raises(FewShotError, match="(?s)holds a prompt that can be found.*3: it goes through LLM"):
        gallery.search()
    lacking = json.dumps(both() | {"1": node("LLM")} | encoded("7", ["1", 0]) | saved(["6", 0], ["7", 0]))
    png(folder / "d.png", prompt=lacking)
    assert gallery.update().with_prompt == 1
    found = gallery.search()[0]
    assert found.negative == "" and "goes through LLM" in found.parameters["negative_not_found"]


def test_many_reasons_are_cut(tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    for number in range(9):
        graph = encoded("6", ["1", 0]) | {"1": node(f"LLM {number}")} | saved(["6", 0], ["6", 0])
        png(folder / f"{number}.png", prompt=json.dumps(graph))
    text = str(Gallery(folder, tmp_path / "a.sqlite").update())
    assert text.count("which is not known") == 5 and "4: other reasons" in text
