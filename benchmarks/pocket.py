"""The figures that the pocket's weights must reach, measured from the shipped weights."""

from __future__ import annotations

import logging

from ..pocket.figures import measure
from . import Row


def rows(quick: bool) -> list[Row]:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return [
        Row(**{**row, "interval": tuple(row["interval"]) if row["interval"] else None}) for row in measure(quick=quick)
    ]
