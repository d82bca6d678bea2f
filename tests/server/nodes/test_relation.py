"""Relations in a running ComfyUI: pictures, training, the unsaved word and the saved one, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from comfyui_fewshot.models.adapters.apply import applied
from comfyui_fewshot.models.adapters.token_files import read_embedding
from comfyui_fewshot.models.open import base_from_path, open_base
from comfyui_fewshot.models.stable_diffusion.encoding.prompts import encode_prompts
from comfyui_fewshot.pocket.world.pictures import write_relation
from comfyui_fewshot.tests.server import graphs

pytestmark = pytest.mark.server
TEXT = 3  # ComfyUI's binary event of text on a node
PROMPT = "a boat {} a house"


def far(one, other):
    return float(np.abs(one - other).max())


def refusal(server, graph):
    """The message of the error that stops `graph`."""
    outcome = server.run(graph)
    assert outcome.error["exception_type"].endswith("FewShotError"), outcome.error
    return outcome.error["exception_message"]


def relation(info, folder="relation", check="off", **changes):
    place = {"source": "folder", "source.folder": folder, "source.things": "", "identifier": "<R>", "relation": ""}
    wires = {"base": ["base", 0], "set": ["set", 0], "settings": ["relation_settings", 0]}
    train = graphs.node("FewShotTrainRelation", **wires, check=check)
    return (
        graphs.base()
        | graphs.relation_settings(info, **changes)
        | {
            "set": graphs.node("FewShotRelationPictures", **place),
            "train": train,
        }
    )


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info")


@pytest.fixture(scope="module")
def saved(server, info):
    """The embedding's file."""
    graph = relation(info) | {"save": graphs.node("FewShotSaveAdapter", adapter=["train", 0], name="relation")}
    outcome = server.succeed(graph)
    (text,) = outcome.outputs("train")["text"]
    assert "3 steps" in text and "less error than with 'and', in % after so many steps: 0: " in text
    shown = [event["data"] for event in outcome.events("binary") if event["event"] == TEXT]
    assert not any(b"<R>" in one for one in shown)  # a page reads it as HTML
    assert any(b"&lt;R&gt;" in one for one in shown) and "<R>" in outcome.outputs("set")["text"][0]
    line, note = outcome.outputs("save")["text"][0].splitlines()
    assert note.startswith("<R> is a learned word, with no LoRA to carry it: in ComfyUI's own prompts write embedding:")
    return Path(line)


def test_the_saved_word_draws_as_the_unsaved_one(server, info, saved):
    """`embedding:<R>` after Apply Adapter, `embedding:file` and Sample Grid draw the same; the base does not."""
    apply = graphs.node("FewShotApplyAdapter", adapter=["train", 0], model=["base", 1], clip=["base", 2],
                        strength_model=1.0, strength_clip=1.0)  # fmt: skip
    drawn = graphs.drawing(["apply", 0], ["apply", 1], prompt=PROMPT.format("embedding:<R>"))
    server.succeed(relation(info) | {"apply": apply} | drawn | graphs.grid(["train", 0], prompt=PROMPT.format("<R>")))
    unsaved = server.kept("native")
    assert far(unsaved, server.kept("after")) <= 1e-3
    server.succeed(
        graphs.base() | graphs.drawing(["base", 1], ["base", 2], prompt=PROMPT.format(f"embedding:{saved.stem}"))
    )
    assert far(unsaved, server.kept("native")) <= 1e-3
    server.succeed(graphs.base() | graphs.drawing(["base", 1], ["base", 2], prompt=PROMPT.format("and")))
    assert far(unsaved, server.kept("native")) > 1e-3


def test_a_lora_of_noisy_timesteps_is_switched(server, info):
    """Sample Grid, Apply Adapter, the saved file and ComfyUI's own hooks draw the same; Load LoRA does not."""
    train = relation(info, high_noise_rank=4, high_noise_learning_rate=0.05)
    apply = graphs.node("FewShotApplyAdapter", adapter=["train", 0], model=["base", 1], clip=["base", 2],
                        strength_model=1.0, strength_clip=1.0)  # fmt: skip
    drawn = graphs.drawing(["apply", 0], ["apply", 1], prompt=PROMPT.format("embedding:<R>"))
    save = {"save": graphs.node("FewShotSaveAdapter", adapter=["train", 0], name="noisy")}
    grid = graphs.grid(["train", 0], prompt=PROMPT.format("<R>"))
    outcome = server.succeed(train | {"apply": apply} | drawn | grid | save)
    unsaved = server.kept("native")
    assert far(unsaved, server.kept("after")) <= 1e-3
    for name in ("train", "save"):
        assert "from timestep 500 of 1000 on" in outcome.outputs(name)["text"][0], name
    lora, word = (Path(line) for line in outcome.outputs("save")["text"][0].splitlines()[:2])
    prompt = PROMPT.format(f"embedding:{word.stem}")

    def native(clip=("base", 2), model=("base", 1), **nodes):
        server.succeed(graphs.base() | nodes | graphs.drawing(list(model), list(clip), prompt=prompt))
        return server.kept("native")

    load = graphs.node("FewShotLoadAdapter", **{"source": "file", "source.name": lora.name})
    again = {**apply, "inputs": apply["inputs"] | {"adapter": ["load", 0]}}
    assert far(unsaved, native(model=("again", 0), load=load, again=again)) <= 2e-3
    hooks = {
        "hook": graphs.node("CreateHookLora", lora_name=lora.name, strength_model=1.0, strength_clip=1.0),
        "on": graphs.node("CreateHookKeyframe", strength_mult=1.0, start_percent=0.0),
        "off": graphs.node("CreateHookKeyframe", strength_mult=0.0, start_percent=0.5, prev_hook_kf=["on", 0]),
        "timed": graphs.node("SetHookKeyframes", hooks=["hook", 0], hook_kf=["off", 0]),
        "hooked": graphs.node(
            "SetClipHooks", clip=["base", 2], apply_to_conds=True, schedule_clip=False, hooks=["timed", 0]
        ),
    }
    assert far(unsaved, native(clip=("hooked", 0), **hooks)) <= 2e-3
    always = graphs.node("LoraLoaderModelOnly", model=["base", 1], lora_name=lora.name, strength_model=1.0)
    assert far(unsaved, native(model=("always", 0), always=always)) > 5e-3
    assert far(unsaved, native()) > 5e-3


