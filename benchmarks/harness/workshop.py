"""One unit of a training bench: train an adapter on the pocket, sample with it, judge. All results are saved on disk.

A run is identified by its content key and by the hash of its sources, so that an interrupted bench resumes.
"""

from __future__ import annotations

import ast
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from PIL import Image

from ...augmentation.priors.generate import PriorSettings, generate_priors
from ...core.atomic import write_whole
from ...core.context import RunContext
from ...core.progress import NullProgress
from ...core.values import Adapter, BaseModelRef, Dense, Factor, TrainingSet, content_key
from ...models.adapters.apply import applied, find_module
from ...models.adapters.inject import EVERYTHING, paths_of_set
from ...models.attention import shares_on_grid
from ...models.open import base_from_path, open_base
from ...models.sampling import SamplingOptions, sample
from ...pocket import gallery
from ...pocket.models import judge
from ...pocket.models.weights import WEIGHTS
from ...pocket.world import world
from ...trainers.auto.rules import MORE_SUBJECTS
from ...trainers.context import TrainingContext
from ...trainers.data.encoded_set import encode_set
from ...trainers.method import TrainingResult
from ...trainers.run import train_with
from ...trainers.subject.attention_supervision import supervise
from ...trainers.subject.method import SubjectTraining
from ...trainers.subject.settings import SubjectSettings

log = logging.getLogger(__name__)

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "output" / "benchmarks" / "runs"
SOURCES = ("core", "vision", "augmentation", "evaluation", "models", "trainers", "pocket")
STEPS, GUIDANCE, PRIORS = 30, 3.0, 64
# Timesteps at which attention is compared with the true masks: the picture is still visible.
ATTENTION_TIMESTEPS = (50, 200, 400)


