"""Several adapters that were trained apart as one: added, or fused so that each still does to its own subject's inputs
what it did alone.

Gradient Fusion (Gu et al. 2023, Mix-of-Show) asks, layer by layer, for the W that minimises
sum_i ||W X_i - (W0 + D_i) X_i||^2, where X_i are the inputs that the layer sees while adapter i draws its subject. The
layers are linear, so the least squares have a closed form, and no steps of a solver are needed:
W - W0 = (sum_i D_i G_i) (sum_i G_i + mu I)^-1 with G_i = X_i X_i^T.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...core.errors import FewShotError
from ...core.progress import NullProgress, Progress
from ...core.values import Adapter, Dense, Factor, Kept, LowRank
from .apply import checked_embeddings, delta, find_module, merged_embeddings
from .forms.word_rows import carries
from .gram import GRAM_BYTES, GramSampling, gram_bytes, group_by_input, input_grams, plan_rounds
from .metadata import SOURCES, source_lines

if TYPE_CHECKING:
    from ..contract import DiffusionModel

log = logging.getLogger(__name__)

# mu as a share of the mean of the inputs' eigenvalues: directions that no subject uses go back to the base.
# Where adapters want different outputs for nearly the same inputs, W grows along the inputs' small difference, and
# images of other prompts break into noise: on the pocket both nouns were right in 39 % of images with 1e-4, 78 % with
# 1e-3, 100 % with 1e-2 and 89 % with 1e-1, while the lost change to own inputs rose from 16 to 18, 21 and 25 %.
RIDGE = 1e-2
# Metadata key: the share of its change to its own inputs that each adapter loses.
ERROR_KEY = "fewshot.fusion_error"


@dataclass
class _LostChange:
    """For each adapter, squares summed over layers: of the change to its own inputs that is lost, and of all of it."""

    lost: list[float]
    total: list[float]

    def add(self, result: Factor, given: Sequence[tuple[Factor | None, float]], grams: Sequence[Tensor]) -> None:
        """Add one layer's squares."""
        for i, ((factor, strength), gram) in enumerate(zip(given, grams, strict=True)):
            own = [] if factor is None else [(factor, strength)]
            self.lost[i] += _mean_square([(result, 1.0), *((f, -s) for f, s in own)], gram)
            self.total[i] += _mean_square(own, gram)

    def relative(self) -> tuple[float, ...]:
        """Norms of what is lost, as shares of all."""
        return tuple(math.sqrt(a / b) if b else 0.0 for a, b in zip(self.lost, self.total, strict=True))


@dataclass(frozen=True)
class _Solver:
    """Where and how strongly regularised least squares are solved."""

    ridge: float
    device: torch.device


def sum_adapters(adapters: Sequence[tuple[Adapter, float]]) -> Adapter:
    """The plain sum of adapters at their strengths, exactly: low-rank pairs stand side by side.

    What was learned in different blocks (`LoraSpec.block`) adds up without mixing.
    """
    _check(adapters)
    factors: dict[str, Factor] = {}
    for path in _paths(adapters):
        try:
            factors[path] = _sum(_changes(adapters, path))
        except RuntimeError as error:
            sizes = ", ".join(f"{a.trigger}: {_size(a.factors[path])}" for a, _ in adapters if path in a.factors)
            text = f"the adapters do not fit each other in {path} ({sizes}): fuse those of one base"
            raise FewShotError(text) from error
    _check_numbers(factors)
    return _joined(adapters, factors, {"fewshot.fusion": "sum"})


def fuse_adapters(
    model: DiffusionModel,
    adapters: Sequence[tuple[Adapter, float]],
    drawing: GramSampling | None = None,
    progress: Progress | None = None,
    ridge: float = RIDGE,
    room: int = GRAM_BYTES,
) -> tuple[Adapter, tuple[float, ...]]:
    """The adapters fused by least squares, and for each the relative error that is left on its own inputs.

    Layers that are not linear (convolutions, norms) are added; the log says how many. What the layers see is kept in
    the host's memory: at most `room` bytes, which decide how often the subjects are drawn and change no result.

    Raises:
        FewShotError: an adapter has no trigger phrase to draw its subject with, or does not fit the base.
    """
    drawing, progress = drawing or GramSampling(), progress or NullProgress()
    _check(adapters)
    checked_embeddings(model, adapters)
    for factor in (factor for adapter, _ in adapters for factor in adapter.factors.values()):
        if isinstance(factor, Kept):
            _shape(factor)  # which says that it cannot be fused, before anything is drawn
    roots, paths = model.parts(), _paths(adapters)
    linear = [path for path in paths if isinstance(find_module(roots, path), nn.Linear)]
    parts = plan_rounds(model, linear, len(adapters), room)
    _announce([len(adapters) * gram_bytes(model, part) for part in parts], len(adapters), len(linear))
    factors: dict[str, Factor] = {}
    change = _LostChange([0.0] * len(adapters), [0.0] * len(adapters))
    # not every other device supports float64
    solver = _Solver(ridge, model.device if model.device.type == "cuda" else torch.device("cpu"))
    for number, part in enumerate(parts):
        grams = []
        for i, (adapter, strength) in enumerate(adapters):
            text = f"looking at what {adapter.trigger} makes the layers see (round {number + 1} of {len(parts)})"
            progress.report(number * len(adapters) + i, len(parts) * len(adapters), text)
            grams.append(input_grams(model, adapter, strength, part, drawing, progress))
        factors |= _solved(adapters, group_by_input(model, part), grams, solver, change, progress)
        del grams  # before the next round's, for which there may be no room beside them
    rest = [path for path in paths if path not in factors]
    factors |= {path: _sum(_changes(adapters, path)) for path in rest}
    if rest:
        log.info("%d layers are not linear, and their changes are added", len(rest))
    _check_numbers(factors)
    errors = change.relative()
    metadata = {"fewshot.fusion": "least squares", ERROR_KEY: ", ".join(f"{error:.4f}" for error in errors)}
    for (adapter, _), error in zip(adapters, errors, strict=True):
        log.info("fused: %s loses %.1f %% of its change to its own inputs", adapter.trigger, 100 * error)
    return _joined(adapters, {path: factors[path] for path in paths}, metadata), errors


