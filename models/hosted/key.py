"""The content key of what ComfyUI has loaded: the same for the same weights, whichever way they came.

Nothing is loaded onto a device for it: of each weight a few thousand values are read where they lie.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ...core.errors import FewShotError
from .in_place import inner_names
from .parts import HostedParts

SAMPLES = 4096  # values of each tensor that go into the key
WORD = 8  # bytes that are summed at once
PLACES = 64  # runs of neighbouring values that they are read in
SAMPLING = "model_sampling"


def parts_key(parts: HostedParts) -> str:
    """sha256 over names, types, shapes and values of the unpatched weights, the patches on them, and the sampling.

    Raises:
        FewShotError: a patch without content that can be named.
    """
    digest = hashlib.sha256()
    for name, patcher in (("model", parts.model), ("clip", parts.clip.patcher), ("vae", parts.vae.patcher)):
        digest.update(name.encode())
        for line in _content(patcher):
            digest.update(line)
    sampling = parts.model.get_model_object(SAMPLING)
    kinds = [kind.__name__ for kind in type(sampling).__mro__]
    numbers = {name: value for name, value in sorted(vars(sampling).items()) if isinstance(value, int | float)}
    digest.update(f"{kinds}|{numbers}|{parts.clip.layer_idx}".encode())
    return digest.hexdigest()


def _content(patcher: Any) -> Iterator[bytes]:
    """The class of a part's network, its raw weights by name, and what is patched on each."""
    yield type(patcher.model).__name__.encode()
    for name, tensor in sorted(patcher.model.state_dict().items()):
        kept = patcher.backup.get(name)  # what a patch that is applied at the moment put aside
        yield f"{name}|".encode()
        yield from _values(tensor if kept is None else kept.weight)
    for name in sorted(patcher.patches, key=str):
        for strength, value, own, offset, function in patcher.patches[name]:
            if function is not None:
                raise FewShotError(
                    f"a node changed {name} by a function of its own, which has no content that a key could be made "
                    "of: connect the model from before that node"
                )
            yield f"{name}|{strength}|{own}|{offset}|".encode()
            yield from _merged(str(name), value) if isinstance(value, list) else _patch(str(name), value)


def _merged(name: str, value: list) -> Iterator[bytes]:
    """Another model's weight, with ComfyUI's own way to read it, and what was patched on that one."""
    weight, *patches = value
    yield from _values(weight[0] if isinstance(weight, tuple) else weight)
    for strength, inner, own, offset, _ in patches:
        yield f"{strength}|{own}|{offset}|".encode()
        yield from _merged(name, inner) if isinstance(inner, list) else _patch(name, inner)


def _patch(name: str, value: Any) -> Iterator[bytes]:
    """What a patch holds: tensors, numbers and names, nested as ComfyUI nests them."""
    if isinstance(value, Tensor):
        yield from _values(value)
    elif isinstance(value, Mapping):
        for key in sorted(value):
            yield str(key).encode()
            yield from _patch(name, value[key])
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _patch(name, part)
    elif value is None or isinstance(value, str | int | float | bool):
        yield repr(value).encode()
    elif hasattr(value, "weights"):  # an adapter of comfy.weight_adapter
        yield type(value).__name__.encode()
        yield from _patch(name, value.weights)
    else:
        raise FewShotError(
            f"a {type(value).__name__} changes {name}, which has no content that a key could be made of: connect the "
            "model from before the node that put it there"
        )


def _values(tensor: Tensor) -> Iterator[bytes]:
    """Type, shape, and values in evenly spread runs; of a quantised tensor those of its parts."""
    yield f"{tensor.dtype}|{tuple(tensor.shape)}|".encode()
    if names := inner_names(tensor):
        yield type(tensor).__name__.encode()
        for name in names:
            yield from _values(getattr(tensor, name))
        return
    if not tensor.numel():
        return
    if tensor.is_meta:
        raise FewShotError("weights of this model are not in memory, and no key can be made of them: load it again")
    flat = tensor.detach().reshape(-1) if tensor.is_contiguous() else tensor.detach().contiguous().reshape(-1)
    run = max(1, SAMPLES // PLACES)
    starts = range(0, len(flat), max(run, len(flat) // PLACES))
    chosen = torch.cat([flat[start : start + run] for start in starts]) if len(flat) > SAMPLES else flat
    yield chosen.cpu().contiguous().view(torch.uint8).numpy().tobytes()
    yield str(_sum(flat)).encode()


def _sum(flat: Tensor) -> int:
    """Of all bytes as whole numbers, which tells of a change anywhere."""
    raw = flat.view(torch.uint8)
    whole = len(raw) // WORD * WORD
    is_aligned = raw.data_ptr() % WORD == 0
    total = (
        int(raw[:whole].view(torch.int64).sum()) if is_aligned and whole else int(raw[:whole].sum(dtype=torch.int64))
    )
    return total + int(raw[whole:].sum(dtype=torch.int64))
