"""Learned words as files: textual-inversion embeddings as ComfyUI and A1111 read them, alone or beside a LoRA."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ...core.atomic import shortened
from ...core.errors import FewShotError
from ...core.files import check_finite, same, write_checked
from ...core.values import Adapter
from ...core.weight_files import open_tensors, other_kind
from ..stable_diffusion.adapter_family import family_of_embedding
from .families import family_named
from .formats import write_lora
from .forms.lora import ONLY, TRIGGER, vectors_of
from .forms.word_rows import carried_words
from .metadata import WORD, embedding_metadata

WORD_BYTES = 40  # of a word in a file's name


def write_parts(adapter: Adapter, path: Path) -> list[Path]:
    """Write all that an adapter holds: the LoRA to `path` with its words in it, and each word to a file of its own.

    The words' files lie beside it and are named by them; where there is a word and no LoRA, it goes to `path` itself.
    """
    written = [write_lora(adapter, path)] if adapter.factors else []
    if not adapter.factors and len(adapter.embeddings) == 1:
        return [write_embedding(adapter, path)]
    for word in adapter.embeddings:
        own = path.with_name(f"{path.stem}_{plain_word(word)}{path.suffix}")
        written.append(write_embedding(adapter, own, word))
    return written


def word_note(adapter: Adapter) -> str:
    """How ComfyUI's own prompts call the learned words where a LoRA file does not carry them; "" where it does."""
    if not adapter.embeddings or carried_words(adapter):
        return ""
    words = ", ".join(adapter.embeddings)
    why = "which is more than one token of the text encoder" if adapter.factors else "with no LoRA to carry it"
    return (
        f"{words} is a learned word, {why}: in ComfyUI's own prompts write embedding: and the name of the word's file "
        f"in its place, after Save Adapter; or embedding:{words} behind Apply Adapter"
    )


def plain_word(word: str) -> str:
    """A word as a part of a file's name: its beginning and a mark of all of it where it is long."""
    plain = re.sub(r"[^\w-]+", "", word) or "word"
    if len(plain.encode()) <= WORD_BYTES:
        return plain
    return f"{shortened(plain, WORD_BYTES)}-{hashlib.sha256(word.encode()).hexdigest()[:6]}"


def read_embedding(path: Path, family: str | None = None) -> Adapter:
    """The learned word in a textual-inversion file, called by the file's trigger phrase or else by its name.

    `family` is found in the metadata or by the vectors' widths when it is not given. Raises FewShotError for another
    kind of file.
    """
    path = Path(path)
    with open_tensors(path) as (tensors, metadata):
        given = {key: tensors[key].float().clone() for key in tensors}
    vectors = {key: value for key, value in given.items() if key in ("clip_l", "clip_g", "clip_h")}
    if not vectors and len(given) == 1:
        vectors = {ONLY: next(iter(given.values()))}
    if len(vectors) != len(given) or any(value.dim() > 2 for value in vectors.values()):
        raise FewShotError(f"{path.name} is {other_kind(given)}, not an embedding: choose a textual-inversion file")
    vectors = {kind: vectors_of(f"the {kind} in {path.name}", value) for kind, value in vectors.items()}
    name = family or _family_of_words(vectors, metadata)
    only = family_named(name).embeddings[0]
    of = {only if kind == ONLY else kind: value for kind, value in vectors.items()}
    trigger = metadata.get(TRIGGER, "") or path.stem
    return Adapter({}, name, trigger, {metadata.get(WORD, "") or trigger.split()[0]: of}, metadata)


def _family_of_words(vectors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    widths = {kind: value.shape[-1] for kind, value in vectors.items()}
    name = family_of_embedding(metadata, widths)
    if name is None:
        width = next(iter(widths.values()))
        raise FewShotError(f"an embedding of width {width} does not tell which family it is for: name the family")
    return name


def write_embedding(adapter: Adapter, path: Path, word: str | None = None) -> Path:
    """Write a learned word as a textual-inversion file, with the same care as `write_lora`.

    One encoder's vectors go under "emb_params", those of two under "clip_l" and "clip_g". `word` may be left out where
    the adapter has only one.
    """
    if not adapter.embeddings:
        raise FewShotError("the adapter has no learned embeddings, so there is no embedding to save")
    if word is None and len(adapter.embeddings) > 1:
        raise FewShotError(f"the adapter teaches {', '.join(adapter.embeddings)}: name the word to save")
    word = word or next(iter(adapter.embeddings))
    vectors = {kind: v.detach().cpu().float().contiguous() for kind, v in adapter.embeddings[word].items()}
    if len(family_named(adapter.family).text_encoders) == 1:
        vectors = {"emb_params": next(iter(vectors.values()))}
    check_finite(vectors)

    def check(draft: Path) -> None:
        with open_tensors(draft) as (written, _):
            same({key: written[key] for key in written}, vectors)

    return write_checked(path, vectors, embedding_metadata(adapter, path.stem) | {WORD: word}, check)
