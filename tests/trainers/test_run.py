"""Training from end to end on a tiny base: results, resume, cancel, keys, bad input."""

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image

from comfyui_fewshot.core import atomic
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.progress import NullProgress
from comfyui_fewshot.core.values import Sample
from comfyui_fewshot.evaluation.report.provenance import provenance
from comfyui_fewshot.models.adapters import formats
from comfyui_fewshot.trainers import run as training
from comfyui_fewshot.trainers.subject import method as subject
from comfyui_fewshot.trainers.subject.settings import SubjectSettings

# The first three steps of the run of conftest.py, recorded in float32 on x86 with torch 2.11 (reference, prior).
GOLDEN = {"reference": (1.113164, 1.058462, 1.217240), "prior": (1.010264, 1.122432, 1.089110)}

GOLDEN_DEFAULT = {"reference": (1.113164, 1.058299, 1.216497), "prior": (1.010264, 1.122245, 1.088625)}
"""the same with the feed-forward layers, which the default trains too"""


def test_golden_losses(uncut):
    for name, values in GOLDEN.items():
        assert uncut.terms[name][:3] == pytest.approx(values, rel=1e-4), name
    assert uncut.losses[0] == pytest.approx(uncut.terms["reference"][0] + uncut.terms["prior"][0], rel=1e-6)


def test_golden_losses_of_the_default_layers(train, tmp_path):
    found = train(tmp_path, parameter_set=SubjectSettings().parameter_set)
    for name, values in GOLDEN_DEFAULT.items():
        assert found.terms[name][:3] == pytest.approx(values, rel=1e-4), name


