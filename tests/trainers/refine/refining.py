"""What tests of refinement share: a reward of colour, prompts, and settings that take a second."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from comfyui_fewshot.core.progress import NullProgress
from comfyui_fewshot.core.values import Adapter, BaseModelRef, Concept, LowRank, Prompt, PromptSet, TrainingSet
from comfyui_fewshot.evaluation.reward import RewardModels, WeightedMetric
from comfyui_fewshot.models.adapters.inject import Injected
from comfyui_fewshot.models.open import open_base
from comfyui_fewshot.models.stable_diffusion.model import StableDiffusion
from comfyui_fewshot.trainers.refine.method import Refinement, split
from comfyui_fewshot.trainers.refine.settings import RefinementSettings
from comfyui_fewshot.trainers.refine.step import RefiningStep

SUBJECT = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


@dataclass
class Redness:
    """How much redder than blue a picture is; `broken` gives what it says instead."""

    name: str = "redness"
    model_id: str = "none"
    broken: float | None = None

    def scores(self, images, prompts, references=()):
        if self.broken is not None:
            return torch.full((len(images),), self.broken)
        values = [np.asarray(image, np.float32) for image in images]
        return torch.tensor([float((v[..., 0] - v[..., 2]).mean() / 255) for v in values])


@dataclass(frozen=True)
class Red:
    """`Rewards` of one metric that needs no model."""

    broken: float | None = None
    axis: str = "prompt"
    references: tuple = ()
    folders: tuple = ()

    @property
    def key(self):
        return f"red {self.broken} {self.axis}"

    def open(self, device, references, prompts=()):
        return RewardModels(
            (WeightedMetric(Redness(broken=self.broken), self.axis),), (), tuple(references), torch.device(device)
        )


class Slope(Red):
    """`Red` with a gradient."""

    def open(self, device, references, prompts=()):
        reward_models = super().open(device, references)
        reward_models.terms[0].metric.gradient = lambda pixels, prompts, references: (pixels[:, 0] - pixels[:, 2]).mean(
            (1, 2)
        )
        return reward_models


def prompts_of(*places: str, held_out: int = 2) -> PromptSet:
    """Both forms of each place; the last ones are held out."""
    rows = []
    for number, place in enumerate(places):
        split = "train" if number < len(places) - held_out else "held-out"
        rows += [
            Prompt(f"a sks ball {place}", f"a ball {place}", split),
            Prompt(f"a ball {place}", f"a ball {place}", split),
        ]
    return PromptSet(tuple(rows))


PROMPTS = prompts_of("red", "in the snow", "at night", "on the beach")
QUICK = RefinementSettings(
    method="grpo",
    steps=6,
    learning_rate=2e-3,
    rank=2,
    prompts_per_round=2,
    group=4,
    updates=2,
    trained_steps=2,
    sampling_steps=5,
    guidance=2.0,
    guard_prompts=2,
    guard_every=1,
    save_every=2,
    log_every=1,
    warmup=0.0,
    seed=3,
    subject_floor=0.0,
    diversity_floor=0.0,
)


def subject_adapter(scale: float = 0.5) -> Adapter:
    """An adapter of one layer of the tiny base that changes something."""
    random = torch.Generator().manual_seed(1)
    up, down = torch.randn(64, 2, generator=random), torch.randn(2, 32, generator=random)
    return Adapter({SUBJECT: LowRank(scale * up[:32], down, 2.0)}, "sd1", "sks ball")


SET = TrainingSet((), (Concept("sks", "ball"),))
CHOSEN = replace(QUICK, resolution=32, alpha=2.0, micro_batch=16)


@contextmanager
def opened(
    base: BaseModelRef, adapter: Adapter | None = None, prompts: PromptSet = PROMPTS, rewards=None, **changes
) -> Iterator[tuple[RefiningStep, Injected, StableDiffusion]]:
    """A step of refinement with the base open, for some settings."""
    with open_base(base, torch.device("cpu")) as model:
        method = Refinement(adapter, *split(prompts), rewards or Red())
        step, injected = method.prepare(model, SET, replace(CHOSEN, **changes), None, NullProgress())
        try:
            yield step, injected, model
        finally:
            injected.remove()
