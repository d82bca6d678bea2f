"""Prior pictures: the class alone, one random stream a picture, a cache that survives anything."""

import logging
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from comfyui_fewshot.augmentation.images.load import load_picture, subject_from_tensors
from comfyui_fewshot.augmentation.priors import generate
from comfyui_fewshot.augmentation.priors import prompts as prior_prompts
from comfyui_fewshot.augmentation.priors.generate import PriorSettings, PriorsResult, generate_priors
from comfyui_fewshot.core.context import RunContext
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Concept, TrainingSet
from comfyui_fewshot.models.open import base_from_path
from comfyui_fewshot.pocket.assemble import random_folder

CPU = torch.device("cpu")
FEW = PriorSettings(count=4, steps=2, seed=3)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_from_path(random_folder(tmp_path_factory.mktemp("base")))


@pytest.fixture
def pictures(tmp_path):
    return subject_from_tensors(torch.rand(2, 8, 8, 3), None, tmp_path / "pixels", Concept("sks", "cat", "striped"))


@pytest.fixture(scope="module")
def uncut(base, tmp_path_factory):
    """The four priors of `FEW`, made in one go."""
    none = TrainingSet(samples=(), concepts=(Concept("sks", "cat"),))
    return generate_priors(
        base, none, FEW, RunContext(tmp_path_factory.mktemp("uncut"), torch.device("cpu"))
    ).pictures.samples


class Watching:
    def __init__(self, stop_at: int = 0):
        self.seen, self.stop_at = [], stop_at

    def check(self):
        if self.stop_at and sum(picture is not None for *_, picture in self.seen) >= self.stop_at:
            raise KeyboardInterrupt

    def report(self, done, total, text="", picture=None, metrics=None):
        self.seen.append((done, total, text, picture))


@pytest.fixture
def no_model(monkeypatch):
    def refuse(*args, **how):
        raise AssertionError("the base was opened")

    monkeypatch.setattr(generate, "open_base", refuse)


def test_priors_show_the_class_alone(base, pictures, uncut, tmp_path):
    progress = Watching()
    made = generate_priors(base, pictures, FEW, RunContext(tmp_path, CPU, progress)).pictures
    assert made.samples[:2] == pictures.samples and made.concepts == pictures.concepts
    assert made.priors == uncut, "neither the references nor the identifier or description matter"
    assert all("cat" in s.caption and "sks" not in s.caption and "striped" not in s.caption for s in made.priors)
    assert len({s.caption for s in made.priors}) == len({s.image.key for s in made.priors}) == 4
    assert all(s.mask is None and s.weight == 1 and load_picture(s.image).size == (64, 64) for s in made.priors)
    done = [entry[0] for entry in progress.seen]
    assert done == sorted(done) and progress.seen[-1][:2] == (8, 8)
    assert [e[3].size for e in progress.seen if e[3]] == [(64, 64)] * 4
    assert progress.seen[-1][2].startswith("prior 4 of 4: a p")


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_a_cpu_draws_one_at_a_time_whatever_the_batch(base, pictures, uncut, tmp_path, batch):
    settings = PriorSettings(count=4, steps=2, seed=3, batch=batch)
    assert generate_priors(base, pictures, settings, RunContext(tmp_path, CPU)).pictures.priors == uncut


@pytest.mark.parametrize("batch", [3, 4])
def test_pictures_drawn_together_are_the_same_to_a_rounding(base, pictures, uncut, tmp_path, monkeypatch, batch):
    """What a GPU does: several pictures in one call of the denoiser, each from its own random stream."""
    sizes = []

    class Together(generate._PriorSampler):
        def __init__(self, *args):
            super().__init__(*args)
            self.batch = batch

        def _sample(self, prompts, seeds):
            sizes.append(len(prompts))
            return super()._sample(prompts, seeds)

    monkeypatch.setattr(generate, "_PriorSampler", Together)
    made = generate_priors(base, pictures, FEW, RunContext(tmp_path, CPU)).pictures.priors
    assert sizes == ([4] if batch == 4 else [3, 1]) and [s.caption for s in made] == [s.caption for s in uncut]
    for one, other in zip(made, uncut, strict=True):
        values = [np.asarray(load_picture(sample.image), np.int16) for sample in (one, other)]
        assert np.abs(values[0] - values[1]).max() <= 1 and values[0].std() > 5


