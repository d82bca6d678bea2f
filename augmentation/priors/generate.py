"""Prior pictures: samples of the untrained base for the class noun, so that training does not unlearn it.

Prior preservation is from DreamBooth (Ruiz et al. 2023, section 3.3).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...core.context import RunContext
from ...core.errors import FewShotError
from ...core.progress import NO_METRICS, Metrics, Progress
from ...core.text.embeddings import reading_key
from ...core.text.weights import escaped
from ...core.text.words import find_word
from ...core.values import BaseModelRef, Concept, Loaded, Picture, Sample, TrainingSet, content_key
from ...models.open import compute_dtype, open_base
from ...models.sampling import SamplingOptions, sample
from . import prompts as prior_prompts
from .filter import Filters, select_priors
from .store import PriorStore

log = logging.getLogger(__name__)
# Raised when the prompts or the sampling change.
REVISION = 2
MAX_ROUNDS = 3
NAN_REASON = "the base drew no numbers (NaN), as half precision can"
# NaN pictures, and no other, after which sampling stops.
MAX_NAN_PICTURES = 8


def _setting(default, low_high_step: tuple, text: str, advanced: bool = False, matters: bool = True):
    low, high, step = low_high_step
    about = {"help": text, "min": low, "max": high, "step": step, "advanced": advanced, "matters": matters}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class PriorSettings:
    """How prior pictures are made. `count` and `batch` change no picture, so they stay outside the cache's key."""

    count: int = _setting(100, (1, 2000, 1), "prior pictures for each class noun; 100 suit a LoRA", matters=False)
    steps: int = _setting(30, (1, 200, 1), "sampling steps of each picture")
    guidance: float = _setting(5.0, (1.0, 30.0, 0.5), "classifier-free guidance; high values over-sharpen the priors")
    seed: int = _setting(0, (0, 2**48 - 1, 1), "seed of the prompts' order and of each picture's noise")
    batch: int = _setting(4, (1, 64, 1), "pictures sampled at once on a GPU; a CPU takes one at a time", True, False)
    width: int = _setting(0, (0, 2048, 8), "width in pixels; 0 takes the size that the base was trained at", True)
    height: int = _setting(0, (0, 2048, 8), "height in pixels; 0 takes the size that the base was trained at", True)
    prompts: tuple[str, ...] = field(
        default=(),
        metadata={"help": 'own prompts instead of the grid; "{noun}" stands for the class noun', "advanced": True},
    )

    def __post_init__(self):
        if isinstance(self.prompts, str) or not all(isinstance(prompt, str) for prompt in self.prompts):
            raise FewShotError(f"priors: prompts is {self.prompts!r}; give a list of texts")
        object.__setattr__(self, "prompts", tuple(p.strip() for p in self.prompts if p.strip()))
        for name, about in ((f.name, f.metadata) for f in self.__dataclass_fields__.values()):
            value = getattr(self, name)
            if "min" in about and type(value) not in {int, type(about["min"])}:
                raise FewShotError(f"priors: {name} is {value!r}; give a number ({about['help']})")
            if "min" in about and not about["min"] <= value <= about["max"]:
                raise FewShotError(
                    f"priors: {name} is {value}; choose a value from {about['min']} to {about['max']} ({about['help']})"
                )
            if name in ("width", "height") and value % 8:
                raise FewShotError(f"priors: {name} is {value}; choose a multiple of 8, such as {value // 8 * 8 + 8}")

    def key(self, base: BaseModelRef, noun: str, device: torch.device, folders: Sequence[Path] = ()) -> str:
        """Names what the pictures of `noun` depend on; the compute type is the one that "auto" becomes on `device`.

        In `folders` lie the embeddings that prompts name.
        """
        read = [reading_key(prompt, folders) for prompt in self.prompts]
        chosen = asdict(replace(self, count=1, batch=1))
        known = vars(base) | {"location": None, "dtype": str(compute_dtype(base.dtype, device))}
        return content_key("priors", REVISION, noun, chosen, known, *([read] if any(read) else []))


@dataclass(frozen=True)
class RejectedPrior:
    """A sampled prior picture that was rejected."""

    picture: Picture
    prompt: str
    reason: str


@dataclass(frozen=True)
class PriorsResult:
    """`pictures` with their priors, what was rejected, and how many pictures were drawn now."""

    pictures: TrainingSet
    rejected: tuple[RejectedPrior, ...]
    drawn: int


