"""LoHa and LoKr: the same difference as ComfyUI's, recognised families, and what is no difference is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Dense, Kept, LowRank
from comfyui_fewshot.models.adapters.apply import check_fits, delta, has_effect
from comfyui_fewshot.models.adapters.formats import from_tensors

PROBE = Path(__file__).with_name("weight_probe.py")
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


def test_differences_are_those_of_comfyui(comfyui_path: Path, tmp_path: Path):
    weights = {case: torch.randn(*shape) for case, (shape, _) in CASES.items()}
    tensors = {f"{case}.{name}": value for case in CASES for name, value in made(case).items()}
    given = tensors | {f"{case}.weight": weight for case, weight in weights.items()}
    safetensors.torch.save_file(given, tmp_path / "factors.safetensors")
    done = subprocess.run(
        [sys.executable, str(PROBE), str(comfyui_path), str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    changed = safetensors.torch.load_file(tmp_path / "changed.safetensors")
    for case, (shape, _) in CASES.items():
        factor = Kept(made(case))
        check_fits("there", factor, torch.Size(shape))
        found = delta(factor, torch.device("cpu"), torch.Size(shape))
        assert found.abs().max() > 0.1 and has_effect(factor)
        torch.testing.assert_close(weights[case] + found, changed[case], rtol=1e-5, atol=1e-5, msg=case)


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


@pytest.mark.parametrize(
    ("ends", "lengths"),
    [
        (("lora_down.weight", "lora_up.weight", "dora_scale"), (320, 1)),
        (("lora_A.weight", "lora_B.weight", "lora_magnitude_vector"), (320,)),
        (("lora_A.default.weight", "lora_B.default.weight", "lora_magnitude_vector.default.weight"), (320,)),
    ],
)
def test_a_dora_is_read_in_every_naming_and_refused_with_the_reason(ends, lengths):
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    key = f"lora_unet_{name.replace('.', '_')}" if "down" in ends[0] else f"unet.{name}"
    tensors = {f"{key}.{ends[0]}": torch.ones(2, 768), f"{key}.{ends[1]}": torch.ones(320, 2)}
    adapter = from_tensors(tensors | {f"{key}.{ends[2]}": torch.ones(*lengths)})
    ((path, factor),) = adapter.factors.items()
    assert adapter.family == "sd1" and isinstance(factor, Kept) and factor.tensors["dora_scale"].shape == (320, 1)
    with pytest.raises(FewShotError, match="is a DoRA, which sets the length"):
        check_fits(path, factor, torch.Size((320, 768)))


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