def test_where_a_lora_of_noisy_timesteps_cannot_be(server, info):
    """A schedule of few noise levels counts as the full one; none without timesteps; never baked into a base."""
    train = relation(info, high_noise_rank=4, high_noise_learning_rate=0.05)

    def apply(model):
        return graphs.node("FewShotApplyAdapter", adapter=["train", 0], model=[model, 0 if model != "base" else 1],
                           clip=["base", 2], strength_model=1.0, strength_clip=1.0)  # fmt: skip

    def distilled(model):
        return graphs.node("ModelSamplingDiscrete", model=list(model), sampling="lcm", zsnr=False)

    pictures = []
    for first, nodes in (
        ("apply", {"apply": apply("lcm"), "lcm": distilled(("base", 1))}),
        ("lcm", {"apply": apply("base"), "lcm": distilled(("apply", 0))}),
    ):
        drawn = graphs.drawing([first, 0], ["apply", 1], prompt=PROMPT.format("embedding:<R>"))
        server.succeed(train | nodes | drawn)
        pictures.append(server.kept("native"))
    assert far(*pictures) == 0
    edm = graphs.node("ModelSamplingContinuousEDM", model=["base", 1], sampling="eps", sigma_max=120.0, sigma_min=0.002)
    drawn = graphs.drawing(["apply", 0], ["apply", 1])
    said = refusal(server, train | {"edm": edm, "apply": apply("edm")} | drawn)
    assert "ModelSamplingContinuousEDM" in said and "no numbered ones" in said
    again = graphs.node("FewShotBaseFromModel", model=["apply", 0], clip=["base", 2], vae=["base", 3], clip_skip=0,
                        dtype="auto")  # fmt: skip
    said = refusal(
        server, train | {"apply": apply("base"), "again": again} | graphs.grid(base=["again", 0], prompt="a")
    )
    assert "cannot be baked in" in said


def test_comfyui_encodes_the_word_as_diffusers(server, info, saved):
    text = {"prompt": graphs.node("CLIPTextEncode", clip=["base", 2], text=PROMPT.format(f"embedding:{saved.stem}"))}
    server.succeed(graphs.base() | text | {"kept": graphs.node("ProbeKeep", value=["prompt", 0], name="encoded")})
    word = read_embedding(saved, "sd1")
    with open_base(base_from_path(server.base / "models" / "diffusers" / "pocket"), torch.device("cpu")) as model:
        with applied(model, [(word, 1.0)]), torch.no_grad():
            own = encode_prompts(model, [PROMPT.format("<R>")])["hidden"]
    encoded = torch.as_tensor(server.kept("encoded")).reshape(own.shape)
    assert torch.allclose(encoded, own, atol=1e-5, rtol=1e-5)


def test_the_node_names_what_is_left_out_and_what_changes_nothing(server, info):
    """Captions that tell the relation, one picture alone, and settings of a loss that is off."""
    folder = write_relation(server.base / "input" / "leaking", "dream", count=1)
    file = folder / "dream_00.txt"
    file.write_text(file.read_text() + "a cat sitting <R> a bird\n")
    outcome = server.succeed(relation(info, folder="leaking", adversarial_weight=0.5))
    (text,) = outcome.outputs("train")["text"]
    assert (
        '"a cat sitting <R> a bird" of dream_00.png: leak: "sitting"' in text and "one picture of the relation" in text
    )
    assert "adversarial_weight = 0.5 changes nothing, because adversarial is off" in text


def test_prompts_between_own_things(server, info):
    """The mode relation of Prompt Set, its pairs and its refusals."""
    source = {"source": "relation", "source.things": "own", "source.first": "cat\nowl", "source.second": "box",
              "source.template": "a {first} <R> a {second}"}  # fmt: skip
    named = {"identifier": "<q>", "noun": "", "description": "inside", "most": 50}
    graph = {"prompts": graphs.node("FewShotPromptSet", **source, **named)}
    told = {"told": graphs.node("PreviewAny", source=["prompts", 1])}
    assert server.succeed(graph | told).outputs("told")["text"][0].splitlines() == [
        "a cat <q> a box",
        "an owl <q> a box",
    ]
    graph["prompts"]["inputs"]["source.things"] = "inside"
    assert "those of inside are chosen" in refusal(server, graph | told)
    graph["prompts"]["inputs"] |= {"source.things": "own", "description": ""}
    assert "say the relation in words" in refusal(server, graph | told)


def test_refusals(server, info):
    missing = relation(info, folder="empty")
    assert "no pictures" in refusal(server, missing)
    other = relation(info) | {"set": graphs.pictures()["set"]}
    assert "connect Relation Pictures" in refusal(server, other)
    subject = graphs.training(info) | {"settings": relation(info)["relation_settings"]}
    assert "connect Training Settings" in refusal(server, subject)
    assert "Train Relation" in refusal(server, graphs.training(info) | {"set": relation(info)["set"]})
