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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .errors import FewShotError
from .lora_metadata import SOURCES, lines_of
from .merging import applied, delta, find, words_of
from .sampling import sample_latents
from .values import Adapter, Dense, Factor, LowRank
from .watching import Checked, Silent, Watcher

if TYPE_CHECKING:
    from .loading import Networks

log = logging.getLogger(__name__)

RIDGE = 1e-4
"""mu as a share of the mean of the inputs' eigenvalues: directions that no subject uses go back to the base"""
PROMPTS = ("a photo of {}", "a close-up photo of {}", "{}, a wide shot", "{} on a plain background")
REPORT = "fewshot.fusion_error"
"""in the metadata: the share of its change to its own inputs that each adapter loses"""


@dataclass(frozen=True)
class Drawing:
    """How the layers' inputs are recorded: steps of sampling and side in pixels (0: the base's own)."""

    steps: int = 20
    size: int = 0
    seed: int = 0


def summed(adapters: Sequence[tuple[Adapter, float]]) -> Adapter:
    """The plain sum of adapters at their strengths, exactly: low-rank pairs stand side by side.

    What was learned in different blocks (`LoraSpec.block`) adds up without mixing.
    """
    _check(adapters)
    factors = {path: _sum(_changes(adapters, path)) for path in _paths(adapters)}
    return _joined(adapters, factors, {"fewshot.fusion": "sum"})


def fused(
    networks: Networks,
    adapters: Sequence[tuple[Adapter, float]],
    drawing: Drawing = Drawing(),
    watcher: Watcher | None = None,
    ridge: float = RIDGE,
) -> tuple[Adapter, tuple[float, ...]]:
    """The adapters fused by least squares, and for each the relative error that is left on its own inputs.

    Layers that are not linear (convolutions, norms) are added; the log says how many.

    Raises:
        FewShotError: an adapter has no trigger phrase to draw its subject with, or does not fit the base.
    """
    watcher = watcher or Silent()
    _check(adapters)
    words_of(networks, adapters)
    roots = networks.roots()
    linear = [path for path in _paths(adapters) if isinstance(find(roots, path), nn.Linear)]
    grams = []
    for number, (adapter, strength) in enumerate(adapters):
        watcher.progress(number, len(adapters), f"looking at what {adapter.trigger} makes the layers see")
        grams.append(inputs_of(networks, adapter, strength, linear, drawing, watcher))
    factors: dict[str, Factor] = {}
    lost, whole = [0.0] * len(adapters), [0.0] * len(adapters)
    paths = _paths(adapters)
    for done, path in enumerate(paths):
        watcher.check()
        watcher.progress(done, len(paths), f"fusing {path}")
        if path not in linear:
            factors[path] = _sum(_changes(adapters, path))
            continue
        given = [(a.factors.get(path), strength) for a, strength in adapters]
        seen = [gram[path] for gram in grams]
        factors[path] = least_squares(given, seen, ridge)
        _measure(factors[path], given, seen, lost, whole)
    if len(factors) > len(linear):
        log.info("%d layers are not linear, and their changes are added", len(factors) - len(linear))
    errors = tuple(math.sqrt(one / all_) if all_ else 0.0 for one, all_ in zip(lost, whole, strict=True))
    told = {"fewshot.fusion": "least squares", REPORT: ", ".join(f"{error:.4f}" for error in errors)}
    for (adapter, _), error in zip(adapters, errors, strict=True):
        log.info("fused: %s loses %.1f %% of its change to its own inputs", adapter.trigger, 100 * error)
    return _joined(adapters, factors, told), errors


def least_squares(
    given: Sequence[tuple[Factor | None, float]], grams: Sequence[Tensor], ridge: float = RIDGE
) -> Factor:
    """W - W0 of one layer, from each adapter's change (None: it has none) and Gram matrix G_i (in, in).

    Low-rank changes give a low-rank one: its down is each down, seen through its own inputs, side by side.
    """
    total = torch.stack([gram.double() for gram in grams]).sum(0)
    mu = ridge * total.diagonal().mean().clamp(min=1e-30)
    inverse = torch.linalg.inv(total + mu * torch.eye(len(total), dtype=total.dtype, device=total.device))
    parts = [(f, s, gram.double() @ inverse) for (f, s), gram in zip(given, grams, strict=True) if f is not None]
    if all(isinstance(factor, LowRank) for factor, _, _ in parts):
        ups = [s * f.alpha / f.rank * f.up.flatten(1).double() for f, s, _ in parts]  # type: ignore[union-attr]
        downs = [f.down.flatten(1).double() @ weight.cpu() for f, _, weight in parts]  # type: ignore[union-attr]
        up, down = torch.cat(ups, 1), torch.cat(downs)
        return LowRank(up.float(), down.float(), float(len(down)))
    changes = [s * _matrix(f, len(total)) @ weight.cpu() for f, s, weight in parts]
    biases = [s * f.bias for f, s, _ in parts if isinstance(f, Dense) and f.bias is not None]
    return Dense(torch.stack(changes).sum(0).float(), torch.stack(biases).sum(0) if biases else None)


