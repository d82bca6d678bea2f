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
from .lycoris import is_lycoris, lycoris_delta
from .timestep_range import NoiseGate, add_gated_pairs, check_gated

if TYPE_CHECKING:
    from ..contract import DiffusionModel

DORA = "dora_scale"


@contextmanager
def applied(model: DiffusionModel, adapters: Sequence[tuple[Adapter, float]], beside: bool = False) -> Iterator[None]:
    """The networks with each adapter on at its strength, its words known; at the end the base is back, bit for bit.

    Differences are summed in float32 and rounded once to the weight's type; beside weights in 8 bits, whose steps are
    larger than what a LoRA changes, low-rank pairs are computed for themselves, and so are those that count at noisy
    timesteps only. With `beside` all low-rank pairs are, so that no weight is in memory twice. Raises FewShotError when
    an adapter is for another family or other sizes, or holds a form that is not supported.
    """
    changes = _changes(model, [one for one in adapters if not one[0].noisy_from])
    noisy = [(one, *found) for one in adapters if one[0].noisy_from for found in _noisy_changes(model, one)]
    before: list[tuple[nn.Module, str, nn.Parameter]] = []
    hooks: list[RemovableHandle | NoiseGate] = []
    words = model.learned_tokens
    try:
        own = cast("MutableMapping", words)  # never written to; a view of it, since words that are learned move on
        model.learned_tokens = ChainMap(dict(checked_embeddings(model, adapters)), own)
        with torch.inference_mode(False), torch.no_grad():
            for module, name, parts in changes:
                original = getattr(module, name)
                plain = isinstance(module, (nn.Linear, nn.Conv2d)) and all(_is_pair(factor) for factor, _ in parts)
                if original.dtype.itemsize == 1 or (beside and plain):
                    hooks.append(add_unmerged_pairs(module, parts))
                    continue
                before.append((module, name, original))
                setattr(module, name, _merged(original, parts))
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


def _merged(original: nn.Parameter, parts: Sequence[tuple[Factor, float]]) -> nn.Parameter:
    weight = original.float()
    for factor, strength in parts:
        weight = weight + strength * delta(factor, original.device, weight.shape)
    return nn.Parameter(weight.to(original.dtype), requires_grad=False)


def _changes(
    model: DiffusionModel, adapters: Sequence[tuple[Adapter, float]]
) -> list[tuple[nn.Module, str, list[tuple[Factor, float]]]]:
    """What changes: the module, its parameter's name, and the factors with their strengths."""
    roots = model.parts()
    found: dict[tuple[str, str], list[tuple[Factor, float]]] = {}
    for adapter, strength in adapters:
        if adapter.family != model.family.name:
            raise FewShotError(
                f"the LoRA is for {adapter.family} and {model.ref.name} is {model.family.name}: "
                "choose a LoRA and a base model of one family"
            )
        for path, factor in adapter.factors.items():
            found.setdefault((path, "weight"), []).append((factor, strength))
            if isinstance(factor, Dense) and factor.bias is not None:
                found.setdefault((path, "bias"), []).append((Dense(factor.bias), strength))
    changes = []
    for (path, name), parts in found.items():
        module = find_module(roots, path)
        parameter = getattr(module, name, None)
        if parameter is None:
            raise FewShotError(f"{path} has no {name}, which the LoRA changes: it is for another base model")
        for factor, _ in parts:
            check_fits(path, factor, parameter.shape)
            if parameter.dtype.itemsize == 1 and not _is_pair(factor):
                raise FewShotError(
                    f"{path} is kept in 8 bits, beside which only a plain LoRA can be used, and this adapter holds "
                    "another form there: set weights to full"
                )
        changes.append((module, name, parts))
    return changes


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
    """Raise FewShotError where a factor cannot be added to a weight of `shape`."""
    if isinstance(factor, LowRank):
        fits = factor.up.shape[0] == shape[0] and factor.down.flatten(1).shape[1] * _kernel(factor) == shape[1:].numel()
    elif isinstance(factor, Dense):
        fits = factor.weight.numel() == shape.numel()
    else:
        check_form(path, factor)
        fits = _product_fits(factor, shape)
    if not fits:
        raise FewShotError(
            f"the LoRA does not fit {path}, whose weight is {tuple(shape)}: it is for another base model"
        )


def check_form(path: str, factor: Factor) -> None:
    """Raise FewShotError where a factor is no difference that can be added to a weight, saying why."""
    if not isinstance(factor, Kept) or is_lycoris(factor.tensors):
        return
    if DORA in factor.tensors:
        raise FewShotError(
            f"{path} is a DoRA, which sets the length of the base's own weights after its difference is added: what it "
            "changes depends on the base and cannot be put beside another LoRA. Use a LoRA without DoRA"
        )
    kinds = ", ".join(sorted(factor.tensors))
    raise FewShotError(f"{path} is stored as {kinds}, which cannot be applied here: use a LoRA, a LoHa or a LoKr")


def _product_fits(factor: Kept, shape: torch.Size) -> bool:
    try:
        found = lycoris_delta(factor.tensors, "meta").shape
    except RuntimeError:  # its parts do not fit each other
        return False
    return found[0] == shape[0] and found.numel() == shape.numel()


def _kernel(factor: LowRank) -> int:
    return 1 if factor.mid is None else factor.mid.shape[2:].numel()


def delta(factor: Factor, device: torch.device, shape: torch.Size) -> Tensor:
    """The full difference (of `shape`, float32) that a factor stands for: (alpha / rank) * up @ down.

    Raises FewShotError for a form that is no difference.
    """
    if isinstance(factor, Dense):
        return factor.weight.to(device, torch.float32).reshape(shape)
    if isinstance(factor, Kept):
        check_form("a factor", factor)
        return lycoris_delta(factor.tensors, device).reshape(shape)
    up, down = factor.up.to(device, torch.float32).flatten(1), factor.down.to(device, torch.float32).flatten(1)
    if factor.mid is None:
        change = up @ down
    else:  # LoCon's CP form: 1x1 down, a small kernel, 1x1 up (Yeh et al. 2023, LyCORIS)
        change = torch.einsum("or,rskl,si->oikl", up, factor.mid.to(device, torch.float32), down)
    return change.reshape(shape) * (factor.alpha / factor.rank)


def has_effect(factor: Factor) -> bool:
    """Whether a factor changes anything: its difference is not all zeros."""
    if isinstance(factor, Dense):
        return bool(factor.weight.any()) or (factor.bias is not None and bool(factor.bias.any()))
    if isinstance(factor, Kept):
        return not is_lycoris(factor.tensors) or bool(lycoris_delta(factor.tensors).any())
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


def base_layer_of(module: nn.Module) -> nn.Module:
    """The module inside a layer that peft put around it."""
    return getattr(module, "base_layer", module)


def find_module(roots: Mapping[str, nn.Module], path: str) -> nn.Module:
    """The module at an adapter's path, without what training put around it."""
    parent, name = parent_of(roots, path)
    return base_layer_of(getattr(parent, name))
