"""Prior pictures: what the untrained base draws for the class noun, kept so that training does not unlearn it.

Prior preservation is from DreamBooth (Ruiz et al. 2023, section 3.3).
"""

from __future__ import annotations

import logging
import math
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...core.errors import FewShotError
from ...core.progress import Silent, Watcher
from ...core.values import BaseModelRef, Concept, Loaded, Picture, Sample, TrainingSet, content_key
from ...models.open import compute_dtype, open_base
from ...models.sampling import sample
from ..captions.identifiers import find_word
from . import prompts as prior_prompts
from .filter import Filters, chosen
from .store import Store

log = logging.getLogger(__name__)
REVISION = 2  # of the prompts and of the sampling; raised when either changes
ROUNDS = 3
NO_NUMBERS = "the base drew no numbers (NaN), as half precision can"
HOPELESS = 8  # pictures without numbers, and none with, after which no more are drawn


def _number(default, low, high, step, text: str, advanced: bool = False, matters: bool = True):
    about = {"help": text, "min": low, "max": high, "step": step, "advanced": advanced, "matters": matters}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class PriorSettings:
    """How prior pictures are made. `count` and `batch` change no picture, so they stay outside the cache's key."""

    count: int = _number(100, 1, 2000, 1, "prior pictures for each class noun; 100 suit a LoRA", matters=False)
    steps: int = _number(30, 1, 200, 1, "sampling steps of each picture")
    guidance: float = _number(5.0, 1.0, 30.0, 0.5, "classifier-free guidance; high values over-sharpen the priors")
    seed: int = _number(0, 0, 2**48 - 1, 1, "seed of the prompts' order and of each picture's noise")
    batch: int = _number(4, 1, 64, 1, "pictures sampled at once on a GPU; a CPU takes one at a time", True, False)
    width: int = _number(0, 0, 2048, 8, "width in pixels; 0 takes the size that the base was trained at", True)
    height: int = _number(0, 0, 2048, 8, "height in pixels; 0 takes the size that the base was trained at", True)
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

    def key(self, base: BaseModelRef, noun: str, device: torch.device) -> str:
        """Names what the pictures of `noun` depend on; the compute type is the one that "auto" becomes on `device`."""
        chosen = asdict(replace(self, count=1, batch=1))
        known = vars(base) | {"location": None, "dtype": str(compute_dtype(base.dtype, device))}
        return content_key("priors", REVISION, noun, chosen, known)


@dataclass(frozen=True)
class Rejected:
    """A prior picture that was drawn and not kept."""

    picture: Picture
    prompt: str
    reason: str


@dataclass(frozen=True)
class Generated:
    """`pictures` with their priors, what was rejected, and how many pictures were drawn now."""

    pictures: TrainingSet
    rejected: tuple[Rejected, ...]
    drawn: int


def generate_priors(
    base: BaseModelRef,
    pictures: TrainingSet,
    settings: PriorSettings,
    cache: Path,
    device: torch.device,
    watcher: Watcher | None = None,
    tokenizer_folder: Path | None = None,
    filters: Filters | None = None,
) -> TrainingSet:
    """`make_priors`, of which only the pictures are wanted."""
    return make_priors(base, pictures, settings, cache, device, watcher, tokenizer_folder, filters).pictures


