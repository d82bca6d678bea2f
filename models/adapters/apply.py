"""Apply adapters to a network's weights, and restore these exactly."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...core.errors import FewShotError
from ...core.text.words import same_word
from ...core.values import Adapter, Dense, Factor, Kept, LowRank
from ..quantization import add_unmerged_pairs
from .forms.complete import form_of
from .forms.on_weight import changed
from .forms.products import covers, pair_product, pair_shape, same_shape
from .forms.products import has_effect as product_has_effect
from .forms.word_rows import without_words
from .timestep_range import NoiseGate, add_gated_pairs, check_gated

if TYPE_CHECKING:
    from ..contract import DiffusionModel


@contextmanager
def applied(model: DiffusionModel, adapters: Sequence[tuple[Adapter, float]], beside: bool = False) -> Iterator[None]:
    """The networks with each adapter on at its strength, its words known; at the end the base is back, bit for bit.

    Differences are summed in float32 and rounded once to the weight's type; beside weights in 8 bits, whose steps are
    larger than what a LoRA changes, low-rank pairs are computed for themselves, and so are those that count at noisy
    timesteps only. With `beside` all low-rank pairs are, so that no weight is in memory twice; and beside weights that
    are a host's. Raises FewShotError when an adapter is for another family or other sizes, or holds a form that is not
    supported.
    """
    beside = beside or not model.owns_weights
    changes = _changes(model, [one for one in adapters if not one[0].noisy_from])
    noisy = [(one, *found) for one in adapters if one[0].noisy_from for found in _noisy_changes(model, one)]
    before: list[tuple[nn.Module, str, nn.Parameter]] = []
    hooks: list[RemovableHandle | NoiseGate] = []
    words = model.learned_tokens
    try:
        own = cast("MutableMapping", words)  # never written to; a view of it, since words that are learned move on
        model.learned_tokens = ChainMap(dict(checked_embeddings(model, adapters)), own)
        with torch.inference_mode(False), torch.no_grad():
            for path, module, name, parts in changes:
                original = getattr(module, name)
                plain = _has_pairs(module) and all(_is_pair(factor) for factor, _ in parts)
                if original.dtype.itemsize == 1 or (beside and plain):
                    hooks.append(add_unmerged_pairs(module, parts))
                    continue
                before.append((module, name, original))
                setattr(module, name, _merged(path, original, parts))
            for (adapter, _), module, pairs in noisy:
                gate = NoiseGate(model, adapter.noisy_from)
                hooks += [add_gated_pairs(module, pairs, gate), gate]
        yield
    finally:
        model.learned_tokens = words
        for handle in hooks:
            handle.remove()
        for module, name, original in reversed(before):
            setattr(module, name, original)


def checked_embeddings(
    model: DiffusionModel, adapters: Sequence[tuple[Adapter, float]]
) -> dict[str, Mapping[str, Tensor]]:
    """The learned words of the adapters; those of one with strength 0 are not known.

    Raises FewShotError when two adapters mean different things by one word, or a word is for encoders of other widths.
    """
    found = merged_embeddings(adapters)
    if found and not model.text_encoders:
        raise FewShotError(
            f"the adapter teaches the word '{next(iter(found))}', and the text encoder of {model.ref.name} learns no "
            "words: it was trained on another base model"
        )
    for word, vectors in found.items():
        for encoder, names in zip(model.text_encoders, model.family.text_encoders, strict=True):
            width = encoder.config.hidden_size
            if names.embedding not in vectors or vectors[names.embedding].shape[-1] != width:
                raise FewShotError(
                    f"the word '{word}' has no {names.embedding} vectors of width {width} for "
                    f"{model.ref.name}: it was learned with another base model"
                )
    return found


def merged_embeddings(adapters: Sequence[tuple[Adapter, float]]) -> dict[str, Mapping[str, Tensor]]:
    """The learned words of adapters whose strength is not 0; FewShotError when two mean different things by one."""
    found: dict[str, Mapping[str, Tensor]] = {}
    for adapter, strength in adapters:
        for word, vectors in (adapter.embeddings if strength else {}).items():
            known = found.setdefault(next((other for other in found if same_word(other, word)), word), vectors)
            alike = known.keys() == vectors.keys() and all(torch.equal(known[kind], vectors[kind]) for kind in known)
            if not alike:
                raise FewShotError(f"two adapters teach the word '{word}' different things: train one with another")
    return found


def _merged(path: str, original: nn.Parameter, parts: Sequence[tuple[Factor, float]]) -> nn.Parameter:
    weight = original.float()
    for factor, strength in parts:
        weight = changed_weight(weight, factor, strength)
    weight = weight.to(original.dtype)
    if not torch.isfinite(weight).all():
        raise FewShotError(
            f"with the LoRA on it there are no finite numbers in {path} (in {weight.dtype}): the LoRA holds numbers "
            "that are too large, or NaN; lower its strength, or get the file again"
        )
    return nn.Parameter(weight, requires_grad=False)


def changed_weight(weight: Tensor, factor: Factor, strength: float = 1.0) -> Tensor:
    """A weight in float32 with a factor on it, which fits it."""
    if isinstance(factor, Kept):
        return changed(weight, factor.tensors, strength)
    return weight + strength * delta(factor, weight.device, weight.shape)


def _changes(
    model: DiffusionModel, adapters: Sequence[tuple[Adapter, float]]
) -> list[tuple[str, nn.Module, str, list[tuple[Factor, float]]]]:
    """What changes: the path, its module, its parameter's name, and the factors with their strengths."""
    roots = model.parts()
    found: dict[tuple[str, str], list[tuple[Factor, float]]] = {}
    for adapter, strength in adapters:
        if adapter.family != model.family.name:
            raise FewShotError(
                f"the LoRA is for {adapter.family} and {model.ref.name} is {model.family.name}: "
                "choose a LoRA and a base model of one family"
            )
        for path, factor in without_words(adapter).items():
            if not (isinstance(factor, Kept) and factor.only_bias):
                found.setdefault((path, "weight"), []).append((factor, strength))
            if factor.bias is not None:
                found.setdefault((path, "bias"), []).append((Dense(factor.bias), strength))
    changes = []
    for (path, name), parts in found.items():
        module = find_module(roots, path)
        parameter = getattr(module, name, None)
        if parameter is None:
            raise FewShotError(f"{path} has no {name}, which the LoRA changes: it is for another base model")
        for factor, _ in parts:
            check_fits(path, factor, parameter.shape)
            if not _is_pair(factor) and not model.owns_weights:
                raise FewShotError(
                    f"{path} is ComfyUI's, beside which only a plain LoRA can be used, and this adapter holds another "
                    "form there: put it on the MODEL with Load LoRA before Base from MODEL+CLIP+VAE"
                )
            if parameter.dtype.itemsize == 1 and not _is_pair(factor):
                raise FewShotError(
                    f"{path} is kept in 8 bits, beside which only a plain LoRA can be used, and this adapter holds "
                    "another form there: set weights to full"
                )
        changes.append((path, module, name, parts))
    return changes