def generate_priors(
    base: BaseModelRef,
    pictures: TrainingSet,
    settings: PriorSettings,
    context: RunContext,
    filters: Filters | None = None,
) -> PriorsResult:
    """Add `settings.count` prior pictures for each class noun of `pictures`, drawn by `base`.

    The pictures are cached in `context.folder`/<key16>/ with a manifest and used again, also after an interruption;
    the rest is sampled, each picture from its own random stream. On a CPU it is the same to the bit whatever the
    batch, because each is sampled by itself: matrix products round differently in batches of other sizes. On a GPU such
    rounding may move a value by 1/255.

    With models in `filters` a quarter more is drawn and the best are kept. Where too few remain more are drawn, in at
    most `MAX_ROUNDS` rounds; a remaining shortage is logged. A NaN picture is rejected and recorded as such, so that
    its seed is not tried again.

    Raises:
        FewShotError: no concept has a class noun, a prompt holds an identifier, a LoRA is on the base, or no picture
            is kept. Whatever `context.progress.check` raises; the pictures made until then
            stay in the cache.
    """
    filters = filters or Filters()
    nouns = _nouns(pictures)
    _check_prompts(settings, pictures.concepts)
    _check_unpatched(base)
    where = (torch.device(context.device), context.embedding_folders)
    stores = {noun: PriorStore(context.folder / settings.key(base, noun, *where)[:16]) for noun in nouns}
    first = math.ceil(settings.count * filters.oversampling)
    missing = sum(len(stores[noun].missing(first)) for noun in nouns)
    log.info("priors: %d of %d are in the cache", len(nouns) * first - missing, len(nouns) * first)
    added: list[Sample] = []
    rejected: list[RejectedPrior] = []
    with ExitStack() as stack:
        sampler = _LazySampler(stack, base, settings, context, missing)
        for noun, concept in nouns.items():
            kept, reasons = _draw_and_select(noun, stores[noun], settings, filters, sampler)
            added += stores[noun].samples(kept, concept)
            rejected += [RejectedPrior(*stores[noun].row(index), reason) for index, reason in sorted(reasons.items())]
    there = {(s.image.key, s.caption) for s in pictures.priors}
    new = tuple(s for s in added if (s.image.key, s.caption) not in there)
    return PriorsResult(pictures.with_samples(pictures.samples + new), tuple(rejected), sampler.drawn)


def _draw_and_select(
    noun: str, store: PriorStore, settings: PriorSettings, filters: Filters, sampler: _LazySampler
) -> tuple[list[int], dict[int, str]]:
    """Draw missing pictures of `noun`; the indices of those selected, and why others are rejected."""
    drawn, progress = math.ceil(settings.count * filters.oversampling), sampler.context.progress
    kept: list[int] = []
    reasons: dict[int, str] = {}
    for _ in range(MAX_ROUNDS):
        sampler.draw(noun, store.missing(drawn), store)
        candidates = store.candidates(drawn)
        kept, reasons = select_priors(candidates, noun, settings.count, filters, store.folder, progress)
        if len(kept) >= settings.count or sampler.only_nan:
            break
        drawn += math.ceil((settings.count - len(kept)) * filters.oversampling)
    if not kept:
        causes = "; ".join(sorted(set(reasons.values()))[:3])
        raise FewShotError(
            f"none of {len(reasons)} prior pictures of {noun!r} is usable: {causes}. Look at what the base draws "
            "for it, load the base in float32, or choose other models to look at priors"
        )
    if len(kept) < settings.count:
        log.warning(
            "priors: %d of %d pictures of %s are kept after %d rounds", len(kept), settings.count, noun, MAX_ROUNDS
        )
    return kept, reasons


def _check_unpatched(base: BaseModelRef) -> None:
    """Priors show what the base knew before training; a LoRA on it may be the subject itself."""
    if isinstance(base.location, Loaded) and base.location.patched:
        raise FewShotError(
            f"the base {base.name} has {base.location.patched} weights patched by a LoRA. Priors must come from the "
            "base without a subject: connect the model as it was before the LoRA, or, if the LoRA belongs to the base, "
            "save the two as one checkpoint"
        )


def _nouns(pictures: TrainingSet) -> dict[str, int]:
    """Class nouns, each with the first concept that has it."""
    nouns: dict[str, int] = {}
    for index, concept in enumerate(pictures.concepts):
        if concept.noun and concept.kind == "subject":
            nouns.setdefault(concept.noun, index)
    if not nouns:
        raise FewShotError("no class noun is known, so there are no priors to draw; give the subject one, such as dog")
    return nouns


def _check_prompts(settings: PriorSettings, concepts: tuple[Concept, ...]) -> None:
    for prompt in settings.prompts:
        for concept in concepts:
            if find_word(concept.identifier, prompt):
                raise FewShotError(
                    f'the prior prompt "{prompt}" holds the identifier "{concept.identifier}"; priors show the class '
                    'alone, so write "{noun}" there'
                )