def make_priors(
    base: BaseModelRef,
    pictures: TrainingSet,
    settings: PriorSettings,
    cache: Path,
    device: torch.device,
    watcher: Watcher | None = None,
    tokenizer_folder: Path | None = None,
    filters: Filters | None = None,
) -> Generated:
    """Add `settings.count` prior pictures for each class noun of `pictures`, drawn by `base`.

    The pictures lie under `cache`/<key16>/ with a manifest. What lies there is used again, also after the work was
    cut; the rest is sampled, each picture from its own random stream. On a CPU it is the same to the bit whatever the
    batch, because each is drawn by itself: matrix products round differently in batches of other sizes. On a GPU such
    rounding may move a value by 1/255.

    With models in `filters` a quarter more is drawn and the best are kept. Where too few are left more is drawn, in at
    most `ROUNDS` rounds; what is lacking then is named in the log. A picture without numbers (NaN) is rejected and
    remembered as such, so that the same seed is not tried at the next run.

    Raises:
        FewShotError: no concept has a class noun, a prompt holds an identifier, a LoRA is on the base, or no picture
            is kept. Whatever `watcher.check` raises; the pictures made until then stay
            in the cache.
    """
    watcher, filters = watcher or Silent(), filters or Filters()
    nouns = _nouns(pictures)
    _check_prompts(settings, pictures.concepts)
    _check_plain(base)
    stores = {noun: Store(cache / settings.key(base, noun, device)[:16]) for noun in nouns}
    first = math.ceil(settings.count * filters.spare)
    missing = sum(len(stores[noun].missing(first)) for noun in nouns)
    log.info("priors: %d of %d are in the cache", len(nouns) * first - missing, len(nouns) * first)
    added: list[Sample] = []
    rejected: list[Rejected] = []
    with ExitStack() as stack:
        painting = _Painting(stack, base, settings, device, watcher, tokenizer_folder, missing)
        for noun, concept in nouns.items():
            kept, reasons = _kept(noun, stores[noun], settings, filters, painting, watcher)
            added += stores[noun].samples(kept, concept)
            rejected += [Rejected(*stores[noun].row(index), reason) for index, reason in sorted(reasons.items())]
    there = {(s.image.key, s.caption) for s in pictures.priors}
    new = tuple(s for s in added if (s.image.key, s.caption) not in there)
    return Generated(pictures.with_samples(pictures.samples + new), tuple(rejected), painting.drawn)


def _kept(
    noun: str, store: Store, settings: PriorSettings, filters: Filters, painting: _Painting, watcher: Watcher
) -> tuple[list[int], dict[int, str]]:
    """The indices of the pictures of `noun` that are kept, and why others are not; missing ones are drawn."""
    drawn = math.ceil(settings.count * filters.spare)
    kept: list[int] = []
    reasons: dict[int, str] = {}
    for _ in range(ROUNDS):
        painting.paint(noun, store.missing(drawn), store)
        kept, reasons = chosen(store.candidates(drawn), noun, settings.count, filters, store.folder, watcher)
        if len(kept) >= settings.count or painting.hopeless:
            break
        drawn += math.ceil((settings.count - len(kept)) * filters.spare)
    if not kept:
        said = "; ".join(sorted(set(reasons.values()))[:3])
        raise FewShotError(
            f"none of {len(reasons)} prior pictures of {noun!r} is usable: {said}. Look at what the base draws for it, "
            "load the base in float32, or choose other models to look at priors"
        )
    if len(kept) < settings.count:
        log.warning("priors: %d of %d pictures of %s are kept after %d rounds", len(kept), settings.count, noun, ROUNDS)
    return kept, reasons


def _check_plain(base: BaseModelRef) -> None:
    """Priors show what the base knew before; a LoRA on it may be the very subject."""
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


class _Painting:
    """The base, opened when the first picture is missing and kept open until `stack` ends."""

    def __init__(
        self, stack: ExitStack, base: BaseModelRef, settings: PriorSettings, device: torch.device, watcher: Watcher,
        tokenizer_folder: Path | None, total: int,
    ):  # fmt: skip
        self.stack, self.base, self.settings, self.device = stack, base, settings, device
        self.watcher, self.tokenizer_folder, self.total = watcher, tokenizer_folder, total
        self.painter: _Painter | None = None

    @property
    def drawn(self) -> int:
        return 0 if self.painter is None else self.painter.done

    @property
    def hopeless(self) -> bool:
        return self.painter is not None and self.painter.hopeless

    def paint(self, noun: str, indices: list[int], store: Store) -> None:
        if not indices:
            return
        if self.painter is None:
            opened = open_base(self.base, self.device, self.watcher, tokenizer_folder=self.tokenizer_folder)
            self.painter = _Painter(self.stack.enter_context(opened), self.settings, self.watcher, self.total)
        self.painter.total = max(self.painter.total, self.painter.done + len(indices))
        self.painter.paint(noun, indices, store)


