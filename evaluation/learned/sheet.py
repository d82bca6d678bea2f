"""The check on one sheet: the references, a row for each prompt, a column for each strength, and the numbers below."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageOps

from ..report.grids import before_after, cell_width, contact_sheet, fit_to_cell, notes_below
from ..report.plots import below
from .measure import Measurement
from .verdict import Shares, shares_of

MOST_REFERENCES, CELL = 8, 192  # pictures of the strip above; pixels of a cell
BEST, FRAME = (30, 160, 80), 5


def sheet(
    measurement: Measurement,
    images: Sequence[Sequence[Image.Image]],
    references: Sequence[Image.Image],
    best: float | None = None,
) -> Image.Image:
    """One picture of everything that was drawn.

    Args:
        images: of each column, a picture a prompt.
        references: shown above; none of a relation without any.
        best: the strength whose column is framed; None frames none.
    """
    columns = measurement.columns
    cell = min(CELL, cell_width([picture for column in images for picture in column], 0, len(columns), len(images[0])))
    chosen = [number for number, one in enumerate(columns) if number and one.strength == best]
    rows = [
        [_framed(picture, cell) if number in chosen else picture for number, picture in enumerate(row)]
        for row in zip(*images, strict=True)
    ]
    names = [f"{one.name} (best)" if number in chosen else one.name for number, one in enumerate(columns)]
    grid = before_after(rows, measurement.prompts, names, cell)
    notes = [["the floor"], *(numbers(shares_of(measurement, one)) for one in columns[1:])]
    parts = [grid, notes_below(notes, cell)]
    if references:
        parts.insert(0, contact_sheet(references[:MOST_REFERENCES], columns=MOST_REFERENCES, cell=cell // 2))
    return below(*parts)


def numbers(shares: Shares) -> list[str]:
    """A column's shares, a line each."""
    parts = {"likeness": shares.likeness, "prompts": shares.prompts, "sameness": shares.sameness}
    return [f"{name} {100 * one.value:.0f} %" for name, one in parts.items() if one is not None]


def _framed(picture: Image.Image, cell: int) -> Image.Image:
    """`picture` with a frame inside its cell."""
    width = max(2, FRAME * cell // CELL)
    shown = fit_to_cell(picture, cell)
    inner = shown.crop((width, width, shown.width - width, shown.height - width))
    return ImageOps.expand(inner, width, BEST)
