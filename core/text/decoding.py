"""The one decoder of people's text files. It knows the encoding, or says that it does not."""

from __future__ import annotations

import codecs
import math
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import FewShotError
from .languages import is_text, languages, log_likelihood

# Encodings of programs and systems that write no mark, and what languages they are for, with the odds of meeting one.
_CHINESE = {"Simplified Chinese": 1.0, "Traditional Chinese": 0.05}
_WESTERN = {name: 1.0 for name in ("French", "German", "Spanish", "Portuguese", "Italian", "Nordic")}
_CENTRAL = {name: 0.05 for name in ("Polish", "Czech", "Hungarian", "German")}
_CYRILLIC = {"Russian": 1.0, "Ukrainian": 0.5}
_ALL = {name: 1.0 for name in ("Simplified Chinese", "Traditional Chinese", "Japanese", "Korean", *_WESTERN)}
_ALL |= _CYRILLIC | {
    name: 0.3 for name in ("Polish", "Czech", "Hungarian", "Turkish", "Greek", "Hebrew", "Arabic", "Thai")
}
_DOS = 0.02
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
    "Windows-1253": ("cp1253", {"Greek": 0.1}),
    "Windows-1254": ("cp1254", {"Turkish": 0.1}),
    "Windows-1255": ("cp1255", {"Hebrew": 0.02}),
    "Windows-1256": ("cp1256", {"Arabic": 0.1}),
    "Windows-874": ("cp874", {"Thai": 0.1}),
    "KOI8-R": ("koi8_r", {"Russian": 0.1}),
    "DOS 866": ("cp866", {"Russian": 0.1}),
    "DOS 850": ("cp850", {name: _DOS for name in _WESTERN}),
    "Mac Roman": ("mac_roman", {name: _DOS for name in _WESTERN}),
}
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
# Below CERTAIN the encodings are too close; below PLAUSIBLE (the mean logarithm of a share, of what is not ASCII) the
# best of them is no text in any language that is known here.
CERTAIN, PLAUSIBLE = 0.9, math.log(6e-5)
JUDGED = 2000  # characters
NUL = math.log(1e-3)
SHORT, USUAL = 64, math.log(1e4)  # bytes; the odds of UTF-8


@dataclass(frozen=True)
class DecodedText:
    """`note` says what a person should look at: an encoding that was found by its letters, bytes left out."""

    text: str
    encoding: str
    note: str = ""


def read_text(path: Path, most: int = 4_000_000) -> DecodedText:
    """The text in the file `path`, without byte order marks.

    Raises FewShotError: it cannot be read, has more than `most` bytes, is no text, or is in no encoding that is known.
    """
    try:
        size = path.stat().st_size
        if size > most:
            raise FewShotError(f"{path.name} has {size / 1e6:.0f} MB; a text takes at most {most // 10**6}: split it")
        raw = path.read_bytes()
    except OSError as error:
        raise FewShotError(f"{path.name} cannot be read ({error.strerror}); look at the file's permissions") from None
    return decoded(raw, path.name)


def decoded(raw: bytes, name: str) -> DecodedText:
    """`raw` as text. A byte order mark is believed, then UTF-8; else the encoding is found by the letters it gives.

    Raises FewShotError: see `read_text`; the message begins with `name`.
    """
    kind = next((kind for magic, kind in _NO_TEXT.items() if raw.lstrip()[: len(magic)].lower() == magic.lower()), "")
    if kind:
        raise FewShotError(f"{name} is no text but {kind}; save it as plain text in UTF-8")
    raw = raw.rstrip(b"\x1a") if len(raw) % 2 else raw  # the end of file of DOS
    known = _marked(raw, name) or _escaped(raw) or _hidden_utf16(raw) or _plain_utf8(raw) or _wide(raw)
    if known is not None:
        return known
    scored = _scores(raw)
    best, share = _most_likely(scored)
    if best is None or share < CERTAIN:
        raise FewShotError(_unknown(raw, name, best is not None))
    return best


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
    return DecodedText(text, "UTF-8") if is_text(text.replace("\ufeff", "")) else None


def _hidden_utf16(raw: bytes) -> DecodedText | None:
    """Short UTF-16 without a mark whose bytes happen to be UTF-8, as those of many hanzi and kana are."""
    text = _plain_utf8(raw) if raw and len(raw) % 2 == 0 and len(raw) <= SHORT else None
    if text is None:
        return None
    plain = max(log_likelihood(text.text, language) for language in languages().values()) + USUAL
    wide = {text: score for text, score in _scores(raw).items() if text.encoding.startswith("UTF-16")}
    best, share = _most_likely(wide)
    return best if best is not None and share > CERTAIN and wide[best] > plain else None


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


def _scores(raw: bytes) -> dict[DecodedText, float]:
    """The logarithm of the odds of each text that `raw` may be."""
    scores: dict[str, float] = {}
    named: dict[str, DecodedText] = {}
    for label, (code, odds) in ENCODINGS.items():
        try:
            text = raw.decode(code)
        except UnicodeDecodeError:
            continue
        if not is_text(text):
            continue
        named.setdefault(text, DecodedText(text, label, f"read as {label}"))
        judged = _judged(text)
        for language, prior in odds.items():
            if _is_plausible(judged, language):
                score = log_likelihood(judged, languages()[language]) + math.log(prior)
                scores[text] = max(score, scores.get(text, -math.inf))
    found = {named[text]: score for text, score in scores.items()}
    return found | _with_nuls_left_out(raw)


def _judged(text: str) -> str:
    """The part of a long text that begins a little before its first letter beyond ASCII."""
    first = next((place for place, char in enumerate(text) if not char.isascii()), 0)
    start = max(0, first - JUDGED // 10)
    return text[start : start + JUDGED]


def _is_plausible(text: str, language: str) -> bool:
    """Whether what is not ASCII in `text` are letters of the language, on the whole."""
    beyond = re.findall(r"[^\x00-\x7f]+", text)
    total = sum(log_likelihood(part, languages()[language]) for part in beyond)
    return total >= PLAUSIBLE * sum(map(len, beyond))


def _with_nuls_left_out(raw: bytes) -> dict[DecodedText, float]:
    count = raw.count(0)
    text = _plain_utf8(raw.replace(b"\0", b"")) if count else None
    if text is None:
        return {}
    judged = [log_likelihood(_judged(text.text), language) for language in languages().values()]
    return {DecodedText(text.text, "UTF-8", _nul_note(count)): max(judged) + NUL * count}


def _nul_note(count: int) -> str:
    return f"{count} zero byte{'s' * (count > 1)} in it left out" if count else ""


def _most_likely(scores: dict[DecodedText, float]) -> tuple[DecodedText | None, float]:
    """The likeliest text, and its share of all."""
    if not scores:
        return None, 0.0
    best = max(scores, key=lambda text: scores[text])
    return best, 1 / sum(math.exp(score - scores[best]) for score in scores.values())


def _unknown(raw: bytes, name: str, is_close: bool) -> str:
    controls = len(re.findall(rb"[\x00-\x08\x0e-\x1f\x7f]", raw))
    if controls > 0.02 * len(raw) and not is_close:
        return f"{name} is no text: it holds binary data; save it as plain text in UTF-8"
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if b"\0" not in raw and not raw[: error.start].isascii():
            return f"{name} is UTF-8 up to byte {error.start} of {len(raw)} and no text there; save it anew as UTF-8"
    tried = ", ".join(["UTF-8", *ENCODINGS])
    why = "could be several encodings" if is_close else "is in no encoding that is known"
    return f"{name} {why} (tried: {tried}); save it as UTF-8"
