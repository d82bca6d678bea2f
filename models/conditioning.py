"""What a denoiser is conditioned on: rows of named tensors, one row a prompt, of any length.

A caption of five tokens may stand beside one of nine: rows are not padded, since some denoisers attend to padding.
Rows whose tensors have one shape lie stacked in one block. Which row lies where is known to the host alone, so nothing
here waits for a device or copies an index to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Embeddings = Mapping[str, Mapping[str, Tensor]]
"""learned vectors by the word that stands for them in prompts, then by what the family calls them: (tokens, width)"""
Shape = tuple[tuple[str, tuple[int, ...]], ...]
"""the names and sizes of what one row holds"""


@dataclass(frozen=True)
class RowBlock:
    """Rows of one shape: each tensor is (n, ...), and `places` (n) are the rows' places in the whole, ascending."""

    places: tuple[int, ...]
    tensors: Mapping[str, Tensor]

    @property
    def shape(self) -> Shape:
        return tuple((name, tuple(tensor.shape[1:])) for name, tensor in self.tensors.items())

    def map(self, change: Callable[[Tensor], Tensor]) -> RowBlock:
        """The same rows with each tensor changed."""
        return replace(self, tensors={name: change(tensor) for name, tensor in self.tensors.items()})


@dataclass(frozen=True)
class Conditioning:
    """What the denoiser is told, by rows; `of` makes one of rows that are alike, and `cat` puts any together."""

    blocks: tuple[RowBlock, ...]

    @staticmethod
    def of(**tensors: Tensor) -> Conditioning:
        """Rows of one shape, from named tensors (B, ...) such as `hidden` (B, L, D) and `pooled` (B, P)."""
        sizes = {len(tensor) for tensor in tensors.values()}
        if len(sizes) != 1:
            raise ValueError(f"tensors of {sorted(sizes)} rows were given: all of one conditioning have as many")
        return Conditioning((RowBlock(tuple(range(sizes.pop())), tensors),))

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """The rows of all parts in a row."""
        found: dict[Shape, list[RowBlock]] = {}
        first = 0
        for part in parts:
            for block in part.blocks:
                moved = replace(block, places=tuple(first + place for place in block.places))
                found.setdefault(block.shape, []).append(moved)
            first += len(part)
        return Conditioning(tuple(map(_joined, found.values())))

    def __len__(self) -> int:
        return sum(len(block.places) for block in self.blocks)

    def __contains__(self, name: str) -> bool:
        return all(name in block.tensors for block in self.blocks)

    def __getitem__(self, name: str) -> Tensor:
        """One tensor (B, ...) of all rows; ValueError where their shapes differ, KeyError where they have none."""
        if len(self.blocks) != 1:
            raise ValueError(f"rows have {len(self.blocks)} shapes: take each of `groups` for itself")
        return self.blocks[0].tensors[name]

    def groups(self) -> list[tuple[tuple[int, ...], Conditioning]]:
        """The rows of each shape, and their places here; these ascend."""
        return [(block.places, Conditioning.of(**block.tensors)) for block in self.blocks]

    def take(self, rows: Sequence[int] | slice) -> Conditioning:
        """Some rows in the given order, which may name one several times."""
        if isinstance(rows, slice) and len(self.blocks) == 1:
            return Conditioning.of(**self.blocks[0].map(lambda tensor: tensor[rows]).tensors)
        wanted = range(len(self))[rows] if isinstance(rows, slice) else rows
        found = []
        for block in self.blocks:
            within = {place: i for i, place in enumerate(block.places)}
            places = tuple(i for i, row in enumerate(wanted) if row in within)
            if places:
                own = [within[wanted[i]] for i in places]
                found.append(replace(block.map(lambda tensor, own=own: rows_of(tensor, own)), places=places))
        return Conditioning(tuple(found))

    def repeat(self, times: int) -> Conditioning:
        """All rows `times` times over, in the order 0 1 2 0 1 2."""
        return Conditioning.cat([self] * times)

    def to(self, *args, **kwargs) -> Conditioning:
        """To a device or a type, as a tensor's `to`."""
        return Conditioning(tuple(block.map(lambda tensor: tensor.to(*args, **kwargs)) for block in self.blocks))

    def detach(self) -> Conditioning:
        return Conditioning(tuple(block.map(lambda tensor: tensor.detach()) for block in self.blocks))


def _joined(blocks: Sequence[RowBlock]) -> RowBlock:
    """Blocks of one shape as one."""
    places = tuple(place for block in blocks for place in block.places)
    return RowBlock(places, {name: torch.cat([b.tensors[name] for b in blocks]) for name in blocks[0].tensors})


def rows_of(tensor: Tensor, indices: Sequence[int]) -> Tensor:
    """Rows by indices that the host knows, without copying an index to the tensor's device."""
    return torch.stack([tensor[i] for i in indices])


Call = Callable[[Tensor, Tensor, Conditioning, Tensor | None], Tensor]
"""`DiffusionModel.predict` for rows whose conditioning has one shape"""


def by_shape(call: Call, latents: Tensor, t: Tensor, conditioning: Conditioning, sizes: Tensor | None = None) -> Tensor:
    """`call` once for all rows of each shape, and what it gives (B, ...) in the order of the rows.

    Every model's `predict` goes through it, so that nobody who calls one has to know of lengths. Rows must not depend
    on what else is in their call.
    """
    groups = conditioning.groups()
    if len(groups) == 1:
        return call(latents, t, conditioning, sizes)
    found, order = [], []
    for places, part in groups:
        own = None if sizes is None else rows_of(sizes, places)
        found.append(call(rows_of(latents, places), rows_of(t, places), part, own))
        order += places
    return rows_of(torch.cat(found), [order.index(place) for place in range(len(order))])
