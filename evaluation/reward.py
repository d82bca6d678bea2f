"""Rewards: a weighted list of metrics, each with its model's folder, opened when they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from PIL import Image

from ..core.errors import FewShotError
from ..core.values import Picture, Prompt, content_key
from ..core.weight_files import file_hash
from ..vision.preference.hpsv2 import PUBLISHED as HPS
from ..vision.preference.image_reward import PUBLISHED as IMAGE_REWARD
from .metrics.clip import ClipContrast, ClipImage, ClipText
from .metrics.likeness import DinoImage
from .metrics.metric import Metric, MetricModel
from .metrics.preference import HumanPreference, ImageReward, PickScore

Axis = Literal["subject", "prompt", "preference"]
# each reward's axis, and what opens it from a folder on a device
REWARDS: dict[str, tuple[Axis, Callable[[Any, Any], Metric]]] = {
    "CLIP-T": ("prompt", ClipText),
    ClipContrast.name: ("prompt", ClipContrast),
    "ImageReward": ("preference", ImageReward),
    "PickScore": ("preference", PickScore),
    "HPSv2": ("preference", HumanPreference),
    "CLIP-I": ("subject", ClipImage),
    "DINO": ("subject", DinoImage),
}
CLIPS = ("CLIP-T", ClipContrast.name, "CLIP-I", "PickScore")  # which can share an open model


@dataclass(frozen=True)
class RewardTerm:
    """One metric of `REWARDS`, the folder of its model, and its weight in the mix."""

    kind: str
    folder: Path = field(compare=False)
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in REWARDS:
            raise FewShotError(f"there is no reward {self.kind!r}; choose one of {', '.join(REWARDS)}")
        if not self.weight > 0:
            raise FewShotError(f"the weight of {self.kind} is {self.weight:g}; choose one above 0, or leave it out")

    @cached_property
    def model(self) -> str:
        """Content key of the model's files: of the published ones where they exist, since files converted from them on
        first use must not change the key."""
        published = [path for pattern in (HPS, IMAGE_REWARD) for path in sorted(self.folder.glob(pattern))]
        files = published or sorted(path for path in self.folder.glob("*") if path.is_file())
        return content_key("RewardModel", [[path.name, file_hash(path)] for path in files])

    @property
    def axis(self) -> Axis:
        return REWARDS[self.kind][0]


@dataclass(frozen=True)
class WeightedMetric:
    """A metric that is open, its axis, and its weight."""

    metric: Metric
    axis: Axis
    weight: float = 1.0

    @property
    def name(self) -> str:
        return self.metric.name


class Rewards(Protocol):
    """The rewards of a refinement: a key for the run, and the metrics when they are used."""

    @property
    def key(self) -> str: ...

    @property
    def references(self) -> Sequence[Picture]: ...

    @property
    def folders(self) -> Sequence[Path]:
        """Folders of the models: another metric by the same model is not independent."""
        ...

    def open(
        self, device: torch.device | str, references: Sequence[Image.Image], prompts: Sequence[Prompt] = ()
    ) -> RewardModels:
        """The metrics, which compare with `references`, the pixels of the pictures of that name, and with all
        `prompts` that are learned from."""
        ...


@dataclass(frozen=True)
class Reward:
    """The value on a REWARD socket. `references` are the subject's pictures, for rewards of likeness."""

    terms: tuple[RewardTerm, ...]
    references: tuple[Picture, ...] = ()

    def __post_init__(self) -> None:
        if not self.terms:
            raise FewShotError("there is no reward: choose at least one, such as CLIP-T")
        names = [term.kind for term in self.terms]
        if len(set(names)) < len(names):
            raise FewShotError(f"a reward is named twice ({', '.join(names)}); give it one weight")
        if not self.references and any(term.axis == "subject" for term in self.terms):
            kinds = ", ".join(term.kind for term in self.terms if term.axis == "subject")
            raise FewShotError(f"{kinds} compares with pictures of the subject: connect Subject Pictures as set")

    @property
    def key(self) -> str:
        about = [[term.kind, term.model, term.weight] for term in self.terms]
        return content_key("Reward", about, [picture.key for picture in self.references])

    @property
    def folders(self) -> tuple[Path, ...]:
        return tuple(term.folder for term in self.terms)

    def open(
        self, device: torch.device | str, references: Sequence[Image.Image], prompts: Sequence[Prompt] = ()
    ) -> RewardModels:
        """The metrics, opened on first use; one folder is opened once.

        Raises:
            FewShotError: prompts that a reward cannot compare.
        """
        models: dict[Path, Any] = {}
        terms = []
        for term in self.terms:
            shared = models.get(term.folder) if term.kind in CLIPS else None
            metric = REWARDS[term.kind][1](shared or term.folder, device)
            if isinstance(metric, ClipContrast):
                metric.compare(prompts)
            models[term.folder] = metric.model
            terms.append(WeightedMetric(metric, term.axis, term.weight))
        return RewardModels(tuple(terms), tuple(models.values()), tuple(references), torch.device(device))


