"""How a reading is taken: pictures of held-out prompts, always from the same noise, seen by the rewards and a CLIP."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from ...core.atomic import make_folder
from ...core.errors import FewShotError
from ...core.progress import CancelOnly
from ...core.randomness import seed_of
from ...core.values import Prompt
from ...evaluation.report.grids import contact_sheet
from ...evaluation.reward import RewardModels, names_subject
from ...models.sampling import SamplingOptions, sample
from ...vision.embedders.clip import Clip
from ...vision.embedders.clip_vision import ClipVision, open_image_embedder
from ...vision.embedders.dino import Dino
from ..validation.image_metrics import Validator
from .guards import Reading
from .rollout import RolloutSampler, as_pictures
from .settings import RefinementSettings

log = logging.getLogger(__name__)
COUNT = 2  # pictures of each prompt, at least: variety needs two
ALONE = 4  # pictures of held-out prompts at the start, at least, that stand for references where there are none


@dataclass(frozen=True)
class HeldOut:
    """What is read: prompts that are not learned from.

    Args:
        references: pictures of the subject that likeness is measured to.
        reward_folders: folders of the reward's own models, which are no independent metric.
    """

    prompts: Sequence[Prompt]
    references: Sequence[Image.Image] = ()
    reward_folders: Sequence[Path] = ()


class Reader:
    """Takes readings with the networks as they are.

    Of each prompt `COUNT` pictures are drawn; where there are fewer than `guard_prompts` of them, more of each, so that
    a reading has as many pictures.

    Args:
        validator: what sees likeness, variety and the metric that is not rewarded; None sees none of them.
        folder: where the pictures of each reading are kept.
    """

    def __init__(
        self,
        sampler: RolloutSampler,
        reward_models: RewardModels,
        held_out: HeldOut,
        settings: RefinementSettings,
        validator: Validator | None,
        folder: Path,
    ):
        self.sampler, self.reward_models, self.settings, self.progress = (
            sampler,
            reward_models,
            settings,
            sampler.progress,
        )
        self.count = max(COUNT, -(-COUNT * settings.guard_prompts // len(held_out.prompts)))
        self.prompts = [prompt for prompt in held_out.prompts for _ in range(self.count)]
        self.groups = [i for i in range(len(held_out.prompts)) for _ in range(self.count)]
        self.seeds = [seed_of("reading", i) for i in range(len(self.prompts))]
        self.folder = folder
        self.embedder: Clip | ClipVision | Dino | None = None
        self.clip: Clip | None = None
        self.reference_embeddings: torch.Tensor | None = None
        self.sheet: Image.Image | None = None  # of the last reading
        if validator is None:
            log.warning("there is no CLIP to watch over likeness and variety: only the held-out reward is read")
            return
        device = sampler.model.device
        clip = Clip(validator.clip, device)
        self.embedder = open_image_embedder(validator.dino, device) if validator.dino else clip
        if validator.clip.resolve() not in held_out.reward_folders:
            self.clip = clip
        else:
            log.info("the CLIP in %s is the reward's own: no other metric tells whether it is deceived", validator.clip)
        self.reference_embeddings = self._reference_embeddings(held_out.references)
        self._move("cpu")

    def _reference_embeddings(self, references: Sequence[Image.Image]) -> torch.Tensor | None:
        """What likeness is measured to; None where it cannot be watched."""
        assert self.embedder is not None
        named = [prompt for prompt in dict.fromkeys(self.prompts) if names_subject(prompt)]
        if not named:
            log.warning("no held-out prompt names the subject: likeness is not watched")
            return None
        if len(named) == 1:
            log.warning(
                "one held-out prompt alone names the subject, which gives no standard error: no reading fails by its "
                "likeness"
            )
        if not references:
            log.info("no pictures of the subject are connected: likeness is measured to what it draws at the start")
            prompts = [named[i % len(named)] for i in range(max(ALONE, len(named)))]
            references = self._draw(prompts, [seed_of("alone", i) for i in range(len(prompts))])
        return self.embedder.images(references)

    def __call__(self, step: int) -> Reading:
        """The reading after a step; one that fails is named in the log and counts as failed."""
        self.progress.report(step, self.settings.steps, f"reading held-out prompts after step {step}")
        try:
            pictures = self._draw(self.prompts, self.seeds)
            self._move(self.sampler.model.device)
            found = self._read(step, pictures)
        except (FewShotError, ArithmeticError) as error:
            if step == 0:
                raise
            log.warning("the reading after step %d failed and does not count: %s", step, error)
            return Reading(step, ((math.nan,) * len(self.prompts),) * len(self.reward_models.terms))
        finally:
            self._move("cpu")
        sheet = contact_sheet(pictures, [prompt.text for prompt in self.prompts])
        self._keep(step, sheet)
        self.sheet = sheet
        return found

    def tell(self, step: int, text: str, metrics: Mapping[str, float]) -> None:
        """Show the last reading with its pictures."""
        self.progress.report(step, self.settings.steps, text, self.sheet, metrics)

    def _move(self, device: torch.device | str) -> None:
        """To where they see, or off the GPU, whose memory the training needs."""
        for model in (self.embedder, self.clip):
            if model is not None and self.sampler.model.device.type != "cpu":
                model.move(device)

    def _draw(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Image.Image]:
        sampler = self.sampler
        side = sampler.shape[-1] * sampler.model.downscale
        with sampler.on_device():
            settings, texts = self.settings, [prompt.text for prompt in prompts]
            options = SamplingOptions(side, side, settings.sampling_steps, settings.guidance, batch=sampler.batch_size)
            pixels = sample(sampler.model, texts, seeds, options, CancelOnly(self.progress))
        if not pixels.isfinite().all():
            raise ArithmeticError("the pictures hold no numbers (NaN)")
        return as_pictures(pixels)

    def _read(self, step: int, pictures: Sequence[Image.Image]) -> Reading:
        """What the rewards and the guards see of each picture."""
        rewards = self.reward_models.scores(pictures, self.prompts).tolist()
        subject = variety = held_out = torch.empty(0)
        if self.embedder is not None:
            seen = self.embedder.images(pictures)
            variety = self._variety(seen)
            if self.reference_embeddings is not None:
                others = torch.tensor([not names_subject(prompt) for prompt in self.prompts], device=seen.device)
                subject = (seen @ self.reference_embeddings.T).mean(1).masked_fill(others, math.nan)
        if self.clip is not None:
            texts = self.clip.texts([prompt.words for prompt in self.prompts])
            held_out = (self.clip.images(pictures) * texts).sum(-1)
        axes = (tuple(axis.tolist()) for axis in (subject, variety, held_out))
        return Reading(step, tuple(map(tuple, rewards)), *axes)

    def _variety(self, seen: torch.Tensor) -> torch.Tensor:
        """The mean cosine distance (n,) of each picture to the others of its prompt."""
        alike = seen.view(-1, self.count, seen.shape[-1])
        distances = 1 - alike @ alike.mT
        distances.diagonal(dim1=1, dim2=2).zero_()
        return (distances.sum(2) / (self.count - 1)).flatten()

    def _keep(self, step: int, sheet: Image.Image) -> None:
        try:
            sheet.save(make_folder(self.folder) / f"reading_{step:08d}.png")
        except (OSError, FewShotError) as error:
            log.warning("the pictures of the reading after step %d could not be kept: %s", step, error)
