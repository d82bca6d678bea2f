"""What cuts a subject out: outlines of boxes, boxes where nothing outlines them, and that reports say which it was."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from comfyui_fewshot.core.values import Prompt
from comfyui_fewshot.evaluation.metrics.cut_out import SubjectSegmenter, box_mask
from comfyui_fewshot.evaluation.metrics.likeness import MaskedLikeness
from comfyui_fewshot.tests.evaluation.metrics.test_likeness import disc
from comfyui_fewshot.tests.vision import tiny
from comfyui_fewshot.vision.segmenters import open_finder, open_masker
from comfyui_fewshot.vision.segmenters.interface import Instance

SKY, SAND = (20, 90, 200), (240, 230, 20)
NOUN = "cat"


@dataclass
class Boxes:
    """A detector: it knows the boxes of some pictures, by their pixels, and a worse find beside each."""

    known: dict
    threshold: float = 0.3

    def find(self, picture, phrases, threshold):
        assert list(phrases) == [NOUN] and threshold == self.threshold
        box = self.known.get(picture.tobytes())
        if box is None:
            return [Instance((0, 0, 64, 48), 0.1, NOUN)]
        return [Instance((0, 0, 4, 4), 0.4, NOUN), Instance(box, 0.9, NOUN)]


class Outlines:
    """What is red in the box, as a SAM would give it."""

    def masks(self, picture, boxes):
        values = np.asarray(picture).astype(int)
        red = (values[..., 0] > 200) & (values[..., 1] < 100)
        return [(red & box_mask(picture.size, box), 0.9) for box in boxes]


class Looks:
    """Colours of the picture as an embedding: enough to see grounds."""

    model_id = "looks"

    def images(self, images):
        small = [np.asarray(image.resize((4, 4), Image.Resampling.BOX), np.float32).ravel() - 127 for image in images]
        return torch.nn.functional.normalize(torch.from_numpy(np.stack(small)), dim=-1)


@pytest.fixture(scope="module")
def discs():
    """The subject on its ground, on another ground, and another thing on the first: with boxes a little too wide."""
    shown = [disc(SKY)[0], disc(SAND, (40, 20))[0], disc(SKY, colour=(10, 250, 10))[0]]
    return shown, {shown[0].tobytes(): (6, 6, 30, 30), shown[1].tobytes(): (36, 16, 60, 40)}


def likeness(cutter, pictures, references):
    metric = MaskedLikeness(Looks(), cutter, "DINO")
    return metric.scores(pictures, [Prompt("a", "a")] * len(pictures), references).tolist(), metric.model_id


def test_a_copied_background_in_a_box_earns_nothing_where_something_outlines_it(discs):
    (reference, moved, other), known = discs
    outlined, told = likeness(
        SubjectSegmenter(Boxes(known), Outlines(), NOUN, "owl and sam"), [moved, other], [reference]
    )
    assert outlined == [pytest.approx(1, abs=1e-4), 0]
    assert told == "looks on cut-outs by owl and sam; nothing found in 1 of 3 pictures"
    boxed, told = likeness(SubjectSegmenter(Boxes(known), None, NOUN, "owl"), [moved, other], [reference])
    assert boxed[0] < 0.9, "the ground in the boxes counts"
    assert told == "looks on cut-outs by owl, box crop; nothing found in 1 of 3 pictures"


def test_a_finders_own_mask_is_no_box(discs):
    (reference, *_), _ = discs
    finder = Boxes({})
    finder.find = lambda picture, *_: [Instance((0, 0, 8, 8), 0.9, NOUN, box_mask(picture.size, (2, 3, 9, 9)))]
    cutter = SubjectSegmenter(finder, None, NOUN, "clipseg")
    mask = cutter(reference)
    assert mask is not None and mask.getbbox() == (2, 3, 9, 9) and cutter.name == "clipseg"


def test_boxes_end_at_the_picture():
    mask = box_mask((8, 6), (-3.2, 1.6, 4.4, 99))
    assert mask.shape == (6, 8) and mask[2:, :4].all() and mask.sum() == 16


@pytest.mark.parametrize(("outlined", "told"), [(True, "sam"), (False, "box crop")])
def test_real_models(tmp_path, outlined, told):
    """An OWLv2 with random weights finds boxes, and a SAM draws in them."""
    finder = open_finder(tiny.owl(tmp_path / "owl"), torch.device("cpu"))
    finder.threshold = 0.0
    masker = open_masker(tiny.sam(tmp_path / "sam"), torch.device("cpu")) if outlined else None
    cutter = SubjectSegmenter(finder, masker, NOUN, "owl and sam" if outlined else "owl")
    mask = cutter(disc(SKY)[0])
    assert mask is not None and mask.mode == "L" and mask.size == (64, 48) and cutter.name.endswith(told)
