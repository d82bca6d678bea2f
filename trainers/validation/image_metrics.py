"""Image validation of a training: fixed held-out prompts from fixed noise, scored by a CLIP (and a DINO).

The validators choose a checkpoint, so they are never the models that evaluate the result.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image

from ...augmentation.images.load import load_picture
from ...augmentation.priors.prompts import one_token_words
from ...core.atomic import make_folder
from ...core.context import RunContext
from ...core.errors import FewShotError
from ...core.progress import CancelOnly, Progress
from ...core.randomness import seed_of
from ...core.text.prompts import prompt_of, with_article
from ...core.text.weights import escaped
from ...core.text.words import find_word
from ...core.values import Prompt, TrainingSet, content_key
from ...core.weight_files import file_hash
from ...evaluation.report.grids import contact_sheet
from ...models.contract import DiffusionModel
from ...models.sampling import SamplingOptions, sample_latents
from ...vision.embedders.clip import Clip
from ...vision.embedders.clip_vision import ClipVision, open_image_embedder
from ...vision.embedders.dino import Dino
from ...vision.memory import embedding_bytes, parameter_count
from ..auto.fit import sampling_batch
from ..settings.training import ValidationSettings

log = logging.getLogger(__name__)

REVISION = 1  # of the prompts, the drawing and the score; raised when any of them changes
STEPS, GUIDANCE = 16, 5.0
CPU_BATCH = 4  # images sampled together on a CPU
MOST_REFERENCES = 32  # that images are compared with
SHARE = 0.25  # of the training's denoiser evaluations that validation may cost
FEWEST, MOST = 3, 12  # validations
PLACES = (
    "in the snow", "on the beach", "on the street", "at night", "in a kitchen", "in the meadow", "in a room",
    "on a mountain", "in a forest", "under water",
)  # fmt: skip
CHANGES = ("wearing a hat", "with a balloon", "under an umbrella", "holding a ball", "on a wooden table")
TRIGGER = "{trigger}"


@dataclass(frozen=True)
class Validator:
    """The models that validate: a CLIP's folder; and in its place for likeness, a DINO's folder or a file of a CLIP's
    vision tower."""

    clip: Path = field(compare=False)
    dino: Path | None = field(default=None, compare=False)

    @cached_property
    def key(self) -> str:
        """Content key of the models' files."""
        return content_key("Validator", REVISION, [[[p.name, file_hash(p)] for p in files] for files in self._files()])

    @property
    def bytes(self) -> int:
        """Bytes of the models' weights in fp32, in which they are loaded."""
        return sum(4 * parameter_count(folder) for folder in self.folders)

    @property
    def resident(self) -> float:
        """Peak bytes on the device while they score."""
        return self.bytes + max(map(embedding_bytes, self.folders))

    @property
    def folders(self) -> list[Path]:
        return [self.clip] if self.dino is None else [self.clip, self.dino]

    def _files(self) -> list[list[Path]]:
        return [
            sorted(path for path in place.glob("*") if path.is_file()) if place.is_dir() else [place]
            for place in self.folders
        ]


