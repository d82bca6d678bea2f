"""Prompts into conditioning, and the one way to call the denoiser.

A prompt is taken literally here, as captions are learned (no weights in parentheses), and is one window of the text
encoder's length: what does not fit is left out, with a warning that names it. `weighted_prompts` reads what is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ....core.errors import FewShotError
from ...conditioning import Conditioning, Embeddings
from .prompt_tokens import Row, pieces_of, tokens_of

if TYPE_CHECKING:
    from ..networks import Networks

PROMPTS_AT_ONCE = 32


# --------------------------------------------------------------------------------------------------- counting tokens


def content_tokens(model: Networks, prompt: str, embeddings: Embeddings | None = None, whole: bool = False) -> int:
    """How many tokens of `prompt` fit in the window, its first and last token not counted: they stand from 1 on.

    Of the `whole` prompt those that do not fit are counted too.

    Raises FewShotError when the family's two encoders cut the prompt into different numbers of tokens.
    """
    count = _count(model, prompt, known_words(model, embeddings))
    return count if whole else min(count, _room(model))


def token_places(
    model: Networks, prompt: str, spans: Sequence[tuple[int, int]], embeddings: Embeddings | None = None
) -> tuple[int, ...]:
    """The positions of the tokens of `prompt` in the given spans of whole words, those that fit in the window.

    A span is (start, end) in characters. Position 0 is the prompt's first token, which holds no word.
    """
    places: set[int] = set()
    words = known_words(model, embeddings)
    for start, end in spans:
        first = _count(model, prompt[:start], words)
        places.update(range(first + 1, _count(model, prompt[:end], words) + 1))
    return tuple(sorted(place for place in places if place <= _room(model)))


def known_words(model: Networks, embeddings: Embeddings | None = None) -> Embeddings:
    """The learned words that the networks know now, and those that are given besides."""
    return {**model.learned_tokens, **(embeddings or {})}


def fits_in_window(model: Networks, prompt: str, words: Embeddings) -> bool:
    """Whether nothing of the prompt is left out in one window."""
    return _count(model, prompt, words) <= _room(model)


def _room(model: Networks) -> int:
    return min(encoder.config.max_position_embeddings for encoder in model.text_encoders) - 2


def _count(model: Networks, text: str, embeddings: Embeddings) -> int:
    """Tokens of `text`, whole words, however many fit; the tokenizers of a family agree."""
    counts = []
    for tokenizer, which in zip(model.tokenizers, model.family.text_encoders, strict=True):
        learned = {word: of[which.embedding] for word, of in embeddings.items() if which.embedding in of}
        total = 0
        for piece, word in pieces_of(text, learned):
            total += len(tokens_of(tokenizer, piece))
            total += len(learned[word]) if word else 0
        counts.append(total)
    if len(set(counts)) > 1:
        raise FewShotError(f"the text encoders cut '{text}' into {counts} tokens: a tokenizer is of another model")
    return counts[0]


# --------------------------------------------------------------------------------------------------------- encoding


def encode_prompts(model: Networks, prompts: Sequence[str], embeddings: Embeddings | None = None) -> Conditioning:
    """The conditioning of `prompts`, one row each. Differentiable in the text encoders and in the embeddings.

    `embeddings` are learned words besides those that the networks know.

    The hidden states are those of the layer that the reference's clip skip names, with the encoder's last norm where
    the family has it; SDXL's are both encoders' side by side, pooled from the second (Podell et al. 2023).
    """
    if isinstance(prompts, str):
        raise FewShotError("prompts are a sequence of texts, and one text was given: put it in a list")
    parts = [
        _encode_some(model, prompts[start : start + PROMPTS_AT_ONCE], known_words(model, embeddings))
        for start in range(0, len(prompts), PROMPTS_AT_ONCE)
    ]
    return Conditioning.cat(parts)


def _encode_some(model: Networks, prompts: Sequence[str], embeddings: Embeddings) -> Conditioning:
    hidden, pooled = [], None
    names = model.family.text_encoders
    for encoder, tokenizer, which in zip(model.text_encoders, model.tokenizers, names, strict=True):
        learned = {word: of[which.embedding] for word, of in embeddings.items() if which.embedding in of}
        length = encoder.config.max_position_embeddings
        rows = [model.tokens.row(tokenizer, length, prompt, learned, model.device) for prompt in prompts]
        states, projected = encode_rows(model, encoder, rows, learned)
        hidden.append(states)
        pooled = projected if which.projected else pooled
    states = torch.cat(hidden, dim=-1)
    return Conditioning.of(hidden=states) if pooled is None else Conditioning.of(hidden=states, pooled=pooled)


def encode_rows(
    model: Networks, encoder: Any, rows: Sequence[Row], learned: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor | None]:
    """Hidden states (B, L, D) of the chosen layer, and the projected pooled state (B, P) of an encoder that has one."""
    inner = getattr(encoder, "text_model", encoder)  # transformers 5 has no inner model in CLIPTextModel
    depth = layer_of(model, len(inner.encoder.layers))
    ids = torch.stack([row.ids for row in rows])
    with (
        _replaced(inner.embeddings.token_embedding, rows, learned),
        _recorded(inner.encoder.layers[-depth]) as recorded,
    ):
        output = encoder(input_ids=ids)
    states = inner.final_layer_norm(recorded[0]) if model.family.final_norm else recorded[0]
    return states, getattr(output, "text_embeds", None)


def layer_of(model: Networks, layers: int) -> int:
    """Which layer's states condition the denoiser, counted from the end of the layers that are there (1 is the last).

    Raises FewShotError when the reference's clip skip names a layer that the model has not.
    """
    skip = model.ref.clip_skip or model.family.clip_skip
    depth = skip - model.family.unused_layers
    if not 1 <= depth <= layers:
        lowest = 1 + model.family.unused_layers
        highest = layers + model.family.unused_layers
        raise FewShotError(f"clip skip is {skip}; this model's text encoder can use {lowest} to {highest}")
    return depth


@contextmanager
def _recorded(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What `layer` gives, in a list. (Its place in `output.hidden_states` changed between transformers' releases.)"""
    recorded: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        recorded.append(output[0] if isinstance(output, tuple) else output)

    handle = layer.register_forward_hook(keep)
    try:
        yield recorded
    finally:
        handle.remove()


