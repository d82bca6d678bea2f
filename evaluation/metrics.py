"""The one interface of metrics and rewards, and what all of them share: stripping identifiers, intervals."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from PIL import Image

from ..models.errors import FewShotError
from ..models.values import Concept, Prompt


class Metric(Protocol):
    """Scores pictures; higher is better. A reward of refinement is a metric."""

    name: str

    @property
    def model_id(self) -> str:
        """The model and its version, for reports: numbers of different models cannot be compared."""
        ...

    def scores(
        self, images: Sequence[Image.Image], prompts: Sequence[Prompt], references: Sequence[Image.Image]
    ) -> torch.Tensor:
        """Scores (n,) fp32 on the CPU of n RGB `images`, of which image i was drawn for prompt i.

        A metric that reads text reads `Prompt.stripped`. `references` are the subject's own pictures; a metric that
        does not compare with them leaves them alone.
        """
        ...


def check_pairs(images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> None:
    """Raises FewShotError unless there are pictures and as many prompts."""
    if not images:
        raise FewShotError("there are no pictures to score; sample at least one")
    if len(images) != len(prompts):
        raise FewShotError(f"{len(images)} pictures cannot be scored for {len(prompts)} prompts; give one prompt each")


def strip_identifiers(text: str, concepts: Sequence[Concept]) -> str:
    """`text` without the concepts' identifiers, which text encoders of metrics read as something else.

    "a photo of an sks cat" -> "a photo of a cat"; "sks, cat, grass" -> "cat, grass". The identifier of a relation is
    replaced by its description. Spaces are made single.
    """
    text = " ".join(text.split())
    for concept in concepts:
        if not concept.identifier:
            continue
        words = concept.description if concept.kind == "relation" else ""
        alone = rf"(?<!\w){re.escape(concept.identifier)}(?!\w)"
        if not words:
            text = re.sub(rf"(^|,) ?{alone} ?(?=,|$)", "", text, flags=re.IGNORECASE).lstrip(" ,")
        pattern = rf"(?P<article>\ban? )?{alone}(?: {alone})*(?= ?(?P<next>\w?))"
        text = re.sub(pattern, lambda found, words=words: _rejoined(found, words), text, flags=re.IGNORECASE)
        text = re.sub(r" +(?=[,.;:!?]|$)", "", " ".join(text.split()))
    return text


def _rejoined(found: re.Match, words: str) -> str:
    """What stands in the place of "an sks cat": an article that fits what follows it now."""
    first = (words or found["next"])[:1].lower()
    if not found["article"] or not first:
        return words
    return f"{found['article'][0]}{'n' if first in 'aeiou' else ''} {words}"


def prompt_of(text: str, concepts: Sequence[Concept], split: Literal["train", "held-out"] = "held-out") -> Prompt:
    """The prompt whose stripped form is `strip_identifiers(text)`."""
    return Prompt(text=text, stripped=strip_identifiers(text, concepts), split=split)


# ----------------------------------------------------------------------------------------------------- intervals


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval over `n` independent runs; one run has no interval."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def bootstrap_interval(
    values: Sequence[float],
    groups: Sequence[object] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The mean of `values` with its percentile bootstrap interval (Efron 1979).

    Values of one group (pictures of one run) are not independent: each group is averaged first, and groups are drawn.

    Raises:
        FewShotError: no values, values that are not numbers, as many groups as values are not given, or a level
            outside (0, 1).
    """
    data = torch.as_tensor(list(values), dtype=torch.float64)
    if data.numel() == 0 or not torch.isfinite(data).all():
        raise FewShotError(f"no interval for {data.numel()} values that must all be numbers")
    if not 0 < level < 1:
        raise FewShotError(f"no interval of level {level}; choose one between 0 and 1, such as 0.95")
    if groups is not None:
        if len(groups) != len(data):
            raise FewShotError(f"{len(data)} values cannot lie in {len(groups)} groups; name the group of each value")
        names = list(dict.fromkeys(groups))
        data = torch.stack([data[[g == name for g in groups]].mean() for name in names])
    count = len(data)
    if count == 1:
        return Interval(mean=float(data[0]), low=None, high=None, n=1)
    drawn = torch.randint(count, (resamples, count), generator=torch.Generator().manual_seed(seed))
    tail = (1 - level) / 2
    low, high = torch.quantile(data[drawn].mean(1), torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(mean=float(data.mean()), low=low, high=high, n=count)


def paired_interval(
    after: Sequence[float], before: Sequence[float], groups: Sequence[object] | None = None, **how
) -> Interval:
    """The mean of `after` - `before`, pair by pair (the same prompt and seed), with its interval; see above."""
    if len(after) != len(before):
        raise FewShotError(f"{len(after)} values after and {len(before)} before are no pairs; score the same samples")
    return bootstrap_interval([a - b for a, b in zip(after, before, strict=True)], groups, **how)
