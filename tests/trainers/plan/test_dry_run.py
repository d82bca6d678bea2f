"""The dry run tells what training then does, for any set of pictures, and leaves nothing behind."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from comfyui_fewshot.augmentation.images.load import picture_of
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.images import pixel_key
from comfyui_fewshot.core.progress import NullProgress
from comfyui_fewshot.core.values import Concept, Sample
from comfyui_fewshot.models.open import open_base
from comfyui_fewshot.trainers.auto import inputs
from comfyui_fewshot.trainers.context import TrainingContext
from comfyui_fewshot.trainers.plan import dry_run as planning
from comfyui_fewshot.trainers.plan.dry_run import plan_training
from comfyui_fewshot.trainers.plan.forecast import MemoryDemand
from comfyui_fewshot.trainers.plan.report import crops, described, draws_per_image
from comfyui_fewshot.trainers.subject.settings import SubjectSettings

NOWHERE = TrainingContext(Path("nowhere"), "cpu")  # a plan writes nothing


@pytest.fixture(scope="module")
def plan(base, pictures, settings):
    def run(set_=None, timed=0, **changes):
        return plan_training(base, set_ or pictures, replace(settings, **changes), NOWHERE, timed=timed)

    return run


@pytest.fixture(scope="module")
def sized(tmp_path_factory, pictures):
    """Pictures of given sizes."""
    folder = tmp_path_factory.mktemp("sized")

    def make(*sizes, caption="a photo of sks ball"):
        samples = []
        for i, size in enumerate(sizes):
            path = folder / f"{size[0]}x{size[1]}_{i}.png"
            if not path.exists():
                Image.new("RGB", size, (i % 7 * 30, 80 + i // 7, 90)).save(path)
            samples.append(Sample(picture_of(path), caption))
        return pictures.with_samples(tuple(samples))

    return make


def test_without_timing_no_weights_are_read(plan, monkeypatch):
    seen = []
    real = planning.opened

    def opened(ref, device, *rest, **more):
        seen.append(torch.device(device).type)
        return real(ref, device, *rest, **more)

    monkeypatch.setattr(planning, "opened", opened)
    text = described(plan())
    assert seen == ["meta"] and "time: no step was timed" in text
    assert "GPU memory" not in text and "host memory (estimated): " in text


def test_steps_are_timed_as_they_will_be_taken(base, pictures, settings):
    """With weights in 8 bits, where training takes them."""
    chosen = replace(settings, weights="float8", offload="on", resolution=32, alpha=4.0, micro_batch=8)
    with open_base(base, "cpu") as model:
        before = {weight.dtype for weight in model.unet.parameters()}
        found = planning.time_steps(model, pictures, chosen, NullProgress(), 1)
        after = {weight.dtype for weight in [*model.unet.buffers(), *model.unet.parameters()]}
    assert before == {torch.float32} and torch.float8_e4m3fn in after and found.seconds > 0


def test_steps_are_timed_from_an_adapter(plan, uncut, base, pictures, settings):
    """One that fits is taken up; one that does not is refused as in the training."""
    chosen = replace(settings, resolution=32)
    found = plan_training(base, pictures, chosen, NOWHERE, uncut.adapter, timed=1)
    assert found.timing is not None and found.timing.steps == 1
    with pytest.raises(FewShotError, match="has rank 4"):
        plan_training(base, pictures, replace(chosen, rank=2), NOWHERE, uncut.adapter, timed=1)


@pytest.fixture
def poorly_masked(pictures, tmp_path):
    """Four pictures that the attention loss cannot use, each for another reason, and after them one that it can."""
    Image.new("L", (40, 36)).save(tmp_path / "black_mask.png")
    good, mask = pictures.references[0], Image.open(tmp_path / "black_mask.png")
    black = replace(good.mask, path=tmp_path / "black_mask.png", key=pixel_key(mask))
    poor = (
        replace(good, mask=None),
        replace(good, mask=black),
        replace(good, caption="sks ball"),
        replace(pictures.references[1], mask=None),
    )
    return pictures.with_samples((*poor, good, *pictures.priors))


def test_pictures_without_a_usable_mask_do_not_stop_a_plan_that_trains(plan, train, poorly_masked, tmp_path, caplog):
    found = plan(poorly_masked, timed=1, local_weight=0.05)
    assert found.timing is not None and "3 of 4 pictures have no mask" in caplog.text
    trained = train(tmp_path, set_=poorly_masked, steps=1, local_weight=0.05)
    assert "local" in trained.terms and "4 of 5 pictures have no mask" in caplog.text
    none = poorly_masked.with_samples(poorly_masked.references[:4])
    with pytest.raises(FewShotError, match="local_weight needs masks"):
        plan(none, timed=1, local_weight=0.05)
    with pytest.raises(FewShotError, match="local_weight needs masks"):  # also where no step is timed
        plan(none, timed=0, local_weight=0.05)
    plan(none, timed=0, local_weight=0.0)


def test_steps_are_timed_with_a_picture_of_each_subject(model, pictures, poorly_masked, settings):
    """The first that the attention loss can use, where it is computed; a caption without its identifier is mended."""
    concepts = tuple(Concept(f"sks{n}", "ball") for n in range(6))
    bare = replace(pictures.references[0], mask=None, caption="a photo of a ball")
    masked = replace(pictures.references[1], caption="a ball on a hill")
    many = [replace(one, concept=n) for n in range(6) for one in (bare, masked)]
    sets = replace(pictures, concepts=concepts, samples=(*many, *pictures.priors))
    for weight, each in ((0.05, masked), (0.0, bare)):
        few = planning.timing_subset(model, sets, replace(settings, local_weight=weight))
        assert few.references == tuple(replace(each, concept=n) for n in range(6))
        assert few.priors == pictures.priors
    few = planning.timing_subset(model, poorly_masked, replace(settings, local_weight=0.0))
    assert few.references == poorly_masked.references[:4]


def test_it_says_what_training_chooses(plan, train, uncut):
    import json

    found = plan()
    chosen = json.loads((uncut.folder / "settings.json").read_text())["inputs"]["chosen"]
    assert vars(found.chosen) == chosen
    trained = sum(f.up.numel() + f.down.numel() for f in uncut.adapter.factors.values())
    assert found.trainable_parameters == trained and f"trained: {trained / 1e6:.2f} M numbers" in described(found)
    assert plan(text_encoder=True).trainable_parameters > trained


def test_steps_are_timed_and_nothing_stays(plan, base, uncut, train, tmp_path):
    found = plan(timed=2)
    assert found.timing.seconds > 0 and found.timing.steps == 2 and found.timing.peak is None
    assert found.seconds == pytest.approx(found.timing.seconds * 8)
    assert "s a step (measured over 2 on cpu)" in described(found) and "in all (estimated)" in described(found)
    assert train(tmp_path).adapter.key == uncut.adapter.key


def test_each_picture_is_seen_as_often_as_it_says(plan, pictures):
    """Three references with weights 1, 1 and 2 in 100 steps of 2, counted from the draws themselves."""
    from comfyui_fewshot.core.randomness import Randomness

    heavy = (*pictures.references[:2], replace(pictures.references[2], weight=2.0))
    found = plan(pictures.with_samples(heavy + pictures.priors), steps=100)
    assert [one.draws for one in found.references] == [50, 50, 100] and found.prior_draws == 50
    draws = [Randomness(5).choose("reference/picture", i, [1, 1, 2]) for i in range(200)]
    assert [draws.count(i) for i in range(3)] == pytest.approx([50, 50, 100], abs=2)


def test_mixed_sizes(plan, sized):
    found = plan(sized((40, 36), (40, 36), (64, 48), (20, 16)))
    text = described(found)
    assert "2 of 40 x 36, 1 of 64 x 48, 1 of 20 x 16; one bucket: all are cropped to 32 x 32" in text
    assert "warning: 1 are smaller than that and are enlarged, up to 2.0 times" in text
    sheet = crops(found)
    assert sheet.width > 0 and sheet.mode == "RGB"


def test_one_picture(plan, sized):
    text = described(plan(sized((40, 40))))
    assert "pictures: 1 references, 0 priors" in text and "one picture only" in text


def test_five_hundred_pictures(plan, sized):
    many = sized(*[(40, 40)] * 500)
    assert plan(many, steps=-1).chosen.steps > 1500  # the most there is, and more since the base is small
    found = plan(many, steps=1000)
    assert all(one.draws == pytest.approx(4) for one in found.references)
    assert "seldom for so many pictures: raise steps, or choose the best ten" in described(found)
    assert crops(found).height < 4000


def test_captions_over_the_window(plan, sized):
    long = sized((40, 40), caption="a photo of sks ball " + "very " * 20)
    text = described(plan(long))
    assert (
        "tokens of 30 that are read" in text and "captions are too long and lose their end, first that of 40x40" in text
    )


def test_validations_are_counted_and_cost(base, pictures, settings, tmp_path):
    from comfyui_fewshot.trainers.validation.image_metrics import Validator

    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    chosen = replace(settings, steps=100, validate_every=30)
    found = plan_training(base, pictures, chosen, replace(NOWHERE, validator=Validator(tmp_path)), timed=1)
    assert found.validations == 5  # 0, 30, 60, 90, 100
    assert found.seconds == pytest.approx(found.timing.seconds * (100 + 5 * 8 * 16 * 2 / (3 * 4)))
    assert "validations: 5, " in described(found)


def test_what_stops_training_stops_the_plan(plan, pictures):
    with pytest.raises(FewShotError, match="no reference pictures to plan for"):
        plan(pictures.with_samples(pictures.priors))
    with pytest.raises(FewShotError, match="multiples of 8 pixels"):
        plan(resolution=36)


def test_defaults(base, pictures):
    text = described(plan_training(base, pictures, SubjectSettings(), NOWHERE, timed=0))
    assert "learning_rate = " in text and all(f"on {size} GB (estimated)" in text for size in (8, 12, 16, 24))


def test_a_picture_with_several_captions_is_one_picture(plan, sized):
    """Its times add up over its captions."""
    three = sized((40, 40), (40, 36), (50, 50))
    many = three.with_samples(tuple(replace(s, caption=f"{s.caption} {n}") for s in three.samples for n in range(12)))
    once, often = plan(three, steps=60), plan(many, steps=60)
    assert set(draws_per_image(often)) == set(draws_per_image(once))
    assert draws_per_image(often) == pytest.approx(draws_per_image(once))
    text = described(often)
    assert "pictures: 3 references with 36 captions, 0 priors" in text and "pictures: 3 references, 0" in described(
        once
    )
    assert "seldom" not in text and "1 of 40 x 40" in text


@pytest.mark.parametrize("timed", [0, 1])
@pytest.mark.parametrize(
    "kind",
    [dict(parameter_set="none", token="free", token_vectors=3), dict(parameter_set="all", tuning="full"),
     dict(token="direction", objective="dco", prior_weight=0.0), dict(optimizer="prodigy", learning_rate=0.0)],
)  # fmt: skip
def test_every_way_of_training_can_be_planned(plan, kind, timed):
    found = plan(timed=timed, **kind)
    learned = kind.get("token_vectors", 1) if "token" in kind else 0
    assert found.trainable_parameters > 0 and (found.timing is None) == (not timed)
    assert {one.tokens for one in found.references} == {8 + 4 + (learned or 3)}  # each letter else is a token
    if kind.get("parameter_set") == "none":
        assert found.trainable_parameters == 3 * 32
        assert ("when that is read" in described(found)) == (not timed)


def test_what_is_still_on_the_host_is_not_free(model, monkeypatch):
    """Encoders come to the device after the memory was looked at."""
    monkeypatch.setattr(inputs, "free_memory", lambda device: 10**9)
    assert inputs.free_with_all(model) == 10**9
    parts = [model.vae, *model.text_encoders]
    later = replace(model, device=torch.device("cuda"))
    assert inputs.free_with_all(later) == 10**9 - sum(4 * p.numel() for part in parts for p in part.parameters())


def test_the_phase_that_needs_most_is_named(plan):
    found = plan()
    demands = {
        "the training step": MemoryDemand(6e8, 5e9, 1e8, 1e9),
        "encoding the pictures": MemoryDemand(6e8, 7e9, 0, 1.4e9),
    }
    text = described(replace(found, gpu=demands))
    assert "GPU memory (estimated): 9.0 GB, most of all for encoding the pictures = 7.0 frozen" in text
    assert "by phase (estimated): the training step 6.7, encoding the pictures 9.0 GB" in text
    assert all(f"GB for {card.phase}, " in text for card in found.cards)
