"""Sheets of pictures with their labels, drawn by Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from ...core.errors import FewShotError

LINES = ((255, 64, 96), (20, 150, 255), (255, 200, 0), (30, 200, 90))
PAPER, INK, FAINT = (255, 255, 255), (28, 30, 34), (110, 114, 122)
GAP = 8
LARGEST_SIDE = 16_000  # pixels of a sheet; cells shrink beyond it


@dataclass(frozen=True)
class _Look:
    """Sizes of a sheet in pixels, made from the size of its cells."""

    cell: int

    @property
    def font(self) -> ImageFont.FreeTypeFont:
        return _font(max(11, min(22, self.cell // 16)))

    @property
    def line(self) -> int:
        return round(self.font.size * 1.35)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic and Vietnamese on every system."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


def before_after(
    rows: Sequence[Sequence[Image.Image]],
    labels: Sequence[str],
    columns: Sequence[str] = ("before", "after"),
    cell: int = 0,
) -> Image.Image:
    """A grid for comparing: one row for each prompt in `labels`, one column for each name in `columns`.

    Each label stands above its row, each column's name at the top. `cell` is the width of a cell in pixels; 0 takes
    the pictures' own width, small pictures enlarged by whole pixels to at least 256.

    Raises:
        FewShotError: no rows, or rows, labels and columns that do not match.
    """
    if not rows:
        raise FewShotError("there are no pictures to compare; sample at least one prompt")
    if len(rows) != len(labels):
        raise FewShotError(f"{len(rows)} rows of pictures cannot have {len(labels)} labels; give one label each")
    for row in rows:
        if len(row) != len(columns):
            raise FewShotError(f"a row has {len(row)} pictures for the {len(columns)} columns {', '.join(columns)}")
    look = _Look(cell_width([p for row in rows for p in row], cell, len(columns), len(rows)))
    cells = [[fit_to_cell(p, look.cell) for p in row] for row in rows]
    width = len(columns) * look.cell + (len(columns) + 1) * GAP
    texts = [_wrapped(label, look.font, width - 2 * GAP, 3) for label in labels]
    heights = [len(t) * look.line + max(p.height for p in row) + 2 * GAP for t, row in zip(texts, cells, strict=True)]
    sheet = Image.new("RGB", (width, GAP + look.line + sum(heights) + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, name in enumerate(columns):
        middle = GAP + number * (look.cell + GAP) + look.cell // 2
        draw.text((middle, GAP), _shortened(name, look.font, look.cell), INK, look.font, anchor="ma")
    top = GAP + look.line
    for lines, row, height in zip(texts, cells, heights, strict=True):
        draw.line((GAP, top + GAP // 2, width - GAP, top + GAP // 2), (222, 224, 228))
        _write(draw, lines, GAP, top + GAP, look, FAINT)
        for number, picture in enumerate(row):
            sheet.paste(picture, (GAP + number * (look.cell + GAP), top + GAP + len(lines) * look.line))
        top += height
    return sheet


def contact_sheet(
    images: Sequence[Image.Image], labels: Sequence[str] | None = None, columns: int = 0, cell: int = 0
) -> Image.Image:
    """All `images` in order in square cells, each with its label of up to three lines below; their aspect is kept.

    `columns` 0 makes the sheet about as wide as high; `cell` as in `before_after`.

    Raises:
        FewShotError: no images, or another number of labels.
    """
    if not images:
        raise FewShotError("there are no pictures for a contact sheet; connect a set with at least one")
    if labels is not None and len(labels) != len(images):
        raise FewShotError(f"{len(images)} pictures cannot have {len(labels)} labels; give one label each")
    columns = columns or max(1, round(len(images) ** 0.5 * 1.2))
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    look = _Look(cell_width(images, cell, columns, rows))
    texts = [_wrapped(label, look.font, look.cell, 3) for label in labels or [""] * len(images)]
    lines = max(len(text) for text in texts)
    high = look.cell + lines * look.line + GAP
    sheet = Image.new("RGB", (columns * (look.cell + GAP) + GAP, rows * high + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (image, text) in enumerate(zip(images, texts, strict=True)):
        left, top = GAP + number % columns * (look.cell + GAP), GAP + number // columns * high
        picture = fit_to_cell(image, look.cell, square=True)
        sheet.paste(picture, (left + (look.cell - picture.width) // 2, top + (look.cell - picture.height) // 2))
        _write(draw, text, left, top + look.cell + 2, look, FAINT)
    return sheet


def notes_below(notes: Sequence[Sequence[str]], cell: int) -> Image.Image:
    """A strip for below `before_after`: under each column of `cell` pixels its lines."""
    look = _Look(cell)
    high = max(map(len, notes)) * look.line + 2 * GAP
    strip = Image.new("RGB", (len(notes) * (cell + GAP) + GAP, high), PAPER)
    draw = ImageDraw.Draw(strip)
    for number, lines in enumerate(notes):
        _write(draw, [_shortened(line, look.font, cell) for line in lines], GAP + number * (cell + GAP), GAP, look, INK)
    return strip


def masked(picture: Image.Image, mask: Image.Image | None) -> Image.Image:
    """`picture` with all but its mask paled, for sheets that show what is learned from."""
    if mask is None:
        return picture
    pale = Image.blend(picture.convert("RGB"), Image.new("RGB", picture.size, PAPER), 0.72)
    return Image.composite(picture.convert("RGB"), pale, mask.convert("L").resize(picture.size))


def outline(picture: Image.Image, masks: Sequence[Image.Image]) -> Image.Image:
    """`picture` with a line around each of `masks` ("L", white inside), in colours that tell them apart."""
    shown = picture.convert("RGB")
    for number, mask in enumerate(masks):
        shape = mask.convert("L").resize(shown.size).point([0] * 128 + [255] * 128)
        thick = 2 * max(1, max(shown.size) // 256) + 1
        line = ImageChops.subtract(shape.filter(ImageFilter.MaxFilter(thick)), shape)
        shown.paste(LINES[number % len(LINES)], mask=line)
    return shown


def cell_width(images: Sequence[Image.Image], cell: int, columns: int, rows: int) -> int:
    """The cells' size: as asked, else the pictures' own; bounded so that the sheet can be opened anywhere."""
    native = max(max(image.size) for image in images)
    chosen = cell or (native * -(-256 // native) if native < 256 else min(native, 768))
    return max(16, min(chosen, LARGEST_SIDE // max(columns, rows) - 4 * GAP))


def fit_to_cell(image: Image.Image, cell: int, square: bool = False) -> Image.Image:
    """`image` made `cell` wide (or, square, its longer edge `cell`), by whole pixels where that is possible."""
    edge = max(image.size) if square else image.width
    scale = cell / edge
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    is_integer = scale >= 1 and scale == int(scale)
    return image.convert("RGB").resize(size, Image.Resampling.NEAREST if is_integer else Image.Resampling.LANCZOS)


def _write(draw: ImageDraw.ImageDraw, lines: Sequence[str], left: int, top: int, look: _Look, ink) -> None:
    for number, line in enumerate(lines):
        draw.text((left, top + number * look.line), line, ink, look.font)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int, most: int) -> list[str]:
    """`text` in at most `most` lines of `width` pixels; what is too much ends in an ellipsis."""
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < most:
        count = 1
        while count < len(words) and font.getlength(" ".join(words[: count + 1])) <= width:
            count += 1
        last = len(lines) == most - 1
        lines.append(_shortened(" ".join(words if last else words[:count]), font, width))
        words = words[count:]
    return lines


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
