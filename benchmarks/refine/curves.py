"""How curves of the bench of refinement are read: fidelities against each other, and rewards against what was spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...trainers.refine.method import RefinementResult

Point = tuple[float, float]
"""subject fidelity and prompt fidelity"""


def envelope(points: Sequence[Point], subject: float) -> float | None:
    """The best prompt fidelity that `points` and mixtures of two of them have at that subject fidelity or above.

    For a baseline: nothing that it could have is left out. None where no point keeps the subject so well, or all keep
    it better, so that there is nothing to compare with.
    """
    if not min(points)[0] <= subject <= max(points)[0]:
        return None
    found = [y for x, y in points if x >= subject]
    for x0, y0 in points:
        for x1, y1 in points:
            if x0 < subject < x1:
                found.append(y0 + (y1 - y0) * (subject - x0) / (x1 - x0))
    return max(found)


def along(way: Sequence[Point], subject: float) -> float | None:
    """The worst prompt fidelity where a way of neighbouring points crosses that subject fidelity; None: it does not.

    For what is measured: where it passes more than once, nothing speaks for the better passage.
    """
    found = []
    for (x0, y0), (x1, y1) in zip(way, way[1:], strict=False):
        if min(x0, x1) <= subject <= max(x0, x1):
            found.append(min(y0, y1) if x0 == x1 else y0 + (y1 - y0) * (subject - x0) / (x1 - x0))
    return min(found, default=None)


def gains(result: RefinementResult) -> dict[float, float]:
    """The held-out reward's gain by step."""
    readings = result.readings["readings"]
    assert isinstance(readings, list)
    return {reading["step"]: reading["gain"] for reading in readings}


def first_at(curve: Mapping[float, float], wanted: float) -> float | None:
    """Where on a curve the gain is first reached, between readings; None where it is not, or nothing was gained."""
    if wanted <= 0:
        return None
    steps = sorted(curve)
    for before, after in zip(steps, steps[1:], strict=False):
        if curve[after] >= wanted:
            low = curve[before]
            return before + (after - before) * max(0.0, wanted - low) / max(curve[after] - low, 1e-12)
    return None


def times(curve: Mapping[float, float], factor: float) -> dict[float, float]:
    """The curve by what its steps cost, `factor` each."""
    return {step * factor: value for step, value in curve.items()}


def rises_to_the_end(curve: Mapping[float, float]) -> bool:
    """Whether the last reading is the best one, so that more might still come."""
    return max(curve, key=lambda step: (curve[step], -step)) == max(curve)
