"""What parentheses and escapes in a prompt mean: the weights of its words, as ComfyUI reads them.

`(cat)` weighs 1.1, `((cat))` 1.1 times 1.1 and `(cat:1.3)` 1.3, whatever stands around it; `\\(` and `\\)` are
parentheses to be drawn. A parenthesis without its other one, brackets, and anything else are words.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import FewShotError

SIGN = "embedding:"
EMPHASIS = 1.1
LARGEST = 1000.0  # a text encoder's states times more are no numbers any more in half precision
DEEPEST = 100  # parentheses within each other
_OPENING, _CLOSING = "\ue001", "\ue002"  # stand for escaped parentheses while weights are read


def weighted(prompt: str) -> list[tuple[str, float]]:
    """The prompt in pieces of one weight each, escapes undone: "a (cat:1.3)" is ("a ", 1) and ("cat", 1.3).

    Raises:
        FewShotError: a weight is no number or beyond `LARGEST`, or parentheses are too deep within each other.
    """
    hidden = prompt.replace("\\)", _CLOSING).replace("\\(", _OPENING)
    found = [(_shown(text), weight) for text, weight in _weighted(hidden, 1.0)]
    for text, weight in found:
        if not abs(weight) <= LARGEST:  # nor is nan
            raise FewShotError(
                f'the weight of "{text}" in the prompt "{prompt}" is {weight:g}, and none may be beyond {LARGEST:g}: '
                "write a number like 1.2"
            )
    return found


def is_literal(prompt: str) -> bool:
    """Whether nothing in the prompt means anything but itself."""
    return not any(sign in prompt for sign in ("(", ")", SIGN))


def escaped(words: str) -> str:
    """Words to be put into a prompt, so that their parentheses are drawn."""
    return words.replace("(", "\\(").replace(")", "\\)")


def _weighted(text: str, weight: float, depth: int = 0) -> Iterator[tuple[str, float]]:
    if depth > DEEPEST:
        raise FewShotError(f"the prompt has more than {DEEPEST} parentheses within each other: take some away")
    for part in _outermost(text):
        if len(part) < 2 or (part[0], part[-1]) != ("(", ")"):
            yield part, weight
            continue
        inside, own = part[1:-1], weight * EMPHASIS
        words, _, number = inside.rpartition(":")
        try:
            inside, own = (words, float(number)) if words else (inside, own)
        except ValueError:  # a colon of the text
            pass
        yield from _weighted(inside, own, depth + 1)


def _outermost(text: str) -> Iterator[str]:
    """`text` cut before and after its outermost parentheses; what closes more than was opened opens nothing again."""
    depth = start = 0
    for place, letter in enumerate(text):
        if letter == "(":
            if depth == 0 and place > start:
                yield text[start:place]
                start = place
            depth += 1
        elif letter == ")":
            depth -= 1
            if depth == 0:
                yield text[start : place + 1]
                start = place + 1
    if start < len(text):
        yield text[start:]


def _shown(text: str) -> str:
    return text.replace(_CLOSING, ")").replace(_OPENING, "(")
