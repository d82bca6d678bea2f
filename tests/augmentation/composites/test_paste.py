"""Composites of a set: masks, captions that name what is visible, weights, and bad input."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data, segmentation
from torch.nn.functional import interpolate

from comfyui_fewshot.augmentation.captions.caption import caption_set
from comfyui_fewshot.augmentation.captions.expand import ExpansionSettings, expand
from comfyui_fewshot.augmentation.captions.identifiers import find_word
from comfyui_fewshot.augmentation.captions.spans import subject_spans
from comfyui_fewshot.augmentation.composites.compose import arrange, compose, cut_out
from comfyui_fewshot.augmentation.composites.paste import PasteSettings, paste, usual_size
from comfyui_fewshot.augmentation.images.load import load_mask, load_picture, stored_picture
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Part, Sample, TrainingSet
from comfyui_fewshot.tests.augmentation.composites.cut_outs import CAR, DOG, MAX_SEED, RELATION, blob, cut, textured


@pytest.fixture
def made(tmp_path):
    """A function that gives a set of the pictures (mask, role, concept), each with a picture of its own."""

    def build(*given, concepts=(DOG,), size=(60, 40)):
        samples = []
        for number, (mask, role, concept) in enumerate(given):
            noun = concepts[concept].noun
            caption = f"a photo of {concepts[concept].phrase}" if role == "reference" else f"a photo of a {noun}"
            image = stored_picture(textured(mask.size if mask else size, number), tmp_path)
            stored = None if mask is None else stored_picture(mask, tmp_path)
            samples.append(Sample(image, caption, stored, role, concept))
        return TrainingSet(tuple(samples), concepts)

    return build


def arrays(sample):
    return {number: np.asarray(load_mask(mask)) > 0 for number, mask in sample.masks.items()}


def test_masks_are_exactly_where_the_subject_is(made, tmp_path):
    """Independently: subjects of one vivid colour each on grounds that are never vivid."""
    both = made((blob(), "reference", 0), (blob(box=(5, 5, 40, 30)), "reference", 1), concepts=(DOG, CAR))
    colours = ((255, 0, 0), (0, 0, 255))
    plain = tuple(
        replace(sample, image=stored_picture(Image.new("RGB", (60, 40), colour), tmp_path))
        for sample, colour in zip(both.samples, colours, strict=True)
    )
    chosen = PasteSettings(variants=20, together=0.5, size=64, background="solid")
    samples = paste(both.with_samples(plain), chosen, tmp_path).made
    seen = 0
    for sample in samples:
        values = np.asarray(load_picture(sample.image)).astype(int)
        ground = values[0, 0] if not any(mask[0, 0] for mask in arrays(sample).values()) else None
        if ground is None:
            continue
        for number, mask in arrays(sample).items():
            own = np.abs(values - colours[number]).sum(-1) <= np.abs(values - ground).sum(-1) + 2
            others = [m for n, m in arrays(sample).items() if n != number]
            own &= ~np.logical_or.reduce(others) if others else True
            near = mask | (sum(np.roll(mask, s, a) for s in (-1, 1) for a in (0, 1)) > 0)
            assert (own & mask).sum() / mask.sum() > 0.97 and not (own & ~near).any()
            seen += 1
    assert seen > 20


def test_the_subject_is_found_again_in_its_composite(tmp_path):
    """A photograph's subject segmented anew by chan-vese in the composite, against the carried mask."""
    picture = Image.fromarray(data.rocket()).convert("RGB")
    mask = blob(*picture.size, (300, 130, 345, 330))
    picture = Image.composite(Image.new("RGB", picture.size, (240, 40, 30)), picture, mask)
    one = TrainingSet((Sample(stored_picture(picture, tmp_path), "", stored_picture(mask, tmp_path)),), (DOG,))
    for sample in paste(one, PasteSettings(variants=3, size=128, background="solid", together=0), tmp_path).made:
        values = np.asarray(load_picture(sample.image)).astype(float)
        true = arrays(sample)[0]
        distance = np.abs(values - np.median(values.reshape(-1, 3), 0)).sum(-1)
        found = segmentation.chan_vese(distance / distance.max(), mu=0.01, max_num_iter=60)
        found = found if found[true].mean() > 0.5 else ~found
        assert (found & true).sum() / (found | true).sum() >= 0.8


