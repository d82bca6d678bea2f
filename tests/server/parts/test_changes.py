"""What other nodes do to MODEL, CLIP and VAE before Base from MODEL+CLIP+VAE is read, or refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from comfyui_fewshot.pocket.assemble import random_folder
from comfyui_fewshot.tests.server import graphs

pytestmark = pytest.mark.server
MODEL, CLIP, VAE = ["base", 1], ["base", 2], ["base", 3]


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info")


def filled(info: Mapping[str, Any], kind: str, **inputs: Any) -> dict[str, Any]:
    """A node with every widget that is not given at its default, or its first choice."""
    values = {}
    for name, spec in info[kind]["input"]["required"].items():
        options = spec[1] if len(spec) > 1 else {}
        if isinstance(spec[0], list):
            values[name] = spec[0][0]
        elif "default" in options or "options" in options:
            values[name] = options.get("default", (options.get("options") or [None])[0])
    return graphs.node(kind, **(values | inputs))


def again(model=MODEL, clip=CLIP, vae=VAE, **widgets: Any) -> graphs.Graph:
    """Base from MODEL+CLIP+VAE, and what it gave as text."""
    values = {"clip_skip": 0, "dtype": "auto"} | widgets
    return {
        "again": graphs.node("FewShotBaseFromModel", model=model, clip=clip, vae=vae, **values),
        "seen": graphs.node("PreviewAny", source=["again", 0]),
    }


def key_of(text: str) -> str:
    found = re.search(r"key='(\w+)', prediction", text)
    assert found, text
    return found[1]


def read(server, graph: graphs.Graph) -> tuple[str, str]:
    """What the node says of the base ("" where it was not run again), and the base as text."""
    outputs = server.succeed(graph).history["outputs"]
    return outputs.get("again", {"text": [""]})["text"][0], outputs["seen"]["text"][0]


def refusal(server, graph: graphs.Graph, node: str = "again") -> str:
    outcome = server.run(graph)
    assert outcome.status == "error", outcome.messages[-1]
    assert outcome.error["node_id"] == node and outcome.error["exception_type"].endswith("FewShotError"), outcome.error
    return outcome.error["exception_message"]


@pytest.fixture(scope="module")
def plain(server):
    """The key of the pocket as Load Base Model gives it; the connected parts, drawn with before, have the same."""
    graph = graphs.base() | {"own": graphs.node("PreviewAny", source=["base", 0])}
    outcome = server.succeed(graph | graphs.drawing(MODEL, CLIP) | again())
    key = key_of(outcome.outputs("own")["text"][0])
    assert key_of(outcome.outputs("seen")["text"][0]) == key
    return key


# --------------------------------------------------------------------------------------------------- what is read

SAMPLING = [
    ("v_prediction", True, "predicts v_prediction, zero terminal SNR"),
    ("v_prediction", False, "predicts v_prediction, clip skip"),
    ("eps", True, "predicts epsilon, zero terminal SNR"),
]


@pytest.mark.parametrize(("sampling", "zsnr", "said"), SAMPLING)
def test_the_sampling_is_read_and_gives_another_key(server, plain, sampling, zsnr, said):
    changed = {"ms": graphs.node("ModelSamplingDiscrete", model=MODEL, sampling=sampling, zsnr=zsnr)}
    text, base = read(server, graphs.base() | changed | again(model=["ms", 0]))
    assert said in text and f"zero_snr={zsnr}" in base
    assert key_of(base) != plain


def test_sampling_as_it_was_keeps_the_key(server, plain):
    changed = {"ms": graphs.node("ModelSamplingDiscrete", model=MODEL, sampling="eps", zsnr=False)}
    assert key_of(read(server, graphs.base() | changed | again(model=["ms", 0]))[1]) == plain


def test_set_last_layer_is_clip_skip(server, plain):
    changed = {"cs": graphs.node("CLIPSetLastLayer", clip=CLIP, stop_at_clip_layer=-2)}
    text, base = read(server, graphs.base() | changed | again(clip=["cs", 0]))
    assert "clip skip 2" in text and "clip_skip=2" in base and key_of(base) != plain
    same = read(server, graphs.base() | changed | again(clip=["cs", 0], clip_skip=2))[1]
    assert key_of(same) == key_of(base)
    own = graphs.base()
    own["base"]["inputs"]["clip_skip"] = 2  # Load Base Model's CLIP reads the same layer
    assert key_of(read(server, own | again())[1]) == key_of(base)
    assert "clip_skip of 2, and the widget says 3" in refusal(
        server, graphs.base() | changed | again(clip=["cs", 0], clip_skip=3)
    )
    changed["cs"]["inputs"]["stop_at_clip_layer"] = -20
    assert "layers from -1 to -4" in refusal(server, graphs.base() | changed | again(clip=["cs", 0]))


HARMLESS = [
    ("TorchCompileModel", {"model": MODEL}, "model"),
    ("ModelComputeDtype", {"model": MODEL, "dtype": "fp32"}, "model"),
    ("SelectModelDevice", {"model": MODEL, "device": "cpu"}, "model"),
    ("SelectCLIPDevice", {"clip": CLIP, "device": "cpu"}, "clip"),
    ("T5TokenizerOptions", {"clip": CLIP}, "clip"),
]


@pytest.mark.parametrize(("kind", "inputs", "part"), HARMLESS, ids=[case[0] for case in HARMLESS])
def test_what_changes_no_prediction_keeps_the_key(server, info, plain, kind, inputs, part):
    graph = graphs.base() | {"changed": filled(info, kind, **inputs)} | again(**{part: ["changed", 0]})
    assert key_of(read(server, graph)[1]) == plain


BAKED = [
    ("ModelMergeSimple", {"model1": MODEL, "model2": ["other", 1], "ratio": 0.5}, "model"),
    ("ModelMergeAdd", {"model1": MODEL, "model2": ["other", 1]}, "model"),
    ("ModelMergeSubtract", {"model1": MODEL, "model2": ["other", 1], "multiplier": 0.5}, "model"),
    ("UNetSelfAttentionMultiply", {"model": MODEL, "q": 1.1}, "model"),
    ("LoraLoaderModelOnly", {"model": MODEL, "lora_name": "stand_in.safetensors"}, "model"),
    ("CLIPMergeSimple", {"clip1": CLIP, "clip2": ["other", 2], "ratio": 0.5}, "clip"),
    ("CLIPAttentionMultiply", {"clip": CLIP, "q": 1.1}, "clip"),
]


@pytest.fixture(scope="module")
def other(server):
    """A folder of the pocket's sizes with other weights, as a graph."""
    random_folder(server.base / "models" / "diffusers" / "other", seed=1)
    graph = graphs.base()
    graph["other"] = graphs.base()["base"]
    graph["other"]["inputs"] |= {"source": "diffusers folder", "source.name": "other"}
    return graph


