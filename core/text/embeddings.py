"""Names of embeddings in prompts, "embedding:name", and the files that they stand for; as ComfyUI reads them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..weight_files import file_hash
from .weights import SIGN, is_literal, weighted
from .words import same_word

SUFFIXES = ("", ".safetensors", ".pt", ".bin")
REVISION = 1  # of how prompts are read that are not literal; raised when that changes
SHORT = 200  # letters; a longer prompt may be more than a text encoder reads at once


@dataclass(frozen=True)
class EmbeddingName:
    """A name as it is written, and the words up to the next name, which are drawn behind it."""

    written: str
    words: str = ""

    @property
    def name(self) -> str:
        """Without commas at its ends, which belong to the words unless a file is called so."""
        return self.written.strip(",")

    @property
    def rest(self) -> str:
        """The words with the comma that ended the name."""
        comma = self.written[len(self.name) :]
        return f"{comma} {self.words}" if comma else self.words

    def find(self, folders: Sequence[Path]) -> tuple[Path | None, str]:
        """The file in one of the folders, None without one, and the words that are drawn behind it."""
        return self.find_in(tuple(_with_subfolders(folders)))

    def find_in(self, places: Sequence[str]) -> tuple[Path | None, str]:
        """The same, in these folders alone."""
        path = _file_in(self.written, places)
        return (path, self.words) if path else (_file_in(self.name, places), self.rest)


def embedding_parts(text: str) -> list[str | EmbeddingName]:
    """A text of one weight, cut at the names of embeddings: these begin it, or stand behind a space."""
    first, *others = re.split(rf"(?<=\s){SIGN}", text)
    parts: list[str | EmbeddingName] = []
    if first.startswith(SIGN):
        others.insert(0, first.removeprefix(SIGN))
    elif first:
        parts.append(first)
    for other in others:
        name, *words = other.split() or [""]
        cut = re.search(r"[<\[]", name)
        if cut:
            name, words = name[: cut.start()], [name[cut.start() :], *words]
        parts.append(EmbeddingName(name, " ".join(words)))
    return parts


def embedding_names(prompt: str) -> list[EmbeddingName]:
    """The embeddings that a prompt names."""
    if is_literal(prompt):
        return []
    parts = [part for text, _ in weighted(prompt) for part in embedding_parts(text)]
    return [part for part in parts if isinstance(part, EmbeddingName)]


def unweighted(prompt: str) -> str:
    """The prompt's words alone, as a metric reads them: without weights, escapes and names of embeddings."""
    if is_literal(prompt):
        return prompt
    parts = [part for text, _ in weighted(prompt) for part in embedding_parts(text)]
    words = "".join(f" {part.rest}" if isinstance(part, EmbeddingName) else part for part in parts)
    if not any(isinstance(part, EmbeddingName) for part in parts):
        return words
    return re.sub(r"(?: ?,)+", ",", " ".join(words.split())).strip(" ,")


def embedding_file(name: str, folders: Sequence[Path]) -> Path | None:
    """The file that ComfyUI takes for `name` in `folders` or in folders in them; None without one."""
    return _file_in(name, _with_subfolders(folders))


def _file_in(name: str, places: Iterable[str]) -> Path | None:
    for folder in places if name else ():
        place = os.path.abspath(os.path.join(folder, name))
        if os.path.commonpath((os.path.abspath(folder), place)) != os.path.abspath(folder):
            continue
        for suffix in SUFFIXES:
            if os.path.isfile(place + suffix):
                return Path(place + suffix)
    return None


def _with_subfolders(folders: Sequence[Path]) -> Iterator[str]:
    yield from map(str, folders)
    for folder in folders:
        for root, names, _ in os.walk(folder, followlinks=True):
            names.sort()
            if root != str(folder):
                yield root


def reading_key(prompt: str, folders: Sequence[Path]) -> tuple[str, ...]:
    """What a picture depends on besides its prompt's text: how that is read, and the embeddings' contents.

    Nothing for a short prompt that is literal, which has always been read like that.
    """
    if is_literal(prompt) and len(prompt) <= SHORT:
        return ()
    files = [name.find(folders)[0] for name in embedding_names(prompt)]
    return (f"read {REVISION}", *(file_hash(file) if file else "none" for file in files))


def missing_notes(prompts: Iterable[str], folders: Sequence[Path], learned: Iterable[str] = ()) -> list[str]:
    """A line on the embeddings that prompts name and that are neither there nor among the words that were learned."""
    known = list(learned)
    names = dict.fromkeys(name for prompt in dict.fromkeys(prompts) for name in embedding_names(prompt))
    unknown = [name for name in names if not any(same_word(name.name, word) for word in known)]
    places = tuple(_with_subfolders(folders)) if unknown else ()
    lost = [name.name for name in unknown if not name.find_in(places)[0]]
    return [
        f"embedding:{name} does not exist in models/embeddings and is left out, as in ComfyUI"
        for name in dict.fromkeys(lost)
    ]