def test_captions_name_what_is_seen_and_only_that(made, tmp_path):
    everything = made(
        (blob(), "reference", 0), (blob(box=(5, 5, 40, 30)), "reference", 1), (blob(), "prior", 0),
        (blob(box=(9, 9, 30, 30)), "prior", 0), concepts=(DOG, CAR),
    )  # fmt: skip
    result = paste(everything, PasteSettings(variants=25, prior_variants=12, together=0.6, size=64), tmp_path)
    assert len(result.made) == 2 * 25 + 2 * 12 and not result.notes
    assert result.together == sum(" and " in s.caption.split(" on a ")[0] for s in result.made) > 20
    assert result.pictures.samples == everything.samples + result.made
    kinds = set()
    for sample in result.made:
        shown = {number for number, mask in arrays(sample).items() if mask.any()}
        named = {n for n, concept in enumerate((DOG, CAR)) if find_word(concept.identifier, sample.caption)}
        assert named == (shown if sample.role == "reference" else set()) and sample.mask is not None
        assert sample.pasted and sample.background == 0.1 and sample.caption.endswith("background")
        for number in named:
            other = (DOG, CAR)[1 - number]
            spans = subject_spans(sample.caption, (DOG, CAR)[number], [other])
            assert len(spans) == (2 if number == 0 else 3)
        kinds.add((sample.role, bool(sample.others), " and " in sample.caption))
    assert ("reference", True, True) in kinds  # two subjects
    assert ("reference", False, True) in kinds  # a subject and a thing of a class
    assert ("prior", False, True) in kinds and ("prior", False, False) in kinds
    assert any("a dog and another dog" in sample.caption for sample in result.made)


def test_words_for_size(made, tmp_path):
    one = made((blob(400, 400, (50, 50, 350, 350)), "reference", 0))
    for scale, shot in (
        (0.36, "a far away photo of a sks dog on"),
        (0.6, "a photo of a"),
        (0.94, "a close-up photo of"),
    ):
        chosen = PasteSettings(variants=1, smallest=scale, largest=scale, size=128, together=0)
        assert paste(one, chosen, tmp_path).made[0].caption.startswith(shot)


def test_the_same_again_and_other_seeds_differ(made, tmp_path):
    three = made(*[(blob(), "reference", 0)] * 3)
    chosen = PasteSettings(variants=4, size=64)
    first = paste(three, chosen, tmp_path).pictures
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert paste(three, chosen, tmp_path).pictures.key == first.key
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}  # nothing is written twice
    assert paste(three, replace(chosen, seed=1), tmp_path).pictures.key != first.key
    alone = paste(three.with_samples(three.samples[1:2]), chosen, tmp_path)
    assert [s.image.key for s in alone.made] == [s.image.key for s in first.samples[7:11]]
    more = paste(three, replace(chosen, variants=6), tmp_path).made
    assert [s.image.key for s in more[:4]] == [s.image.key for s in first.samples[3:7]]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_composites_get_their_share_of_the_draws(made, tmp_path, share):
    three = made(*[(blob(), "reference", 0)] * 2, (blob(), "prior", 0))
    result = paste(three, PasteSettings(variants=3, prior_variants=2, share=share, size=32), tmp_path).pictures
    for samples in (result.references, result.priors):
        pasted = sum(s.weight for s in samples if s.pasted)
        assert pasted / sum(s.weight for s in samples) == pytest.approx(share)


def test_a_thing_of_the_class_is_masked_but_is_no_subject(made, tmp_path):
    two = made((blob(), "reference", 0), (blob(), "prior", 0))
    chosen = PasteSettings(variants=8, prior_variants=0, together=1.0, size=64)
    mixed = [s for s in paste(two, chosen, tmp_path).made if s.beside is not None]
    assert mixed
    for sample in mixed:
        own, other = (np.asarray(load_mask(mask)) > 0 for mask in (sample.mask, sample.beside))
        assert other.any() and not (own & other).any() and not sample.others


def test_captions_can_leave_out_the_background(made, tmp_path):
    settings = PasteSettings(variants=4, size=64, described=False)
    assert {s.caption for s in paste(made((blob(), "reference", 0)), settings, tmp_path).made} == {
        "a photo of a sks dog"
    }


def test_nothing_to_paste_is_said(made, tmp_path):
    """Only priors have masks, and none of them is to be pasted."""
    priors = made((blob(), "prior", 0))
    with pytest.raises(FewShotError, match="only priors can be cut out, and prior_variants is 0"):
        paste(priors, PasteSettings(prior_variants=0), tmp_path)


def test_composites_are_not_cut_again(made, tmp_path):
    one = made((blob(), "reference", 0))
    chosen = PasteSettings(variants=3, size=32)
    twice = paste(paste(one, chosen, tmp_path).pictures, replace(chosen, seed=1), tmp_path)
    assert len(twice.made) == 3 and len(twice.pictures.samples) == 7
    other = one.with_samples((*one.samples, replace(one.samples[0], others=(Part(0, one.samples[0].mask),))))
    assert len(paste(other, chosen, tmp_path).made) == 3


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, MAX_SEED))
def test_masks_keep_their_area_on_the_grid_of_latents(seed):
    (layer,) = arrange([cut(blob())], 64, (0.3, 0.9), np.random.default_rng(seed))
    mask = torch.from_numpy(compose(Image.new("RGB", (64, 64)), [layer]).masks[0]).float()
    small = interpolate(mask[None, None], (8, 8), mode="area")
    assert small.mean().item() == pytest.approx(mask.mean().item(), abs=1e-6)


def test_the_size_is_that_of_the_pictures(made):
    assert usual_size(made((blob(), "reference", 0))) == 40
    assert usual_size(made((blob(3, 2, (0, 0, 2, 2)), "reference", 0))) == 8
    assert usual_size(made((blob(1100, 1050), "reference", 0))) == 1024


