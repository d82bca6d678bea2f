"""What ComfyUI's own nodes make of our base and of our files is what our engine makes of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from comfyui_fewshot.tests.server import graphs

pytestmark = pytest.mark.server
CLOSE = 1e-3  # of a pixel in [0, 1]
STRONG = {"learning_rate": 2e-2, "steps": 6}


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info")


@pytest.fixture(scope="module")
def trained(server, info):
    """A saved LoRA strong enough to be seen, of the denoiser and the text encoder; its name in ComfyUI's list."""
    graph = graphs.training(info, text_encoder=True, text_learning_rate=2e-2, seed=5, **STRONG) | graphs.saved("parity")
    return graph, Path(server.succeed(graph).outputs("save")["text"][0].splitlines()[0]).name


def far(one, other):
    return float(np.abs(one - other).max())


def test_the_base_alone_draws_the_same(server):
    server.succeed(graphs.base() | graphs.drawing(["base", 1], ["base", 2]) | graphs.grid())
    assert far(server.kept("native"), server.kept("before")) <= CLOSE


def test_a_lora_file_through_lora_loader_draws_as_sample_grid(server, trained):
    _, name = trained
    before = len(server.log)
    graph = graphs.base() | {
        "native_lora": graphs.node("LoraLoader", model=["base", 1], clip=["base", 2], lora_name=name,
                                   strength_model=1.0, strength_clip=1.0),
        "adapter": graphs.node("FewShotLoadAdapter", **{"source": "file", "source.name": name}),
    }  # fmt: skip
    graph |= graphs.drawing(["native_lora", 0], ["native_lora", 1]) | graphs.grid(["adapter", 0])
    server.succeed(graph)
    assert not graphs.not_loaded(server.log[before:])
    assert far(server.kept("native"), server.kept("after")) <= CLOSE
    assert far(server.kept("native"), server.kept("before")) > 20 * CLOSE


def test_apply_adapter_draws_as_sample_grid(server, trained):
    _, name = trained
    graph = graphs.base() | {
        "adapter": graphs.node("FewShotLoadAdapter", **{"source": "file", "source.name": name}),
        "apply": graphs.node("FewShotApplyAdapter", adapter=["adapter", 0], model=["base", 1], clip=["base", 2],
                             strength_model=1.0, strength_clip=1.0),
    }  # fmt: skip
    server.succeed(graph | graphs.drawing(["apply", 0], ["apply", 1]) | graphs.grid(["adapter", 0]))
    assert far(server.kept("native"), server.kept("after")) <= CLOSE


def test_an_adapter_of_another_family_is_refused(server, trained):
    """SD 2.x names its parts as SD 1.x does, so that names alone would let it pass."""
    graph, _ = trained
    graph = graph | {
        "load": graphs.node(
            "FewShotLoadAdapter", **{"source": "LORA_MODEL", "source.lora": ["train", 1], "source.family": "sd2"}
        ),
        "apply": graphs.node("FewShotApplyAdapter", adapter=["load", 0], model=["base", 1], clip=["base", 2],
                             strength_model=1.0, strength_clip=1.0),
        "kept": graphs.node("ProbeKeep", value=["apply", 0], name="never"),
    }  # fmt: skip
    said = server.run(graph).error["exception_message"]
    assert "the adapter is for Stable Diffusion 2.x and this MODEL is Stable Diffusion 1.x" in said


def test_a_lora_model_survives_load_adapter(server, info, trained):
    graph, name = trained
    graph = graph | {
        "load": graphs.node(
            "FewShotLoadAdapter", **{"source": "LORA_MODEL", "source.lora": ["train", 1], "source.family": "sd1"}
        ),
        "there": graphs.node("ProbeKeep", value=["train", 1], name="there"),
        "and_back": graphs.node("ProbeKeep", value=["load", 1], name="and_back"),
    }
    server.succeed(graph)
    assert (server.kept("there") == server.kept("and_back")).all()


def test_base_from_sockets_is_the_same_base(server):
    again = {"again": graphs.node("FewShotBaseFromModel", model=["base", 1], clip=["base", 2], vae=["base", 3],
                                  clip_skip=0, dtype="auto")}  # fmt: skip
    server.succeed(graphs.base() | again | graphs.drawing(["base", 1], ["base", 2]) | graphs.grid(base=["again", 0]))
    assert far(server.kept("native"), server.kept("before")) <= CLOSE


def test_a_lora_before_base_from_sockets_is_baked_in(server, trained):
    _, name = trained
    graph = graphs.base() | {
        "lora": graphs.node("LoraLoader", model=["base", 1], clip=["base", 2], lora_name=name,
                            strength_model=1.0, strength_clip=1.0),
        "baked": graphs.node("FewShotBaseFromModel", model=["lora", 0], clip=["lora", 1], vae=["base", 3],
                             clip_skip=0, dtype="auto"),
    }  # fmt: skip
    before = len(server.log)
    server.succeed(graph | graphs.drawing(["lora", 0], ["lora", 1]) | graphs.grid(base=["baked", 0]))
    assert far(server.kept("native"), server.kept("before")) <= CLOSE
    assert "weights are patched; baked in" in server.log[before:]


def test_a_diffusers_folder_is_listed_and_loads(server):
    shutil.copytree(
        server.base / "models" / "diffusers" / "pocket", server.base / "models" / "diffusers" / "deep" / "own"
    )
    graph = graphs.base()
    graph["base"]["inputs"] |= {"source": "diffusers folder", "source.name": "deep/own"}
    server.succeed(graph | graphs.drawing(["base", 1], ["base", 2]) | graphs.grid())
    assert far(server.kept("native"), server.kept("before")) <= CLOSE


def test_clip_skip_means_the_same_on_both_sides(server):
    graph = graphs.base()
    graph["base"]["inputs"]["clip_skip"] = 2
    server.succeed(graph | graphs.drawing(["base", 1], ["base", 2]) | graphs.grid())
    skipped = server.kept("native")
    assert far(skipped, server.kept("before")) <= CLOSE
    server.succeed(graphs.base() | graphs.drawing(["base", 1], ["base", 2]))
    assert far(skipped, server.kept("native")) > CLOSE


def test_prompts_are_read_as_comfyui_reads_them(server):
    """Weights, escapes, an embedding and a long prompt; what is left out or drawn as plain words is on the node."""
    folder = Path(server.base) / "models" / "embeddings"
    folder.mkdir(parents=True, exist_ok=True)
    vectors = np.random.default_rng(1).normal(0, 0.3, (2, 192)).astype(np.float32)
    save_file({"emb_params": vectors}, folder / "rare.safetensors")
    prompt = r"a (red:1.6) cat, embedding:rare, ((house)) \(at night\) BREAK embedding:nothere, " + "in the snow " * 20
    graph = graphs.base() | graphs.drawing(["base", 1], ["base", 2], prompt=prompt) | graphs.grid(prompt=prompt)
    shown = server.succeed(graph).outputs("grid")
    assert far(server.kept("native"), server.kept("before")) <= CLOSE
    assert "'BREAK': drawn as plain words" in shown["text"][0]
    assert "embedding:nothere does not exist" in shown["text"][0]
    server.succeed(graphs.base() | graphs.grid(prompt="a red cat, ((house)) (at night)"))
    assert far(server.kept("native"), server.kept("before")) > 20 * CLOSE