@pytest.mark.parametrize(("kind", "inputs", "part"), BAKED, ids=[case[0] for case in BAKED])
def test_patches_of_weights_are_baked_in(server, info, other, plain, kind, inputs, part):
    graph = other | {"changed": filled(info, kind, **inputs)} | again(**{part: ["changed", 0]})
    text, base = read(server, graph)
    assert key_of(base) != plain and ("baked in" in text) == (kind == "LoraLoaderModelOnly")


def test_the_connected_parts_decide(server, other, plain):
    """Parts of two folders in all ways; each is read, from the place that it came from."""
    keys = [
        key_of(read(server, other | again(**{part: ["other", slot]}))[1])
        for part, slot in (("model", 1), ("clip", 2), ("vae", 3))
    ]
    assert len({plain, *keys}) == 4


def test_a_mixed_base_draws_as_comfyui(server, other):
    graph = other | again(vae=["other", 3], clip=["other", 2])
    drawn = graphs.drawing(MODEL, ["other", 2])
    drawn["decoded"]["inputs"]["vae"] = ["other", 3]
    server.succeed(graph | drawn | graphs.grid(base=["again", 0]))
    assert abs(server.kept("native") - server.kept("before")).max() <= 1e-3


# ------------------------------------------------------------------------------------------------ what is refused