def test_a_picture_with_several_captions_is_cut_once(made, tmp_path):
    one = made((blob(), "reference", 0), (blob(), "prior", 0))
    told = [replace(one.samples[0], caption=f"a sks dog {place}", weight=0.5) for place in ("indoors", "outdoors")]
    samples = paste(one.with_samples((*told, one.samples[1])), PasteSettings(variants=3, size=32), tmp_path).made
    assert len({s.image.key for s in samples}) == len(samples) == 4
    assert sum(s.weight for s in samples if s.role == "reference") == pytest.approx(1.0)


def test_captions_of_composites_are_not_written_anew(made, tmp_path):
    """They tell the background."""
    one = made((blob(), "reference", 0))
    both = paste(one, PasteSettings(variants=2, size=32), tmp_path)
    expanded, _ = expand(both.pictures, ExpansionSettings(count=3))
    assert expanded.samples[-2:] == both.made and len(expanded.samples) == 3 + 2
    captioned, table = caption_set(both.pictures, SimpleNamespace(caption=lambda *asked: "a dog on a sofa"))
    assert captioned.samples[-2:] == both.made and len(table) == 1
    with pytest.raises(FewShotError, match="no pictures of its own"):
        expand(one.with_samples(both.made), ExpansionSettings())
    with pytest.raises(FewShotError, match="no pictures of its own"):
        caption_set(one.with_samples(both.made), SimpleNamespace(caption=None))


# -------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("mask", "reason"),
    [(Image.new("L", (60, 40)), "the mask is empty"), (Image.new("L", (60, 40), 255), "100% of the picture"),
     (blob(box=(3, 3, 5, 5), shape="rectangle"), "less than 1%"), (None, "has no mask"),
     (Image.new("L", (40, 40), 255), "a mask of 40 x 40 does not fit")],
)  # fmt: skip
def test_useless_masks_are_named_and_left_out(made, tmp_path, mask, reason):
    good = made((blob(), "reference", 0))
    _, bad = made(*[(None, "reference", 0)] * 2).samples
    bad = replace(bad, mask=None if mask is None else stored_picture(mask, tmp_path), caption="bad")
    result = paste(good.with_samples((*good.samples, bad)), PasteSettings(variants=2, size=32), tmp_path)
    assert len(result.made) == 2 and len(result.notes) == 1 and reason in result.notes[0]
    assert bad.image.path.name in result.notes[0]
    with pytest.raises(FewShotError, match=f"no picture can be cut out.*{reason}"):
        paste(good.with_samples((bad,)), PasteSettings(variants=2, size=32), tmp_path)


def test_priors_without_masks_are_told_of(made, tmp_path):
    some = made((blob(), "reference", 0), (None, "prior", 0), (None, "prior", 0))
    (note,) = paste(some, PasteSettings(variants=1, size=32), tmp_path).notes
    assert note.startswith("2 priors have no mask")


def test_relations_are_not_torn_apart(made, tmp_path):
    relation = made((blob(), "reference", 0), concepts=(RELATION,))
    with pytest.raises(FewShotError, match="undo their relation"):
        paste(relation, PasteSettings(), tmp_path)


def test_one_pixel(made, tmp_path):
    """A picture of 1 x 1 has no background; one of 2 x 1 can be cut."""
    with pytest.raises(FewShotError, match="100% of the picture"):
        paste(made((Image.new("L", (1, 1), 255), "reference", 0)), PasteSettings(), tmp_path)
    half = blob(2, 1, (0, 0, 1, 1), "rectangle")
    (sample,) = paste(made((half, "reference", 0)), PasteSettings(variants=1), tmp_path).made
    assert arrays(sample)[0].sum() == 1 and (sample.image.width, sample.image.height) == (8, 8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [(dict(variants=-1), "variants is -1"), (dict(share=1.0), "share is 1.0"), (dict(background="sea"), "'sea'"),
     (dict(smallest=0.9, largest=0.4), "swap them"), (dict(variants=0, prior_variants=0), "nothing is made"),
     (dict(size=4096), "size is 4096")],
)  # fmt: skip
def test_settings_that_make_no_sense(changes, words):
    with pytest.raises(FewShotError, match=words):
        PasteSettings(**changes)


def test_cut_outs_of_large_pictures_are_kept_small(made):
    one = made((blob(900, 600, (100, 100, 800, 500)), "reference", 0)).samples[0]
    small = cut_out(one, 64)
    assert max(small.colours.size) == 128 == max(small.shape.size) and small.side == 700


class Stops:
    def __init__(self, after):
        self.left, self.told = after, []

    def check(self):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt

    def report(self, done, total, text="", picture=None):
        self.told.append((done, total, picture is not None))


def test_it_tells_of_itself_and_can_be_cancelled(made, tmp_path):
    one = made((blob(), "reference", 0))
    progress = Stops(5)
    with pytest.raises(KeyboardInterrupt):
        paste(one, PasteSettings(variants=20, size=32), tmp_path, progress)
    assert progress.told == [(1, 20, True), (2, 20, False), (3, 20, False), (4, 20, False)]
