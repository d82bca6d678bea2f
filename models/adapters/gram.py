"""Gram matrices of the layers' inputs while an adapter samples images of its subject, in host memory.

A Gram matrix is as wide as the layer's input. That of the last layer of a feed-forward in SDXL takes 105 MB, and those
of all its transformers' layers 8.7 GB an adapter, which ordinary GPUs do not have beside the denoiser. So the device
holds one at a time, which is added up on the host; layers that read the same share one; and what is too much for the
host is taken in rounds, each of which draws again from the same seeds.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ...core.errors import FewShotError
from ...core.progress import CancelOnly, Progress
from ...core.text.weights import escaped
from ...core.values import Adapter
from ..sampling import SamplingOptions, sample_latents
from .apply import applied, find_module

if TYPE_CHECKING:
    from ..contract import DiffusionModel

PROMPTS = ("a photo of {}", "a close-up photo of {}", "{}, a wide shot", "{} on a plain background")
# Bytes of host memory for the matrices of one round; a host with a GPU that samples with SDXL has them to spare.
GRAM_BYTES = 6_000_000_000
ITEMSIZE = 4  # bytes of a float32


@dataclass(frozen=True)
class GramSampling:
    """How the layers' inputs are recorded: steps of sampling and side in pixels (0: the base's own)."""

    steps: int = 20
    size: int = 0
    seed: int = 0


def plan_rounds(model: DiffusionModel, paths: Sequence[str], count: int, room: int) -> list[list[str]]:
    """The linear layers at `paths`, in rounds whose Gram matrices of `count` adapters take at most `room` bytes.

    Layers that read the same are in one round. An input whose matrices take more than `room` has a round of its own.
    """
    found: list[list[str]] = []
    used = 0
    for members in group_by_input(model, paths).values():
        size = count * gram_bytes(model, members)
        if not found or used + size > room:
            found.append([])
            used = 0
        found[-1] += members
        used += size
    return found


def gram_bytes(model: DiffusionModel, paths: Sequence[str]) -> int:
    """What the Gram matrices of the linear layers at `paths` take for one adapter: 4 in^2 bytes an input."""
    roots, groups = model.parts(), group_by_input(model, paths)
    layers = [cast("nn.Linear", find_module(roots, members[0])) for members in groups.values()]
    return sum(ITEMSIZE * layer.in_features**2 for layer in layers)


def group_by_input(model: DiffusionModel, paths: Sequence[str]) -> dict[str, list[str]]:
    """The layers at `paths` by what they read."""
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(model.input_name(path), []).append(path)
    return found


@torch.no_grad()
def input_grams(
    model: DiffusionModel,
    adapter: Adapter,
    strength: float,
    paths: Sequence[str],
    drawing: GramSampling,
    progress: Progress,
) -> dict[str, Tensor]:
    """The mean of x x^T (in, in) over all inputs x that the layers at `paths` see while the adapter draws its subject.

    On the CPU in float32; layers that read the same have one tensor. The inputs of the text encoders are those at the
    prompts' tokens, those of cross-attention's keys the prompts' states.
    """
    prompts = [text.format(escaped(adapter.trigger)) for text in PROMPTS]
    size = drawing.size or model.native_resolution
    with applied(model, [(adapter, strength)], beside=True), _recorded(model, paths) as record:
        seeds = [drawing.seed + number for number in range(len(prompts))]
        options = SamplingOptions(size, size, drawing.steps, guidance=1.0)
        sample_latents(model, prompts, seeds, options, CancelOnly(progress))
    means = record.means()
    return {path: means[model.input_name(path)] for path in paths}


@dataclass
class _GramRecord:
    """Sums by input. Of the layers that read one, the first that is called adds to its sum."""

    input_name: Callable[[str], str]
    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    latest: dict[str, weakref.ref[Tensor]] = field(default_factory=dict)

    def add(self, path: str, states: Tensor) -> None:
        name = self.input_name(path)
        if self.first.setdefault(name, path) != path:
            if self.latest[name]() is not states:
                raise FewShotError(
                    f"{path} does not read what {self.first[name]} reads: the base's denoiser is of an unsupported "
                    "variant; choose the method sum"
                )
            return
        self.latest[name] = weakref.ref(states)
        rows = states.detach().flatten(0, -2).float()
        gram = (rows.T @ rows).cpu()
        if name in self.sums:
            self.sums[name] += gram
        else:
            self.sums[name] = gram
        self.counts[name] = self.counts.get(name, 0) + len(rows)

    def means(self) -> dict[str, Tensor]:
        """In the sums' place, which must not be there twice."""
        return {name: self.sums[name].div_(count) for name, count in self.counts.items()}


@contextmanager
def _recorded(model: DiffusionModel, paths: Sequence[str]) -> Iterator[_GramRecord]:
    record, roots, handles = _GramRecord(model.input_name), model.parts(), []

    def hook(path: str):
        def keep(_: nn.Module, given: tuple[Any, ...]) -> None:
            record.add(path, given[0])

        return keep

    try:
        for path in paths:
            handles.append(find_module(roots, path).register_forward_pre_hook(hook(path)))
        yield record
    finally:
        for handle in handles:
            handle.remove()