def _check_numbers(factors: Mapping[str, Factor]) -> None:
    for path, factor in factors.items():
        parts = (factor.up, factor.down) if isinstance(factor, LowRank) else (factor.weight,)
        if not all(bool(part.isfinite().all()) for part in parts):
            raise FewShotError(f"the adapters make no finite numbers in {path}: one of them is damaged; train it again")


def _announce(sizes: Sequence[int], adapters: int, layers: int) -> None:
    """Say before the work starts what it takes."""
    log.info(
        "fusing %d layers of %d adapters: what they see takes %.2f GB of the host's memory (estimated)%s",
        layers,
        adapters,
        max(sizes, default=0) / 1e9,
        f", in {len(sizes)} rounds of drawing, {sum(sizes) / 1e9:.2f} GB in all" if len(sizes) > 1 else "",
    )


def _solved(
    adapters: Sequence[tuple[Adapter, float]],
    groups: Mapping[str, Sequence[str]],
    inputs: Sequence[Mapping[str, Tensor]],
    solver: _Solver,
    change: _LostChange,
    progress: Progress,
) -> dict[str, Factor]:
    """The fused changes of layers, factorised once for each group, which reads one input; adds to `change`."""
    factors: dict[str, Factor] = {}
    count = sum(map(len, groups.values()))
    for members in groups.values():
        grams = [by_path[members[0]].to(solver.device) for by_path in inputs]
        system = _system(grams, solver.ridge)
        for path in members:
            progress.check()
            progress.report(len(factors), count, f"fusing {path}")
            given = [(adapter.factors.get(path), strength) for adapter, strength in adapters]
            factors[path] = _combined(given, grams, system)
            change.add(factors[path], given, grams)
    return factors


def _system(grams: Sequence[Tensor], ridge: float) -> tuple[Tensor, Tensor]:
    """sum_i G_i + mu I, factored in float64 by LU: sums of float32 may be a little indefinite."""
    total = grams[0].to(torch.float64, copy=True)
    for gram in grams[1:]:
        total += gram
    total.diagonal().add_(ridge * total.diagonal().mean().clamp(min=1e-30))
    return torch.linalg.lu_factor(total)


def _through(rows: Tensor, gram: Tensor, system: tuple[Tensor, Tensor]) -> Tensor:
    """rows G_i (sum_i G_i + mu I)^-1 for rows (n, in): their projection onto the adapter's own inputs."""
    return torch.linalg.lu_solve(*system, (rows.to(gram.device) @ gram.double()).T).T.cpu()


def _combined(
    given: Sequence[tuple[Factor | None, float]], grams: Sequence[Tensor], system: tuple[Tensor, Tensor]
) -> Factor:
    """The sum of the changes, each through its own inputs."""
    parts = [(f, s, gram) for (f, s), gram in zip(given, grams, strict=True) if f is not None]
    if pairs := _stacked([(f, s) for f, s, _ in parts]):
        up, downs = pairs
        kept = [_through(down, gram, system) for down, (_, _, gram) in zip(downs, parts, strict=True)]
        return LowRank(
            up.float(), torch.cat(kept).float(), float(up.shape[1]), bias=_biases([(f, s) for f, s, _ in parts])
        )
    changes = [s * _through(_matrix(f, len(gram)), gram, system) for f, s, gram in parts]
    return Dense(torch.stack(changes).sum(0).float(), _biases([(f, s) for f, s, _ in parts]))


def _biases(parts: Sequence[tuple[Factor, float]]) -> Tensor | None:
    """The sum of the differences of a bias."""
    biases = [s * f.bias.float() for f, s in parts if f.bias is not None]
    return torch.stack(biases).sum(0) if biases else None


def _stacked(parts: Sequence[tuple[Factor, float]]) -> tuple[Tensor, list[Tensor]] | None:
    """The ups of a sum of low-rank changes side by side (out, ranks), with their strengths, and their downs (rank, in),
    in float64; None where a change is not low-rank."""
    pairs = [(factor, strength) for factor, strength in parts if isinstance(factor, LowRank)]
    if len(pairs) < len(parts):
        return None
    up = torch.cat([s * f.alpha / f.rank * f.up.flatten(1).double() for f, s in pairs], 1)
    return up, [f.down.flatten(1).double() for f, _ in pairs]