def held_out_prompts(
    pictures: TrainingSet, count: int, known: Callable[[str], bool] = lambda _: True, own: str = ""
) -> tuple[tuple[Prompt, int], ...]:
    """`count` prompts, each with the concept it asks for; the subjects take turns, used-up prompts begin again.

    Args:
        known: whether the base has learned the words of a phrase.
        own: a person's prompts, separated by |, with {trigger} for the subject; else new places and changes by
            turns, those left out that the captions of the references name.
    """
    lines = [line.strip() for line in own.split("|") if line.strip()]
    if not lines:
        captions = " / ".join(sample.caption for sample in pictures.references)
        groups = [[p for p in group if known(p) and not find_word(p, captions)] for group in (PLACES, CHANGES)]
        phrases = _interleaved(*groups) or list(PLACES)
        lines = [f"a photo of {TRIGGER} {phrase}" for phrase in phrases]
    rows = []
    for i in range(count):
        concept = i % len(pictures.concepts)
        line = lines[i // len(pictures.concepts) % len(lines)]
        line, subject = line.replace(f"a {TRIGGER}", TRIGGER), with_article(pictures.concepts[concept].phrase)
        prompt = prompt_of(line.replace(TRIGGER, subject), pictures.concepts)
        rows.append((replace(prompt, text=line.replace(TRIGGER, escaped(subject))), concept))
    return tuple(rows)


def _interleaved(places: Sequence[str], changes: Sequence[str]) -> list[str]:
    """place, change, place, change, ... and what is left of the longer one."""
    longest = max(len(places), len(changes))
    return [group[i] for i in range(longest) for group in (places, changes) if i < len(group)]


def compared_pictures(pictures: TrainingSet, concept: int) -> list[Image.Image]:
    """The references of a concept that drawn pictures are compared with; evenly spaced ones if there are many."""
    alone = [s for s in pictures.references if s.concept == concept and not s.others and not s.pasted]
    samples = alone or list(pictures.references)
    return [load_picture(sample.image) for sample in samples[:: math.ceil(len(samples) / MOST_REFERENCES)]]


def validation_interval(settings: ValidationSettings, rows: int) -> int:
    """Steps between validations: as set, else as many validations as a quarter of the training pays for, 3 to 12.

    A picture drawn costs two evaluations of the denoiser a sampling step (guidance), one trained on three a step (a
    backward pass counts as two). `rows` are the pictures of a training step.
    """
    if not settings.is_auto("validate_every"):
        return settings.validate_every
    once = settings.validation_pictures * STEPS * 2
    affordable = int(SHARE * settings.steps * rows * 3 / once)
    return max(1, math.ceil(settings.steps / min(max(affordable, FEWEST), MOST)))


class Validation:
    """Samples and scores with the current weights. What stays the same is computed once.

    Args:
        context: in whose folder a contact sheet of each validation is saved.
        on_device: the context with all networks on the device, or with those that it is given.
    """

    def __init__(
        self,
        model: DiffusionModel,
        pictures: TrainingSet,
        settings: ValidationSettings,
        validator: Validator,
        context: RunContext,
        on_device: Callable[..., AbstractContextManager] = nullcontext,
    ):
        self.model, self.settings, self.progress, self.folder = model, settings, context.progress, context.folder
        self.on_device = on_device
        known = one_token_words(model.count_tokens)
        rows = held_out_prompts(pictures, settings.validation_pictures, known, settings.validation_prompts)
        self.prompts = tuple(prompt for prompt, _ in rows)
        self.concepts = tuple(concept for _, concept in rows)
        self.seeds = tuple(seed_of("validation", i) for i in range(len(rows)))
        self.clip = Clip(validator.clip, model.device)
        self.embedder: Clip | ClipVision | Dino = (
            open_image_embedder(validator.dino, model.device) if validator.dino else self.clip
        )
        self.texts = self.clip.texts([prompt.words for prompt in self.prompts])
        self.references = self._references(pictures)
        self._offload()

    def _references(self, pictures: TrainingSet) -> Mapping[int, torch.Tensor]:
        """Unit embeddings (n, D) of each prompted concept's images; evenly spaced ones if there are many."""
        found = {}
        for concept in sorted(set(self.concepts)):
            self.progress.check()
            found[concept] = self.embedder.images(compared_pictures(pictures, concept))
        return found

    @property
    def likeness(self) -> float:
        """The mean cosine of different references of a concept, over the concepts; 1 for a single picture."""
        return sum(map(mean_pairwise_cosine, self.references.values())) / len(self.references)

    def __call__(self, step: int) -> tuple[float, float, float]:
        """(subject, prompt, unrelated) of `selection.Point`; a validation that fails is named in the log: NaN."""
        self.progress.report(step, self.settings.steps, f"validating after step {step}")
        try:
            images = self.draw()
            scores = self.score(images)
        except Exception as error:  # whatever it is, the training is worth more than its validation
            log.warning("the validation after step %d failed and does not count: %s", step, error)
            return math.nan, math.nan, math.nan
        sheet = contact_sheet(images, [prompt.text for prompt in self.prompts])
        try:
            sheet.save(make_folder(self.folder) / f"validation_{step:08d}.png")
        except (OSError, FewShotError) as error:
            log.warning("the pictures of the validation after step %d could not be kept: %s", step, error)
        self.progress.report(step, self.settings.steps, f"validated after step {step}", picture=sheet)
        return scores

    def draw(self) -> list[Image.Image]:
        """One image for each prompt, always from the same noise."""
        on_cpu = self.model.device.type == "cpu"
        batch = CPU_BATCH if on_cpu else sampling_batch(self.settings.micro_batch)
        drawn = sample_pictures(
            self.model,
            self.on_device,
            [prompt.text for prompt in self.prompts],
            self.seeds,
            SamplingOptions(
                self.settings.resolution,
                self.settings.resolution,
                STEPS,
                self.model.family.guidance or GUIDANCE,
                batch=batch,
            ),
            CancelOnly(self.progress),
        )
        if not drawn.isfinite().all():
            raise ArithmeticError("the pictures hold no numbers (NaN)")
        values = (drawn * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return [Image.fromarray(value) for value in values]

    def score(self, images: Sequence[Image.Image]) -> tuple[float, float, float]:
        """Mean cosines of images, one for each prompt; see `selection.Point`."""
        self._load()
        try:
            clip_embeddings = self.clip.images(images)
            embeddings = clip_embeddings if self.embedder is self.clip else self.embedder.images(images)
        finally:
            self._offload()
        like = [(look @ self.references[c].T).mean() for look, c in zip(embeddings, self.concepts, strict=True)]
        fits = clip_embeddings @ self.texts.T
        others = torch.tensor([[a.stripped != b.stripped for b in self.prompts] for a in self.prompts])
        unrelated = fits[others].mean().item() if others.any() else 0.0
        return torch.stack(like).mean().item(), fits.diagonal().mean().item(), unrelated

    def _load(self) -> None:
        self.clip.move(self.model.device)
        self.embedder.move(self.model.device)

    def _offload(self) -> None:
        """Move the validators off the GPU, whose memory the training needs."""
        self.clip.move("cpu")
        self.embedder.move("cpu")


def sample_pictures(
    model: DiffusionModel,
    on_device: Callable[..., AbstractContextManager],
    prompts: Sequence[str],
    seeds: Sequence[int],
    options: SamplingOptions,
    progress: Progress | None = None,
) -> torch.Tensor:
    """Images (B, 3, H, W) in [0, 1] on the CPU, as `models.sampling.sample` gives them.

    Args:
        on_device: the context with all networks on the device, or with those that it is given: the decoder runs alone,
            since it takes more memory than the denoiser.
    """
    with on_device():
        latents = sample_latents(model, prompts, seeds, options, progress)
    with on_device(*model.offloadable(reads_text=True)), torch.no_grad():
        return torch.cat([model.decode(chunk).cpu() for chunk in latents.split(options.batch)])


def mean_pairwise_cosine(embeddings: torch.Tensor) -> float:
    """The mean cosine of different rows of unit vectors (n, D); 1 for a single row."""
    n = len(embeddings)
    if n == 1:
        return 1.0
    cosines = embeddings @ embeddings.T
    return ((cosines.sum() - cosines.diagonal().sum()) / (n * (n - 1))).item()
