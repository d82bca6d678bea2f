"""Several subjects learned together: how often each picture is drawn."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.values import Concept, Sample

NATURAL_END = 0.2
"""the share of the steps, the last ones, in which no composites are drawn where there are natural pictures"""


def drawing_weights(samples: Sequence[Sample], composite_share: float) -> tuple[float, ...]:
    """How often each of `samples` is drawn, relatively: all subjects equally, however many pictures each has.

    Pictures of more than one subject together get `composite_share` of the draws; within the rest of a subject's draws
    the samples' own weights count, among them the share of composites that pasting was asked for. With one subject, or
    none but composites, a sample's own weight says it all.
    """
    groups = [-1 if sample.others else sample.concept for sample in samples]
    totals: dict[int, float] = {}
    for group, sample in zip(groups, samples, strict=True):
        totals[group] = totals.get(group, 0.0) + sample.weight
    if len(totals) == 1:
        return tuple(sample.weight for sample in samples)
    composites = composite_share if -1 in totals else 0.0
    alone = (1.0 - composites) / max(1, len(totals) - (-1 in totals))
    return tuple(
        sample.weight / totals[group] * (composites if group == -1 else alone)
        for group, sample in zip(groups, samples, strict=True)
    )


def draws_told(samples: Sequence[Sample], weights: Sequence[float], concepts: Sequence[Concept]) -> str:
    """ "25 % several subjects together, 38 % sks cat (19 % composites), …": how often what is drawn, for the log."""
    total, parts = sum(weights), []

    def percent(chosen: Sequence[bool]) -> float:
        return 100 * sum(w for w, has in zip(weights, chosen, strict=True) if has) / total

    if any(sample.others for sample in samples):
        parts.append(f"{percent([bool(s.others) for s in samples]):.0f} % several subjects together")
    for number, concept in enumerate(concepts):
        own = [s.concept == number and not s.others for s in samples]
        pasted = [mine and s.pasted for mine, s in zip(own, samples, strict=True)]
        added = f" ({percent(pasted):.0f} % composites)" if any(pasted) else ""
        parts += [f"{percent(own):.0f} % {concept.trigger}{added}"] if any(own) else []
    return ", ".join(parts)


def natural_weights(samples: Sequence[Sample], weights: Sequence[float]) -> tuple[float, ...] | None:
    """`weights` without those of composites of one subject; None where that would leave all or nothing.

    Training ends on natural pictures, so that the model does not end up with plain backgrounds. Composites that show
    several subjects stay: there may be no natural picture of them together.
    """
    left = tuple(
        0.0 if sample.pasted and not sample.others else weight for sample, weight in zip(samples, weights, strict=True)
    )
    return left if any(left) and left != tuple(weights) else None
