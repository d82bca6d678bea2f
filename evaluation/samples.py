"""Samples for comparing: every candidate draws the same prompts from the same noise, and none is drawn twice.

A picture is found by the content key of all that makes it, so a further adapter costs its own pictures only.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import torch
from PIL import Image

from ..core.context import RunContext
from ..core.errors import FewShotError
from ..core.images import decode, write_png
from ..core.progress import CancelOnly, Progress
from ..core.text.embeddings import reading_key
from ..core.text.weights import escaped
from ..core.values import Adapter, BaseModelRef, Prompt, PromptSet, content_key
from ..models.adapters.apply import applied
from ..models.contract import DiffusionModel
from ..models.open import open_base
from ..models.sampling import SamplingOptions, sample
from .prompts.sets import TRIGGER, insert_phrase
from .report.grids import contact_sheet
from .watermark import add_watermark

log = logging.getLogger(__name__)
REVISION = 1  # of how a picture is drawn from its settings; raised when that changes
PREVIEW = 12  # pictures


@dataclass(frozen=True)
class Candidate:
    """What draws: the base alone, or with an adapter at a strength."""

    name: str
    adapter: Adapter | None = None
    strength: float = 1.0

    def text(self, prompt: Prompt) -> str:
        """The prompt as it is given to the model: the base alone is asked without the identifier, which it never saw.

        Raises:
            FewShotError: the prompt leaves the trigger to the adapter, and its file names none.
        """
        if self.adapter is None:
            return prompt.stripped
        if TRIGGER in prompt.text and not self.adapter.trigger:
            raise FewShotError(
                f'the adapter {self.name} names no trigger phrase, but a prompt holds {TRIGGER}: "{prompt.text}"; give '
                "Prompt Set the identifier"
            )
        return insert_phrase(prompt.text, escaped(self.adapter.trigger)) if TRIGGER in prompt.text else prompt.text


@dataclass(frozen=True)
class DrawSettings:
    """How each picture is drawn. `count` pictures of each prompt, from seeds that follow `seed`; 0 pixels: the base's.

    With `apart` each prompt has noise of its own. `watermark` puts the invisible mark of `watermark.marked` into what
    is kept.
    """

    count: int = 1
    seed: int = 0
    steps: int = 30
    guidance: float = 7.0
    negative: str = ""
    width: int = 0
    height: int = 0
    batch: int = 4
    watermark: bool = False
    apart: bool = False


@dataclass(frozen=True)
class ImageFiles(Sequence[Image.Image]):
    """Pictures that lie in their files. Each is read whenever it is asked for: thousands of them take no memory."""

    files: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...

    @overload
    def __getitem__(self, index: slice) -> ImageFiles: ...

    def __getitem__(self, index: int | slice) -> Image.Image | ImageFiles:
        return ImageFiles(self.files[index]) if isinstance(index, slice) else _read(self.files[index])


def draw(
    base: BaseModelRef,
    candidates: Sequence[Candidate],
    prompts: PromptSet,
    settings: DrawSettings,
    context: RunContext,
) -> list[ImageFiles]:
    """The pictures of each candidate, prompt by prompt, `settings.count` of each. Cancelled work goes on where it was.

    Raises:
        FewShotError: an adapter is for another family than the base, or `cache` cannot be written.
    """
    for candidate in candidates:
        if candidate.adapter is not None and candidate.adapter.family != base.family:
            raise FewShotError(
                f"the adapter {candidate.name} is for {candidate.adapter.family} and the base {base.name} is "
                f"{base.family}: choose an adapter that was trained on the base's family"
            )
    jobs_of = [_jobs(base, candidate, prompts, settings, context) for candidate in candidates]
    total = sum(map(len, jobs_of))
    # a prompt or a strength that occurs twice is drawn once
    missing = [list({job.file: job for job in jobs if not job.file.is_file()}.values()) for jobs in jobs_of]
    done = total - sum(map(len, missing))
    log.info("%d of %d samples are there already", done, total)
    if done < total:
        _draw_missing(base, list(zip(candidates, missing, strict=True)), settings, context, (done, total))
    context.progress.report(total, total, f"{total} samples")
    return [ImageFiles(tuple(job.file for job in jobs)) for jobs in jobs_of]


def _draw_missing(
    base: BaseModelRef,
    work: Sequence[tuple[Candidate, Sequence[_SampleJob]]],
    settings: DrawSettings,
    context: RunContext,
    counts: tuple[int, int],
) -> None:
    """Draw each candidate's jobs in batches. `counts` are (done, total) before the first of them."""
    (done, total), progress = counts, context.progress
    with open_base(
        base, context.device, progress, context.tokenizer_folder, embedding_folders=context.embedding_folders
    ) as model:
        for candidate, jobs in work:
            with _with_adapter(model, candidate):
                for start in range(0, len(jobs), settings.batch):
                    progress.check()
                    batch = jobs[start : start + settings.batch]
                    images = _sample(model, candidate, batch, settings, progress)
                    done += len(batch)
                    sheet = contact_sheet(images[:PREVIEW], [job.text for job in batch[:PREVIEW]])
                    progress.report(done, total, f"{candidate.name}: {done} of {total} samples", sheet)


