"""The one decoder of people's text files. It knows the encoding, or says that it does not."""

from __future__ import annotations

import codecs
import math
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import FewShotError
from .languages import is_text, languages, log_likelihood

# Encodings of programs and systems that write no mark, and what languages they are for, with the odds of meeting one.
_CHINESE = {"Simplified Chinese": 1.0, "Traditional Chinese": 0.05}
_WESTERN = {name: 1.0 for name in ("English", "French", "German", "Spanish", "Portuguese", "Italian", "Nordic")}
_CENTRAL = {name: 0.015 for name in ("Polish", "Czech", "Hungarian", "German")}
_CYRILLIC = {"Russian": 1.0, "Ukrainian": 0.2}
_ALL = {name: 1.0 for name in ("Simplified Chinese", "Traditional Chinese", "Japanese", "Korean", *_WESTERN)}
_ALL |= _CYRILLIC | {
    name: 0.3 for name in ("Polish", "Czech", "Hungarian", "Turkish", "Greek", "Hebrew", "Arabic", "Thai")
}
_DOS = 0.01
ENCODINGS: dict[str, tuple[str, dict[str, float]]] = {
    "UTF-16 (little-endian)": ("utf-16-le", _ALL),
    "UTF-16 (big-endian)": ("utf-16-be", _ALL),
    "GB18030": ("gb18030", _CHINESE),
    "Big5": ("cp950", {"Traditional Chinese": 0.5}),
    "Shift-JIS": ("cp932", {"Japanese": 1.0}),
    "EUC-JP": ("euc_jp", {"Japanese": 0.1}),
    "EUC-KR": ("cp949", {"Korean": 1.0}),
    "Windows-1252": ("cp1252", _WESTERN),
    "Windows-1250": ("cp1250", _CENTRAL),
    "Windows-1251": ("cp1251", _CYRILLIC),
    "Windows-1253": ("cp1253", {"Greek": 0.02}),
    "Windows-1254": ("cp1254", {"Turkish": 0.05}),
    "Windows-1255": ("cp1255", {"Hebrew": 0.01}),
    "Windows-1256": ("cp1256", {"Arabic": 0.01}),
    "Windows-874": ("cp874", {"Thai": 0.002}),
    "KOI8-R": ("koi8_r", {"Russian": 0.1}),
    "KOI8-U": ("koi8_u", {"Ukrainian": 0.02}),
    "DOS 866": ("cp866", {"Russian": 0.02}),
    "DOS 850": ("cp850", {name: _DOS for name in _WESTERN}),
    "Mac Roman": ("mac_roman", {name: _DOS for name in _WESTERN}),
}
_ALPHABETIC = ("Windows-1251", "Windows-1253", "Windows-1255", "Windows-1256", "KOI8-R", "KOI8-U", "DOS 866")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "UTF-8", "utf-8"),
    (codecs.BOM_UTF32_LE, "UTF-32", "utf-32-le"), (codecs.BOM_UTF32_BE, "UTF-32", "utf-32-be"),
    (codecs.BOM_UTF16_LE, "UTF-16", "utf-16-le"), (codecs.BOM_UTF16_BE, "UTF-16", "utf-16-be"),
)  # fmt: skip
_NO_TEXT = {
    b"\x89PNG": "a PNG picture", b"\xff\xd8\xff": "a JPEG picture", b"GIF8": "a GIF picture", b"RIFF": "a RIFF file",
    b"PK\x03\x04": "a ZIP archive or an office document", b"%PDF": "a PDF", b"\x1f\x8b": "a gzip archive",
    b"\xd0\xcf\x11\xe0": "an old office document", b"{\\rtf": "an RTF document", b"7z\xbc\xaf": "a 7z archive",
    b"<!DOCTYPE html": "a web page", b"<html": "a web page", b"bplist": "a property list", b"SQLite": "a database",
}  # fmt: skip
# Below CERTAIN the encodings are too close; below these means of a character's share (of those that are not ASCII) a
# text is none in a language of the alphabet, or of thousands of characters.
CERTAIN, PLAUSIBLE, PLAUSIBLE_WIDE = 0.95, math.log(9e-5), math.log(1e-5)
JUDGED = 2000  # characters
NUL = math.log(1e-3)
SHORT_WORDS = 8  # bytes
SHORT, USUAL = 64, math.log(1e4)  # bytes; the odds of UTF-8
IN_FOLDER, LEAST = math.log(1e3), math.log(1e-4)  # odds of what a folder is written in; the least that a file weighs

