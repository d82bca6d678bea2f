"""The one interface of metrics and rewards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from PIL import Image

from ...core.errors import FewShotError
from ...core.values import Prompt


class MetricModel(Protocol):
    """What looks at the pictures for a metric. Several metrics may share one."""

    @property
    def model_id(self) -> str: ...

    def move(self, device: torch.device | str) -> None:
        """Move it to another device; on the CPU it takes no GPU memory."""
        ...


class Metric(Protocol):
    """Scores pictures; higher is better. A reward of refinement is a metric."""

    name: str

    @property
    def model(self) -> MetricModel: ...

    @property
    def model_id(self) -> str:
        """The model and its version, for reports: numbers of different models cannot be compared."""
        ...

    def scores(
        self, images: Sequence[Image.Image], prompts: Sequence[Prompt], references: Sequence[Image.Image]
    ) -> torch.Tensor:
        """Scores (n,) fp32 on the CPU of n RGB `images`, of which image i was drawn for prompt i.

        A metric that reads text reads `Prompt.words`. `references` are the subject's own pictures; a metric that
        does not compare with them leaves them alone.
        """
        ...


class ModelMetric:
    """A metric that reports its model as it is."""

    model: Any

    @property
    def model_id(self) -> str:
        return self.model.model_id


def check_pairs(images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> None:
    """Raises FewShotError unless there are pictures and as many prompts."""
    if not images:
        raise FewShotError("there are no pictures to score; sample at least one")
    if len(images) != len(prompts):
        raise FewShotError(f"{len(images)} pictures cannot be scored for {len(prompts)} prompts; give one prompt each")