@cache
def weights_key(folder: Path = WEIGHTS) -> str:
    """Hash of all the pocket's models, the judges included."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


@cache
def sources_key() -> str:
    """Hash of the code without its comments and docstrings."""
    digest = hashlib.sha256()
    for file in sorted(path for room in SOURCES for path in (ROOT / room).rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
                if isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
                    body[0].value.value = ""
        digest.update(f"{file.relative_to(ROOT)}\n{ast.dump(tree)}\n".encode())
    return digest.hexdigest()


class Workshop:
    """Trains, samples and judges on the pocket; finished results are read from disk.

    Args:
        steps: of a training of one subject, the same for all that are compared.
        weights: the pocket's.
    """

    def __init__(self, steps: int, folder: Path = FOLDER, weights: Path = WEIGHTS):
        self.base, self.weights = base_from_path(weights), weights
        self.steps = steps
        self.folder = folder / sources_key()[:12]
        self.judge = judge.SubjectJudge(weights)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def sets(self) -> Path:
        """The folder of the training pictures."""
        return self.folder / "sets"

    def with_priors(self, pictures: TrainingSet, count: int = PRIORS) -> TrainingSet:
        """The set with the base's own pictures of its class nouns."""
        nouns = "_".join(sorted({concept.noun for concept in pictures.concepts}))
        with self.locked(f"priors_{nouns}"):
            context = RunContext(self.folder / "priors", self.device)
            return generate_priors(self.base, pictures, PriorSettings(count=count), context).pictures

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """A lock between processes: only one at a time makes the result called `name`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f"{name}.lock"):
            yield

    def train(self, pictures: TrainingSet, method: type[SubjectTraining] = SubjectTraining, **settings) -> Adapter:
        """The adapter that these pictures and settings give; names and values are those of SubjectSettings."""
        result = self.trained(pictures, method, **settings)
        return result.adapter if result.base is None else difference(self.base, result.base, result.adapter)

    def trained(
        self, pictures: TrainingSet, method: type[SubjectTraining] = SubjectTraining, **settings
    ) -> TrainingResult:
        """The run of the same."""
        steps = round(self.steps * len(pictures.concepts) ** MORE_SUBJECTS)
        chosen = SubjectSettings.from_mapping({"steps": steps, **settings})
        with self.locked(f"train_{content_key(method.name, pictures.key, chosen.key())[:24]}"):
            context = TrainingContext(self.folder / "trained", self.device, name="bench")
            result = train_with(method(), self.base, pictures, chosen, context)
        log.info("trained on %s: loss %.4f, %.0f s", pictures.trigger, result.losses[-1], result.seconds)
        return result

    def readings(
        self, adapter: Adapter | None, prompts: Sequence[str], seed: int = 0, strength: float = 1.0
    ) -> list[judge.SceneReading]:
        """The first judge's reading of one sample for each prompt."""
        return self.judge_samples(adapter, prompts, seed, strength)[0]

    def judge_samples(
        self,
        adapter: Adapter | None,
        prompts: Sequence[str],
        seed: int = 0,
        strength: float = 1.0,
        same: Callable[[judge.SceneReading, judge.SceneReading], bool] = judge.same_judgement,
    ) -> tuple[list[judge.SceneReading], list[float]]:
        """The first judge's reading of one sample for each prompt, and 1 where the second one disagrees, else 0.

        `same` compares two readings, by default in all that the fidelities depend on. Frequent disagreement is logged.
        """
        first, second = self.read_samples(adapter, prompts, seed, strength)
        doubts = [float(not same(a, b)) for a, b in zip(first, second, strict=True)]
        if np.mean(doubts) > 0.05:
            file = self._readings_file(adapter, prompts, seed, strength)
            log.warning("the judges disagree on %.0f %% of %s", 100 * np.mean(doubts), file.with_suffix(".png"))
        return first, doubts

    def read_samples(
        self, adapter: Adapter | None, prompts: Sequence[str], seed: int = 0, strength: float = 1.0
    ) -> list[list[judge.SceneReading]]:
        """Each reader's reading of one sample for each prompt."""
        file = self._readings_file(adapter, prompts, seed, strength)
        if not file.is_file():
            images = self._sample(adapter, prompts, seed, strength)
            both = [[_to_json(reading) for reading in reader] for reader in self.judge.readings(images)]
            file.parent.mkdir(parents=True, exist_ok=True)
            gallery.sheet([images[i : i + 12] for i in range(0, len(images), 12)]).save(file.with_suffix(".png"))
            record = {"prompts": list(prompts), "seen": both}
            write_whole(file, json.dumps(record).encode())
        record = json.loads(file.read_text(encoding="utf-8"))
        return [[_from_json(values) for values in reader] for reader in record["seen"]]

    def _readings_file(self, adapter: Adapter | None, prompts: Sequence[str], seed: int, strength: float) -> Path:
        name = adapter.key if adapter else "base"
        key = content_key(weights_key(self.weights), name, list(prompts), seed, strength, STEPS, GUIDANCE)[:24]
        return self.folder / "readings" / f"{key}.json"

    def _sample(self, adapter: Adapter | None, prompts: Sequence[str], seed: int, strength: float) -> list[Image.Image]:
        seeds = [1000 * seed + number for number in range(len(prompts))]
        side = world.SIZE
        with open_base(self.base, self.device) as model:
            with applied(model, [(adapter, strength)] if adapter else []):
                images = sample(model, prompts, seeds, SamplingOptions(side, side, STEPS, GUIDANCE, batch=32))
        arrays = (images.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
        return [Image.fromarray(array) for array in arrays]

    @torch.no_grad()
    def attention_iou(self, adapter: Adapter | None, pictures: TrainingSet) -> float:
        """Mean intersection over union of thresholded subject attention with the true masks at the latents' grid."""
        samples, predicted = pictures.references, []
        adapters = [(adapter, 1.0)] if adapter else []
        with open_base(self.base, self.device) as model, applied(model, adapters):
            pool = encode_set(model, samples, model.native_resolution, NullProgress())
            supervision = supervise(model, pool, samples, pictures.concepts)  # with the positions of its learned tokens
            size = (pool.mean.shape[-2], pool.mean.shape[-1])
            noise = torch.randn(pool.mean.shape, generator=torch.Generator().manual_seed(0)).to(pool.mean.device)
            conditioning = model.encode_prompts(pool.prompts)
            for t in ATTENTION_TIMESTEPS:
                times = torch.full((len(samples),), t, device=pool.mean.device)
                with model.record_attention(supervision.layers) as captured_maps:
                    model.predict(model.process.add_noise(pool.mean, noise, times), times, conditioning)
                rows = (supervision.wanted, supervision.known, supervision.member)
                predicted.append(shares_on_grid(captured_maps, slice(len(samples)), size, *rows)[:, 0] > 0.5)
            true = supervision.masks[:, 0] > 0.5
        each = [((f & true).sum((1, 2)) / (f | true).sum((1, 2)).clamp(min=1)).mean() for f in predicted]
        return float(torch.stack(each).mean())


@torch.no_grad()
def difference(before: BaseModelRef, after: BaseModelRef, adapter: Adapter) -> Adapter:
    """The weights' change from the base to the trained base, as an adapter together with `adapter`'s own factors."""
    with open_base(before, "cpu") as old, open_base(after, "cpu") as new:
        factors: dict[str, Factor] = {}
        for path in paths_of_set(old, EVERYTHING):
            parts = [dict(find_module(one.parts(), path).named_parameters(recurse=False)) for one in (old, new)]
            change = {name: parts[1][name] - value for name, value in parts[0].items()}
            factors[path] = Dense(change["weight"], change.get("bias"))
    return replace(adapter, factors={**factors, **adapter.factors})


def _to_json(reading: judge.SceneReading) -> dict:
    things = [asdict(thing) | {"colours": sorted(thing.colours)} for thing in reading.things]
    return {"things": things, "place": reading.place, "layout": reading.layout}


def _from_json(values: dict) -> judge.SceneReading:
    things = [judge.ThingReading(**{**thing, "colours": frozenset(thing["colours"])}) for thing in values["things"]]
    return judge.SceneReading(tuple(things), values["place"], values["layout"])