@dataclass(frozen=True)
class _SampleJob:
    """One picture: its prompt and seed, and its file."""

    text: str
    seed: int
    file: Path


def _jobs(
    base: BaseModelRef, candidate: Candidate, prompts: PromptSet, settings: DrawSettings, context: RunContext
) -> list[_SampleJob]:
    cache, folders = context.folder, context.embedding_folders
    how = (settings.steps, settings.guidance, settings.negative, settings.width, settings.height, settings.watermark)
    model = (base.key, base.dtype, base.clip_skip, base.prediction, base.zero_snr)
    adapter = None if candidate.adapter is None else (candidate.adapter.key, candidate.strength)
    jobs = []
    for place, prompt in enumerate(prompts.prompts):
        first = settings.seed + (place * settings.count if settings.apart else 0)
        text = candidate.text(prompt)
        read = [reading_key(one, folders) for one in (text, settings.negative)]
        reading = [read] if any(read) else []
        for number in range(settings.count):
            seed = (first + number) % 2**63
            key = content_key("Sample", REVISION, model, adapter, text, seed, how, *reading)
            jobs.append(_SampleJob(text, seed, cache / key[:2] / f"{key[2:34]}.png"))
    return jobs


@contextmanager
def _with_adapter(model: DiffusionModel, candidate: Candidate) -> Iterator[None]:
    with applied(model, [(candidate.adapter, candidate.strength)] if candidate.adapter is not None else []):
        yield


def _sample(
    model: DiffusionModel,
    candidate: Candidate,
    jobs: Sequence[_SampleJob],
    settings: DrawSettings,
    progress: Progress,
) -> list[Image.Image]:
    """Draws the jobs and writes each picture to its file."""
    options = SamplingOptions(
        width=settings.width or model.native_resolution,
        height=settings.height or model.native_resolution,
        steps=settings.steps,
        guidance=settings.guidance,
        negative=settings.negative,
        batch=settings.batch,
    )
    texts, seeds = [job.text for job in jobs], [job.seed for job in jobs]
    drawn = sample(model, texts, seeds, options, CancelOnly(progress))
    if not math.isfinite(float(drawn.sum())):
        raise FewShotError(f"the pictures of {candidate.name} hold no numbers (NaN); set the base's dtype to float32")
    pictures = [Image.fromarray(v.numpy()) for v in (drawn * 255).round().to(torch.uint8).permute(0, 2, 3, 1)]
    if settings.watermark:
        pictures = [add_watermark(picture) for picture in pictures]
    for job, picture in zip(jobs, pictures, strict=True):
        write_png(picture, job.file)
    return pictures


def _read(file: Path) -> Image.Image:
    try:
        return decode(file)[0]
    except FewShotError as error:
        raise FewShotError(f"the kept sample {file} is damaged ({error}); delete it and queue again") from None