def test_a_second_run_samples_nothing(base, pictures, tmp_path, request):
    first = generate_priors(base, pictures, FEW, RunContext(tmp_path, CPU)).pictures
    request.getfixturevalue("no_model")
    again = generate_priors(base, pictures, FEW, RunContext(tmp_path, CPU)).pictures
    assert again == first and again.key == first.key
    fewer = generate_priors(base, pictures, PriorSettings(count=2, steps=2, seed=3), RunContext(tmp_path, CPU)).pictures
    assert fewer.priors == first.priors[:2]
    assert generate_priors(base, again, FEW, RunContext(tmp_path, CPU)).pictures == again, "priors are not added twice"
    with pytest.raises(AssertionError, match="was opened"):
        generate_priors(base, pictures, PriorSettings(count=5, steps=2, seed=3), RunContext(tmp_path, CPU))


@pytest.mark.parametrize(
    "other",
    [{"steps": 3}, {"guidance": 2.0}, {"seed": 4}, {"width": 32}, {"height": 32}, {"prompts": ("a photo of {noun}",)}],
)
def test_each_setting_has_its_own_cache(base, other):
    assert PriorSettings(**other).key(base, "cat", CPU) != PriorSettings().key(base, "cat", CPU)
    assert PriorSettings(count=9, batch=2).key(base, "cat", CPU) == PriorSettings().key(base, "cat", CPU)
    assert PriorSettings().key(base, "dog", CPU) != PriorSettings().key(base, "cat", CPU)


def test_own_prompts_are_drawn_as_comfyui_reads_them_and_learned_as_words(base, tmp_path):
    """An embedding that is another one now gives other priors; captions hold neither weights nor names."""
    (tmp_path / "e").mkdir()
    settings = PriorSettings(prompts=("a (red:1.3) {noun}, embedding:x",), count=1, steps=1)
    keys = []
    for content in (None, b"one", b"other"):
        if content is not None:
            (tmp_path / "e" / "x.pt").write_bytes(content)
        keys.append(settings.key(base, "cat", CPU, (tmp_path / "e",)))
    assert len(set(keys)) == 3
    (tmp_path / "e" / "x.pt").unlink()
    context = RunContext(tmp_path / "priors", CPU, embedding_folders=(tmp_path / "e",))
    made = generate_priors(base, TrainingSet((), (Concept("sks", "cat"),)), settings, context)
    assert [sample.caption for sample in made.pictures.priors] == ["a red a cat"]


def test_the_key_holds_the_type_that_auto_becomes(base, monkeypatch):
    assert base.dtype == "auto"
    own = PriorSettings().key(base, "cat", CPU)
    monkeypatch.setattr(generate, "compute_dtype", lambda name, device: torch.float16)
    assert PriorSettings().key(base, "cat", CPU) != own


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from comfyui_fewshot.augmentation.priors import store as prior_store, generate as priors
from comfyui_fewshot.models.open import base_from_path
from comfyui_fewshot.core.values import Concept, TrainingSet
from comfyui_fewshot.core.context import RunContext

write, seen = prior_store.write_whole, []

def die_at_the_third_manifest(path, data):
    seen.append(path)
    if len(seen) == 3:
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    return write(path, data)

