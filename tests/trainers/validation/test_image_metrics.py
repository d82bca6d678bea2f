"""The fixed validation: its prompts, its cost, its scores, and training with it from end to end."""

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPModel

from comfyui_fewshot.core.context import RunContext
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.progress import NullProgress
from comfyui_fewshot.core.values import Concept, Sample
from comfyui_fewshot.models.adapters.lora_layers import LowRankLayer
from comfyui_fewshot.models.offload import Offloaded
from comfyui_fewshot.models.open import open_base
from comfyui_fewshot.models.sampling import SamplingOptions, sample
from comfyui_fewshot.tests.vision.embedders.test_clip_vision import in_comfy_names, tower
from comfyui_fewshot.trainers import run as training
from comfyui_fewshot.trainers.context import TrainingContext
from comfyui_fewshot.trainers.subject.method import train_subject
from comfyui_fewshot.trainers.subject.settings import SubjectSettings
from comfyui_fewshot.trainers.validation import image_metrics as validation
from comfyui_fewshot.trainers.validation.image_metrics import (
    CHANGES,
    PLACES,
    Validation,
    Validator,
    held_out_prompts,
    mean_pairwise_cosine,
    sample_pictures,
    validation_interval,
)
from comfyui_fewshot.vision.memory import embedding_bytes, vision_tower_bytes

SEEN = dict(validate_every=2, validation_pictures=3)


@pytest.fixture(scope="module")
def validator(clip_folder):
    return Validator(clip_folder)


@pytest.fixture(scope="module")
def validated(base, pictures, settings, validator):
    def run(folder, progress=None, chooser=validator, **changes):
        chosen = replace(settings, **(SEEN | changes))
        return train_subject(
            base,
            pictures,
            chosen,
            TrainingContext(folder, "cpu", progress or NullProgress(), name="subject", validator=chooser),
        )

    return run


@pytest.fixture(scope="module")
def whole(validated, tmp_path_factory):
    return validated(tmp_path_factory.mktemp("validated"))


# ---------------------------------------------------------------------------------------------------------- prompts


def test_prompts_are_held_out_and_stripped(pictures):
    captioned = replace(pictures.samples[0], caption="a photo of a sks ball in the snow, wearing a hat")
    prompts = held_out_prompts(pictures.with_samples((captioned, *pictures.samples[1:])), 6)
    texts = [prompt.text for prompt, _ in prompts]
    assert texts[:2] == ["a photo of a sks ball on the beach", "a photo of a sks ball with a balloon"]
    assert not any("snow" in text or "hat" in text for text in texts) and len(set(texts)) == 6
    assert [prompt.stripped for prompt, _ in prompts[:1]] == ["a photo of a ball on the beach"]
    assert all(prompt.split == "held-out" for prompt, _ in prompts)


def test_words_the_base_does_not_know_are_left_out(pictures):
    prompts = held_out_prompts(pictures, 40, known=lambda phrase: phrase in ("at night", "wearing a hat"))
    assert len({prompt.text for prompt, _ in prompts}) == 2 and len(prompts) == 40
    assert {prompt.stripped.removeprefix("a photo of a ball ") for prompt, _ in prompts} == {
        "at night",
        "wearing a hat",
    }


def test_subjects_take_turns(pictures):
    both = replace(pictures, concepts=(Concept("sks", "ball"), Concept("zwx", "owl", "old")))
    prompts = held_out_prompts(both, 4)
    assert [concept for _, concept in prompts] == [0, 1, 0, 1]
    assert prompts[1][0].text == f"a photo of a zwx old owl {PLACES[0]}"
    assert prompts[1][0].stripped == f"a photo of an old owl {PLACES[0]}"
    assert prompts[2][0].text.endswith(CHANGES[0])


def test_own_prompts(pictures):
    texts = [p.text for p, _ in held_out_prompts(pictures, 3, own="a {trigger} in space | two cups")]
    assert texts == ["a sks ball in space", "two cups", "a sks ball in space"]


# ------------------------------------------------------------------------------------------------------------- cost