@dataclass
class RewardModels:
    """Metrics that are open, the models behind them, and the subject's pictures."""

    terms: tuple[WeightedMetric, ...]
    models: tuple[MetricModel, ...] = ()
    references: tuple[Image.Image, ...] = ()
    device: torch.device = torch.device("cpu")

    @property
    def weights(self) -> list[float]:
        return [term.weight for term in self.terms]

    def scores(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> torch.Tensor:
        """(terms, n) of n pictures and their prompts, on the CPU; NaN where a likeness is asked of a prompt that does
        not name the subject. The models are on the CPU between calls.

        Raises:
            FewShotError: a reward gave something that is no number.
        """
        with self.on_device():
            return torch.stack([self._scored(term, images, prompts) for term in self.terms])

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """The models on `device`; moved to the CPU afterwards."""
        self._move(self.device)
        try:
            yield
        finally:
            self._move(torch.device("cpu"))

    def gradients(self, pixels: torch.Tensor, prompts: Sequence[Prompt]) -> torch.Tensor:
        """(terms, n) of pixels (n, 3, H, W) in [0, 1], differentiable; of metrics that have `gradient`.

        A likeness of a prompt that does not name the subject is NaN, and has no gradient. Call it, and the backward
        pass after it, within `on_device`.
        """
        return torch.stack([self._gradient(term, pixels, prompts) for term in self.terms])

    def _gradient(self, term: WeightedMetric, pixels: torch.Tensor, prompts: Sequence[Prompt]) -> torch.Tensor:
        indices = [i for i, prompt in enumerate(prompts) if term.axis != "subject" or names_subject(prompt)]
        values = torch.full((len(prompts),), torch.nan, device=pixels.device)
        if indices:
            scores = term.metric.gradient(pixels[indices], [prompts[i] for i in indices], self.references)  # type: ignore[attr-defined]
            values = values.index_put((torch.tensor(indices, device=pixels.device),), scores)
        return values

    def _scored(self, term: WeightedMetric, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> torch.Tensor:
        scores = term.metric.scores(images, prompts, self.references).double().cpu()
        if scores.shape != (len(images),) or not scores.isfinite().all():
            raise FewShotError(
                f"the reward {term.name} gave {scores.tolist()[:4]}... for {len(images)} pictures, and must give a "
                "number for each. Check its model's files, or leave it out"
            )
        if term.axis == "subject":
            scores[[not names_subject(prompt) for prompt in prompts]] = torch.nan
        return scores

    def _move(self, device: torch.device) -> None:
        if self.device.type != "cpu":
            for model in self.models:
                model.move(device)


def names_subject(prompt: Prompt) -> bool:
    """Whether the prompt calls the subject by its identifier."""
    return prompt.text != prompt.stripped
