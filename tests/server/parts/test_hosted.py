"""Subjects in ComfyUI's own networks, from a loader to a LoRA in its own nodes: Z-Image and FLUX.2 in small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import save_file

from comfyui_fewshot.tests.server import graphs
from comfyui_fewshot.tests.server.harness import random_clip
from comfyui_fewshot.tests.server.parts.test_changes import filled

pytestmark = pytest.mark.server
FAMILIES = ("z_image", "flux2")
WITHOUT_ENTRY = ("comfy_lumina2", "comfy_qwenimage", "comfy_auraflow")
MODEL, CLIP, VAE = ["loader", 0], ["loader", 1], ["loader", 2]
LATENTS = {"flux2": "EmptyFlux2LatentImage", "comfy_auraflow": "EmptyLatentImage"}
ARCHITECTURES = {"z_image": "z-image/lora", "flux2": "flux-2/lora"}
FILES = "comfyui_fewshot.tests.models.hosted.files"
SIDE = 64
LONG = 40  # steps: enough to be cut in


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info")


def base(family):
    return {
        "loader": graphs.node("ProbeLoader", family=family),
        "base": graphs.node("FewShotBaseFromModel", model=MODEL, clip=CLIP, vae=VAE, clip_skip=0, dtype="auto"),
    }


def training(info, family, **changes):
    chosen = {"resolution": SIDE, "token": "none", "steps": 4, "learning_rate": 3e-2} | changes
    train = graphs.node("FewShotTrainSubject", base=["base", 0], set=["set", 0], settings=["settings", 0], check="off")
    return base(family) | graphs.pictures() | graphs.settings(info, **chosen) | {"train": train}


def drawing(family, model=MODEL, clip=CLIP):
    """ComfyUI's own way to a picture, which is kept under the name "native"."""
    graph = graphs.drawing(model, clip)
    graph["empty"] = graphs.node(LATENTS.get(family, "EmptySD3LatentImage"), width=SIDE, height=SIDE, batch_size=1)
    graph["decoded"]["inputs"]["vae"] = VAE
    return graph


def grid(adapter=None):
    graph = graphs.grid(adapter)
    graph["grid"]["inputs"] |= {"width": SIDE, "height": SIDE}
    return graph


def native(server, family, model=MODEL, clip=CLIP, more=None):
    server.succeed(base(family) | (more or {}) | drawing(family, model, clip))
    return server.kept("native")


def written(outcome):
    return Path(outcome.outputs("save")["text"][0].splitlines()[0])


@pytest.mark.parametrize("family", [*FAMILIES, *WITHOUT_ENTRY])
def test_from_pictures_to_a_lora_that_comfyui_loads(server, info, family):
    """The person's MODEL draws as before, bit for bit; the LoRA has no key that is not loaded, and draws as here."""
    before = native(server, family)
    outcome = server.succeed(training(info, family) | graphs.saved(family) | grid(["train", 0]))
    report = outcome.outputs("base")["text"][0] if outcome.outputs("base") else ""
    assert "trained in ComfyUI's own network" in report
    assert ("has no entry of its own" if family in WITHOUT_ENTRY else "licence") in report
    assert numpy.array_equal(before, native(server, family))
    ours = server.kept("after")
    assert numpy.abs(before - server.kept("before")).max() < 1e-4 < numpy.abs(before - ours).max()
    path, log = written(outcome), len(server.log)
    with safe_open(path, "pt") as file:
        names, metadata = list(file.keys()), file.metadata()
    assert all(name.startswith("diffusion_model.") for name in names) and len(names) % 3 == 0
    assert metadata["modelspec.architecture"] == ARCHITECTURES.get(family, f"{family}/lora")
    lora = {"lora": graphs.node(
        "LoraLoader", model=MODEL, clip=CLIP, lora_name=path.name, strength_model=1.0, strength_clip=1.0
    )}  # fmt: skip
    theirs = native(server, family, ["lora", 0], ["lora", 1], lora)
    assert not graphs.not_loaded(server.log[log:])
    assert numpy.abs(theirs - ours).max() < 1e-3  # pictures of values that were rounded to 16 bits
    applied = {
        "load": graphs.node("FewShotLoadAdapter", **{"source": "file", "source.name": path.name}),
        "apply": graphs.node(
            "FewShotApplyAdapter", adapter=["load", 0], model=MODEL, clip=CLIP, strength_model=1.0, strength_clip=1.0
        ),
    }
    assert numpy.abs(native(server, family, ["apply", 0], ["apply", 1], applied) - theirs).max() < 1e-5
    server.succeed(base(family) | {"load": applied["load"]} | grid(["load", 0]))
    assert numpy.abs(server.kept("after") - theirs).max() < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_cancel_leaves_the_model_and_going_on_ends_bit_for_bit_as_uncut(server, info, family):
    before = native(server, family)
    graph = training(info, family, steps=LONG, seed=5, save_every=3) | graphs.saved(f"cut_{family}")
    cut = server.cancelled(graph, graphs.trains_between(3, LONG))
    assert cut.messages[-1][0] == "execution_interrupted"
    assert numpy.array_equal(before, native(server, family))
    server.post("/free", {"unload_models": True, "free_memory": True})  # ComfyUI forgets what it had loaded
    resumed = server.succeed(graph)
    values = [event["value"] for event in resumed.events("progress") if event["node"] == "train"]
    assert min(value for value in values if value) > 3, "it began anew"
    (server.output / "fewshot").rename(server.output / f"fewshot_cut_{family}")
    server.post("/free", {"unload_models": True, "free_memory": True})
    uncut = server.succeed(graph)
    first, second = load_file(written(resumed)), load_file(written(uncut))
    assert written(resumed) != written(uncut) and first.keys() == second.keys()
    assert all(numpy.array_equal(first[name], second[name]) for name in first)


