"""What people write into prompts for other programs, and ComfyUI draws as plain words: found and named.

And placeholders, such as {trigger}: of those that are unknown it is said which one was meant.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import FewShotError
from .embeddings import missing_notes

MOST = 3  # examples of a kind
# In order: what is found, and what to do instead. Each reads a letter few times only, however long the prompt is.
_KINDS: tuple[tuple[re.Pattern, str], ...] = (
    (re.compile(r"<(?:lora|lyco|hypernet|locon)\w*:[^<>]*>", re.IGNORECASE), "apply the LoRA by Load Adapter"),
    (re.compile(r"\b(?:BREAK|AND|ADD(?:COMM|BASE|ROW|COL))\b"), "take it out; long prompts are read in parts anyway"),
    (re.compile(r"\[[^\[\]:]*:[^\[\]]*[\d.]\s*\]|\[[^\[\]|]*\|[^\[\]]*\]"), "a prompt is the same in all steps"),
    (re.compile(r"\[[^\[\]]+\]"), "brackets weigh nothing: write (word:0.9) for less"),
    (re.compile(r"\([^()]*:\s*\d*,\d+\s*\)|（[^（）]*[:：]\s*[\d.]+\s*）"), "a weight is written (word:1.3)"),
    (re.compile(r"\{[^{}|]*\|[^{}]*\}"), "ComfyUI's page chooses in its own boxes only: write a line for each"),
    (re.compile(r"(?<!\w)__[\w/*.-]{1,100}?__(?!\w)"), "no wildcard is filled in here: write the words out"),
    (re.compile(r"/\*(?:(?!/\*).)*?\*/|(?<![:/\w])//[^\n]*"), "ComfyUI's page takes comments out of its own boxes "
     "only"),
    (re.compile(r"(?<!\w)\w{2,}\+{1,5}(?!\w)|\((?:[^()]*)\)\+{1,5}"), "signs weigh nothing: write (word:1.1)"),
    (re.compile(r"(?<!\S)\S*[^\s(]embedding:[^\s,()]*|(?:^|(?<=[\s(]))embedding:(?=$|[\s)])"), "an embedding is "
     "'embedding:name' behind a space"),
)  # fmt: skip
_BRACED = re.compile(r"\{([^{}|]*)\}")


def drawing_notes(
    prompts: Iterable[str], folders: Sequence[Path], known: Sequence[str] = (), learned: Iterable[str] = ()
) -> list[str]:
    """What is to be said on the node that draws prompts: `literal_notes`, and embeddings that are not in `folders`.

    Args:
        learned: words of adapters that draw with them.
    """
    texts = list(dict.fromkeys(prompts))
    return [*literal_notes(texts, known), *missing_notes(texts, folders, learned)]


def literal_notes(prompts: Iterable[str], known: Sequence[str] = ()) -> list[str]:
    """A line for each kind of syntax that is drawn as plain words; `known` are words that are meant so.

    Of these are identifiers such as [V], and placeholders that are filled in.
    """
    lines, notes = list(dict.fromkeys(prompts)), []
    for pattern, advice in _KINDS:
        found = _found(pattern, lines, known)
        lines = [pattern.sub(lambda match: match[0] if _is_known(match[0], known) else " ", line) for line in lines]
        if found:
            notes.append(_note(found, advice))
    if braced := _found(_BRACED, lines, known):
        filled = ", ".join(word for word in known if word.startswith("{"))
        notes.append(_note(braced, f"only {filled} is filled in here" if filled else "nothing is filled in here"))
    open_ones = [line for line in lines if (plain := re.sub(r"\\[()]", "", line)).count("(") != plain.count(")")]
    if open_ones:
        notes.append(_note([line[:60].strip() for line in open_ones], "a parenthesis has no other one", "in part "))
    return notes


def _found(pattern: re.Pattern, lines: Sequence[str], known: Sequence[str]) -> list[str]:
    every = dict.fromkeys(match.group() for line in lines for match in pattern.finditer(line))
    return [one for one in every if not _is_known(one, known)]


def _is_known(text: str, known: Sequence[str]) -> bool:
    return any(text in word for word in known)


def _note(found: Sequence[str], advice: str, how: str = "") -> str:
    shown = ", ".join(f"'{one}'" for one in found[:MOST])
    more = f" and {len(found) - MOST} more" if len(found) > MOST else ""
    return f"{shown}{more}: drawn {how}as plain words, as in ComfyUI; {advice}"


def check_placeholders(texts: Iterable[str], known: Sequence[str]) -> None:
    """Raises FewShotError for a word in braces that is nearly one of `known` ("{trigger}")."""
    names = {word.strip("{}"): word for word in known}
    for text in texts:
        for match in _BRACED.finditer(text):
            near = difflib.get_close_matches(match[1].strip().lower(), names, 1, 0.7)
            if near and match.group() != names[near[0]]:
                raise FewShotError(f'"{match.group()}" in "{text}" stands for nothing: write {names[near[0]]}')


def weight_notes(captions: Iterable[str], known: Sequence[str] = ()) -> list[str]:
    """A line on captions with weights or escapes, which are learned as they are written; `known` as there."""
    signs = re.compile(r"\\[()]|\([^()]*:\s*-?[\d.]+\s*\)|\(\([^()]*\)\)|(?:^|(?<=\s))embedding:\S+")
    every = (next(iter(_found(signs, [caption], known)), "") for caption in captions)
    found = [one for one in every if one]
    if not found:
        return []
    return [
        f"{len(found)} captions hold weights, escapes or embeddings of prompts ('{found[0]}'): captions are learned as "
        "they are written, parentheses and numbers too"
    ]