def _matrix(factor: Factor, width: int) -> Tensor:
    """A change as a matrix (out, width) in float64."""
    out = _shape(factor)[0]
    return delta(_difference(factor), torch.device("cpu"), torch.Size((out, width))).double()


def _mean_square(parts: Sequence[tuple[Factor, float]], gram: Tensor) -> float:
    """The mean square tr(D G D^T) of what the sum D of changes does to inputs with the matrix G.

    For D = U V it is the sum of (U^T U) * (V G V^T), which spares the product of the large matrices.
    """
    if not parts:
        return 0.0
    gram = gram.double()
    if pairs := _stacked(parts):
        up, down = pairs[0].to(gram.device), torch.cat(pairs[1]).to(gram.device)
        return max(0.0, float(((up.T @ up) * (down @ gram @ down.T)).sum()))
    change = torch.stack([s * _matrix(f, len(gram)) for f, s in parts]).sum(0).to(gram.device)
    return max(0.0, float(((change @ gram) * change).sum()))


# ----------------------------------------------------------------------------------------------- putting together


def _check(adapters: Sequence[tuple[Adapter, float]]) -> None:
    if len(adapters) < 2:
        raise FewShotError(f"{len(adapters)} adapter was given to fuse: connect two or more")
    families = {adapter.family for adapter, _ in adapters}
    if len(families) > 1:
        raise FewShotError(f"the adapters are for {' and '.join(sorted(families))}: fuse those of one family")
    if noisy := [adapter.trigger for adapter, _ in adapters if adapter.noisy_from]:
        raise FewShotError(
            f"an adapter counts at noisy timesteps only ({', '.join(noisy)}), which a file cannot say of a part of it: "
            "put the adapters on a model one after the other"
        )
    for number, (adapter, _) in enumerate(adapters, 1):
        if not adapter.trigger:
            raise FewShotError(f"adapter {number} has no trigger phrase, so its subject cannot be named: train it here")
    first = [adapter.trigger.split()[0] for adapter, _ in adapters]
    if len(set(first)) < len(first):
        log.warning("adapters share an identifier (%s): a prompt cannot tell their subjects apart", ", ".join(first))


def _paths(adapters: Sequence[tuple[Adapter, float]]) -> list[str]:
    return list(dict.fromkeys(path for adapter, _ in adapters for path in adapter.factors))


def _changes(adapters: Sequence[tuple[Adapter, float]], path: str) -> list[tuple[Factor, float]]:
    """A path's factors and strengths; a word counts in full, as it does where adapters are applied."""
    return [
        (adapter.factors[path], 1.0 if carries(adapter, path, adapter.factors[path]) else strength)
        for adapter, strength in adapters
        if path in adapter.factors
    ]


def _sum(parts: Sequence[tuple[Factor, float]]) -> Factor:
    """The exact sum of one layer's changes."""
    if all(isinstance(factor, LowRank) and factor.mid is None for factor, _ in parts):
        pairs: list[tuple[LowRank, float]] = [(f, s) for f, s in parts if isinstance(f, LowRank)]
        up = torch.cat([s * f.alpha / f.rank * f.up.float() for f, s in pairs], 1)
        down = torch.cat([f.down.float() for f, _ in pairs])
        return LowRank(up, down, float(len(down)), bias=_biases(parts))
    shapes = [torch.Size(_shape(f)) for f, _ in parts if isinstance(f, Dense)]
    shape = shapes[0] if shapes else torch.Size(_shape(parts[0][0]))
    weight = torch.stack([s * delta(_difference(f), torch.device("cpu"), shape) for f, s in parts]).sum(0)
    return Dense(weight, _biases(parts))


def _difference(factor: Factor) -> LowRank | Dense:
    if isinstance(factor, Kept):
        raise FewShotError(
            "an adapter holds LoHa, LoKr or another form that cannot be fused: use LoRAs (it holds "
            f"{', '.join(sorted(factor.tensors))})"
        )
    return factor


def _shape(factor: Factor) -> tuple[int, ...]:
    factor = _difference(factor)
    if isinstance(factor, Dense):
        return tuple(factor.weight.shape)
    kernel = factor.down.shape[2:] if factor.mid is None else factor.mid.shape[2:]
    return (factor.up.shape[0], factor.down.shape[1], *kernel)


def _size(factor: Factor) -> str:
    return " x ".join(map(str, _shape(factor)))


def _joined(
    adapters: Sequence[tuple[Adapter, float]], factors: Mapping[str, Factor], metadata: Mapping[str, str]
) -> Adapter:
    words = merged_embeddings([(adapter, 1.0) for adapter, _ in adapters])
    trigger = ", ".join(adapter.trigger for adapter, _ in adapters)
    return Adapter(dict(factors), adapters[0][0].family, trigger, words, {**metadata, SOURCES: source_lines(adapters)})