ON_MODEL = [
    ("RescaleCFG", {}, "RescaleCFG (sampler_cfg_function)"),
    ("FreeU_V2", {}, "FreeU_V2 (output_block_patch)"),
    ("PerturbedAttentionGuidance", {}, "PerturbedAttentionGuidance (sampler_post_cfg_function)"),
    ("SelfAttentionGuidance", {}, "SelfAttentionGuidance"),
    ("PatchModelAddDownscale", {}, "PatchModelAddDownscale"),
    ("HyperTile", {}, "HyperTile"),
    ("TomePatchModel", {}, "TomePatchModel"),
    ("EasyCache", {}, "easycache"),
    ("LazyCache", {}, "lazycache"),
    ("ContextWindowsManual", {"freenoise": True}, "context_handler"),
    ("DifferentialDiffusion", {}, "DifferentialDiffusion (denoise_mask_function)"),
    ("Mahiro", {}, "Mahiro"),
    ("CFGNorm", {}, "CFGNorm"),
    ("FreSca", {}, "FreSca"),
    ("NAGuidance", {}, "NAGuidance"),
    ("ScaleROPE", {}, "rope_options"),
    ("LoraLoaderBypassModelOnly", {"lora_name": "stand_in.safetensors"}, "a LoRA in bypass mode (turn bypass off"),
    ("ModelSamplingSD3", {}, "samples by ModelSamplingDiscreteFlow with CONST"),
    ("ModelSamplingFlux", {}, "ModelSamplingFlux"),
    ("ModelSamplingContinuousEDM", {"sampling": "eps"}, "ModelSamplingContinuousEDM with EPS"),
    ("ModelSamplingContinuousV", {}, "ModelSamplingContinuousV with V_PREDICTION"),
    ("ModelSamplingStableCascade", {}, "StableCascadeSampling"),
    ("ModelSamplingDiscrete", {"sampling": "lcm"}, "ModelSamplingDiscreteDistilled with LCM"),
    ("ModelSamplingDiscrete", {"sampling": "x0"}, "ModelSamplingDiscrete with X0"),
    ("ModelSamplingDiscrete", {"sampling": "img_to_img"}, "ModelSamplingDiscrete with IMG_TO_IMG"),
]


@pytest.mark.parametrize(("kind", "inputs", "said"), ON_MODEL, ids=[case[0] for case in ON_MODEL])
def test_what_is_in_no_weight_is_refused_by_name(server, info, kind, inputs, said):
    graph = graphs.base() | {"changed": filled(info, kind, model=MODEL, **inputs)} | again(model=["changed", 0])
    message = refusal(server, graph)
    assert said in message and "where pictures are drawn" in message


def test_hooks_and_bypass_on_the_clip_are_refused(server, info):
    lora = {"lora_name": "stand_in.safetensors"}
    hooks = {
        "hook": filled(info, "CreateHookLora", **lora),
        "changed": graphs.node("SetClipHooks", clip=CLIP, apply_to_conds=True, schedule_clip=False, hooks=["hook", 0]),
    }
    message = refusal(server, graphs.base() | hooks | again(clip=["changed", 0]))
    assert "on this CLIP: LoRAs or other changes by hooks" in message and "use Load LoRA" in message


def test_several_nodes_on_two_parts_are_all_named(server, info):
    graph = graphs.base() | {
        "one": filled(info, "FreeU_V2", model=MODEL),
        "two": filled(info, "RescaleCFG", model=["one", 0]),
        "hook": filled(info, "CreateHookLora", lora_name="stand_in.safetensors"),
        "three": graphs.node("SetClipHooks", clip=CLIP, apply_to_conds=True, schedule_clip=True, hooks=["hook", 0]),
    }
    message = refusal(server, graph | again(model=["two", 0], clip=["three", 0]))
    assert "FreeU_V2" in message and "RescaleCFG" in message and "by hooks" in message
    assert "Connect the MODEL, CLIP from before" in message


def test_a_vae_of_another_kind_is_refused(server, info):
    pixels = {"pixels": graphs.node("VAELoader", vae_name="pixel_space")}
    message = refusal(server, graphs.base() | pixels | again(vae=["pixels", 0]))
    assert "this VAE is a" in message and "connect the VAE of a checkpoint" in message