def test_what_cannot_be_trained_is_said_on_the_node(server, info):
    """A width that is no multiple, parts of other models, an encoder that is not trained, weights in full, layers that
    cannot be hooked, a model of videos."""
    other = {"other": graphs.node("ProbeLoader", family="flux2")}
    mixed = base("z_image") | other
    mixed["base"]["inputs"]["vae"] = ["other", 2]
    misread = training(info, "z_image") | other
    misread["base"]["inputs"]["clip"] = ["other", 1]
    apart = training(info, "z_image") | {"stand_in": graphs.node(
        "FewShotLoadAdapter", **{"source": "file", "source.name": "stand_in.safetensors"}
    )}  # fmt: skip
    apart["train"]["inputs"]["adapter"] = ["stand_in", 0]
    bare = base("z_image") | {"changed": graphs.node(
        "ProbeHosted", model=MODEL, clip=CLIP, vae=VAE, how="other layers"
    )}  # fmt: skip
    bare = training(info, "z_image") | bare
    bare["base"]["inputs"]["model"] = ["changed", 0]
    video = base("z_image") | {"changed": graphs.node("ProbeHosted", model=MODEL, clip=CLIP, vae=VAE, how="video")}
    video["base"]["inputs"]["model"] = ["changed", 0]
    show = {"show": graphs.node("PreviewAny", source=["base", 0])}
    for graph, words in (
        (training(info, "z_image", resolution=72), "multiples of 16"),
        (training(info, "z_image", text_encoder=True), "not trained"),
        (training(info, "z_image", tuning="full"), "stay as they are"),
        (training(info, "z_image", parameter_set="cross_kv"), "joint attention"),
        (training(info, "z_image", local_weight=0.1), "local_weight to 0"),
        (training(info, "z_image", token="free"), "learns no words"),
        (training(info, "z_image", weights="float8"), "as ComfyUI loaded it"),
        (mixed | show, "VAE that belongs to the MODEL"),
        (misread, "CLIP that belongs to the MODEL"),
        (apart, "the LoRA to train on from is for sd1"),
        (bare, "its loader put others in their place (Layer"),
        (video | show, "draws no pictures"),
    ):
        outcome = server.run(graph)
        assert outcome.status == "error", words
        assert words in outcome.error["exception_message"], outcome.error


@pytest.fixture(scope="module")
def files(server):
    """Small FLUX.2s among the diffusion models, plain, in fp8 and in int8 by ComfyUI's own quantisation."""
    folder = server.base / "models" / "diffusion_models"
    subprocess.run([sys.executable, "-m", FILES, str(server.comfyui), str(folder)], check=True)
    server.get("/object_info")
    return folder


