"""`python -m comfyui_fewshot.benchmarks.dreambench --base FILE --pictures FOLDER`, as run.py starts it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ...core.atomic import make_folder
from ...core.errors import FewShotError
from . import report
from .arguments import parse, parser
from .run import Benchmark

log = logging.getLogger(__name__)
ROOT = Path(__file__).parent.parent.parent
QUIET = ("augmentation", "evaluation", "models", "trainers", "vision")  # which tell more than a line a part


def worth_a_line(record: logging.LogRecord) -> bool:
    """Of what the parts log, the warnings; of the bench itself all."""
    return record.levelno >= logging.WARNING or record.name.removeprefix("comfyui_fewshot.").split(".")[0] not in QUIET


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status is 0, 1 for a reported error, 130 when interrupted."""
    from filelock import FileLock, Timeout
    from transformers.utils.logging import disable_progress_bar

    options = parse(parser("bench dreambench"), sys.argv[1:] if arguments is None else arguments)
    lines = logging.StreamHandler(sys.stderr)
    lines.addFilter(worth_a_line)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[lines])
    disable_progress_bar()
    known = os.environ.get("COMFYUI_PATH")
    options.comfyui = Path(known) if known else None
    options.models = options.models or ([options.comfyui / "models"] if options.comfyui else [])
    options.out = options.out or ROOT / "output" / "dreambench"
    try:
        with FileLock(make_folder(options.out) / ".lock", timeout=0):
            return measured(options)
    except Timeout:
        log.error(
            "another run measures into %s: wait until it has ended, or name another folder with --out", options.out
        )
        return 1
    except FewShotError as error:
        log.error("%s", error)
        return 1
    except KeyboardInterrupt:
        log.error("interrupted; what was done is kept, and the same command goes on from there")
        return 130


def measured(options) -> int:
    """Measure, and write the page after each subject."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    bench = Benchmark.of(options, device)
    log.info("DreamBench on %s (%s): %s", bench.base.name, bench.base.family, bench.cost())
    log.info("How long that takes is told after the first subject. All of it is kept in %s", options.out)
    page = None

    def finished(results, clock) -> None:
        nonlocal page
        page = report.write(bench, results, clock)

    results = bench.run(finished)
    for row in results.rows():
        ends = "" if row.interval is None else f"   {row.interval[0]:.4g} .. {row.interval[1]:.4g}"
        log.info("%-32s %10.4g%s", row.name, row.value, ends)
    log.info("the page: %s\nthe numbers: %s", page, options.out / "dreambench.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
