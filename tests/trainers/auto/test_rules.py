"""What `auto` chooses, and how a batch is split."""

from dataclasses import replace

import pytest

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.models.contract import ActivationMemory
from comfyui_fewshot.tests.models.stable_diffusion.stock import stock_costs
from comfyui_fewshot.trainers.auto.fit import MemoryOptions, split_batch
from comfyui_fewshot.trainers.auto.inputs import AutoInputs
from comfyui_fewshot.trainers.auto.rules import batch_size, learning_rate, resolve, steps
from comfyui_fewshot.trainers.subject.settings import SubjectSettings

BIG = AutoInputs(5, 100, 859_520_964, stock_costs("sd1"), 8, 512, 1, True, 10_000_000_000, 64, 2)
SMALL = replace(BIG, parameters=10_000_000, native_resolution=64, size_multiple=16)
XL = replace(
    BIG,
    parameters=2_567_463_684,
    costs=stock_costs("sdxl"),
    native_resolution=1024,
    text_encoders=2,
    size_multiple=32,
)


def test_stable_diffusion_gets_the_usual_values():
    chosen, reasons = resolve(SubjectSettings(), BIG)
    assert (chosen.resolution, chosen.learning_rate, chosen.alpha, chosen.batch_size) == (512, 1e-4, 16.0, 1)
    assert chosen.steps == 600
    assert not any(chosen.is_auto(name) for name in ("steps", "learning_rate", "alpha", "batch_size", "resolution"))
    assert any(line.startswith("steps = 600 (5 references; ") for line in reasons)


def test_sdxl_gets_the_usual_values():
    chosen, _ = resolve(SubjectSettings(text_encoder=True), XL)
    assert (chosen.learning_rate, chosen.text_learning_rate, chosen.batch_size) == (1e-4, 5e-6, 1)


def test_a_small_base_learns_faster_from_larger_batches():
    chosen, _ = resolve(SubjectSettings(), replace(SMALL, free_bytes=None))
    assert chosen.batch_size == 4 and 1100 < chosen.steps < 1300 and chosen.micro_batch == 8
    assert 8e-4 <= chosen.learning_rate <= 1e-3


def test_values_given_are_kept():
    given = SubjectSettings(
        steps=7,
        learning_rate=3e-5,
        alpha=2.0,
        batch_size=3,
        resolution=256,
        micro_batch=2,
        token="none",
        local_weight=0.0,
    )
    chosen, reasons = resolve(given, BIG)
    assert replace(chosen, gradient_checkpointing="auto", offload="auto", weights="auto") == given
    assert len(reasons) == 1


def test_rules_are_monotonic():
    rates = [learning_rate(n) for n in (10**6, 10**7, 10**8, 10**9, 10**10)]
    assert rates == sorted(rates, reverse=True) and rates[0] == 1e-3 and rates[-1] == 1e-4
    assert [batch_size(860_000_000, n * n) for n in (16, 32, 64, 128)] == [4, 4, 1, 1]
    assert steps(1, 1) == 400 and steps(10, 1) == 1200 and steps(500, 1) == 1500 and steps(10, 4) == 600
    assert steps(10, 1, 1, 860e6 / 16) == 2400 and steps(10, 1, 1, 2.6e9) == 1200


def test_resolution_must_fit_the_base():
    with pytest.raises(FewShotError, match="resolution is 500, but this base takes multiples of 64 pixels. Use 512"):
        resolve(SubjectSettings(resolution=500), BIG)


@pytest.mark.parametrize(
    ("free", "checkpointing", "micro", "expected"),
    [
        (None, "auto", 0, (2, False)),
        (None, "on", 1, (1, True)),
        (24e9, "auto", 0, (2, False)),
        (12e9, "auto", 0, (1, False)),
        (6e9, "auto", 0, (1, True)),
        (6e9, "off", 0, (1, False)),
        (24e9, "on", 0, (2, True)),
        (12e9, "auto", 2, (2, True)),
    ],
)
def test_smaller_passes_come_before_checkpointing(free, checkpointing, micro, expected):
    plan = split_batch(2, ActivationMemory(9e9, 3e9), free, MemoryOptions(checkpointing, micro))
    assert (plan.micro_batch, plan.checkpointing) == expected