# Signs of Windows-1252 as they stand in plain English; a byte beyond ASCII before one of _END is half of no character.
_END, _FREE, _FULL = r"(?=[\s.,;:!?()'\"/+-]|$)", r"(?<![A-Za-z0-9\x80-\uffff])", r"(?<=[A-Za-z0-9)])"
_COUNTED = r"(?:(?<=[0-9])|(?<=[0-9][ ]))"
_SIGNS = re.compile(
    "|".join(
        (
            rf"{_FREE}©(?=[ 0-9(]|[A-Z][a-z]|$)",
            rf"(?:{_FULL}|(?<=[A-Za-z0-9][ ]))[®™]{_END}",
            rf"{_COUNTED}°(?:{_END}|(?=[CFK](?![A-Za-z])))",
            rf"{_COUNTED}µ(?=[mgslFA](?![a-z]))",
            rf"{_FREE}[£¥€](?=[ ]?[0-9])",
            rf"{_COUNTED}[£¥€]{_END}",
            rf"{_FREE}[–—•·×±»]{_END}",
            r"(?<=[0-9])[–—](?=[0-9])",
            r"(?<=[A-Za-z]{2})[—·](?=[A-Za-z]{2})",
            r"(?<=[0-9])×(?=[1-9])",
            rf"(?:(?<=[a-z]{{2}})|(?<=[0-9.,!?])|(?<=[0-9.,!?][ ]))…{_END}",
            rf"(?<![A-Za-z\x80-\uffff])[½¼¾]{_END}",
            rf"{_FULL}[²³]{_END}",
            r"(?<=[A-Za-z])’(?=(?:s|t|d|m|ll|re|ve)(?![A-Za-z]))",
            r"(?:(?<=\b[dljnscmtDLJNSCMT])|(?<=\b[Qq]u))’(?=[A-Za-z]{2})",
            rf"(?<=[s0-9])’{_END}",
            rf"{_FREE}‘[^\x80-\uffff]+’{_END}",
            rf"{_FREE}“(?=[^“]+”)",
            rf"(?<=[!-~])”{_END}",
            rf"{_FREE}«(?=[^«]+»)",
            rf"(?<=[!-~])»{_END}",
        )
    ),
    re.ASCII,
)


@dataclass(frozen=True)
class DecodedText:
    """`note` says what a person should look at: an encoding that was found by its letters, bytes left out."""

    text: str
    encoding: str
    note: str = ""


def read_text(path: Path, most: int = 4_000_000, usual: str = "") -> DecodedText:
    """The text in the file `path`, without byte order marks; `usual` as in `decoded`.

    Raises FewShotError: it cannot be read, has more than `most` bytes, is no text, or is in no encoding that is known.
    """
    return decoded(_bytes(path, most), path.name, usual)


def _bytes(path: Path, most: int) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
            raise FewShotError(f"{path.name} is no regular file; put the text itself there")
        if (size := status.st_size) > most:
            raise FewShotError(f"{path.name} has {size / 1e6:.0f} MB; a text takes at most {most // 10**6}: split it")
        return path.read_bytes()
    except OSError as error:
        raise FewShotError(f"{path.name} cannot be read ({error.strerror}); look at the file's permissions") from None


def usual_encoding(paths: Iterable[Path], most: int = 100_000) -> str:
    """The encoding that those of the texts in `paths` which do not name theirs are in together; "" without any.

    Two letters alone may be several encodings; those of a folder's other texts tell which.
    """
    together, count = dict.fromkeys(ENCODINGS, 0.0), 0
    for path in paths:
        try:
            raw = _bytes(path, most)
            if not raw or _no_text(raw) or _known(raw, path.name):
                continue
        except FewShotError:
            continue
        scores = {text.encoding: score for text, score in _scores(raw)}
        count += bool(scores)
        best = max(scores.values(), default=0.0)
        for label in together:
            together[label] += max(scores.get(label, -math.inf) - best, LEAST)
    first, second = sorted(together, key=lambda label: -together[label])[:2]
    return first if count > 1 and together[first] - together[second] > -math.log(1 - CERTAIN) else ""


