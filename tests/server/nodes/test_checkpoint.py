"""A checkpoint in the original format of SD 1.5 (stock widths, few blocks) through the graph, also tuned in full."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from comfyui_fewshot.tests.models import checkpoints
from comfyui_fewshot.tests.server import graphs

pytestmark = [pytest.mark.server, pytest.mark.slow]
CLOSE = 1e-3  # of a pixel in [0, 1]


@pytest.fixture(scope="module")
def small(server):
    """The base that Load Base Model gives for it, as a graph."""
    tensors = checkpoints.sd1(
        checkpoints.UNetShape(), checkpoints.TextShape(layers=12), checkpoints.VaeShape(), torch.float16
    )
    checkpoints.save(tensors, server.base / "models" / "checkpoints" / "small.safetensors")
    graph = graphs.base()
    graph["base"]["inputs"] |= {"source": "checkpoint", "source.name": "small.safetensors"}
    return graph


@pytest.fixture(scope="module")
def lora(server, small):
    """The name of a LoRA trained on it, denoiser and text encoder."""
    info = server.get("/object_info")
    changes = {"text_encoder": True, "learning_rate": 2e-2, "text_learning_rate": 2e-2, "resolution": 64}
    graph = graphs.training(info, **changes) | small | graphs.saved("small")
    return Path(server.succeed(graph).outputs("save")["text"][0]).name


def loader(name: str) -> graphs.Graph:
    return {"lora": graphs.node("LoraLoader", model=["base", 1], clip=["base", 2], lora_name=name,
                                strength_model=1.0, strength_clip=1.0)}  # fmt: skip


def drawn(server, graph, model: list, clip: list, **grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What ComfyUI draws, and Sample Grid without and with its adapter."""
    columns = graphs.grid(**grid)
    columns["grid"]["inputs"] |= {"width": 64, "height": 64}
    server.succeed(graph | graphs.drawing(model, clip) | columns)
    return server.kept("native"), server.kept("before"), server.kept("after")


def far(one, other):
    return float(np.abs(one - other).max())


def test_comfyui_and_sample_grid_draw_the_same(server, small):
    native, before, _ = drawn(server, small, ["base", 1], ["base", 2])
    assert native.std() > 0.01 and far(native, before) <= CLOSE


def test_the_trained_lora_draws_the_same_and_loads_whole(server, small, lora):
    start = len(server.log)
    adapter = {"adapter": graphs.node("FewShotLoadAdapter", **{"source": "file", "source.name": lora})}
    native, before, after = drawn(
        server, small | adapter | loader(lora), ["lora", 0], ["lora", 1], adapter=["adapter", 0]
    )
    assert not graphs.not_loaded(server.log[start:])
    assert far(native, after) <= CLOSE < far(native, before)


def test_the_weights_read_back_from_the_sockets_are_the_same_base(server, small):
    sockets = {"again": graphs.node("FewShotBaseFromModel", model=["base", 1], clip=["base", 2], vae=["base", 3],
                                    clip_skip=0, dtype="auto")}  # fmt: skip
    native, before, _ = drawn(server, small | sockets, ["base", 1], ["base", 2], base=["again", 0])
    assert far(native, before) <= CLOSE


def test_a_lora_before_the_sockets_is_baked_in(server, small, lora):
    sockets = {"baked": graphs.node("FewShotBaseFromModel", model=["lora", 0], clip=["lora", 1], vae=["base", 3],
                                    clip_skip=0, dtype="auto")}  # fmt: skip
    native, before, _ = drawn(server, small | loader(lora) | sockets, ["lora", 0], ["lora", 1], base=["baked", 0])
    assert far(native, before) <= CLOSE


