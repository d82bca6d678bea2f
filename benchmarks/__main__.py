"""`python -m comfyui_fewshot.benchmarks NAME [--json FILE] [--only PART,PART] [--quick]`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from . import measure_parts, names, parts_of
from .harness.rows import BenchmarkRow, format_table, write_rows


def main(arguments: list[str]) -> int:
    """Exit code 0 when it measured, whatever it measured."""
    parser = argparse.ArgumentParser(prog="bench", description=f"Benches: {', '.join(names())}")
    parser.add_argument("name", choices=names())
    parser.add_argument("--json", type=Path, default=None, help="where the rows are written")
    parser.add_argument("--only", default="", metavar="PART,PART", help="some parts of it")
    parser.add_argument("--quick", action="store_true", help="show the signs only; sets no goals")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    file = chosen.json or Path(f"{chosen.name}.json")
    only = [part for part in chosen.only.split(",") if part]
    try:
        parts_of(chosen.name, chosen.quick, only)
    except ValueError as error:
        parser.error(str(error))
    rows: list[BenchmarkRow] = []
    for part_rows in measure_parts(chosen.name, chosen.quick, only):
        rows += part_rows
        write_rows(rows, file)  # after each part, so that a bench that is stopped leaves what it has
    sys.stdout.write(format_table(rows) + "\n")
    sys.stdout.write(f"written to {file.absolute()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
