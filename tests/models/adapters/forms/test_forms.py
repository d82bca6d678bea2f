"""Forms by themselves: their sizes, the families that follow from them, and what has no effect."""

from __future__ import annotations

import pytest
import torch

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Dense, Kept, LowRank
from comfyui_fewshot.models.adapters.apply import changed_weight, check_fits, has_effect
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


PAIR_CP = {"up": (12, 4), "down": (4, 20)}


def low_rank(up: tuple[int, ...], down: tuple[int, ...], mid: tuple[int, ...] | None = None) -> LowRank:
    return LowRank(torch.ones(up), torch.ones(down), 4.0, None if mid is None else torch.ones(mid))


def dora(down: tuple[int, ...], lengths: tuple[int, ...] = (12, 1)) -> Kept:
    tensors = {"lora_up.weight": (12, 4), "lora_down.weight": down, "dora_scale": lengths}
    return Kept({name: torch.ones(shape) for name, shape in tensors.items()})


@pytest.mark.parametrize(
    ("factor", "shape", "whole"),
    [
        (Dense(torch.ones(12, 20, 1, 1)), LINEAR, True),
        (Dense(torch.ones(12, 20)), (12, 20, 1, 1), True),
        (Dense(torch.ones(20, 12)), LINEAR, False),
        (Dense(torch.ones(240)), LINEAR, False),
        (Dense(torch.ones(12, 3, 3, 20)), CONV, False),
        (Kept({"set_weight": torch.ones(12, 20, 1, 1)}), LINEAR, True),
        (Kept({"set_weight": torch.ones(20, 12)}), LINEAR, False),
        (low_rank((12, 4), (4, 180)), CONV, True),
        (low_rank((12, 4, 1, 1), (4, 20, 3, 3)), CONV, True),
        (low_rank((12, 4, 1, 1), (4, 20, 1, 1)), LINEAR, True),
        (low_rank((12, 4), (4, 3, 3, 20)), CONV, False),
        (low_rank((12, 4, 3, 3), (4, 20)), LINEAR, False),
        (low_rank(**PAIR_CP, mid=(4, 4, 3, 3)), CONV, True),
        (low_rank(**PAIR_CP, mid=(4, 4, 9, 1)), CONV, False),
        (low_rank(**PAIR_CP, mid=()), LINEAR, False),
        (low_rank(**PAIR_CP, mid=(4, 4)), LINEAR, False),
        (low_rank(**PAIR_CP, mid=(7, 7, 1, 1)), LINEAR, False),
        (dora((4, 20)), LINEAR, True),
        (dora((4, 3, 3, 20)), CONV, False),
        (dora((4, 20), (12, 20)), LINEAR, False),
        (Kept({"lokr_w1": torch.ones(3, 4), "lokr_w2": torch.ones(4, 3, 3, 5)}), CONV, False),
        (Kept({f"hada_w{n}": torch.ones(s) for n, s in (("1_a", (12, 0)), ("1_b", (0, 20)), ("2_a", (12, 0)),
               ("2_b", (0, 20)))} | {"alpha": torch.ones(())}), LINEAR, False),
    ],
)  # fmt: skip
def test_what_has_another_shape_is_not_put_on_in_another_order(factor, shape: tuple[int, ...], whole: bool):
    if whole:
        check_fits("there", factor, torch.Size(shape))
        assert changed_weight(torch.ones(shape), factor).shape == shape
        return
    with pytest.raises(FewShotError, match="does not fit there"):
        check_fits("there", factor, torch.Size(shape))


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