def decoded(raw: bytes, name: str, usual: str = "") -> DecodedText:
    """`raw` as text. A byte order mark is believed, then UTF-8; else the encoding is found by the letters it gives.

    Args:
        usual: the encoding that texts from the same place are in, where it is known.

    Raises FewShotError: see `read_text`; the message begins with `name`.
    """
    if kind := _no_text(raw):
        raise FewShotError(f"{name} is no text but {kind}; save it as plain text in UTF-8")
    raw = raw.rstrip(b"\x1a") if len(raw) % 2 else raw  # the end of file of DOS
    known = _known(raw, name, usual)
    if known is not None:
        return known
    scores = [(text, score + IN_FOLDER * (text.encoding == usual)) for text, score in _scores(raw)]
    best, share = _most_likely(scores)
    if best is None or share < CERTAIN or (best.encoding != usual and _is_of_lone_letters(best)):
        raise FewShotError(_unknown(raw, name, best is not None))
    return best


def _is_of_lone_letters(text: DecodedText) -> bool:
    """Whether a text of another alphabet than Latin has no word of two letters: one byte is a letter in several."""
    words = [word for word in re.findall(r"[^\W\d_]+", text.text) if not word.isascii()]
    return text.encoding in _ALPHABETIC and all(len(word) == 1 for word in words)


def _no_text(raw: bytes) -> str:
    """What `raw` is by its first bytes, if it is of a known kind that is no text."""
    start = raw[:64].lstrip().lower()
    return next((kind for magic, kind in _NO_TEXT.items() if start.startswith(magic.lower())), "")


def _known(raw: bytes, name: str, usual: str = "") -> DecodedText | None:
    """The text of bytes that tell their encoding themselves."""
    return _marked(raw, name) or _escaped(raw) or _hidden_utf16(raw, usual) or _plain_utf8(raw) or _wide(raw)


def _marked(raw: bytes, name: str) -> DecodedText | None:
    for mark, label, code in _BYTE_ORDER_MARKS:
        if not raw.startswith(mark):
            continue
        try:
            text = raw[len(mark) :].decode(code).lstrip("\ufeff")
        except UnicodeDecodeError as error:
            if label == "UTF-16" or label == "UTF-8":
                raise FewShotError(
                    f"{name} begins as {label} and is none at byte {error.start + len(mark)}; save it as UTF-8"
                ) from None
            continue
        stripped = text.replace("\0", "")
        if is_text(stripped):
            return DecodedText(stripped, label, _nul_note(text.count("\0")))
    return None


def _plain_utf8(raw: bytes) -> DecodedText | None:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
    lost = text.count("\ufffd")
    note = f"{lost} character{'s' * (lost > 1)} in it lost before it was saved" if lost else ""
    return DecodedText(text, "UTF-8", note) if is_text(text) else None


def _hidden_utf16(raw: bytes, usual: str) -> DecodedText | None:
    """Short UTF-16 without a mark whose bytes happen to be UTF-8, as those of many hanzi and kana are."""
    text = _plain_utf8(raw) if raw and len(raw) % 2 == 0 and len(raw) <= SHORT else None
    if text is None:
        return None
    plain = max(log_likelihood(text.text, language) for language in languages().values()) + USUAL
    plain -= 2 * IN_FOLDER * usual.startswith("UTF-16")
    wide = [(text, score) for text, score in _scores(raw) if text.encoding.startswith("UTF-16") and score > plain]
    best, share = _most_likely(wide)
    return best if share > CERTAIN else None


def _escaped(raw: bytes) -> DecodedText | None:
    """Encodings of mail, which shift by escapes and are plain ASCII otherwise."""
    for code in ("iso2022_jp", "iso2022_kr") if b"\x1b$" in raw else ():
        try:
            text = raw.decode(code)
        except UnicodeDecodeError:
            continue
        if is_text(text):
            return DecodedText(text, "ISO-2022", "read as ISO-2022")
    return None


def _wide(raw: bytes) -> DecodedText | None:
    """UTF-32 without a mark, which hardly any other bytes are."""
    for code in ("utf-32-le", "utf-32-be") if raw and len(raw) % 4 == 0 else ():
        try:
            text = raw.decode(code)
        except UnicodeDecodeError:
            continue
        if is_text(text):
            return DecodedText(text, "UTF-32", "read as UTF-32")
    return None