WAYS = {
    "unet function": "Copies (model_function_wrapper)",
    "calc cond batch": "Copies (sampler_calc_cond_batch_function)",
    "post cfg": "Copies (sampler_post_cfg_function); disable_cfg1_optimization",
    "old cfg": "on this MODEL: sampler_cfg_function",
    "attention patch": "Copies (attn2_patch)",
    "attention replaced": "Copies (attn1.",
    "latent format": "on this MODEL: latent_format",
    "layer replaced": "Identity (diffusion_model.out.2)",
    "weight wrapper": "Copies (diffusion_model.out.2.weight)",
    "wrapper": "Copies (diffusion_model.speed)",
    "callback": "Copies (on_pre_run)",
    "injection": "PatcherInjection (motion)",
    "second model": "on this MODEL: ReferenceNet",
    "option": "on this MODEL: ipadapter.weight",
    "model hook": "on this MODEL: LoRAs or other changes by hooks",
    "clip wrapper": "on this CLIP: Copies",
    "clip hook": "on this CLIP: LoRAs or other changes by hooks",
    "tokenizer": "on this CLIP: an option of the tokenizer (clip_l_min_length)",
    "vae object": "on this VAE: Identity (decoder.conv_out)",
    "vae tiling": "on this VAE: its layers compute something else (first decoder.conv_out)",
}


@pytest.mark.parametrize("how", WAYS)
def test_every_way_to_change_a_model_is_seen(server, how):
    """By ComfyUI's own methods, as packs of others use them."""
    changed = {"changed": graphs.node("ProbeChange", model=MODEL, clip=CLIP, vae=VAE, how=how)}
    message = refusal(server, graphs.base() | changed | again(["changed", 0], ["changed", 1], ["changed", 2]))
    assert WAYS[how] in message


def test_patches_of_the_vae_are_baked_in(server, plain):
    changed = {"changed": graphs.node("ProbeChange", model=MODEL, clip=CLIP, vae=VAE, how="vae weights")}
    base = read(server, graphs.base() | changed | again(vae=["changed", 2]))[1]
    assert key_of(base) != plain


def test_a_learned_word_on_the_clip_is_refused(server):
    torch.manual_seed(0)
    save_file({"clip_l": torch.randn(2, 192)}, folder(server, "embeddings") / "wolpertinger.safetensors")
    graph = graphs.base() | {
        "word": graphs.node("FewShotLoadAdapter", **{"source": "embedding", "source.name": "wolpertinger.safetensors",
                                                     "source.family": "sd1"}),
        "apply": graphs.node("FewShotApplyAdapter", adapter=["word", 0], model=MODEL, clip=CLIP, strength_model=1.0,
                             strength_clip=1.0),
    }  # fmt: skip
    assert "the learned word wolpertinger of Apply Adapter" in refusal(server, graph | again(clip=["apply", 1]))


def test_a_lora_that_comfyui_leaves_out_is_not_baked_in(server):
    for name, shapes in (("wide", (320, 768)), ("fits", (192, 192))):
        flat = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
        pair = {"lora_up.weight": torch.ones(shapes[0], 2), "lora_down.weight": torch.ones(2, shapes[1])}
        save_file(
            {f"{flat}.{part}": value for part, value in pair.items()}, folder(server, "loras") / f"{name}.safetensors"
        )
    loaded = {"lora": graphs.node("LoraLoader", model=MODEL, clip=CLIP, lora_name="wide.safetensors",
                                  strength_model=1.0, strength_clip=1.0)}  # fmt: skip
    message = refusal(server, graphs.base() | loaded | again(model=["lora", 0]))
    assert "merged into this MODEL is for another base model: 1 of 1" in message and "192 x 192" in message
    loaded["lora"]["inputs"]["lora_name"] = "fits.safetensors"
    assert "1 weights are changed by LoRAs" in read(server, graphs.base() | loaded | again(model=["lora", 0]))[0]


def folder(server, kind: str) -> Path:
    """A folder of models of the server."""
    path = server.base / "models" / kind
    path.mkdir(exist_ok=True)
    return path