def test_the_sampling_and_the_layer_of_a_checkpoint_s_parts_are_read(server, small):
    changed = {
        "loader": graphs.node("CheckpointLoaderSimple", ckpt_name="small.safetensors"),
        "ms": graphs.node("ModelSamplingDiscrete", model=["loader", 0], sampling="v_prediction", zsnr=True),
        "cs": graphs.node("CLIPSetLastLayer", clip=["loader", 1], stop_at_clip_layer=-2),
        "read": graphs.node("FewShotBaseFromModel", model=["ms", 0], clip=["cs", 0], vae=["loader", 2], clip_skip=0,
                            dtype="auto"),
    }  # fmt: skip
    native, before, _ = drawn(server, small | changed, ["ms", 0], ["cs", 0], base=["read", 0])
    assert far(native, before) <= CLOSE
    plain, _, _ = drawn(server, small, ["base", 1], ["base", 2])
    assert far(native, plain) > CLOSE


def test_a_vae_of_its_own_loader_is_read(server, small):
    vae = checkpoints.Builder(seed=7, dtype=torch.float16)
    checkpoints.add_vae(vae, checkpoints.VaeShape(), prefix="")
    (server.base / "models" / "vae").mkdir(exist_ok=True)
    checkpoints.save(vae.tensors, server.base / "models" / "vae" / "other.safetensors")
    changed = {
        "vae": graphs.node("VAELoader", vae_name="other.safetensors"),
        "read": graphs.node("FewShotBaseFromModel", model=["base", 1], clip=["base", 2], vae=["vae", 0], clip_skip=0,
                            dtype="auto"),
    }  # fmt: skip
    native = graphs.drawing(["base", 1], ["base", 2])
    native["decoded"]["inputs"]["vae"] = ["vae", 0]
    columns = graphs.grid(base=["read", 0])
    columns["grid"]["inputs"] |= {"width": 64, "height": 64}
    server.succeed(small | changed | native | columns)
    assert far(server.kept("native"), server.kept("before")) <= CLOSE


# --------------------------------------------------------------------------------------------------- tuned in full


@pytest.fixture(scope="module")
def whole(server, small):
    """The graph that tunes the whole denoiser for a step, and the names of its adapter's file and its checkpoint."""
    info = server.get("/object_info")
    changes = {"parameter_set": "all", "tuning": "full", "extract_rank": 8, "steps": 1, "learning_rate": 2e-2}
    graph = graphs.training(info, resolution=64, **changes) | small
    done = server.succeed(graph | graphs.saved("whole"))
    checkpoint = Path(done.outputs("train")["text"][0].splitlines()[-1])
    assert checkpoint.parent == server.output / "checkpoints" and checkpoint.is_file()
    return graph, Path(done.outputs("save")["text"][0]).name, checkpoint.name


def test_comfyui_loads_the_tuned_checkpoint_and_draws_as_its_base(server, whole):
    """Against Sample Grid on the BASE that Train Subject gave; the base before it draws something else."""
    graph, _, checkpoint = whole
    start = len(server.log)
    graph = graph | {"checkpoint": graphs.node("CheckpointLoaderSimple", ckpt_name=checkpoint)}
    native, trained, _ = drawn(server, graph, ["checkpoint", 0], ["checkpoint", 1], base=["train", 4])
    said = server.log[start:].lower()
    assert "model_type eps" in said and "missing" not in said and "unexpected" not in said and "left over" not in said
    assert native.std() > 0.01 and far(native, trained) <= CLOSE
    _, before, _ = drawn(server, graph, ["checkpoint", 0], ["checkpoint", 1])
    assert far(native, before) > 10 * CLOSE


def test_the_adapter_of_the_tuned_checkpoint_loads_whole(server, small, whole):
    """The pairs that singular values gave, and the norms' differences, on the base that was tuned."""
    graph, name, _ = whole
    start = len(server.log)
    native, before, after = drawn(server, graph | loader(name), ["lora", 0], ["lora", 1], adapter=["train", 0])
    assert not graphs.not_loaded(server.log[start:])
    assert far(native, after) <= CLOSE < far(native, before)