def _matrix(factor: Factor, width: int) -> Tensor:
    """A change as a matrix (out, width) in float64."""
    out = factor.up.shape[0] if isinstance(factor, LowRank) else factor.weight.shape[0]  # type: ignore[union-attr]
    return delta(factor, torch.device("cpu"), torch.Size((out, width))).double()


def _measure(
    result: Factor,
    given: Sequence[tuple[Factor | None, float]],
    grams: Sequence[Tensor],
    lost: list[float],
    whole: list[float],
) -> None:
    """Add one layer's squares: of what each adapter loses on its inputs, and of what it changes there alone."""
    for i, ((factor, strength), gram) in enumerate(zip(given, grams, strict=True)):
        seen = gram.double().cpu()
        mine = strength * _matrix(factor, len(seen)) if factor is not None else torch.zeros((), dtype=torch.float64)
        missed = _matrix(result, len(seen)) - mine
        lost[i] += float(((missed @ seen) * missed).sum())
        whole[i] += float(((mine @ seen) * mine).sum()) if factor is not None else 0.0


@torch.no_grad()
def inputs_of(
    networks: Networks, adapter: Adapter, strength: float, paths: Sequence[str], drawing: Drawing, watcher: Watcher
) -> dict[str, Tensor]:
    """The mean of x x^T (in, in) over all inputs x that the layers at `paths` see while the adapter draws its subject.

    Those of the text encoders are their inputs at the prompts' tokens, those of cross-attention the prompts' states.
    """
    prompts = [text.format(adapter.trigger) for text in PROMPTS]
    size = drawing.size or networks.resolution
    with applied(networks, [(adapter, strength)]), _recorded(networks, paths) as record:
        sample_latents(
            networks,
            prompts,
            [drawing.seed + number for number in range(len(prompts))],
            width=size,
            height=size,
            steps=drawing.steps,
            guidance=1.0,
            watcher=Checked(watcher),
        )
    return {path: record.sums[path] / record.counts[path] for path in paths}


@dataclass
class _Record:
    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, path: str, states: Tensor) -> None:
        rows = states.detach().flatten(0, -2).float()
        gram = rows.T @ rows
        self.sums[path] = self.sums[path] + gram if path in self.sums else gram
        self.counts[path] = self.counts.get(path, 0) + len(rows)


@contextmanager
def _recorded(networks: Networks, paths: Sequence[str]) -> Iterator[_Record]:
    record, roots, handles = _Record(), networks.roots(), []

    def hook(path: str):
        def keep(_: nn.Module, given: tuple[Any, ...]) -> None:
            record.add(path, given[0])

        return keep

    try:
        for path in paths:
            handles.append(find(roots, path).register_forward_pre_hook(hook(path)))
        yield record
    finally:
        for handle in handles:
            handle.remove()


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
    return [(adapter.factors[path], strength) for adapter, strength in adapters if path in adapter.factors]


def _sum(parts: Sequence[tuple[Factor, float]]) -> Factor:
    """The exact sum of one layer's changes."""
    if all(isinstance(factor, LowRank) and factor.mid is None for factor, _ in parts):
        pairs: list[tuple[LowRank, float]] = [(f, s) for f, s in parts if isinstance(f, LowRank)]
        up = torch.cat([s * f.alpha / f.rank * f.up.float() for f, s in pairs], 1)
        down = torch.cat([f.down.float() for f, _ in pairs])
        return LowRank(up, down, float(len(down)))
    shape = next((f.weight.shape for f, _ in parts if isinstance(f, Dense)), None)
    shape = shape or torch.Size(_shape(parts[0][0]))
    weight = torch.stack([s * delta(f, torch.device("cpu"), shape) for f, s in parts]).sum(0)
    biases = [s * f.bias for f, s in parts if isinstance(f, Dense) and f.bias is not None]
    return Dense(weight, torch.stack(biases).sum(0) if biases else None)


def _shape(factor: Factor) -> tuple[int, ...]:
    if not isinstance(factor, LowRank):
        raise FewShotError("an adapter holds LoHa, LoKr or another form that cannot be fused: use LoRAs")
    kernel = factor.down.shape[2:] if factor.mid is None else factor.mid.shape[2:]
    return (factor.up.shape[0], factor.down.shape[1], *kernel)


def _joined(
    adapters: Sequence[tuple[Adapter, float]], factors: Mapping[str, Factor], metadata: Mapping[str, str]
) -> Adapter:
    words = {word: of for adapter, _ in adapters for word, of in adapter.embeddings.items()}
    trigger = ", ".join(adapter.trigger for adapter, _ in adapters)
    return Adapter(dict(factors), adapters[0][0].family, trigger, words, {**metadata, SOURCES: lines_of(adapters)})
