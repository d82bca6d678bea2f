"""Several subjects in one run, rare subjects' descriptions, captions that are mended, and DCO."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from comfyui_fewshot.augmentation.composites.paste import PasteSettings, paste
from comfyui_fewshot.augmentation.images.combine import combine
from comfyui_fewshot.augmentation.images.load import subject_from_folder
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.progress import NullProgress
from comfyui_fewshot.core.randomness import Randomness
from comfyui_fewshot.core.values import BESIDE, Concept, Part, Picture, Sample, TrainingSet, content_key
from comfyui_fewshot.models.adapters.learned_tokens import LearnedTokens, TokenSpec
from comfyui_fewshot.models.stable_diffusion.encoding.prompts import denoise, encode_prompts
from comfyui_fewshot.trainers.auto.inputs import gather_auto_inputs
from comfyui_fewshot.trainers.auto.rules import steps
from comfyui_fewshot.trainers.data.caption_check import captioned
from comfyui_fewshot.trainers.data.sampling_weights import NATURAL_END, drawing_weights, draws_told, natural_weights
from comfyui_fewshot.trainers.subject.method import DCO, LOCAL, PRIOR, REFERENCE, SubjectTraining

PICTURE = Picture(Path("a.png"), "a", 8, 8)
AUTO = dict(resolution=32, alpha=4.0, text_learning_rate=1e-3, micro_batch=8)


def sample(concept=0, weight=1.0, composite=False):
    return Sample(PICTURE, "", concept=concept, weight=weight, others=(Part(1, PICTURE),) if composite else ())


@pytest.fixture
def two(picture_folder, pictures):
    """Two subjects, a composite of both, and priors."""
    other = subject_from_folder(picture_folder, "zwx", "cube")
    both = combine([pictures, other])
    first, second = both.references[0], both.references[4]
    composite = replace(first, caption="a sks ball and a zwx cube", others=(Part(1, second.mask),))
    return both.with_samples((*both.samples, composite))


@pytest.fixture
def with_composites(pictures, tmp_path):
    """One subject with composites of its references and of its priors."""
    priors = tuple(replace(s, mask=pictures.references[0].mask) for s in pictures.priors)
    masked = pictures.with_samples((*pictures.references, *priors))
    return paste(masked, PasteSettings(variants=2, size=32, smallest=0.5, largest=0.6), tmp_path).pictures


def prepare(model, set_, settings, **changes):
    return SubjectTraining().prepare(model, set_, replace(settings, **AUTO, **changes), None, NullProgress())


# -------------------------------------------------------------------------------------------------- how often


@given(counts=st.lists(st.integers(1, 6), min_size=2, max_size=4), composites=st.integers(0, 5), share=st.floats(0, 1))
def test_subjects_are_drawn_equally(counts, composites, share):
    samples = [sample(number, weight=1 + i) for number, count in enumerate(counts) for i in range(count)]
    samples += [sample(composite=True)] * composites
    weights = drawing_weights(samples, share)
    left = 1 - share if composites else 1.0
    for number in range(len(counts)):
        own = sum(w for w, s in zip(weights, samples, strict=True) if s.concept == number and not s.others)
        assert own == pytest.approx(left / len(counts), abs=1e-9)
    assert sum(weights) == pytest.approx(1.0)


def test_one_subject_is_drawn_by_its_own_weights():
    samples = [sample(weight=3.0), sample(weight=1.0)]
    assert drawing_weights(samples, 0.25) == (3.0, 1.0)
    assert drawing_weights([sample(composite=True)] * 2, 0.25) == (1.0, 1.0)


def test_what_is_never_to_be_drawn_is_not():
    weights = drawing_weights([sample(0), sample(1), sample(composite=True)], 0.0)
    drawn = {Randomness(0).choose("picture", draw, weights) for draw in range(200)}
    assert drawn == {0, 1}


def test_more_subjects_take_more_steps():
    assert steps(8, 1, 1) == 960 and steps(8, 4, 1) == 480
    assert steps(16, 1, 2) == round(960 * 2**0.7)


# ------------------------------------------------------------------------------------------------- one training


def test_both_subjects_are_supervised_in_one_run(model, two, settings):
    step, injected = prepare(model, two, settings, local_weight=0.05, composite_share=0.5)
    found, references = step.supervision, step.pools[REFERENCE]
    injected.remove()
    assert found.valid.tolist() == [[1, 0]] * 3 + [[0, 1]] * 3 + [[1, 1]]
    assert references.weights == pytest.approx([1 / 12] * 6 + [0.5])
    assert references.prompts[3] == "a photo of zwx cube" and references.prompts[-1] == "a sks ball and a zwx cube"


def test_several_subjects_train_to_the_end(train, two, tmp_path):
    result = train(tmp_path, set_=two, local_weight=0.05)
    assert set(result.terms) == {REFERENCE, PRIOR, LOCAL} and result.adapter.trigger == "sks ball, zwx cube"
    assert torch.tensor(result.losses).isfinite().all()


def test_more_pictures_than_steps_are_named(model, pictures, settings, caplog):
    _, injected = prepare(model, pictures, replace(settings, steps=1, batch_size=1))
    injected.remove()
    assert "2 of the 3 pictures are never seen: choose more steps" in caplog.text


def test_masks_weigh_what_any_subject_covers(model, two, settings):
    step, injected = prepare(model, two, settings, background_weight=0.0)
    injected.remove()
    masks, shapes = step.pools[REFERENCE].masks, step.pools[REFERENCE].shapes
    assert torch.equal(masks[-1], (shapes[-1][0] + shapes[-1][1]).clamp(max=1))
    assert masks[-1].sum() > max(shapes[-1][0].sum(), shapes[-1][1].sum())


# ----------------------------------------------------------------------------------------------------- captions


def test_a_description_goes_to_the_subject_and_not_to_the_class(picture_folder, pictures):
    rare = subject_from_folder(picture_folder, "sks", "ball", "red dotted")
    assert {s.caption for s in rare.references} == {"a photo of sks red dotted ball"}
    assert rare.trigger == "sks red dotted ball" and rare.concepts[0].noun == "ball"


def test_captions_without_the_identifier_are_mended(model, pictures, caplog):
    first, second, third = pictures.references
    odd = pictures.with_samples((replace(first, caption="a ball on grass"), second, third, *pictures.priors))
    mended = captioned(model, odd)
    assert mended.samples[0].caption == "a sks ball on grass" and mended.samples[1:] == odd.samples[1:]
    assert "1 of 3 captions lacked their identifier, and it was put in: 'a sks ball on grass'" in caplog.text


def test_both_identifiers_of_a_composite_are_asked_for(model, two):
    bare = replace(two.samples[-1], caption="a sks ball and a cube")
    assert captioned(model, two.with_samples((bare,))).samples[0].caption == "a sks ball and a zwx cube"


def test_an_identifier_in_pieces_is_named(model, caplog):
    """Each letter is a token here."""
    one = Sample(PICTURE, "a photo of zebra cat")
    captioned(model, TrainingSet((one,), (Concept("zebra", "cat"),)))
    assert "the identifier 'zebra' is 5 tokens" in caplog.text and "a word of one token" in caplog.text
    assert "there is one picture of the subject" in caplog.text
    caplog.clear()
    captioned(model, TrainingSet((replace(one, caption="a q cat"),) * 2, (Concept("q", "cat"),)))
    assert not caplog.text
    learned = LearnedTokens(model, [TokenSpec("zebra", "cat", vectors=2)])
    captioned(model, TrainingSet((one, one), (Concept("zebra", "cat"),)))
    learned.remove()
    assert not caplog.text


def test_an_identifier_beyond_the_window_is_refused(model):
    long = Sample(PICTURE, "a red cat " * 12 + "sks")
    with pytest.raises(FewShotError, match="'sks' lies beyond the 32 tokens .* of a.png. Shorten the caption"):
        captioned(model, TrainingSet((long, long), (Concept("sks", "cat"),)))


# ---------------------------------------------------------------------------------------------------------- DCO


def gradients(step, injected, name):
    for parameter in injected.parameters.values():
        parameter.grad = None
    (terms,) = step.passes(0, list)
    terms[name].backward()
    found = {n: p.grad.clone() for n, p in injected.parameters.items() if p.grad is not None}
    injected.remove()
    return terms, found


@pytest.mark.parametrize("text", [False, True])
def test_dco_starts_with_the_gradient_of_the_error(model, pictures, settings, text, monkeypatch):
    """With the same words for the base the loss is 2 log(2) / beta and its gradient that of the MSE."""
    monkeypatch.setattr("comfyui_fewshot.trainers.subject.method.strip_identifiers", lambda text, _: text)
    changes = dict(prior_weight=0.0, text_encoder=text)
    terms, found = gradients(*prepare(model, pictures, settings, objective="dco", **changes), DCO)
    assert list(terms) == [DCO] and terms[DCO].item() == pytest.approx(2 * math.log(2) / 1000, rel=1e-4)
    _, plain = gradients(*prepare(model, pictures, settings, **changes), REFERENCE)
    assert found.keys() == plain.keys()
    assert all(torch.allclose(found[name], plain[name], rtol=2e-2, atol=1e-6) for name in plain)


def test_the_base_is_asked_without_identifier_and_without_the_layers(model, pictures, settings):
    step, injected = prepare(model, pictures, settings, objective="dco")
    with torch.no_grad():
        for parameter in injected.parameters.values():
            parameter.add_(0.05)
    half = step.draw(REFERENCE, 0, range(2))
    found = step.base_prediction(half)
    assert not found.requires_grad and all(p.requires_grad for p in injected.parameters.values())
    (terms,) = step.passes(0, list)
    terms[DCO].backward()
    assert all(p.grad is not None for p in injected.parameters.values())
    injected.remove()
    told = encode_prompts(model, ["a photo of ball"] * 2)
    with torch.no_grad():
        assert torch.allclose(found, denoise(model, half.latents, half.times, told), atol=1e-6)


def test_dco_trains_without_priors_and_says_nothing_of_them(train, pictures, tmp_path, caplog):
    alone = pictures.with_samples(pictures.references)
    result = train(tmp_path, set_=alone, objective="dco")
    assert list(result.terms) == [DCO] and "no prior pictures" not in caplog.text
    assert min(result.terms[DCO]) > 0 and torch.tensor(result.losses).isfinite().all()


# ------------------------------------------------------------------------------------------------------- composites


def test_composites_weigh_their_own_background(model, with_composites, settings):
    step, injected = prepare(model, with_composites, settings, batch_size=4)
    injected.remove()
    for term, samples in ((REFERENCE, with_composites.references), (PRIOR, with_composites.priors)):
        pool = step.pools[term]
        pasted = torch.tensor([s.pasted for s in samples])
        assert pool.background_weights.flatten().tolist() == pytest.approx([0.1 if p else 1.0 for p in pasted.tolist()])
        half = step.draw(term, 0, [0, 1, 2, 3])
        error = torch.ones_like(half.target) * (1 - half.masks.ceil())  # wrong only where there is no subject
        found = step.errors(term, half, half.target + error)
        for one, pick, mask in zip(found.tolist(), half.indices, half.masks, strict=True):
            outside, inside = (1 - mask.ceil()).sum().item(), mask.sum().item()
            weight = 0.1 if pasted[pick] else 1.0
            rim = mask.numel() - inside
            assert one == pytest.approx(weight * outside / (inside + weight * rim), rel=1e-5)


def test_a_thing_beside_the_subject_is_no_background(model, with_composites, settings):
    """The mask of a prior's thing in a mixed composite joins what counts in full, and is nobody's attention."""
    one = next(s for s in with_composites.references if s.pasted)
    mixed = replace(one, beside=one.mask, mask=None)
    step, injected = prepare(model, with_composites.with_samples((one, mixed)), settings)
    injected.remove()
    own, beside = step.pools[REFERENCE].masks
    assert torch.equal(own, beside) and 0 < own.sum() < own.numel()
    assert [*step.pools[REFERENCE].shapes[1]] == [BESIDE]


def test_the_share_of_composites_holds_for_each_of_several_subjects(two, tmp_path):
    """Of what shows one subject alone, half are composites; composites of both are a quarter of all, priors' too."""
    masked = [replace(s, mask=two.samples[0].mask) for s in two.samples if not s.others]
    settings = PasteSettings(variants=6, prior_variants=6, together=0.5, share=0.5, size=32, mixed=False, smallest=0.5)
    made = paste(two.with_samples(tuple(masked)), settings, tmp_path).pictures
    samples = made.references
    weights = drawing_weights(samples, 0.25)
    assert sum(w for w, s in zip(weights, samples, strict=True) if s.others) == pytest.approx(0.25)
    for number in (0, 1):
        alone = [(w, s.pasted) for w, s in zip(weights, samples, strict=True) if s.concept == number and not s.others]
        assert sum(w for w, pasted in alone if pasted) / sum(w for w, _ in alone) == pytest.approx(0.5)
    told = draws_told(samples, weights, made.concepts)
    assert told == "25 % several subjects together, 38 % sks ball (19 % composites), 38 % zwx cube (19 % composites)"


