"""ComfyUI's own nodes on the MODEL, CLIP and VAE that Load Base Model builds of a diffusers folder."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from comfyui_fewshot.tests.server import graphs
from comfyui_fewshot.tests.server.parts.test_changes import again, filled, key_of, read

pytestmark = pytest.mark.server
MODEL, CLIP, VAE = ["base", 1], ["base", 2], ["base", 3]


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info")


@pytest.mark.parametrize("bypass", [False, True])
def test_comfyui_s_trainer_trains_it_and_leaves_it_as_it_was(server, info, bypass):
    train = {
        "lists": graphs.node("FewShotSetToImages", set=["set", 0], role="all"),
        "latents": graphs.node("VAEEncode", pixels=["lists", 0], vae=VAE),
        "text": graphs.node("CLIPTextEncode", clip=CLIP, text="a photo of a cat"),
        "lora": filled(
            info, "TrainLoraNode", model=MODEL, latents=["latents", 0], positive=["text", 0], steps=2, rank=2,
            training_dtype="fp32", lora_dtype="fp32", existing_lora="[None]", bypass_mode=bypass, seed=int(bypass),
        ),
        "save": graphs.node("SaveLoRA", lora=["lora", 0], prefix="loras/native"),
    }  # fmt: skip
    own = {"own": graphs.node("PreviewAny", source=["base", 0])}
    server.succeed(graphs.base() | graphs.pictures() | train)
    before = key_of(server.succeed(graphs.base() | own).outputs("own")["text"][0])
    assert key_of(read(server, graphs.base() | again())[1]) == before
    written = load_file(max((server.output / "loras").glob("native*.safetensors")))
    assert any(name.endswith("lora_up.weight") and value.any() for name, value in written.items())


def test_hooks_on_conditioning_draw_as_a_loaded_lora(server, info):
    random = torch.Generator().manual_seed(0)
    pair = {
        "lora_up.weight": torch.randn(192, 4, generator=random),
        "lora_down.weight": torch.randn(4, 192, generator=random),
    }
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v"
    save_file(
        {f"{name}.{part}": value for part, value in pair.items()},
        server.base / "models" / "loras" / "hooked.safetensors",
    )
    lora = {"lora_name": "hooked.safetensors", "strength_model": 1.0, "strength_clip": 1.0}
    loaded = {"lora": graphs.node("LoraLoader", model=MODEL, clip=CLIP, **lora)}
    server.succeed(graphs.base() | loaded | graphs.drawing(["lora", 0], ["lora", 1]))
    expected = server.kept("native")
    hooked = graphs.drawing(MODEL, ["hooked", 0]) | {
        "hook": graphs.node("CreateHookLora", **lora),
        "hooked": graphs.node("SetClipHooks", clip=CLIP, apply_to_conds=True, schedule_clip=False, hooks=["hook", 0]),
    }
    server.succeed(graphs.base() | hooked)
    assert abs(server.kept("native") - expected).max() <= 1e-3
    server.succeed(graphs.base() | graphs.drawing(MODEL, CLIP))
    assert abs(server.kept("native") - expected).max() > 1e-3


def test_merged_with_itself_it_draws_the_same(server, info):
    merges = {
        "m": filled(info, "ModelMergeSimple", model1=MODEL, model2=MODEL, ratio=0.3),
        "c": filled(info, "CLIPMergeSimple", clip1=CLIP, clip2=CLIP, ratio=0.3),
    }
    server.succeed(graphs.base() | graphs.drawing(MODEL, CLIP))
    expected = server.kept("native")
    server.succeed(graphs.base() | merges | graphs.drawing(["m", 0], ["c", 0]))
    assert abs(server.kept("native") - expected).max() <= 1e-3


def test_copies_that_share_no_weights_draw_the_same(server):
    """By ComfyUI's own ways to them: for training, for hooks on a GPU, for a second device."""
    copies = {"copies": graphs.node("ProbeCopies", model=MODEL, clip=CLIP, vae=VAE)}
    server.succeed(graphs.base() | graphs.drawing(MODEL, CLIP))
    expected = server.kept("native")
    drawn = graphs.drawing(["copies", 0], ["copies", 1])
    drawn["decoded"]["inputs"]["vae"] = ["copies", 2]
    server.succeed(graphs.base() | copies | drawn)
    assert abs(server.kept("native") - expected).max() <= 1e-5


def test_its_parts_can_be_saved(server, info):
    save = {
        "model": graphs.node("ModelSave", model=MODEL, filename_prefix="saved/model"),
        "clip": graphs.node("CLIPSave", clip=CLIP, filename_prefix="saved/clip"),
        "vae": graphs.node("VAESave", vae=VAE, filename_prefix="saved/vae"),
        "all": graphs.node("CheckpointSave", model=MODEL, clip=CLIP, vae=VAE, filename_prefix="saved/all"),
    }
    server.succeed(graphs.base() | save)
    names = sorted(path.name.split("_")[0] for path in (server.output / "saved").glob("*.safetensors"))
    assert {"all", "model", "vae"} <= set(names)
