"""Prompts as ComfyUI's own text encoders read them, and what its networks are conditioned on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ...core.errors import FewShotError
from ...core.text.weights import escaped
from ..conditioning import Conditioning
from .in_place import as_loaded

TEXT = "cross_attn"
"""what ComfyUI calls the states of a prompt's tokens"""


def encode(clip: Any, prompts: list[str], literally: bool, device: torch.device) -> Conditioning:
    """Each prompt by itself, since an encoder that pads would make rows depend on what else is encoded."""
    rows = []
    with torch.no_grad():
        for prompt in prompts:
            with _without_embeddings(clip) if literally else nullcontext():
                tokens = clip.tokenize(escaped(prompt) if literally else prompt)
            with as_loaded(clip.cond_stage_model):
                found = clip.encode_from_tokens_scheduled(tokens, show_pbar=False)
            if len(found) != 1:
                raise FewShotError("this CLIP reads prompts by a schedule, which training does not know: leave it out")
            states, more = found[0]
            rows.append(Conditioning.of(**{name: kept(t, device) for name, t in _tensors({TEXT: states, **more})}))
    return Conditioning.cat(rows)


@contextmanager
def _without_embeddings(clip: Any) -> Iterator[None]:
    """Captions mean what they say, also where they say "embedding:name"."""
    own = clip.tokenizer
    readers = [one for one in (own, *vars(own).values()) if getattr(one, "embedding_directory", None) is not None]
    before = [one.embedding_directory for one in readers]
    try:
        for one in readers:
            one.embedding_directory = None
        yield
    finally:
        for one, folder in zip(readers, before, strict=True):
            one.embedding_directory = folder


def kept(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy that gradients may pass, whatever mode it was made in."""
    with torch.inference_mode(False):
        return tensor.detach().clone().to(device)


def _tensors(named: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    """What an encoder gives of one prompt, as tensors of one row.

    Raises:
        FewShotError: something else than tensors and numbers.
    """
    found = []
    for name, value in named.items():
        if isinstance(value, bool | int | float):
            value = torch.tensor([value])
        if isinstance(value, Tensor):
            found.append((name, value if value.dim() else value.view(1)))
        elif value is not None and value not in ([], {}):
            raise FewShotError(f"this CLIP gives a {type(value).__name__} called {name}, which training does not know")
    return found


def arguments(model: Any, conditioning: Conditioning, latents: Tensor) -> list[tuple[list[int], dict[str, Any]]]:
    """What ComfyUI gives its network beside latents and sigma, for rows whose conditioning has one shape.

    As ComfyUI does, each row by itself, and together those that it would put together: by the places of the rows.
    """
    groups: list[tuple[list[int], dict[str, Any], list[dict[str, Any]]]] = []
    for i in range(len(latents)):
        row = {name: conditioning[name][i : i + 1] for name in _names(conditioning)}
        about = model.extra_conds(noise=latents[i : i + 1], device=latents.device, **row)
        about = {name: cond.process_cond(batch_size=1, area=None) for name, cond in about.items()}
        for places, first, others in groups:
            if first.keys() == about.keys() and all(first[name].can_concat(cond) for name, cond in about.items()):
                places.append(i)
                others.append(about)
                break
        else:
            groups.append(([i], about, []))
    return [
        (places, {name: _joined(cond, [other[name] for other in others]) for name, cond in first.items()})
        for places, first, others in groups
    ]


def _names(conditioning: Conditioning) -> list[str]:
    return [name for name, _ in conditioning.blocks[0].shape]


def _joined(cond: Any, others: list[Any]) -> Any:
    return cond.concat(others) if others else cond.cond