def test_the_interval_spends_a_quarter():
    chosen = SubjectSettings(steps=1000, batch_size=4, validation_pictures=8)
    once = 8 * 16 * 2
    trained = 1000 * 8 * 3
    assert validation_interval(chosen, 8) == 84  # 12, which cost less than a quarter of 24 000
    assert validation_interval(chosen, 2) == -(-1000 // int(0.25 * trained / 4 / once)) == 200
    assert validation_interval(replace(chosen, steps=50), 2) == 17  # three at least
    assert validation_interval(replace(chosen, validate_every=70), 2) == 70
    assert validation_interval(replace(chosen, steps=1), 1) == 1


def test_mutual_likeness():
    assert mean_pairwise_cosine(torch.tensor([[1.0, 0.0]])) == 1.0
    three = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    assert mean_pairwise_cosine(three) == pytest.approx((0.0 + 0.6 + 0.8) / 3)


# ----------------------------------------------------------------------------------------------------------- scores


@pytest.fixture
def look(model, pictures, settings, validator, tmp_path):
    chosen = replace(settings, resolution=32, micro_batch=4, validation_pictures=3)
    return Validation(model, pictures, chosen, validator, RunContext(tmp_path, "cpu"))


def test_scores_are_mean_cosines(look):
    images = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue")]
    subject, prompt, unrelated = look.score(images)
    seen = look.clip.images(images).double()
    texts = look.clip.texts([p.stripped for p in look.prompts]).double()
    references = look.references[0].double()
    assert subject == pytest.approx((seen @ references.T).mean().item(), abs=1e-5)
    fits = [[float(a @ b) for b in texts] for a in seen]
    assert prompt == pytest.approx(sum(fits[i][i] for i in range(3)) / 3, abs=1e-5)
    assert unrelated == pytest.approx(sum(fits[i][j] for i in range(3) for j in range(3) if i != j) / 6, abs=1e-5)
    assert look.likeness == pytest.approx(mean_pairwise_cosine(look.references[0]))


def test_the_same_weights_are_seen_the_same(look):
    assert look(4) == look(6)
    assert sorted(path.name for path in look.folder.iterdir()) == ["validation_00000004.png", "validation_00000006.png"]


def test_pictures_that_cannot_be_kept_harm_nothing(look, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    kept = look(2)
    monkeypatch.setattr(Image.Image, "save", full)
    assert look(4) == kept and "after step 4 could not be kept: [Errno 28] No space left" in caplog.text


def test_many_references_are_thinned(model, pictures, settings, validator, tmp_path):
    many = pictures.with_samples(pictures.references * 167)
    assert len(many.samples) > 500
    chosen = replace(settings, resolution=32, validation_pictures=2)
    found = Validation(model, many, chosen, validator, RunContext(tmp_path, "cpu")).references[0]
    assert 16 <= len(found) <= validation.MOST_REFERENCES


def test_one_picture_validates(model, pictures, settings, validator, tmp_path):
    one = pictures.with_samples(pictures.references[:1])
    chosen = replace(settings, resolution=32, validation_pictures=2)
    assert Validation(model, one, chosen, validator, RunContext(tmp_path, "cpu")).likeness == 1.0


# --------------------------------------------------------------------------------------------------- from end to end


def test_a_validated_run(whole, uncut):
    assert whole.losses == uncut.losses  # looking changes nothing
    assert [point.step for point in whole.validation.points] == [0, 2, 4, 6, 8]
    best = whole.validation.best
    assert whole.chosen == (best.step if best else 8)
    assert whole.adapter.metadata["ss_steps"] == str(whole.chosen)
    names = {path.name for path in whole.folder.rglob("validation_*.png")}
    assert names == {f"validation_{step:08d}.png" for step in (0, 2, 4, 6, 8)}
    page = (whole.folder / "report.html").read_text()
    assert "Which step is best" in page and "Drawn with it" in page
    kept = json.loads((whole.folder / "result.json").read_text())
    assert kept["chosen"] == whole.chosen and kept["validation"]["step"] == [0, 2, 4, 6, 8]


def test_it_is_found_again_whole(whole, validated, monkeypatch):
    monkeypatch.setattr(training, "opened", None)
    again = validated(whole.folder.parent)
    assert again.adapter.key == whole.adapter.key
    assert (again.chosen, again.validation) == (whole.chosen, whole.validation)


@pytest.mark.parametrize("step", [2, 5])
def test_a_cut_run_ends_bit_for_bit_as_the_uncut_one(whole, validated, tmp_path, cut_at, step):
    with pytest.raises(BaseException, match="cancelled"):
        validated(tmp_path, cut_at(step, BaseException("cancelled")))
    assert list(tmp_path.rglob("subject_step_*.safetensors"))
    again = validated(tmp_path)
    assert again.adapter.key == whole.adapter.key and again.losses == whole.losses
    assert (again.chosen, again.validation) == (whole.chosen, whole.validation)


def test_a_validation_that_fails_harms_nothing(uncut, validated, tmp_path, monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError("no memory")

    monkeypatch.setattr(validation, "sample_pictures", broken)
    result = validated(tmp_path)
    assert result.adapter.key == uncut.adapter.key and result.chosen == 8
    assert "the validation after step 2 failed and does not count: no memory" in caplog.text
    assert "no validation saw a gain" in caplog.text


def test_validated_steps_are_kept_if_asked_for(whole, validated, tmp_path):
    from comfyui_fewshot.models.adapters.formats import read_lora

    result = validated(tmp_path, keep_validated=True)
    assert result.adapter.key == whole.adapter.key
    files = sorted((result.folder / "validated").iterdir())
    assert [path.stem[-8:] for path in files] == ["00000000", "00000002", "00000004", "00000006", "00000008"]
    kept, name = read_lora(files[result.chosen // 2]), next(iter(result.adapter.factors))
    assert torch.allclose(kept.factors[name].up, result.adapter.factors[name].up, atol=1e-3)
    assert kept.metadata["ss_steps"] == str(result.chosen)


@pytest.mark.parametrize("changes", [dict(optimizer="schedule_free"), dict(parameter_set="none")])
def test_what_is_drawn_is_what_is_returned(validated, tmp_path, monkeypatch, changes):
    """Validations and previews see the weights that are to be used (averages, too) and the word as it is then."""
    seen = {"validation": [], "preview": []}

    def watched(kind, draw):
        def drawing(model, *given, **how):
            hooks = (hook for module in model.unet.modules() for hook in module._forward_hooks.values())
            updates = [update for hook in hooks if isinstance(update := getattr(hook, "__self__", None), LowRankLayer)]
            layers = [part.detach().clone() for update in updates for part in (update.down, update.up)]
            seen[kind].append((model.learned_tokens["sks"]["clip_l"].detach().clone(), layers))
            return draw(model, *given, **how)

        return drawing

    monkeypatch.setattr(validation, "sample_pictures", watched("validation", validation.sample_pictures))
    monkeypatch.setattr(training, "sample_pictures", watched("preview", training.sample_pictures))
    learned = dict(token="free", token_learning_rate=0.05)
    result = validated(tmp_path, preview_every=2, **learned, **changes)
    assert len(seen["validation"]) == 5 and len(seen["preview"]) == 4
    word, layers = seen["validation"][result.chosen // 2]
    assert torch.equal(result.adapter.embeddings["sks"]["clip_l"], word)
    kept = [part for factor in result.adapter.factors.values() for part in (factor.down, factor.up)]
    assert len(kept) == len(layers) and bool(layers) == ("optimizer" in changes)
    assert {t.sum().item() for t in kept} == {t.sum().item() for t in layers}
    for (one, of), (other, beside) in zip(seen["validation"][1:], seen["preview"], strict=True):
        assert torch.equal(one, other) and all(torch.equal(a, b) for a, b in zip(of, beside, strict=True))
    assert not torch.equal(seen["preview"][0][0], seen["preview"][1][0])


def test_off_is_off_and_says_so(uncut, validated, tmp_path, caplog):
    caplog.set_level("INFO")
    result = validated(tmp_path, validate_every=0)
    assert result.adapter.key == uncut.adapter.key and result.validation is None and result.chosen == 8
    assert "no model validates: the weights after the last step are returned" in caplog.text


def test_what_chooses_belongs_to_the_key(base, pictures, settings, validator, clip_folder, tmp_path):
    from comfyui_fewshot.trainers.subject.method import SubjectTraining

    keys = [
        training.run_key(SubjectTraining(), base, pictures, settings, None, chooser)
        for chooser in (None, validator, Validator(clip_folder, clip_folder))
    ]
    assert len(set(keys)) == 3


def test_a_folder_without_a_clip_is_refused_before_training(validated, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FewShotError, match="there is no CLIP in"):
        validated(tmp_path / "runs", chooser=Validator(tmp_path / "empty"))


def test_a_reference_of_another_subject_is_not_compared_with(model, pictures, settings, validator, tmp_path):
    second = tuple(Sample(s.image, "a photo of zwx owl", concept=1) for s in pictures.references[:1])
    both = replace(pictures, samples=pictures.references + second, concepts=(*pictures.concepts, Concept("zwx", "owl")))
    chosen = replace(settings, resolution=32, validation_pictures=2)
    found = Validation(model, both, chosen, validator, RunContext(tmp_path, "cpu")).references
    assert {concept: len(rows) for concept, rows in found.items()} == {0: 3, 1: 1}


def test_only_the_autoencoder_is_awake_to_decode(base):
    """What rests is told apart by what each part's device was; pictures are those that `sample` draws."""
    on_device, offloaded = [], None

    class Watched(torch.nn.Identity):
        def to(self, device):
            self.place = str(device)
            return self

    with open_base(base, "cpu") as model:
        parts = [Watched(), Watched()]
        offloaded = Offloaded(parts, torch.device("cuda"))
        drawn = ["a ball", "a cup"], [1, 2]

        @contextmanager
        def context(*needed):
            with offloaded.on_device(*(parts[:1] if needed else ())):
                assert not needed or needed == (model.vae,)
                on_device.append([part.place for part in parts])
                yield

        offloaded.offload()
        found = sample_pictures(model, context, *drawn, SamplingOptions(32, 32, 2, 5.0, batch=1))
        same = sample(model, *drawn, SamplingOptions(32, 32, 2, 5.0, batch=1))
    assert on_device == [["cuda", "cuda"], ["cuda", "cpu"]] and [part.place for part in parts] == ["cpu", "cpu"]
    assert torch.equal(found, same)


def test_what_models_take_is_read_from_their_headers(clip_folder):
    """Their numbers in fp32, whatever they are kept in; and more while they look at pictures."""
    model = CLIPModel.from_pretrained(clip_folder)
    assert Validator(clip_folder).bytes == 4 * sum(p.numel() for p in model.parameters())
    model.half().save_pretrained(clip_folder / "half")
    assert Validator(clip_folder / "half").bytes == Validator(clip_folder).bytes
    assert Validator(clip_folder).resident - Validator(clip_folder).bytes == embedding_bytes(clip_folder)
    assert embedding_bytes(clip_folder) == vision_tower_bytes(32, 64, 32, 8)


def test_a_vision_tower_in_a_file_sees_the_likeness(validated, validator, clip_folder, tmp_path):
    """The CLIP still tells how prompts are followed; another file's content is another key."""
    file = tmp_path / "clip_vision_x.safetensors"
    save_file(in_comfy_names(tower(24)), file)
    both = Validator(clip_folder, file)
    result = validated(tmp_path / "runs", chooser=both)
    alone = validated(tmp_path / "runs")
    first, other = result.validation.points[0], alone.validation.points[0]
    assert (first.prompt, first.unrelated) == (other.prompt, other.unrelated) and first.subject != other.subject
    assert both.bytes > validator.bytes and both.key != validator.key
    key = both.key
    save_file(in_comfy_names(tower(32)), file)
    assert Validator(clip_folder, file).key != key