@pytest.mark.parametrize("with_lora", [False, True])
@pytest.mark.parametrize("form", ["plain", "float8_e4m3fn", "int8_tensorwise"])
def test_models_of_comfyui_s_own_loader_train_in_the_form_they_are_in(server, info, files, form, with_lora):
    """Quantised weights stay what they are, bit for bit, also where a LoRA lies on them: KSampler draws the same."""
    pair = {
        "diffusion_model.double_blocks.0.img_attn.qkv.lora_down.weight": torch.randn(4, 128) * 0.1,
        "diffusion_model.double_blocks.0.img_attn.qkv.lora_up.weight": torch.randn(384, 4) * 0.1,
    }
    save_file(pair, server.base / "models" / "loras" / "upstream.safetensors")
    more = {"unet": graphs.node("UNETLoader", unet_name=f"flux2_{form}.safetensors", weight_dtype="default")}
    model = ["unet", 0]
    if with_lora:
        more["up"] = graphs.node(
            "LoraLoaderModelOnly", model=model, lora_name="upstream.safetensors", strength_model=1.0
        )
        model = ["up", 0]
    before = native(server, "flux2", model, CLIP, more)
    graph = training(info, "flux2", steps=24, rank=8, seed=4) | more
    graph["base"]["inputs"]["model"] = model
    outcome = server.succeed(graph)
    log = Path(outcome.outputs("train")["text"][0].splitlines()[-1]) / "log.jsonl"
    losses = [json.loads(line)["loss"] for line in log.read_text().splitlines()]
    assert losses[-1] < losses[0]
    assert numpy.array_equal(before, native(server, "flux2", model, CLIP, more))


def test_every_other_node_works_on_such_a_base(server, info):
    """Priors, previews, validation, preservation, "did it learn?", evaluation and a sweep, on unequal captions."""
    few = dict(steps=2, width=SIDE, height=SIDE, base=["base", 0])
    with random_clip(server.base, "hosted-clip") as clip:
        graph = training(info, "z_image", steps=6, preview_every=3, validate_every=3, preservation_weight=1.0, seed=8)
        graph["priors"] = filled(info, "FewShotGeneratePriors", set=["set", 0], count=2, clip="none", **few)
        graph["train"]["inputs"] |= {"set": ["priors", 0], "validation": clip, "check": "auto"}
        graph |= {
            "prompts": filled(info, "FewShotPromptSet", set=["set", 0], most=2, source="dreambench objects"),
            "evaluate": filled(
                info, "FewShotEvaluateLora", adapter_1=["train", 0], prompts=["prompts", 0], set=["set", 0], count=1,
                clip=clip, dino="none", preferences="off", **few,
            ),
            "sweep": filled(
                info, "FewShotStrengthSweep", adapter=["train", 0], prompts=["prompts", 0], set=["set", 0], count=1,
                strengths="0.5, 1", clip=clip, dino="none", preferences="off", **few,
            ),
        }  # fmt: skip
        outcome = server.succeed(graph)
    lines = outcome.outputs("train")["text"][0].splitlines()
    assert lines[0].startswith("Did it learn?") and any("validated" in line or "validation" in line for line in lines)
    folder = Path(lines[-1])
    assert len(list((folder / "samples").glob("step_*.png"))) == 2 and list((folder / "samples").glob("validation_*"))
    terms = json.loads((folder / "result.json").read_text())["terms"]
    assert set(terms) == {"reference", "prior", "preservation"} and all(len(values) == 6 for values in terms.values())
    assert outcome.outputs("evaluate") and outcome.outputs("sweep")


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_through_a_model_of_the_graph_are_right(server, family):
    """Of each trained layer, in float64, with and without checkpoints of blocks, three captions of unequal length."""
    graph = {
        "loader": graphs.node("ProbeLoader", family=family, dtype="float64"),
        "probe": graphs.node("ProbeGradients", model=MODEL, family=family),
        "show": graphs.node("PreviewAny", source=["probe", 0]),
    }
    found = json.loads(server.succeed(graph).outputs("show")["text"][0])
    assert max(found["differences"]) < 1e-4 and found["checkpoints"] < 1e-9 and found["rows"] < 1e-9
    assert found["felt"] == 2 * found["layers"] == 2 * len(found["differences"])
