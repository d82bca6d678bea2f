"""A report that stands alone: one HTML file with its pictures inside, nothing fetched.

Most sections need no script. What one brings runs by its hash alone, so that no text of a report can ever be a script.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Protocol

from PIL import Image

from ...core.atomic import write_whole

LARGE = 1_000_000  # pixels; up to this a picture stays as it is
LARGEST_JPEG = 65_500  # pixels of a side
QUALITY = 90


@dataclass(frozen=True)
class Text:
    """Paragraphs; an empty line begins a new one."""

    heading: str
    body: str

    def html(self) -> str:
        return "".join(f"<p>{_text(part)}</p>" for part in self.body.split("\n\n") if part.strip())


@dataclass(frozen=True)
class Table:
    """Rows of cells; numbers are right-aligned, None is shown as a dash. `note` stands above them."""

    heading: str
    rows: Sequence[Sequence[object]]
    columns: Sequence[str] = ()
    note: str = ""

    def html(self) -> str:
        return (f"<p>{_text(self.note)}</p>" if self.note else "") + self._table()

    def _table(self) -> str:
        if not self.rows:
            return "<p>none</p>"
        head = "".join(f'<th scope="col">{_text(name)}</th>' for name in self.columns)
        body = "".join(f"<tr>{''.join(self._cell(cell) for cell in row)}</tr>" for row in self.rows)
        head = f"<thead><tr>{head}</tr></thead>" if head else ""
        return f"<div class=wide><table>{head}<tbody>{body}</tbody></table></div>"

    @staticmethod
    def _cell(cell: object) -> str:
        number = isinstance(cell, (int, float)) and not isinstance(cell, bool)
        return f"<td{' class=number' if number else ''}>{_text(_shown(cell))}</td>"


@dataclass(frozen=True)
class Figure:
    """A picture with its caption. `dark` is shown instead where the reader's system is dark."""

    heading: str
    image: Image.Image
    caption: str = ""
    dark: Image.Image | None = None

    def html(self) -> str:
        source = f'<source srcset="{_inlined(self.dark)}" media="(prefers-color-scheme: dark)">' if self.dark else ""
        alt = escape(self.caption or self.heading, quote=True)
        width = min(self.image.width, 1200)
        image = f'<img src="{_inlined(self.image)}" alt="{alt}" width="{width}">'
        caption = f"<figcaption>{_text(self.caption)}</figcaption>" if self.caption else ""
        return f"<figure><picture>{source}{image}</picture>{caption}</figure>"


@dataclass(frozen=True)
class Folded:
    """Sections folded behind the line `summary`, which opens them."""

    heading: str
    summary: str
    sections: Sequence[Text | Table | Figure]

    def html(self) -> str:
        inside = "".join(f"{_heading(section.heading)}{section.html()}" for section in self.sections)
        return f"<details><summary>{_text(self.summary)}</summary>{inside}</details>"


class Scripted(Protocol):
    """A section with a script and a style of its own. Its `html` has no inline handlers."""

    @property
    def heading(self) -> str: ...

    @property
    def script(self) -> str: ...

    @property
    def style(self) -> str: ...

    def html(self) -> str: ...


Plain = Text | Table | Figure | Folded
Section = Plain | Scripted


def settings_table(settings: Mapping[str, object], heading: str = "Settings") -> Table:
    """A mapping as a table of names and values."""
    return Table(heading, [(name.replace("_", " "), value) for name, value in settings.items()])


def write_report(folder: Path, title: str, sections: Sequence[Section]) -> Path:
    """Write `folder`/report.html, whole or not at all, and return its path. Every text is escaped.

    Raises:
        FewShotError: the folder cannot be written to.
    """
    parts = [f"<section>{_heading(section.heading)}{section.html()}</section>" for section in sections]
    scripts = list(dict.fromkeys(s.script for s in sections if not isinstance(s, Plain)))
    styles = dict.fromkeys(s.style for s in sections if not isinstance(s, Plain))
    page = PAGE.format(
        title=_text(title),
        style="".join((STYLE, *styles)),
        body="\n".join((*parts, *(f"<script>{script}</script>" for script in scripts))),
        policy=POLICY + (f"; script-src {' '.join(map(_allowed, scripts))}" if scripts else ""),
    )
    return write_whole(folder / "report.html", page.encode())


def _heading(heading: str) -> str:
    return f"<h2>{_text(heading)}</h2>" if heading else ""


def _allowed(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _shown(value: object) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_shown(v) for v in value) or "–"
    return str(value)


def _text(text: object) -> str:
    return escape(str(text), quote=True).replace("\n", "<br>")


def _inlined(image: Image.Image) -> str:
    """A data address: as it is, or a large picture as JPEG where that is smaller. Photographs are; plots are not, nor
    small pictures enlarged by whole pixels."""
    data, kind = _encoded(image, "PNG", compress_level=6), "png"
    if image.width * image.height > LARGE and max(image.size) <= LARGEST_JPEG:
        small = _encoded(image, "JPEG", quality=QUALITY)
        data, kind = (small, "jpeg") if len(small) < len(data) else (data, kind)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _encoded(image: Image.Image, kind: str, **how: int) -> bytes:
    data = io.BytesIO()
    image.convert("RGB").save(data, kind, **how)
    return data.getvalue()


POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""

STYLE = """
:root { color-scheme: light dark; --paper: #f6f7f9; --card: #ffffff; --ink: #22262c; --faint: #666d78; --rule: #e2e5ea }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14161a; --card: #1d2026; --ink: #dde1e7; --faint: #98a0ac; --rule: #343942 }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.55 system-ui, sans-serif }
main { max-width: 1000px; margin: 0 auto; padding: 2rem 1rem 4rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1.25rem; overflow-wrap: anywhere }
h2 { font-size: 1.05rem; margin: 0 0 .6rem }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 1.1rem 1.25rem;
  margin: 0 0 1rem }
p { margin: 0 0 .6rem; overflow-wrap: anywhere }
p:last-child { margin-bottom: 0 }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .32rem .9rem .32rem 0; border-bottom: 1px solid var(--rule); vertical-align: top;
  overflow-wrap: break-word; max-width: 34rem }
tbody tr:last-child td { border-bottom: 0 }
th { color: var(--faint); font-weight: 600 }
td:first-child { color: var(--faint); min-width: 9rem; width: 14rem }
thead + tbody td:first-child { color: inherit; width: auto; min-width: 5rem }
details > h2, details > * + h2 { margin-top: 1.4rem }
.wide + p { margin-top: .6rem }
summary { cursor: pointer; color: var(--faint) }
.number { font-variant-numeric: tabular-nums }
figure { margin: 0 }
img { display: block; max-width: 100%; height: auto; border-radius: 6px; margin: 0 auto }
figcaption { color: var(--faint); margin-top: .6rem; font-size: .92em; overflow-wrap: anywhere }
@media print { section { break-inside: avoid } body { background: none } }
"""