def _scores(raw: bytes) -> list[tuple[DecodedText, float]]:
    """What `raw` is in each encoding that it may be in, with the logarithm of the odds."""
    if (signs := _with_signs(raw)) is not None:
        return [(signs, 0.0)]
    found = []
    for label, (code, odds) in ENCODINGS.items():
        try:
            text = raw.decode(code)
        except UnicodeDecodeError:
            continue
        if not is_text(text):
            continue
        judged = _judged(_SIGNS.sub("", text) if label == "Windows-1252" else text)
        plausible = [name for name in odds if _is_plausible(judged, name)]
        scores = [log_likelihood(judged, languages()[name]) + math.log(odds[name]) for name in plausible]
        if scores:
            found.append((DecodedText(text, label, f"read as {label}"), max(scores)))
    return [*found, *_with_nuls_left_out(raw)]


def _with_signs(raw: bytes) -> DecodedText | None:
    """Text of Windows-1252 that is ASCII but for signs such as © and –, each where such a sign stands."""
    text = raw.decode("cp1252", errors="replace")
    if len(raw) % 2 == 0 and len(raw) <= SHORT_WORDS:  # as well one to four characters of UTF-16
        return None
    if "\ufffd" in text or not is_text(text) or not _SIGNS.sub("", text).isascii():
        return None
    return DecodedText(text, "Windows-1252", "read as Windows-1252")


def _judged(text: str) -> str:
    """The part of a long text that begins a little before its first letter beyond ASCII."""
    first = next((place for place, char in enumerate(text) if not char.isascii()), 0)
    start = max(0, first - JUDGED // 10)
    return text[start : start + JUDGED]


def _is_plausible(text: str, language: str) -> bool:
    """Whether what is not ASCII in `text` are letters of the language, on the whole."""
    spoken = languages()[language]
    words = [word for word in text.split() if not word.isascii()]
    plain = ["".join(filter(str.isascii, word)) for word in words]
    total = sum(
        log_likelihood(word, spoken) - log_likelihood(rest, spoken) for word, rest in zip(words, plain, strict=True)
    )
    beyond = sum(map(len, words)) - sum(map(len, plain))
    return total >= (PLAUSIBLE_WIDE if spoken.level else PLAUSIBLE) * beyond


def _with_nuls_left_out(raw: bytes) -> list[tuple[DecodedText, float]]:
    count = raw.count(0)
    text = _plain_utf8(raw.replace(b"\0", b"")) if count else None
    if text is None:
        return []
    judged = [log_likelihood(_judged(text.text), language) for language in languages().values()]
    return [(DecodedText(text.text, "UTF-8", _nul_note(count)), max(judged) + NUL * count)]


def _nul_note(count: int) -> str:
    return f"{count} zero byte{'s' * (count > 1)} in it left out" if count else ""


def _most_likely(scores: Sequence[tuple[DecodedText, float]]) -> tuple[DecodedText | None, float]:
    """The likeliest text, and its share of all; encodings that give the same text count once."""
    if not scores:
        return None, 0.0
    likeliest, most = max(scores, key=lambda scored: scored[1])
    best = next(text for text, _ in scores if text.text == likeliest.text)
    others = {text.text: score for text, score in sorted(scores, key=lambda scored: scored[1])}
    return best, 1 / sum(math.exp(score - most) for score in others.values())


def _unknown(raw: bytes, name: str, is_close: bool) -> str:
    controls = len(re.findall(rb"[\x00-\x08\x0e-\x1f\x7f]", raw))
    if controls > 0.02 * len(raw) and not is_close:
        return f"{name} is no text: it holds binary data; save it as plain text in UTF-8"
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if b"\0" not in raw and not raw[: error.start].isascii() and 2 * error.start > len(raw):
            return f"{name} is UTF-8 up to byte {error.start} of {len(raw)} and no text there; save it anew as UTF-8"
    tried = ", ".join(["UTF-8", *ENCODINGS])
    why = "could be several encodings" if is_close else "is in no encoding that is known"
    return f"{name} {why} (tried: {tried}); save it as UTF-8"
