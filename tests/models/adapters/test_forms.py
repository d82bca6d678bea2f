"""Forms by themselves: their sizes, the families that follow from them, and what has no effect."""

from __future__ import annotations

import pytest
import torch

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Dense, Kept, LowRank
from comfyui_fewshot.models.adapters.apply import check_fits, has_effect
from comfyui_fewshot.models.adapters.formats import from_tensors

LINEAR, CONV = (12, 20), (12, 20, 3, 3)
CASES: dict[str, tuple[tuple[int, ...], dict[str, tuple[int, ...]]]] = {
    "loha": (LINEAR, {"hada_w1_a": (12, 3), "hada_w1_b": (3, 20), "hada_w2_a": (12, 3), "hada_w2_b": (3, 20)}),
    "loha_flat": (CONV, {"hada_w1_a": (12, 3), "hada_w1_b": (3, 180), "hada_w2_a": (12, 3), "hada_w2_b": (3, 180)}),
    "loha_cp": (
        CONV,
        {"hada_w1_a": (3, 12), "hada_w1_b": (3, 20), "hada_w2_a": (3, 12), "hada_w2_b": (3, 20)}
        | {"hada_t1": (3, 3, 3, 3), "hada_t2": (3, 3, 3, 3)},
    ),
    "lokr_whole": (LINEAR, {"lokr_w1": (3, 4), "lokr_w2": (4, 5)}),
    "lokr_half": (LINEAR, {"lokr_w1": (3, 4), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 5)}),
    "lokr_other_half": (LINEAR, {"lokr_w1_a": (3, 2), "lokr_w1_b": (2, 4), "lokr_w2": (4, 5)}),
    "lokr_both": (
        LINEAR,
        {"lokr_w1_a": (3, 2), "lokr_w1_b": (2, 4), "lokr_w2_a": (4, 3), "lokr_w2_b": (3, 5)},
    ),
    "lokr_conv": (CONV, {"lokr_w1": (3, 4), "lokr_w2": (4, 5, 3, 3)}),
    "lokr_cp": (CONV, {"lokr_w1": (3, 4), "lokr_w2_a": (2, 4), "lokr_w2_b": (2, 5), "lokr_t2": (2, 2, 3, 3)}),
}


def made(case: str) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(len(case))
    tensors = {name: torch.randn(*shape, generator=random) for name, shape in CASES[case][1].items()}
    return tensors | ({} if case == "lokr_half" else {"alpha": torch.tensor(1.5)})


@pytest.mark.parametrize("case", CASES)
def test_sizes_are_checked(case):
    with pytest.raises(FewShotError, match="does not fit there"):
        check_fits("there", Kept(made(case)), torch.Size((12, 21)))
    with pytest.raises(FewShotError, match="does not fit there"):
        check_fits("there", Kept(made(case)), torch.Size((20, 12)))


def test_families_follow_from_shapes():
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    loha = {"hada_w1_a": (320, 2), "hada_w1_b": (2, 768), "hada_w2_a": (320, 2), "hada_w2_b": (2, 768)}
    lokr = {"lokr_w1": (8, 8), "lokr_w2_a": (40, 2), "lokr_w2_b": (2, 256)}
    for shapes, family in ((loha, "sd1"), (lokr, "sdxl")):
        assert from_tensors({f"{key}.{name}": torch.ones(*shape) for name, shape in shapes.items()}).family == family


def test_what_changes_nothing_is_known():
    whole = made("loha")
    zeros = whole | {"hada_w2_a": torch.zeros(12, 3)}
    still = [
        Dense(torch.zeros(2, 2)), Dense(torch.zeros(2, 2), torch.zeros(2)), Kept(zeros),
        Kept(whole | {"alpha": torch.tensor(0.0)}), LowRank(torch.ones(4, 2), torch.ones(2, 4), 0.0),
        LowRank(torch.zeros(4, 2), torch.ones(2, 4), 2.0),
        LowRank(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0], [1.0]]), 2.0),
    ]  # fmt: skip
    assert not any(map(has_effect, still))
    moving = [Dense(torch.zeros(2, 2), torch.ones(2)), Kept(whole), LowRank(torch.ones(4, 2), torch.ones(2, 4), 2.0)]
    assert all(map(has_effect, moving))
