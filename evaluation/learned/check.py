"""The check from end to end: draw, compare, judge, keep. What was once measured is found again and not drawn again."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from ...core.atomic import make_folder, replacing, write_whole
from ...core.context import RunContext
from ...core.errors import FewShotError
from ...core.images.files import open_picture
from ...core.values import content_key
from .measure import REVISION, Embedders, Measurement, Question, draw_columns, measure
from .progress import CheckProgress
from .sheet import sheet
from .verdict import LearningVerdict

log = logging.getLogger(__name__)
FILE, SHEET, DRAWN = "learned.json", "learned.png", "learned"  # in a run's folder; the last one is a folder


@dataclass(frozen=True)
class Learned:
    """What the check gives: the verdict, the numbers it rests on, and the sheet."""

    verdict: LearningVerdict
    measurement: Measurement
    sheet: Image.Image


@dataclass(frozen=True)
class Check:
    """A check to be made.

    Args:
        judge: gives the verdict on what was measured.
        open: opens the embedders on the CPU; not called where the measurement is found.
        key: content key of the references and of the embedders' files.
    """

    question: Question
    judge: Callable[[Measurement], LearningVerdict]
    open: Callable[[], Embedders]
    key: str

    @property
    def content_key(self) -> str:
        """Of all that the measurement depends on."""
        question = self.question
        prompts = [(prompt.text, prompt.stripped, concept) for prompt, concept in question.prompts]
        columns = [column.key for column in question.columns]
        return content_key("Learned", REVISION, columns, prompts, sorted(vars(question.settings).items()), self.key)


def check(work: Check, context: RunContext) -> Learned:
    """Make the check, or find it again in `context.folder`, which is the run's.

    Raises:
        FewShotError: what cannot be drawn or measured.
        BaseException: whatever `context.progress.check` raises; pictures drawn so far are kept for the next time.
    """
    folder = context.folder
    known = _found(folder, work.content_key)
    if known is not None:
        return Learned(work.judge(known[0]), *known)
    progress = CheckProgress(context.progress)
    images = draw_columns(work.question, replace(context, folder=folder / DRAWN, progress=progress))
    context.progress.check()
    measurement = measure(work.question, images, work.open(), context.device)
    verdict = work.judge(measurement)
    references = [picture for pictures in work.question.references.values() for picture in pictures]
    picture = sheet(measurement, images, references, verdict.best)
    _keep(folder, work.content_key, measurement, verdict, picture)
    shutil.rmtree(folder / DRAWN, ignore_errors=True)
    return Learned(verdict, measurement, picture)


def _found(folder: Path, key: str) -> tuple[Measurement, Image.Image] | None:
    """What an earlier check of the same left in the run's folder."""
    if not (folder / FILE).is_file():
        return None
    try:
        record = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if record["key"] != key:
            return None
        with open_picture(folder / SHEET) as picture:
            return Measurement.of(record["measurement"]), picture.convert("RGB")
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("what was measured of %s cannot be read and is measured again: %s", folder, error)
        return None


def _keep(folder: Path, key: str, measurement: Measurement, verdict: LearningVerdict, picture: Image.Image) -> None:
    """The sheet first, then the numbers, which say that both are there. A full disk is named in the log only."""
    record = {"key": key, "finding": verdict.finding, "best": verdict.best, "lines": verdict.lines}
    try:
        make_folder(folder)
        with replacing(folder / SHEET) as draft:
            picture.save(draft, "PNG")
        whole = json.dumps(record | {"measurement": measurement.plain()}, indent=1) + "\n"
        write_whole(folder / FILE, whole.encode())
    except (OSError, FewShotError) as error:
        log.warning("what was measured could not be kept: %s", error)
