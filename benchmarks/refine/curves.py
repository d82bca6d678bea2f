"""Reading the curves of the refinement bench: fidelities against each other, and rewards against evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...trainers.refine.method import RefinementResult

Point = tuple[float, float]  # subject fidelity and prompt fidelity


def best_at(points: Sequence[Point], subject: float) -> float | None:
    """The best prompt fidelity that `points` and mixtures of two of them have at that subject fidelity or above.

    For a baseline: the most favourable reading. None where no point reaches that subject fidelity, or all exceed it, so
    that there is nothing to compare with.
    """
    if not min(points)[0] <= subject <= max(points)[0]:
        return None
    values = [y for x, y in points if x >= subject]
    for x0, y0 in points:
        for x1, y1 in points:
            if x0 < subject < x1:
                values.append(y0 + (y1 - y0) * (subject - x0) / (x1 - x0))
    return max(values)


def worst_at(curve: Sequence[Point], subject: float) -> float | None:
    """The worst prompt fidelity where a curve of neighbouring points crosses that subject fidelity; None: it does not.

    For the measured side: where it crosses more than once, the better crossing may not count.
    """
    values = []
    for (x0, y0), (x1, y1) in zip(curve, curve[1:], strict=False):
        if min(x0, x1) <= subject <= max(x0, x1):
            values.append(min(y0, y1) if x0 == x1 else y0 + (y1 - y0) * (subject - x0) / (x1 - x0))
    return min(values, default=None)


def gains(result: RefinementResult) -> dict[float, float]:
    """The held-out reward's gain by step."""
    readings = result.readings["readings"]
    assert isinstance(readings, list)
    return {reading["step"]: reading["gain"] for reading in readings}


def steps_to_reach(curve: Mapping[float, float], wanted: float) -> float | None:
    """The step at which a gain is first reached, interpolated; None where it is not, or where it is not positive."""
    if wanted <= 0:
        return None
    steps = sorted(curve)
    for before, after in zip(steps, steps[1:], strict=False):
        if curve[after] >= wanted:
            low = curve[before]
            return before + (after - before) * max(0.0, wanted - low) / max(curve[after] - low, 1e-12)
    return None


def scale_steps(curve: Mapping[float, float], factor: float) -> dict[float, float]:
    """The curve over cost, `factor` a step."""
    return {step * factor: value for step, value in curve.items()}


def rises_at_the_end(curve: Mapping[float, float]) -> bool:
    """Whether the last reading is the best one, so that more training might still gain."""
    return max(curve, key=lambda step: (curve[step], -step)) == max(curve)
