"""Segment-and-paste: subjects cut out by their masks and pasted on simple backgrounds, in other sizes and positions.

Few pictures tie a subject to few backgrounds; composites break the tie. Sizes and the words for them follow
Custom Diffusion (Kumari et al. 2023, section 3.2), several subjects in one picture FastComposer (Xiao et al. 2023).
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ...core.errors import FewShotError
from ...core.progress import NullProgress, Progress
from ...core.text.prompts import with_article
from ...core.values import BESIDE, Concept, Part, Sample, TrainingSet
from ..images.load import stored_picture
from .backgrounds import KINDS, Background, make_background
from .compose import Composite, CutOut, arrange, compose, cut_out

log = logging.getLogger(__name__)
MAX_SIZE = 1024  # pixels of a composite whose size is not chosen
PAIR_SCALES = (0.3, 0.6)  # of the longer edge to the composite's, where there are two subjects
# Shares of the picture below or above which a subject is captioned far away or close up. Custom Diffusion's limits are
# 0.6 and 1 of the source picture, of which a subject's own box is about three quarters.
FAR_BELOW, CLOSE_ABOVE = 0.45, 0.9


@dataclass(frozen=True)
class PasteSettings:
    """How composites are made; lengths are in pixels, scales are of a subject's longer edge to the composite's."""

    variants: int = field(default=8, metadata={"min": 0, "max": 200, "help": "composites of each reference picture"})
    prior_variants: int = field(default=1, metadata={"min": 0, "max": 50, "help": "composites of each prior picture"})
    share: float = field(
        default=0.5,
        metadata={"min": 0.05, "max": 0.95, "help": "how often training draws a composite of a subject shown alone"},
    )
    together: float = field(
        default=0.3, metadata={"min": 0.0, "max": 1.0, "help": "how many of the composites show two subjects"}
    )
    mixed: bool = True
    flip: bool = False
    described: bool = True  # captions name the background, and a subject that is far away or close up
    background: Literal["any", "solid", "gradient", "texture"] = "any"
    background_weight: float = field(
        default=0.1, metadata={"min": 0.0, "max": 1.0, "help": "weight of the loss beyond the subject"}
    )
    smallest: float = field(default=0.35, metadata={"min": 0.05, "max": 1.4, "help": "smallest scale"})
    largest: float = field(default=0.95, metadata={"min": 0.05, "max": 1.4, "help": "largest scale"})
    size: int = field(default=0, metadata={"min": 0, "max": 2048, "help": "side of a composite; 0 is the pictures'"})
    seed: int = field(default=0, metadata={"min": 0, "max": 2**48 - 1, "help": "seed of all that is drawn"})

    def __post_init__(self):
        for name, about in ((f.name, f.metadata) for f in self.__dataclass_fields__.values()):
            value = getattr(self, name)
            if about and not about["min"] <= value <= about["max"]:
                allowed = f"from {about['min']} to {about['max']}"
                raise FewShotError(f"pasting: {name} is {value}; choose a value {allowed} ({about['help']})")
        if self.background not in ("any", *KINDS):
            raise FewShotError(f"pasting: background is {self.background!r}; choose one of any, {', '.join(KINDS)}")
        if self.smallest > self.largest:
            raise FewShotError(f"pasting: smallest is {self.smallest}, more than largest, {self.largest}; swap them")
        if not self.variants and not self.prior_variants:
            raise FewShotError("pasting: variants and prior_variants are both 0, so nothing is made; raise one")


@dataclass(frozen=True)
class PasteResult:
    """`pictures` with their composites behind them, the composites alone, how many of them show two subjects,
    and what was skipped with the reason."""

    pictures: TrainingSet
    made: tuple[Sample, ...]
    together: int
    notes: tuple[str, ...]


def paste(pictures: TrainingSet, settings: PasteSettings, cache: Path, progress: Progress | None = None) -> PasteResult:
    """Add composites of the masked pictures of `pictures`; they and their masks are written to `cache` as PNG files.

    A composite depends on `settings.seed` and its own picture alone, except for the partner in a picture of two
    subjects. Composites are not cut again.

    Raises:
        FewShotError: no picture can be cut out; the message gives the reason. Whatever `progress.check` raises.
    """
    progress = progress or NullProgress()
    size = settings.size or usual_size(pictures)
    notes: list[str] = []
    cuts = _cut_outs(pictures, settings, size, notes, progress)
    jobs = [
        (cut, number)
        for cut in cuts
        for number in range(settings.variants if cut.sample.role == "reference" else settings.prior_variants)
    ]
    if not jobs:
        only = "only priors can be cut out, and prior_variants is 0" if cuts else "there are none of the role"
        raise FewShotError(
            f"no picture can be cut out: {'; '.join(notes[:3]) or only}. Connect Segment by Prompt, or pictures with "
            "masks"
        )
    maker, made, together = _CompositeMaker(pictures, settings, size, cache, tuple(cuts)), [], 0
    for cut, number in jobs:
        progress.check()
        sample, composite = maker.make(cut, number)
        made.append(sample)
        together += len(composite.layers) > 1
        preview = composite.picture if len(made) % 8 == 1 or len(made) == len(jobs) else None
        progress.report(len(made), len(jobs), f"composite {len(made)} of {len(jobs)}: {sample.caption}", preview)
    for note in notes:
        log.warning("%s", note)
    weighted = tuple(_weighted(made, pictures, settings.share))
    if any(sample.others for sample in weighted):
        log.info(
            "of the draws of one subject alone %.0f %% are composites; pictures of several subjects together go by the "
            "training's composite_share",
            100 * settings.share,
        )
    return PasteResult(pictures.with_samples((*pictures.samples, *weighted)), weighted, together, tuple(notes))


def usual_size(pictures: TrainingSet) -> int:
    """The side of a composite: the largest that fits into a picture of the set, at most `MAX_SIZE`, a multiple of 8."""
    fitting = max((min(s.image.width, s.image.height) for s in pictures.samples), default=MAX_SIZE)
    return max(8, min(fitting, MAX_SIZE) // 8 * 8)


def _cut_outs(
    pictures: TrainingSet, settings: PasteSettings, size: int, notes: list[str], progress: Progress
) -> list[CutOut]:
    """The subjects of all pictures that can be cut out, each once; `notes` gets the reasons for the others."""
    wanted = {"reference": settings.variants > 0, "prior": settings.prior_variants > 0 or settings.mixed}
    cuts, without, done = [], 0, set()
    for sample in pictures.samples:
        progress.check()
        thing = sample.role, sample.concept, sample.image.key
        if not wanted[sample.role] or sample.pasted or sample.others or thing in done:
            continue
        done.add(thing)
        if pictures.concepts[sample.concept].kind != "subject":
            notes.append(f"{sample.image.path.name} was left out; moving its things would undo their relation")
        elif sample.mask is None and sample.role == "prior":
            without += 1
        else:
            try:
                cuts.append(cut_out(sample, size))
            except FewShotError as error:
                notes.append(f"{error}; it was left out")
    if without:
        notes.append(f"{without} priors have no mask and were left out; Segment by Prompt gives them one")
    return cuts


@dataclass(frozen=True)
class _CompositeMaker:
    """Makes composites of `size` pixels."""

    pictures: TrainingSet
    settings: PasteSettings
    size: int
    cache: Path
    cuts: tuple[CutOut, ...]

    def make(self, cut: CutOut, number: int) -> tuple[Sample, Composite]:
        """The composite `number` of a cut-out."""
        settings = self.settings
        rng = _stream(settings.seed, cut.sample, number)
        cuts, scales = [cut], (settings.smallest, settings.largest)
        partners = list(_partners(cut, self.cuts, settings.mixed)) if rng.random() < settings.together else []
        if partners:
            group = partners[int(rng.integers(len(partners)))]
            cuts.append(group[int(rng.integers(len(group)))])
            scales = PAIR_SCALES
        layers = arrange(cuts, self.size, scales, rng, settings.flip)
        background = make_background(settings.background, self.size, rng)
        composite = compose(background.picture, layers)
        return self._sample(cut.sample, composite, background), composite

    def _sample(self, own: Sample, composite: Composite, background: Background) -> Sample:
        """The training picture of a composite, with a mask for each visible subject.

        Priors beside a subject belong to no subject: their mask only excludes them from the background.
        """
        masks: dict[int, np.ndarray] = {}
        for layer, mask in zip(composite.layers, composite.masks, strict=True):
            number = layer.cut.sample.concept if layer.cut.sample.role == own.role else BESIDE
            masks[number] = masks[number] | mask if number in masks else mask
        stored = {
            number: stored_picture(Image.fromarray(mask).convert("L"), self.cache, fast=True)
            for number, mask in masks.items()
        }
        beside = stored.pop(BESIDE, None)
        words = background.words if self.settings.described else None
        return Sample(
            image=stored_picture(composite.picture, self.cache, fast=True),
            caption=caption_of(composite, words, self.pictures.concepts),
            mask=stored[own.concept],
            role=own.role,
            concept=own.concept,
            others=tuple(Part(number, picture) for number, picture in stored.items() if number != own.concept),
            pasted=True,
            background=self.settings.background_weight,
            beside=beside,
        )


def _stream(seed: int, sample: Sample, number: int) -> np.random.Generator:
    """The random stream of one composite: a function of the seed, its picture, its role and its number."""
    stream = f"{seed}/{sample.role}/{sample.image.key}/{number}"
    return np.random.default_rng(int.from_bytes(hashlib.sha256(stream.encode()).digest()[:16], "big"))


def _partners(cut: CutOut, cuts: Sequence[CutOut], mixed: bool) -> Iterator[list[CutOut]]:
    """Groups of cut-outs that may be pasted beside `cut`: another subject, or a prior.

    Never the same subject twice: it is unique.
    """
    own = cut.sample
    yield from (
        group
        for concept in sorted({c.sample.concept for c in cuts})
        if concept != own.concept or own.role == "prior"
        if (group := [c for c in cuts if c.sample.concept == concept and c.sample.role == own.role and c is not cut])
    )
    if mixed and own.role == "reference":
        if priors := [c for c in cuts if c.sample.role == "prior"]:
            yield priors


def caption_of(composite: Composite, background_words: str | None, concepts: Sequence[Concept]) -> str:
    """ "a far away photo of a sks dog and a dog on a plain light blue background"; names all that is visible.

    Without words for the background it is "a photo of a sks dog and a dog": for bases whose text encoder was not
    trained on backgrounds and distances.
    """
    named: list[str] = []
    for layer, mask in zip(composite.layers, composite.masks, strict=True):
        if mask.any():
            sample = layer.cut.sample
            concept = concepts[sample.concept]
            words = with_article(concept.phrase if sample.role == "reference" else concept.noun)
            named.append(f"another {concept.noun}" if words in named else words)
    if background_words is None:
        return f"a photo of {' and '.join(named)}"
    sides = [layer.side / mask.shape[0] for layer, mask in zip(composite.layers, composite.masks, strict=True)]
    shot = "a photo of"
    if max(sides) < FAR_BELOW and len(sides) == 1:
        shot = "a far away photo of"
    elif max(sides) > CLOSE_ABOVE:
        shot = "a close-up photo of"
    return f"{shot} {' and '.join(named)} {background_words}"


def _weighted(made: Sequence[Sample], pictures: TrainingSet, share: float) -> Iterator[Sample]:
    """`made` with weights such that `share` of the draws of each subject alone are composites.

    How often several subjects are drawn together is up to training (`sampling_weights.drawing_weights`); such
    composites have equal weights.
    """

    def group(sample: Sample) -> tuple[str, int]:
        return sample.role, sample.concept

    natural: dict[tuple[str, int], float] = {}
    for sample in pictures.samples:
        if not sample.pasted:
            natural[group(sample)] = natural.get(group(sample), 0.0) + sample.weight
    count = Counter(group(sample) for sample in made if not sample.others)
    for sample in made:
        alone = not sample.others
        weight = natural[group(sample)] * share / (1 - share) / count[group(sample)] if alone else 1.0
        yield replace(sample, weight=weight)