class _LazySampler:
    """Opens the base at the first missing picture and keeps it open until `stack` ends."""

    def __init__(self, stack: ExitStack, base: BaseModelRef, settings: PriorSettings, context: RunContext, total: int):
        self.stack, self.base, self.settings, self.context, self.total = stack, base, settings, context, total
        self.sampler: _PriorSampler | None = None

    @property
    def drawn(self) -> int:
        return 0 if self.sampler is None else self.sampler.done

    @property
    def only_nan(self) -> bool:
        return self.sampler is not None and self.sampler.only_nan

    def draw(self, noun: str, indices: list[int], store: PriorStore) -> None:
        if not indices:
            return
        if self.sampler is None:
            context = self.context
            opened = open_base(
                self.base,
                context.device,
                context.progress,
                context.tokenizer_folder,
                embedding_folders=context.embedding_folders,
            )
            self.sampler = _PriorSampler(self.stack.enter_context(opened), self.settings, context.progress, self.total)
        self.sampler.total = max(self.sampler.total, self.sampler.done + len(indices))
        self.sampler.draw(noun, indices, store)


class _PriorSampler:
    """Samples missing pictures batch by batch, and reports progress."""

    def __init__(self, model, settings: PriorSettings, progress: Progress, total: int):
        self.model, self.settings, self.progress = model, settings, progress
        self.width, self.height = settings.width or model.native_resolution, settings.height or model.native_resolution
        self.batch = settings.batch if model.device.type != "cpu" else 1
        self.done, self.usable, self.total = 0, 0, total
        log.info("priors: %d pictures of %d x %d, %d steps", total, self.width, self.height, settings.steps)

    @property
    def only_nan(self) -> bool:
        """Whether this base, as it is loaded, gives only NaN."""
        return self.done >= MAX_NAN_PICTURES and not self.usable

    def draw(self, noun: str, indices: list[int], store: PriorStore) -> None:
        """Draw the pictures `indices` into `store`; stops early where all are NaN."""
        prompts = self._prompts(noun, indices[-1] + 1)
        for start in range(0, len(indices), self.batch):
            self.progress.check()
            part = indices[start : start + self.batch]
            seeds = [prior_prompts.seed_of(self.settings.seed, index) for index in part]
            images, finite = _to_images(self._sample([prompts[index] for index in part], seeds))
            made = zip(part, seeds, images, finite, strict=True)
            store.add([(i, prompts[i], seed, image, "" if ok else NAN_REASON) for i, seed, image, ok in made])
            self.done, self.usable = self.done + len(part), self.usable + sum(finite)
            steps = self.settings.steps
            text = f"prior {self.done} of {self.total}: {prompts[part[-1]]}"
            self.progress.report(self.done * steps, self.total * steps, text, images[-1])
            if self.only_nan:
                return

    def _prompts(self, noun: str, count: int) -> list[str]:
        """Prompts of the pictures 0 to `count`; the grid holds only words that the base's tokenizer knows."""
        known = prior_prompts.one_token_words(self.model.count_tokens)
        chosen = self.settings.prompts
        prompts = prior_prompts.own(chosen, escaped(noun)) if chosen else map(escaped, prior_prompts.grid(noun, known))
        return prior_prompts.walk(list(dict.fromkeys(prompts)), self.settings.seed, count)

    def _sample(self, prompts: list[str], seeds: list[int]) -> torch.Tensor:
        settings = self.settings
        start, steps, total = (count * settings.steps for count in (self.done, len(prompts), self.total))
        options = SamplingOptions(self.width, self.height, settings.steps, settings.guidance, batch=self.batch)
        return sample(self.model, prompts, seeds, options, _ProgressSlice(self.progress, start, steps, total))


@dataclass(frozen=True)
class _ProgressSlice:
    """Reports to `outer` as part of its work: `steps` from `start` on, of `total`."""

    outer: Progress
    start: int
    steps: int
    total: int

    def check(self) -> None:
        self.outer.check()

    def report(
        self, done: int, total: int, text: str = "", picture: Image.Image | None = None, metrics: Metrics = NO_METRICS
    ) -> None:
        self.outer.report(self.start + done * self.steps // max(total, 1), self.total, text, picture, metrics)


def _to_images(images: torch.Tensor) -> tuple[list[Image.Image], list[bool]]:
    """(B, 3, H, W) in [0, 1] as pictures, NaN as black, and which of them are finite."""
    finite = torch.isfinite(images).flatten(1).all(1).tolist()
    values = images.nan_to_num(0.0, 0.0, 0.0).clamp(0, 1)
    values = (values * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(np.ascontiguousarray(value)) for value in values], finite