prior_store.write_whole = die_at_the_third_manifest
none = TrainingSet(samples=(), concepts=(Concept("sks", "cat"),))
settings = priors.PriorSettings(count=4, steps=2, seed=3)
context = priors.RunContext(Path(sys.argv[2]), torch.device("cpu"))
priors.generate_priors(base_from_path(Path(sys.argv[1])), none, settings, context)
"""


def test_resumes_after_a_kill(base, pictures, uncut, tmp_path, caplog):
    """The process dies when the third picture is on disk and the manifest does not name it yet."""
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(base.location), str(tmp_path)], capture_output=True, timeout=120, check=False
    )
    assert ended.returncode in (-getattr(signal, "SIGKILL", 9), signal.SIGTERM), ended.stderr.decode()[-2000:]
    (folder,) = [f for f in tmp_path.iterdir() if f.name != "pixels"]
    assert (folder / "00002.png").is_file() and len((folder / "manifest.jsonl").read_text().splitlines()) == 2
    with caplog.at_level(logging.INFO):
        assert generate_priors(base, pictures, FEW, RunContext(tmp_path, CPU)).pictures.priors == uncut
    assert "priors: 2 of 4 are in the cache" in caplog.text


def test_cancel_keeps_what_was_made(base, pictures, uncut, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        generate_priors(base, pictures, FEW, RunContext(tmp_path, CPU, Watching(stop_at=2)))
    progress = Watching()
    assert generate_priors(base, pictures, FEW, RunContext(tmp_path, CPU, progress)).pictures.priors == uncut
    assert sum(picture is not None for *_, picture in progress.seen) == 2


def test_damaged_entries_are_made_again(base, pictures, uncut, tmp_path, caplog):
    generate_priors(base, pictures, FEW, RunContext(tmp_path, CPU))
    (folder,) = [f for f in tmp_path.iterdir() if f.name != "pixels"]
    (folder / "00000.png").unlink()
    Image.new("RGB", (64, 64)).save(folder / "00001.png")
    manifest = folder / "manifest.jsonl"
    manifest.write_text(manifest.read_text()[:-30])
    progress = Watching()
    assert generate_priors(base, pictures, FEW, RunContext(tmp_path, CPU, progress)).pictures.priors == uncut
    assert sum(picture is not None for *_, picture in progress.seen) == 3
    assert sum("is made again" in r.getMessage() for r in caplog.records) == 3


def test_several_concepts_share_a_noun(base, tmp_path):
    concepts = (
        Concept("sks", "cat"),
        Concept("zwx", "car"),
        Concept("ohwx", "cat"),
        Concept("<R>", "", kind="relation"),
    )
    few = PriorSettings(count=2, steps=1, width=32, height=64)
    made = generate_priors(base, TrainingSet((), concepts), few, RunContext(tmp_path, CPU)).pictures
    assert [s.concept for s in made.priors] == [0, 0, 1, 1]
    assert (made.priors[0].image.width, made.priors[0].image.height) == (32, 64)


def test_own_prompts(base, pictures, tmp_path):
    own = PriorSettings(count=3, steps=1, prompts=("{noun} asleep", " ", "my {noun} in a car"))
    made = generate_priors(base, pictures, own, RunContext(tmp_path, CPU)).pictures
    assert {s.caption for s in made.priors} == {"a cat asleep", "my cat in a car"}
    with pytest.raises(FewShotError, match='holds the identifier "sks"'):
        generate_priors(base, pictures, PriorSettings(prompts=("a photo of SKS cat",)), RunContext(tmp_path, CPU))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"count": 0}, "count is 0; choose a value from 1"),
        ({"steps": 0}, "steps is 0"),
        ({"guidance": 0.5}, "guidance is 0.5"),
        ({"width": 100}, "width is 100; choose a multiple of 8, such as 104"),
    ],
)
def test_settings_refused(how, said):
    with pytest.raises(FewShotError, match=said):
        PriorSettings(**how)


def test_without_a_noun(base, tmp_path):
    relation = TrainingSet(samples=(), concepts=(Concept("<R>", "", kind="relation"),))
    with pytest.raises(FewShotError, match="no class noun"):
        generate_priors(base, relation, FEW, RunContext(tmp_path, CPU))


def without_numbers(monkeypatch, bad):
    """Let the picture of each of the seeds `bad` hold a NaN; the seeds that are asked for."""
    asked, real = [], generate.sample

    def drawn(model, prompts, seeds, *how):
        asked.extend(seeds)
        images = real(model, prompts, seeds, *how)
        for image, seed in zip(images, seeds, strict=True):
            if bad is None or seed in bad:
                image[0, 5, 5] = float("nan")
        return images

    monkeypatch.setattr(generate, "sample", drawn)
    return asked


def test_a_picture_without_numbers_is_rejected_and_not_tried_again(base, pictures, uncut, tmp_path, monkeypatch):
    bad = prior_prompts.seed_of(FEW.seed, 1)
    asked = without_numbers(monkeypatch, {bad})
    made = generate_priors(base, pictures, FEW, RunContext(tmp_path, CPU))
    assert [r.reason for r in made.rejected] == [generate.NAN_REASON] and made.drawn == 5
    assert [s for s in made.pictures.priors if s in uncut] == [uncut[0], *uncut[2:]] and len(made.pictures.priors) == 4
    assert asked.count(bad) == 1
    again = generate_priors(base, pictures, FEW, RunContext(tmp_path, CPU))
    assert again == PriorsResult(made.pictures, made.rejected, 0) and asked.count(bad) == 1
    more = generate_priors(base, pictures, replace(FEW, count=6), RunContext(tmp_path, CPU))
    assert len(more.pictures.priors) == 6 and asked.count(bad) == 1


def test_no_numbers_at_all(base, pictures, tmp_path, monkeypatch):
    asked = without_numbers(monkeypatch, None)
    with pytest.raises(FewShotError, match="none of 8 .*NaN.*float32"):
        generate_priors(base, pictures, replace(FEW, count=50, steps=1), RunContext(tmp_path, CPU))
    assert len(asked) == generate.MAX_NAN_PICTURES, "a base loaded in the wrong type is not sampled fifty times"