def is_linear(module: nn.Module) -> bool:
    """Whether a layer is a linear one, of whichever library."""
    return hasattr(module, "in_features") and hasattr(module, "out_features")


def _has_pairs(module: nn.Module) -> bool:
    """Whether low-rank pairs can be computed beside a layer."""
    return isinstance(module, nn.Conv2d) or is_linear(module)


def _is_pair(factor: Factor) -> bool:
    """Whether it can be computed beside the weight that it changes."""
    return isinstance(factor, LowRank) and factor.mid is None


def _noisy_changes(
    model: DiffusionModel, adapter: tuple[Adapter, float]
) -> list[tuple[nn.Module, list[tuple[LowRank, float]]]]:
    """The layers that an adapter of noisy timesteps changes, and its pairs."""
    pairs = {path: check_gated(path, factor) for path, factor in adapter[0].factors.items()}
    _changes(model, [adapter])  # which sees whether they fit
    return [(find_module(model.parts(), path), [(factor, adapter[1])]) for path, factor in pairs.items()]


def check_fits(path: str, factor: Factor, shape: torch.Size) -> None:
    """Raise FewShotError where a factor cannot be put on a weight of `shape`."""
    if isinstance(factor, Kept):
        form_of(path, factor.tensors)  # which says what is wrong with an incomplete one
    if not fits(factor, shape):
        raise FewShotError(
            f"the LoRA does not fit {path}, whose weight is {tuple(shape)}: it is for another base model"
        )


def fits(factor: Factor, shape: torch.Size) -> bool:
    """Whether a factor can be put on a weight of `shape`."""
    if isinstance(factor, LowRank):
        made = pair_shape(factor.up, factor.down, factor.mid)
        return made is not None and covers(made, shape)
    if isinstance(factor, Dense):
        return same_shape(factor.weight.shape, shape)
    try:
        return factor.only_bias or changed(torch.empty(shape, device="meta"), factor.tensors, 1.0).shape == shape
    except (RuntimeError, IndexError, ZeroDivisionError):  # its parts do not fit each other, or the weight
        return False


def delta(factor: LowRank | Dense, device: torch.device, shape: torch.Size) -> Tensor:
    """The full difference (of `shape`, float32) that a factor stands for: (alpha / rank) * up @ down."""
    if isinstance(factor, Dense):
        return factor.weight.to(device, torch.float32).reshape(shape)
    up, down, mid = (
        None if part is None else part.to(device, torch.float32) for part in (factor.up, factor.down, factor.mid)
    )
    return pair_product(cast("Tensor", up), cast("Tensor", down), mid).reshape(shape) * (factor.alpha / factor.rank)


def has_effect(factor: Factor) -> bool:
    """Whether a factor changes anything: its difference is not all zeros."""
    if factor.bias is not None and factor.bias.any():
        return True
    if isinstance(factor, Dense):
        return bool(factor.weight.any())
    if isinstance(factor, Kept):
        return not factor.only_bias and product_has_effect(factor.tensors)
    if not factor.alpha:
        return False
    middle = factor.mid is None or bool(factor.mid.any())
    if not (middle and factor.up.any() and factor.down.any()):
        return False
    if factor.mid is not None:
        return True
    return bool((factor.up.flatten(1).float() @ factor.down.flatten(1).float()).any())


# ------------------------------------------------------------------------------------------------- finding modules


def parent_of(roots: Mapping[str, nn.Module], path: str) -> tuple[nn.Module, str]:
    """The module that holds the one at `path`, and its name there. Raises FewShotError when there is none."""
    root, _, name = path.partition(".")
    network = roots.get(root)
    if network is not None and not hasattr(network, "text_model"):
        name = name.removeprefix("text_model.")
    head, _, last = name.rpartition(".")
    try:
        if network is None:
            raise AttributeError(root)
        parent = network.get_submodule(head)
        getattr(parent, last)
    except AttributeError:
        raise FewShotError(f"the base model has no {path}, which the LoRA changes: it is for another model") from None
    return parent, last


def find_module(roots: Mapping[str, nn.Module], path: str) -> nn.Module:
    """The module at an adapter's path."""
    parent, name = parent_of(roots, path)
    return getattr(parent, name)
