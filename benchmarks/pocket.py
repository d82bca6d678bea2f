"""The figures that the pocket's weights must reach, measured from the shipped weights."""

from __future__ import annotations

import logging

from ..pocket.figures import measure
from .harness.rows import BenchmarkRow


def rows(quick: bool) -> list[BenchmarkRow]:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return [
        BenchmarkRow(**{**row, "interval": tuple(row["interval"]) if row["interval"] else None})
        for row in measure(quick=quick)
    ]