class _Painter:
    """Samples what is missing, batch by batch, and tells the watcher."""

    def __init__(self, networks, settings: PriorSettings, watcher: Watcher, total: int):
        self.networks, self.settings, self.watcher = networks, settings, watcher
        self.width, self.height = settings.width or networks.resolution, settings.height or networks.resolution
        self.batch = settings.batch if networks.device.type != "cpu" else 1
        self.done, self.usable, self.total = 0, 0, total
        log.info("priors: %d pictures of %d x %d, %d steps", total, self.width, self.height, settings.steps)

    @property
    def hopeless(self) -> bool:
        """Whether this base, as it is loaded, draws no numbers at all."""
        return self.done >= HOPELESS and not self.usable

    def paint(self, noun: str, indices: list[int], store: Store) -> None:
        """Draw the pictures `indices` into `store`; stops early where it is hopeless."""
        prompts = self._prompts(noun, indices[-1] + 1)
        for start in range(0, len(indices), self.batch):
            self.watcher.check()
            part = indices[start : start + self.batch]
            seeds = [prior_prompts.seed_of(self.settings.seed, index) for index in part]
            images, whole = _pixels(self._sample([prompts[index] for index in part], seeds))
            made = zip(part, seeds, images, whole, strict=True)
            store.add([(i, prompts[i], seed, image, "" if good else NO_NUMBERS) for i, seed, image, good in made])
            self.done, self.usable = self.done + len(part), self.usable + sum(whole)
            steps = self.settings.steps
            text = f"prior {self.done} of {self.total}: {prompts[part[-1]]}"
            self.watcher.progress(self.done * steps, self.total * steps, text, images[-1])
            if self.hopeless:
                return

    def _prompts(self, noun: str, count: int) -> list[str]:
        """Prompts of the pictures 0 to `count`; the grid holds only words that the base's tokenizer knows."""
        known = prior_prompts.one_token_words(self.networks.tokenizers[0])
        chosen = self.settings.prompts
        prompts = prior_prompts.own(chosen, noun) if chosen else prior_prompts.grid(noun, known)
        return prior_prompts.walk(list(dict.fromkeys(prompts)), self.settings.seed, count)

    def _sample(self, prompts: list[str], seeds: list[int]) -> torch.Tensor:
        settings = self.settings
        inner = _Part(self.watcher, *(count * settings.steps for count in (self.done, len(prompts), self.total)))
        return sample(
            self.networks, prompts, seeds, width=self.width, height=self.height, steps=settings.steps,
            guidance=settings.guidance, batch=self.batch, watcher=inner,
        )  # fmt: skip


@dataclass(frozen=True)
class _Part:
    """Tells `outer` of a part of its work: `share` steps from `start` on, of `whole`."""

    outer: Watcher
    start: int
    share: int
    whole: int

    def check(self) -> None:
        self.outer.check()

    def progress(self, done: int, total: int, text: str = "", picture: Image.Image | None = None) -> None:
        self.outer.progress(self.start + done * self.share // max(total, 1), self.whole, text, picture)


def _pixels(images: torch.Tensor) -> tuple[list[Image.Image], list[bool]]:
    """(B, 3, H, W) in [0, 1] as pictures, black where there are no numbers, and which of them hold numbers alone."""
    whole = torch.isfinite(images).flatten(1).all(1).tolist()
    values = images.nan_to_num(0.0, 0.0, 0.0).clamp(0, 1)
    values = (values * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(np.ascontiguousarray(value)) for value in values], whole
