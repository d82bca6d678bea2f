"""Run by test_second_model.py in a process of its own, because ComfyUI changes global state.

    python -m comfyui_fewshot.tests.models.second_model.probe COMFYUI_FOLDER JOB_FOLDER

report.json is left in the job folder: for each family what the engine computes with a transformer of ComfyUI's in
place of Stable Diffusion, beside what is computed here one row at a time.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from comfyui_fewshot.augmentation.images.load import picture_of, stored_picture
from comfyui_fewshot.core.progress import NullProgress
from comfyui_fewshot.core.values import Adapter, Concept, Picture, Sample, TrainingSet
from comfyui_fewshot.models.adapters.inject import Injected
from comfyui_fewshot.models.sampling import SamplingOptions, sample_latents
from comfyui_fewshot.trainers.context import TrainingContext
from comfyui_fewshot.trainers.data.batch import TermBatch
from comfyui_fewshot.trainers.loop import Outcome, Plan, train
from comfyui_fewshot.trainers.optim.optimizers import LearningRates
from comfyui_fewshot.trainers.state.checkpoint import Checkpoints
from comfyui_fewshot.trainers.state.run_folder import Journal
from comfyui_fewshot.trainers.subject.method import SubjectStep, SubjectTraining
from comfyui_fewshot.trainers.subject.settings import SubjectSettings

from .network import CONFIGS, ROOT, ComfyModel, hidden_of, opened

STEPS, CUT, BATCH, SIDE = 5, 2, 3, 64
BACKGROUND, BETA = 0.5, 100.0
REFERENCES = ("a photo of sks ball", "a big round photo of sks ball on green grass", "sks ball")
PRIORS = ("a photo of a ball", "a photo of one small red ball under a wooden table", "one ball")
SETTINGS = SubjectSettings(
    token="none", local_weight=0.0,
    steps=STEPS, rank=4, alpha=4.0, batch_size=BATCH, micro_batch=2 * BATCH, resolution=SIDE, seed=5,
    parameter_set="attention_ff", background_weight=BACKGROUND, caption_dropout=0.2, noise_offset=0.05,
)  # fmt: skip


def main(comfyui: str, job: Path) -> None:
    sys.path.insert(0, comfyui)
    sys.argv = sys.argv[:1]
    from comfy.cli_args import args

    args.cpu = True
    torch.set_num_threads(1)
    pictures, report = training_set(job), {}
    for name in CONFIGS:
        with opened(name) as model:
            report[name] = Trial(model, pictures, job / name).run()
    (job / "report.json").write_text(json.dumps(report))


def training_set(folder: Path) -> TrainingSet:
    """References with masks, and priors, whose captions have many lengths; some have one."""

    def picture(seed: int) -> Picture:
        coarse = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
        path = folder / f"{seed}.png"
        Image.fromarray(coarse).resize((72, SIDE), Image.Resampling.BICUBIC).save(path)
        return picture_of(path)

    mask = Image.new("L", (72, SIDE))
    mask.paste(255, (16, 16, 56, 56))
    shape = stored_picture(mask, folder)
    samples = [Sample(picture(i), caption, shape) for i, caption in enumerate(REFERENCES)]
    samples += [Sample(picture(10 + i), caption, role="prior") for i, caption in enumerate(PRIORS)]
    return TrainingSet(tuple(samples), (Concept("sks", "ball"),))


class CutAfter(NullProgress):
    """Ends a training after some whole steps."""

    def __init__(self, steps: int):
        self.steps, self.done = steps, 0

    def report(self, done: int, *args: Any, **kwargs: Any) -> None:
        self.done = done

    def check(self) -> None:
        if self.done >= self.steps:
            raise InterruptedError


class Trial:
    """Subject training of one model: through the engine, cut and resumed, and row by row."""

    def __init__(self, model: ComfyModel, pictures: TrainingSet, folder: Path):
        self.model, self.pictures, self.folder = model, pictures, folder

    def run(self) -> dict[str, Any]:
        before, linear = self.plain(), sum(isinstance(m, nn.Linear) for m in self.model.denoiser.modules())
        step, injected = self.prepare()
        first = {name: p.detach().clone() for name, p in injected.parameters.items()}
        found = {"linear": linear, "lengths": self.lengths(step), "calls": self.calls(step)}
        outcome = self.train(step, injected, "whole")
        found |= {
            "terms": outcome.terms,
            "unmoved": [name for name, p in injected.parameters.items() if torch.equal(p, first[name])],
            "rows": self.row_by_row(step),
            "orders": self.orders(step, injected),
            "consistency": self.consistency(step),
            "drawn": self.drawn(),
        }
        adapter = injected.extract("sks ball")
        injected.remove()
        found |= {"back": torch.equal(self.plain(), before), "lora": self.lora_keys(adapter)}
        return found | {"resumed": self.resumed(outcome, adapter)}

    def prepare(self) -> tuple[SubjectStep, Injected]:
        return SubjectTraining().prepare(self.model, self.pictures, SETTINGS, None, NullProgress())

    def train(self, step: SubjectStep, injected: Injected, name: str, cut: int = STEPS) -> Outcome:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        plan = Plan(STEPS, LearningRates({ROOT: 1e-2}, STEPS, 1, "cosine"), log_every=1)
        store, journal = Checkpoints(folder / "states", "key"), Journal(folder / "log.jsonl")
        return train(step, injected.parameters, plan, store, journal, TrainingContext(folder, "cpu", CutAfter(cut)))

    # ------------------------------------------------------------------------------------------------ what is computed

    @torch.no_grad()
    def plain(self) -> Tensor:
        """The model's prediction for some noise, as it is."""
        x = torch.randn(2, *self.model.latent_shape(SIDE, SIDE), generator=torch.Generator().manual_seed(1))
        caption_kept = self.model.encode_prompts(["a ball", "a photo of sks ball"])
        return self.model.predict(x, torch.tensor([0.3, 0.8]), caption_kept)

    def lengths(self, step: SubjectStep) -> list[int]:
        """Of the captions of the first step's rows."""
        prompts = [prompt for term in step.pools for prompt in step.draw(term, 0, range(BATCH)).prompts]
        return [hidden_of(prompt).shape[1] for prompt in prompts]

    def calls(self, step: SubjectStep) -> list[tuple[int, int]]:
        """Rows and length of each of its calls of the denoiser."""
        self.model.calls.clear()
        list(step.passes(0, list))
        return list(self.model.calls)

    def row_by_row(self, step: SubjectStep) -> dict[str, tuple[float, float]]:
        """Each term of a step with the trained layers on: by the engine, and by ComfyUI's `apply_model` of each row."""
        (terms,) = step.passes(1, list)
        found = {}
        for term in step.pools:
            batch = step.draw(term, 1, range(BATCH))
            errors = [self.error(batch, i) for i in range(BATCH)]
            found[term] = (terms[term].item(), torch.stack(errors).mean().item())
        return found

    @torch.no_grad()
    def error(self, batch: TermBatch, i: int) -> Tensor:
        """The squared error of one row's velocity, weighted by its mask."""
        x, sigma, target = batch.latents[i : i + 1], batch.times[i : i + 1], batch.target[i : i + 1]
        conds = self.model.conds(x, hidden_of(batch.prompts[i]))
        clean = self.model.inner.apply_model(x, sigma, transformer_options={}, **conds)
        velocity = (x - clean) / sigma
        if batch.masks is None:
            return mse_loss(velocity, target)
        weight = (batch.masks[i : i + 1] + BACKGROUND * (1 - batch.masks[i : i + 1])).expand_as(target)
        return ((velocity - target).square() * weight).sum() / weight.sum()

    def orders(self, step: SubjectStep, injected: Injected) -> float:
        """The furthest that a gradient moves, by its length, when rows come in another order, in parts, one by one."""
        rows = [(term, i) for term in step.pools for i in range(BATCH)]
        whole = self.gradient(step, injected, [rows])
        others = ([rows[::-1]], [rows[1::2], rows[::2]], [[row] for row in rows])
        away = [(self.gradient(step, injected, other) - whole).norm() / whole.norm() for other in others]
        return max(value.item() for value in away)

    def gradient(self, step: SubjectStep, injected: Injected, passes: list[list[tuple[str, int]]]) -> Tensor:
        members = list(injected.parameters.values())
        total = torch.zeros(sum(p.numel() for p in members))
        for rows in passes:
            loss = torch.stack(list(step.losses(1, rows).values())).sum()
            parts = torch.autograd.grad(loss, members, materialize_grads=True)
            total += torch.cat([part.flatten() for part in parts])
        return total

    def consistency(self, step: SubjectStep) -> float:
        """How far DCO's prediction of the base is from the same with the layers on, by its length."""
        batch = step.draw("reference", 1, range(BATCH))
        (with_layers,) = step.predict([batch])
        pool = step.pools["reference"]
        step.pools["reference"] = replace(pool, base=pool.conditioning, base_dropped=pool.dropped)
        base = step.base_prediction(batch)
        return ((with_layers - base).norm() / base.norm()).item()

    def drawn(self) -> float:
        """How far latents drawn in a batch are from the same one by one, with guidance, by their length."""

        def draw(batch: int) -> Tensor:
            size = dict(width=SIDE, height=SIDE, steps=2, guidance=3.0)
            options = SamplingOptions(negative="bad", batch=batch, **size)
            return sample_latents(self.model, REFERENCES, [1, 2, 3], options)

        together, alone = draw(BATCH), draw(1)
        return ((together - alone).norm() / alone.norm()).item()

    def lora_keys(self, adapter: Adapter) -> tuple[int, int]:
        """How many pairs the adapter has, and how many of them ComfyUI's loader takes by their paths."""
        import comfy.lora

        file = {}
        for path, factor in adapter.factors.items():
            file |= {f"{path}.lora_down.weight": factor.down, f"{path}.lora_up.weight": factor.up}
            file[f"{path}.alpha"] = torch.tensor(factor.alpha)
        taken = comfy.lora.load_lora(file, comfy.lora.model_lora_keys_unet(self.model.inner, {}))
        return len(adapter.factors), len(taken)

    def resumed(self, outcome: Outcome, adapter: Adapter) -> dict[str, Any]:
        """A run that was cut and gone on with, against the uncut one."""
        step, injected = self.prepare()
        cut = False
        try:
            self.train(step, injected, "cut", CUT)
        except InterruptedError:
            cut = True
        injected.remove()
        step, injected = self.prepare()
        again = self.train(step, injected, "cut")
        factors = injected.extract("sks ball").factors
        injected.remove()
        pairs = [(factors[path], factor) for path, factor in adapter.factors.items()]
        same = all(torch.equal(a.down, b.down) and torch.equal(a.up, b.up) for a, b in pairs)
        return {"cut": cut, "from": again.resumed_from, "same": same and again.terms == outcome.terms}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
