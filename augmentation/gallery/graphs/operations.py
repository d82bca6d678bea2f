"""What nodes do with texts, as far as a person's graph alone tells it. A missing input is None."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from ..prompts import NotFound

LONGEST = 100_000  # characters of a prompt
MOST_GIVEN = 10 * LONGEST  # characters of all that one is made of, which may be the same text again
DRAWN_BY_CHANCE = re.compile(r"(?<!\\)\{[^{}|]*\|[^{}]*\}|__[\w./*-]+__|(?<![\w$])\d+\$\$")
COMMENTS = re.compile(r"/\*[\s\S]*?\*/|//.*")
MARKS_OF_PATTERNS = re.compile(r"[\\.^$*+?{}\[\]|()]")


def text(value: Any) -> str:
    """A value as text; "" for None."""
    return "" if value is None else str(value)


def allow(letters: int, most: int = LONGEST) -> None:
    """Raises NotFound where a text would have more than `most` characters; asked before it is made."""
    if letters > most:
        raise NotFound(f"it is longer than {most} characters")


def length_of(values: Iterable[Any]) -> int:
    return sum(len(text(value)) for value in values)


def glued(*values: Any) -> str:
    allow(length_of(values))
    return "".join(map(text, values))


def settled(value: Any) -> Any:
    """A text in which nothing is drawn by chance when it runs, such as {a|b} and __wildcard__."""
    if found := DRAWN_BY_CHANCE.search(text(value)):
        raise NotFound(f"a part of it was drawn by chance ({found.group()[:40]})")
    return value


def written(value: str) -> str:
    """What becomes of a text in the editor before it is run: comments go, and {a|b} is drawn."""
    return str(settled(COMMENTS.sub("", value)))


def mixed(one: Any, other: Any, weight: Any) -> Any:
    """Two prompts mixed, `one` with this weight: only one of them at its ends."""
    return one if weight == 1 else other if weight == 0 else joined(one, other)


def joined(*values: Any) -> str | None:
    """Texts as one prompt: each once, without empty ones; None without any."""
    allow(length_of(values), MOST_GIVEN)
    there = [text(value).strip() for value in values if value is not None]
    return ", ".join(dict.fromkeys(filter(None, there))) if there else None


def counted(count: Any, *values: Any) -> str | None:
    return joined(*values[: int(count)] if isinstance(count, int) else values)


def listed(delimiter: Any, clean: Any, *values: Any) -> str:
    """Texts that are not empty, with a delimiter between them."""
    between = "\n" if delimiter in ("\n", "\\n") else text(delimiter)
    allow(length_of(values), MOST_GIVEN)
    texts = list(filter(None, (text(v).strip() if clean == "true" else text(v) for v in values)))
    allow(length_of(texts) + len(between) * (len(texts) - 1))
    return between.join(texts)


def chained(count: Any, delimiter: Any, as_list: Any, *values: Any) -> str:
    if as_list is True:
        raise NotFound("it was one of a list")
    first, *others = values[: int(count)] if isinstance(count, int) else values
    others = [other for other in others if other]
    allow(length_of((first, *others)) + len(text(delimiter)) * len(others))
    return text(first) + "".join(text(delimiter) + text(other) for other in others)


def replaced(value: Any, *pairs: Any) -> str:
    """`value` with each first of a pair replaced by the second."""
    result = text(value)
    for find, instead in zip(pairs[::2], pairs[1::2], strict=True):
        result = exchanged(result, text(find), text(instead)) if find else result
    return result


def exchanged(value: str, find: str, instead: str) -> str:
    """`value.replace(find, instead)` where that does not become too long."""
    allow(len(value) + value.count(find) * (len(instead) - len(find)))
    return value.replace(find, instead)


def plainly_replaced(value: Any, find: Any, instead: Any) -> str:
    """`replaced` where a pattern may stand: only one without special characters is followed."""
    if MARKS_OF_PATTERNS.search(text(find)) or "\\" in text(instead):
        raise NotFound(f"it was rewritten by the pattern {text(find)[:40]}")
    return replaced(value, find, instead)


def appended(action: Any, tidy: Any, a: Any, b: Any, c: Any) -> str:
    """Three texts in a row, or `b` replaced by `c` in `a`; tidied like tags."""
    neat = tidy == "yes"
    if action == "append":
        allow(length_of((a, b, c)))
        result = (", " if neat else "").join(filter(None, map(text, (a, b, c))))
    elif len(text(b)) > 1 and text(b).startswith("/") and text(b).endswith("/"):
        raise NotFound(f"it was rewritten by the pattern {text(b)[:40]}")
    else:
        result = exchanged(text(a), text(b), text(c))
    if neat:
        result = re.sub(r",{2,}", ",", re.sub(r"\s{2,}", " ", result).replace(" ,", ",")).strip()
    return result


def trimmed(value: Any, mode: Any) -> str:
    sides: dict[Any, Callable[[str], str]] = {"Left": str.lstrip, "Right": str.rstrip}
    return sides.get(mode, str.strip)(text(value))


def cased(value: Any, mode: Any) -> str:
    modes: dict[Any, Callable[[str], str]] = {
        "UPPERCASE": str.upper, "lowercase": str.lower, "Capitalize": str.capitalize, "Title Case": str.title,
    }  # fmt: skip
    if mode not in modes:
        raise NotFound(f"the case {mode!r} is not known")
    return modes[mode](text(value))


def cut(value: Any, start: Any, end: Any) -> str:
    if not isinstance(start, int) or not isinstance(end, int):
        raise NotFound("where it was cut is not known")
    return text(value)[start:end]


def formatted(pattern: Any, names: Any, *values: Any) -> str:
    """{a}, {b} in a text replaced by values; other forms of Python's formatting are not followed."""
    known = dict(zip(text(names), values, strict=False))
    found = re.findall(r"\{[^{}]*\}", text(pattern))
    if any(known.get(f[1:-1]) is None for f in found) or "{{" in text(pattern) or "}}" in text(pattern):
        raise NotFound("its format is not followed")
    allow(len(text(pattern)) + length_of(known[f[1:-1]] for f in found) - length_of(found))
    return re.sub(r"\{([a-z])\}", lambda match: text(known[match[1]]), text(pattern))


def one_line(value: Any, strip: Any) -> str:
    return text(value).replace("\n", "").strip() if strip is True else text(value)


def uncommented(value: Any) -> str:
    return "\n".join(line for line in text(value).splitlines() if not line.strip().startswith("#"))


def single(value: Any) -> Any:
    """A text of one line: where each line is a prompt of its own, it cannot be told which one a picture has."""
    if len([line for line in text(value).splitlines() if line.strip()]) > 1:
        raise NotFound("it was one line of several")
    return value


def plain_lines(value: Any, *changes: Any) -> str:
    if any(change is True for change in changes):
        raise NotFound("its lines were split or cleaned")
    return text(value).rstrip(",")


def selected_line(value: Any, multiline: Any, number: Any) -> str:
    if multiline is True or not isinstance(number, int):
        raise NotFound("which of its lines was chosen is not known")
    lines = text(value).split("\n")
    return lines[number % len(lines)]


def either_encoder(two: Any, one: Any, g: Any, l: Any) -> Any:  # noqa: E741 - the encoders' own names
    """The text of one encoder, or of two where `two` is on."""
    return joined(g, l) if two is True else one


OPERATIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        glued, settled, mixed, counted, listed, chained, replaced, plainly_replaced, appended, trimmed, cased, cut,
        formatted, one_line, uncommented, single, plain_lines, selected_line, either_encoder,
    )
}  # fmt: skip