def test_the_rim_of_a_pasted_subject_counts_in_full(model, with_composites, settings):
    step, injected = prepare(model, with_composites, settings)
    injected.remove()
    number, sample = next((n, s) for n, s in enumerate(with_composites.references) if s.pasted)
    pool = step.pools[REFERENCE]
    narrow = pool.shapes[number][sample.concept]
    wide = torch.nn.functional.max_pool2d(narrow[None], 3, 1, 1)[0]
    assert torch.equal(pool.masks[number], wide) and wide.sum() > narrow.sum()


def test_training_ends_on_natural_pictures(model, with_composites, settings):
    step, injected = prepare(model, with_composites, settings, steps=40)
    injected.remove()
    pasted = [s.pasted for s in with_composites.references]
    seen = [pasted[step.draw(REFERENCE, number, [0]).indices[0]] for number in range(40)]
    late = round(40 * (1 - NATURAL_END))
    assert not any(seen[late:]) and 0.3 < sum(seen[:late]) / late < 0.7


def test_composites_of_several_subjects_stay_until_the_end():
    both, alone = (replace(sample(composite=c), pasted=True) for c in (True, False))
    assert natural_weights([sample(), alone, both], [1.0, 2.0, 3.0]) == (1.0, 0.0, 3.0)
    assert natural_weights([sample(), sample()], [1.0, 2.0]) is None
    assert natural_weights([alone, alone], [1.0, 2.0]) is None


def test_composites_are_no_more_references(model, with_composites, pictures, settings):
    """Rules of `auto` count what there is to learn, not how often it is shown."""
    assert len(with_composites.references) > len(pictures.references)
    counted = gather_auto_inputs(model, with_composites, settings).references
    assert counted == gather_auto_inputs(model, pictures, settings).references == len(pictures.references)


def test_a_set_without_composites_keeps_its_key(pictures):
    """The fields of composites were added later: finished runs of other sets are still found."""
    before = [
        {k: v for k, v in vars(s).items() if k not in ("pasted", "background", "beside")} for s in pictures.samples
    ]
    assert pictures.key == content_key("TrainingSet", before, [vars(c) for c in pictures.concepts])
    assert replace(pictures.samples[0], pasted=True).key_fields != pictures.samples[0].key_fields
