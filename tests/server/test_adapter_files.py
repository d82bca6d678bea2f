"""LoRA files of other forms than plain pairs: drawn as LoraLoader draws, trained on from, and named where refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from comfyui_fewshot.tests.server import graphs

pytestmark = pytest.mark.server
CLOSE = 1e-3  # of a pixel in [0, 1]
BLOCK = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_"
TEXT = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
RANDOM = torch.Generator().manual_seed(3)
SAID = {"ss_base_model_version": "sd_v1"}


def r(*shape: int, scale: float = 0.3) -> torch.Tensor:
    return torch.randn(shape, generator=RANDOM) * scale


def pair(name: str, out: int = 96, into: int = 96) -> dict[str, torch.Tensor]:
    return {f"{name}.lora_up.weight": r(out, 4), f"{name}.lora_down.weight": r(4, into)}


LOKR = {f"{BLOCK}ff_net_2.lokr_w1": r(4, 4), f"{BLOCK}ff_net_2.lokr_w2": r(24, 96)}
LOHA = {f"{TEXT}.hada_w{n}_{s}": r(192, 2) if s == "a" else r(2, 192) for n in (1, 2) for s in "ab"}
BOFT = {f"{BLOCK}attn1_to_q.oft_blocks": r(2, 4, 24, 24, scale=0.1), f"{BLOCK}attn1_to_q.rescale": 1 + r(96, 1)}
DRAWN = {
    "pair_and_biases": pair(f"{BLOCK}attn1_to_out_0")
    | {f"{BLOCK}attn1_to_out_0.diff_b": r(96), f"{BLOCK}norm1.diff_b": r(96)},
    "lokr_and_loha": pair(f"{BLOCK}attn1_to_q") | LOKR | LOHA,
    "dora": pair(f"{BLOCK}attn1_to_q") | {f"{BLOCK}attn1_to_q.dora_scale": r(96, 1).abs() + 1},
    "boft": BOFT | {f"{BLOCK}attn1_to_q.alpha": torch.tensor(2.0)},
    "leftovers": pair(f"{BLOCK}attn1_to_q", 96, 96)
    | {"scaled_fp8": torch.zeros(2), "lora_te_text_model_embeddings_position_ids": torch.arange(77)},
}


def put(server, name: str, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = SAID) -> str:
    save_file(tensors, server.base / "models" / "loras" / f"{name}.safetensors", metadata)
    return f"{name}.safetensors"


def loaded(name: str, **more: str) -> graphs.Graph:
    return {"adapter": graphs.node("FewShotLoadAdapter", **{"source": "file", "source.name": name, **more})}


def far(one, other) -> float:
    return float(np.abs(one - other).max())


@pytest.mark.parametrize("name", DRAWN)
def test_other_forms_draw_as_lora_loader_does(server, name):
    lora = put(server, name, DRAWN[name])
    native = graphs.node("LoraLoader", model=["base", 1], clip=["base", 2], lora_name=lora, strength_model=1.0,
                         strength_clip=1.0)  # fmt: skip
    graph = graphs.base() | {"lora": native} | loaded(lora)
    done = server.succeed(graph | graphs.drawing(["lora", 0], ["lora", 1]) | graphs.grid(["adapter", 0]))
    assert far(server.kept("native"), server.kept("after")) <= CLOSE < far(server.kept("native"), server.kept("before"))
    (said,) = done.outputs("adapter")["text"]
    layers = {key.split(".")[0] for key in DRAWN[name] if key.startswith((BLOCK, TEXT))}
    assert said.startswith(f"for Stable Diffusion 1.x: {len(layers)} layers")
    left = "2 tensors are no part of a LoRA, and are left out: lora_te_text_model_embeddings_position_ids, scaled_fp8"
    assert (left in said) == (name == "leftovers")


@pytest.mark.parametrize(
    ("name", "tensors", "words"),
    [
        ("ia3", {f"{BLOCK}attn1_to_q.weight": r(96), f"{BLOCK}attn1_to_q.on_input": torch.tensor(False)},
         "ia3.safetensors: it holds IA3 tensors"),
        ("boft_alone", BOFT, "holds BOFT tensors without their alpha"),
        ("unsaid", pair(TEXT, 192, 192), "for Stable Diffusion 1.x or Stable Diffusion 2.x. Choose the family"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(server, name, tensors, words):
    outcome = server.run(graphs.base() | loaded(put(server, name, tensors, None)) | graphs.grid(["adapter", 0]))
    assert outcome.error["node_type"] == "FewShotLoadAdapter" and words in outcome.error["exception_message"]


def test_the_family_can_be_chosen_where_the_file_does_not_say_it(server):
    lora = put(server, "unsaid", pair(TEXT, 192, 192), None)
    done = server.succeed(graphs.base() | loaded(lora, **{"source.family": "sd1"}) | graphs.grid(["adapter", 0]))
    assert done.outputs("adapter")["text"][0].startswith("for Stable Diffusion 1.x: 1 layers")


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info")


def training_on(info, lora: str, **settings) -> graphs.Graph:
    graph = graphs.training(info, steps=2, **settings) | loaded(lora) | graphs.saved("went_on")
    graph["train"]["inputs"]["adapter"] = ["adapter", 0]
    return graph


def test_other_forms_are_trained_beside(server, info):
    """A LoKr in a layer that is not trained stays in what is given, which is found again the next time."""
    graph = training_on(info, put(server, "beside", LOKR), parameter_set="attention", rank=4)
    first = server.succeed(graph).outputs("save")["text"][0].splitlines()[0]
    start = len(server.log)
    graph["settings"]["inputs"]["log_every"] = 3  # which changes nothing, and lets ComfyUI run the node again
    server.succeed(graph)
    assert "a finished run with the same inputs" in server.log[start:]
    listed = loaded(Path(first).name) | graphs.grid(["adapter", 0])
    assert "learned words" in server.succeed(graphs.base() | listed).outputs("adapter")["text"][0]


def test_what_cannot_be_trained_on_is_refused_before_the_first_step(server, info):
    outcome = server.run(training_on(info, put(server, "trained", LOHA), text_encoder=True, seed=77))
    assert outcome.error["node_type"] == "FewShotTrainSubject"
    assert "is a LoHa, and no plain low-rank pair: it cannot be trained on" in outcome.error["exception_message"]