@contextmanager
def _replaced(table: nn.Module, rows: Sequence[Row], learned: Mapping[str, Tensor]) -> Iterator[None]:
    """Learned vectors in the places of the looked-up ones."""
    vectors = [one for row in rows for word, fitting in row.words for one in learned[word].unbind()[:fitting]]
    if not vectors:
        yield
        return
    batch = torch.cat([torch.full_like(row.places, b) for b, row in enumerate(rows)])
    index = (batch, torch.cat([row.places for row in rows]))

    def swap(_, __, looked_up: Tensor) -> Tensor:
        return looked_up.index_put(index, torch.stack(vectors).to(looked_up.device, looked_up.dtype))

    handle = table.register_forward_hook(swap)
    try:
        yield
    finally:
        handle.remove()


# -------------------------------------------------------------------------------------------------------- denoising


def time_ids(model: Networks, original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """SDXL's size conditioning (6,): original (height, width), crop (top, left), target (height, width) in pixels."""
    return torch.tensor([*original, *crop, *target], dtype=torch.float32, device=model.device)


def denoise(
    model: Networks,
    latents: Tensor,
    timesteps: Tensor,
    conditioning: Conditioning,
    time_ids: Tensor | None = None,
) -> Tensor:
    """The denoiser's prediction (B, C, h, w) in float32 for noisy latents (B, C, h, w) at timesteps (B,).

    `time_ids` is (6,) or (B, 6); without it SDXL is told that the picture is whole and has the latents' size.
    """
    dtype = model.dtype
    for listener in model.before_predict:
        listener(model.process.noise_level(timesteps))
    added = None
    if "pooled" in conditioning:
        if time_ids is None:
            size = tuple(side * model.downscale for side in latents.shape[-2:])
            time_ids = torch.tensor([*size, 0, 0, *size], dtype=torch.float32)
        ids = time_ids.to(latents.device).expand(len(latents), 6)
        added = {"text_embeds": conditioning["pooled"].to(dtype), "time_ids": ids}
    kind = latents.device.type
    with nullcontext() if dtype == torch.float32 or kind == "meta" else torch.autocast(kind, dtype):
        return model.unet(
            latents.to(dtype),
            timesteps,
            encoder_hidden_states=conditioning["hidden"].to(dtype),
            added_cond_kwargs=added,
            return_dict=False,
        )[0].float()