def test_a_run_leaves_its_folder(uncut):
    names = {path.relative_to(uncut.folder).as_posix() for path in uncut.folder.rglob("*") if path.is_file()}
    assert names == {
        "settings.json", "log.jsonl", "result.json", "subject.safetensors", "checkpoints/adapter.safetensors",
        "checkpoints/state_00000006.safetensors", "checkpoints/state_00000008.safetensors",
    }  # fmt: skip
    about = json.loads((uncut.folder / "settings.json").read_text())
    assert about["inputs"]["settings"]["steps"] == 8 and about["inputs"]["chosen"]["alpha"] == 4.0
    assert about["inputs"]["pictures"]["samples"][0]["caption"] and about["versions"]["torch"]
    steps = [json.loads(line)["step"] for line in (uncut.folder / "log.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6, 8]


def test_the_lora_says_what_it_is(uncut, base):
    adapter = formats.read_lora(uncut.lora)
    assert adapter.trigger == uncut.adapter.trigger == "sks ball"
    assert set(adapter.factors) == set(uncut.adapter.factors)
    assert adapter.metadata["ss_num_train_images"] == "3" and adapter.metadata["ss_learning_rate"] == "0.001"
    said = provenance(adapter)
    assert said.complete and said.stated["base"] == f"{base.name} ({base.key[:8]})" and said.stated["steps"] == "8"


def test_a_finished_run_is_returned(train, uncut, monkeypatch):
    monkeypatch.setattr(training, "opened", None)  # it is not even opened
    again = train(uncut.folder.parent, name="other", save_every=1, log_every=1, preview_every=1)
    assert again.adapter.key == uncut.adapter.key and again.losses == uncut.losses and again.terms == uncut.terms
    assert again.folder == uncut.folder and again.resumed_from == 8


@pytest.mark.parametrize("text", ["[]", '{"key": "x"}', "{"])
def test_a_result_of_another_form_is_trained_again(train, tmp_path, caplog, text):
    first = train(tmp_path, steps=1)
    (first.folder / "result.json").write_text(text)
    again = train(tmp_path, steps=1)
    assert "cannot be read and is trained again" in caplog.text and again.adapter.key == first.adapter.key


def test_a_broken_result_is_trained_again(train, tmp_path, caplog):
    first = train(tmp_path, steps=2)
    (first.folder / "checkpoints" / "adapter.safetensors").write_bytes(b"torn")
    again = train(tmp_path, steps=2)
    assert again.adapter.key == first.adapter.key and "is trained again" in caplog.text


def test_values_matter_and_names_do_not(base, pictures, settings):
    method = subject.SubjectTraining()

    def key(base=base, pictures=pictures, start=None, method=method, **changes):
        return training.run_key(method, base, pictures, replace(settings, **changes), start)

    plain = key()
    moved = pictures.samples[0]
    moved = replace(moved, image=replace(moved.image, path=moved.image.path.with_name("other.png")))
    assert key(pictures=pictures.with_samples((moved, *pictures.samples[1:]))) == plain
    assert key(log_every=9, preview_every=3, save_every=5, micro_batch=1) == plain
    assert key(seed=6) != plain and key(steps=9) != plain
    assert key(base=replace(base, dtype="bfloat16")) != plain and key(base=replace(base, clip_skip=2)) != plain
    worded = (replace(pictures.samples[0], caption="other"), *pictures.samples[1:])
    assert key(pictures=pictures.with_samples(worded)) != plain
    newer = subject.SubjectTraining()
    newer.revision += 1
    assert key(method=newer) != plain


@pytest.mark.parametrize("step", [1, 3, 5, 7])
def test_cancel_keeps_what_was_learned_and_the_next_call_ends_as_uncut(train, uncut, tmp_path, cut_at, step):
    with pytest.raises(BaseException, match="cancelled"):
        train(tmp_path, cut_at(step, BaseException("cancelled")))
    (part,) = tmp_path.rglob(f"subject_step_{step:08d}.safetensors")
    assert formats.read_lora(part).factors.keys() == uncut.adapter.factors.keys()
    again = train(tmp_path, name="renamed")
    assert again.adapter.key == uncut.adapter.key and again.losses == uncut.losses
    assert again.resumed_from == step and again.folder.name.startswith("subject_")
    assert not list(tmp_path.rglob("*_step_*")) and (again.folder / "subject.safetensors").exists()
    steps = [json.loads(line)["step"] for line in (again.folder / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 8


def test_several_cuts(train, uncut, tmp_path, cut_at):
    for step in (2, 4, 6):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, cut_at(step, KeyboardInterrupt()))
    assert train(tmp_path).adapter.key == uncut.adapter.key


def test_cancel_before_the_first_step_leaves_no_lora(train, tmp_path):
    class Never(NullProgress):
        def check(self):
            raise BaseException("cancelled")

    with pytest.raises(BaseException, match="cancelled"):
        train(tmp_path, Never())
    assert not list(tmp_path.rglob("*.safetensors"))


KILLED = """
import json, os, signal, sys
from pathlib import Path
from comfyui_fewshot.augmentation.images.load import subject_from_folder
from comfyui_fewshot.models.open import base_from_path
from comfyui_fewshot.core.progress import NullProgress
from comfyui_fewshot.trainers.context import TrainingContext
from comfyui_fewshot.trainers.subject.settings import SubjectSettings
from comfyui_fewshot.trainers.subject.method import train_subject

class Killed(NullProgress):
    def report(self, done, total, text="", picture=None, metrics=None):
        if total == 8 and done == 5:
            os.kill(os.getpid(), signal.SIGKILL)

base, folder, runs, values = sys.argv[1:]
pictures = subject_from_folder(Path(folder), "sks", "ball")
settings = SubjectSettings.from_mapping(json.loads(values))
train_subject(base_from_path(Path(base)), pictures, settings, TrainingContext(Path(runs), "cpu", Killed()))
"""


def test_a_killed_run_goes_on_from_its_last_state(
    train, base_folder, picture_folder, pictures, settings, uncut_references, tmp_path
):
    values = {
        name: getattr(settings, name)
        for name in "steps learning_rate rank batch_size warmup seed parameter_set token local_weight".split()
    }
    values |= {"save_every": 3}
    command = [sys.executable, "-c", KILLED, str(base_folder), str(picture_folder), str(tmp_path), json.dumps(values)]
    killed = subprocess.run(command, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [p.name for p in tmp_path.rglob("state_*")] == ["state_00000003.safetensors"]
    again = train(tmp_path, set_=pictures.with_samples(pictures.references))
    assert again.resumed_from == 3 and again.adapter.key == uncut_references.adapter.key


@pytest.fixture(scope="module")
def uncut_references(train, pictures, tmp_path_factory):
    """The plain run without priors."""
    return train(tmp_path_factory.mktemp("references"), set_=pictures.with_samples(pictures.references))


def test_a_prior_weight_of_zero_is_bitwise_the_same_as_no_priors(train, uncut_references, tmp_path):
    zero = train(tmp_path, prior_weight=0.0)
    assert zero.adapter.key == uncut_references.adapter.key
    assert zero.losses == uncut_references.losses and set(zero.terms) == {"reference"}


def test_a_host_in_inference_mode(train, uncut, tmp_path):
    with torch.inference_mode():
        result = train(tmp_path)
        assert torch.is_inference_mode_enabled() and not torch.is_grad_enabled()
    assert result.adapter.key == uncut.adapter.key
    assert not any(factor.up.is_inference() for factor in result.adapter.factors.values())


def test_training_on_from_an_adapter(train, uncut, tmp_path):
    """Also from one whose tensors a host made in inference mode."""
    with torch.inference_mode():
        factors = {name: replace(f, up=f.up.clone(), down=f.down.clone()) for name, f in uncut.adapter.factors.items()}
        start = replace(uncut.adapter, factors=factors)
        on = train(tmp_path, start_from=start, steps=2)
    assert on.adapter.key != uncut.adapter.key
    name = next(iter(uncut.adapter.factors))
    moved = (on.adapter.factors[name].up - uncut.adapter.factors[name].up).abs().max()
    assert 0 < moved <= 2.1e-3


def test_global_state_is_left_alone(train, tmp_path):
    state, threads, environment = torch.random.get_rng_state(), torch.get_num_threads(), dict(os.environ)
    train(tmp_path, steps=2)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.get_num_threads() == threads and dict(os.environ) == environment
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    "changes",
    [
        dict(gradient_checkpointing="on"),
        dict(micro_batch=1),
        dict(offload="on", preview_every=4),
        dict(preview_every=2, save_every=1, log_every=1),
    ],
)
def test_what_should_not_matter_does_not(train, uncut, tmp_path, changes):
    result = train(tmp_path, **changes)
    exact = "micro_batch" not in changes
    assert result.losses == pytest.approx(uncut.losses, abs=0 if exact else 1e-4)
    assert result.adapter.key == uncut.adapter.key or not exact


@pytest.mark.parametrize("checkpointing", ["off", "on"])
def test_frozen_weights_in_8_bits_learn_nearly_the_same(train, uncut, tmp_path, checkpointing):
    result = train(tmp_path, weights="float8", gradient_checkpointing=checkpointing)
    assert result.losses == pytest.approx(uncut.losses, rel=0.05) and result.losses != uncut.losses
    name = next(iter(result.adapter.factors))
    pairs = [(result.adapter.factors[name], uncut.adapter.factors[name])]
    small, wide = ((f.up @ f.down).flatten() for f in pairs[0])
    assert torch.nn.functional.cosine_similarity(small, wide, dim=0) > 0.8


def test_previews_are_written_and_shown(train, tmp_path):
    class Seeing(NullProgress):
        pictures = []

        def report(self, done, total, text="", picture=None, metrics=None):
            if picture is not None:
                self.pictures.append((done, picture))

    result = train(tmp_path, Seeing(), steps=4, preview_every=2)
    files = sorted((result.folder / "samples").iterdir())
    assert [path.name for path in files] == ["step_00000002.png", "step_00000004.png"]
    assert Image.open(files[0]).size == (32, 32) and [done for done, _ in Seeing.pictures] == [2, 4]


def test_a_preview_that_fails_harms_nothing(train, uncut, tmp_path, monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError("no memory")

    monkeypatch.setattr(training, "sample_pictures", broken)
    assert train(tmp_path, preview_every=4).adapter.key == uncut.adapter.key
    assert "no preview at step 4: no memory" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        dict(text_encoder=True, text_learning_rate=1e-3),
        dict(schedule="cosine", min_snr_gamma=5.0, background_weight=0.2, noise_offset=0.05),
        dict(parameter_set="cross_kv"),
        dict(parameter_set="attention_ff", resolution=48),
    ],
)
def test_other_settings_train_too(train, tmp_path, changes):
    result = train(tmp_path, steps=2, **changes)
    assert all(torch.isfinite(torch.tensor(result.losses)))
    moved = {name for name, factor in result.adapter.factors.items() if factor.up.abs().max() > 0}
    assert moved == set(result.adapter.factors)
    assert any(name.startswith("text_encoder.text_model.") for name in moved) == ("text_encoder" in changes)


def test_divergence_keeps_the_last_good_lora(train, tmp_path, monkeypatch):
    real = subject.SubjectStep.errors
    calls = []

    def breaking(self, term, *args):
        calls.extend([term] * (term == subject.REFERENCE))
        return real(self, term, *args) * (float("inf") if len(calls) == 5 else 1.0)

    monkeypatch.setattr(subject.SubjectStep, "errors", breaking)
    with pytest.raises(FewShotError, match="diverged at step 5 of 8 .*Lower the learning rate.*subject_step_00000004"):
        train(tmp_path)
    assert [path.name for path in tmp_path.rglob("*_step_*.safetensors")] == ["subject_step_00000004.safetensors"]


def test_a_full_disk_is_told_and_leaves_nothing_half_written(train, uncut, tmp_path, monkeypatch):
    real = os.replace

    def full(source, target):
        if "state_00000006" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "replace", full)
        with pytest.raises(FewShotError, match="No space left on device"):
            train(tmp_path)
    assert [path.name for path in tmp_path.rglob("state_*")] == ["state_00000003.safetensors"]
    assert not list(tmp_path.rglob(".*"))
    assert train(tmp_path).adapter.key == uncut.adapter.key


def test_bad_input_is_told(train, pictures, tmp_path):
    with pytest.raises(FewShotError, match="no reference pictures"):
        train(tmp_path, set_=pictures.with_samples(pictures.priors))
    with pytest.raises(FewShotError, match="resolution is 36, but this base takes multiples of 8 pixels"):
        train(tmp_path, resolution=36)
    with pytest.raises(FewShotError, match="a run cannot be named '../x'"):
        train(tmp_path, name="../x")
    assert not list(tmp_path.iterdir())


def test_a_picture_that_is_gone_is_named(train, pictures, tmp_path):
    image = replace(pictures.samples[0].image, path=tmp_path / "gone.png")
    gone = pictures.with_samples((Sample(image, "a photo of sks ball"),))
    with pytest.raises(FewShotError, match="gone.png"):
        train(tmp_path / "runs", set_=gone)


def test_defaults_resolve_to_a_whole_run(train, tmp_path):
    result = train(tmp_path, **vars(SubjectSettings(steps=2)))
    chosen = json.loads((result.folder / "settings.json").read_text())["inputs"]["chosen"]
    assert (chosen["resolution"], chosen["batch_size"], chosen["learning_rate"]) == (32, 4, 1e-3)


def test_words_that_captions_write_otherwise_are_another_run(pictures):
    assert not training.written_otherwise(pictures)
    samples = tuple(replace(sample, caption=sample.caption.upper()) for sample in pictures.samples)
    assert training.written_otherwise(pictures.with_samples(samples))
