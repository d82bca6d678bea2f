"""Likeness, preference, relations, diversity: against the raw models, closed forms, and what is refused."""

import importlib.machinery
import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import CLIPModel, ViTConfig, ViTModel

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Concept, Prompt
from comfyui_fewshot.evaluation.metrics.clip import ClipImage
from comfyui_fewshot.evaluation.metrics.diversity import (
    ALEXNET,
    CosineDistance,
    Lpips,
    diversity,
    lpips_weights,
)
from comfyui_fewshot.evaluation.metrics.likeness import DinoImage, MaskedLikeness, cut_out, dino_name
from comfyui_fewshot.evaluation.metrics.preference import HumanPreference, PickScore
from comfyui_fewshot.evaluation.metrics.relation import EntityAccuracy, RelationAccuracy, entities, relation_measures
from comfyui_fewshot.pocket.models.weights import WEIGHTS
from comfyui_fewshot.vision.embedders.clip import Clip
from comfyui_fewshot.vision.embedders.dino import Dino

PROMPTS = [Prompt("a sks cat on the beach", "a cat on the beach"), Prompt("a car in the snow", "a car in the snow")]


def noise(seed, size=(40, 32)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def disc(ground, at=(10, 10), colour=(250, 40, 40)):
    """A disc of 16 pixels on one ground, and its mask."""
    image, mask = Image.new("RGB", (64, 48), ground), Image.new("L", (64, 48))
    for picture, ink in ((image, colour), (mask, 255)):
        ImageDraw.Draw(picture).ellipse((*at, at[0] + 16, at[1] + 16), fill=ink)
    return image, mask


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    path = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    shape = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=224, patch_size=32)
    ViTModel(ViTConfig(**shape)).save_pretrained(path)
    return Dino(path)


@pytest.fixture(scope="module")
def clip():
    return Clip(WEIGHTS / "clip")


def test_a_picture_is_itself(dino, clip):
    image = noise(0)
    for metric in (DinoImage(dino), ClipImage(clip)):
        assert metric.scores([image], PROMPTS[:1], [image]).item() == pytest.approx(1, abs=1e-5)


def test_dino_is_the_mean_over_the_references_of_the_raw_model(dino):
    images, references = [noise(n) for n in range(3)], [noise(n, (50, 70)) for n in (7, 8)]
    model = ViTModel.from_pretrained(dino.folder).eval()

    def seen(image):
        width, height = image.size
        scale = 256 / min(width, height)
        sized = image.resize((int(width * scale), int(height * scale)), Image.Resampling.BICUBIC)
        left, top = (sized.width - 224) // 2, (sized.height - 224) // 2
        values = torch.tensor(np.asarray(sized.crop((left, top, left + 224, top + 224)))).float() / 255
        values = (values - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
        with torch.no_grad():
            token = model(pixel_values=values.permute(2, 0, 1)[None]).last_hidden_state[0, 0]
        return token / token.norm()

    prompts = [Prompt("a", "a")] * 3
    wanted = [float(torch.stack([seen(i) @ seen(r) for r in references]).mean()) for i in images]
    metric = DinoImage(dino)
    assert metric.scores(images, prompts, references).tolist() == pytest.approx(wanted, abs=1e-5)
    assert (
        metric.name == "DINO" and dino_name("dinov2_with_registers") == "DINOv2" and dino_name("dinov3_vit") == "DINOv3"
    )
    with pytest.raises(FewShotError, match="DINO compares with pictures of the subject and there are none"):
        metric.scores(images, prompts, [])


def test_a_copied_background_earns_nothing(dino):
    reference, shape = disc((20, 90, 200))
    moved, moved_mask = disc((240, 230, 20), (40, 20))
    other, other_mask = disc((20, 90, 200), colour=(10, 250, 10))
    masks = {p.tobytes(): m for p, m in ((reference, shape), (moved, moved_mask), (other, other_mask))}
    metric = MaskedLikeness(dino, lambda image: masks.get(image.tobytes()), "DINO")
    prompts = [Prompt("a", "a")] * 3
    scores = metric.scores([moved, other, noise(1)], prompts, [reference]).tolist()
    assert scores[0] == pytest.approx(1, abs=1e-4), "the same thing elsewhere"
    assert scores[1] < 0.999 and scores[2] == 0, "another thing there; and nothing found"
    plain = DinoImage(dino).scores([moved, other], prompts[:2], [reference])
    assert plain[0] < 0.999, "whole pictures see the ground"
    with pytest.raises(FewShotError, match="found in none of the 1 references"):
        metric.scores([moved], prompts[:1], [noise(5)])


def test_a_mask_that_a_reference_has_wins_over_the_segmenter(dino):
    """On both sides: the reference is cut out by its own mask, also where it is compared as a picture."""
    reference, shape = disc((20, 90, 200))
    asked = []
    metric = MaskedLikeness(dino, lambda image: asked.append(image), "DINO", [(reference, shape)])
    scores = metric.scores([reference.copy(), noise(1)], [Prompt("a", "a")] * 2, [reference])
    assert scores[0] == pytest.approx(1, abs=1e-4) and scores[1] == 0 and len(asked) == 1


def test_the_cut_out_is_square_and_grey_around():
    image, mask = disc((0, 0, 0))
    cut = cut_out(image, mask)
    assert cut.size == (20, 20) and cut.getpixel((0, 0)) == (127,) * 3 and cut.getpixel((10, 10)) == (250, 40, 40)
    assert cut_out(image, Image.new("L", image.size)) is None


def test_preferences_are_the_models_own_numbers(clip):
    images = [noise(0), noise(1)]
    model = CLIPModel.from_pretrained(clip.folder).eval()
    tokens = clip.tokenizer([p.stripped for p in PROMPTS], padding=True, return_tensors="pt")
    pixels = torch.stack([clip.pixels(image) for image in images])
    with torch.no_grad():
        logits = model(**{k: tokens[k] for k in ("input_ids", "attention_mask")}, pixel_values=pixels).logits_per_image
    wanted = logits.diagonal()
    assert torch.allclose(PickScore(clip).scores(images, PROMPTS), wanted, rtol=1e-5)
    scale = float(model.logit_scale.detach().exp())
    assert torch.allclose(HumanPreference(clip).scores(images, PROMPTS) * scale, wanted, rtol=1e-5)
    one = torch.cat([PickScore(clip).scores([i], [p]) for i, p in zip(images, PROMPTS, strict=True)])
    assert torch.allclose(one, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "relation", "wanted"),
    [
        ("a photo of a cat inside a box", "inside", ("cat", "box")),
        ("Spiderman is shaking hands with an owl.", "shaking hands with", ("spiderman", "owl")),
        ("a red cat painted on the old wall", "painted on", ("red cat", "old wall")),
    ],
)
def test_entities(text, relation, wanted):
    assert entities(text, relation) == wanted


@pytest.mark.parametrize("text", ["a cat on a box", "inside a box", "a cat inside", "a cat insider a box"])
def test_a_prompt_without_the_relation_is_refused(text):
    with pytest.raises(FewShotError, match="does not say what is inside what"):
        entities(text, "inside")


def test_relations_are_told_apart(clip):
    """The text of a picture's own relation is the nearest where the picture's embedding is that text's."""
    prompts = [Prompt("x", "a cat on a car"), Prompt("x", "a cat on a car")]

    class Told(Clip):
        def images(self, images):
            return self.texts(["a cat on a car", "a cat behind a car"])

    told = Told(clip.folder)
    assert RelationAccuracy(told, "on", ["on", "behind"]).scores([noise(0)] * 2, prompts).tolist() == [1, 0]
    wanted = clip.texts(["a cat on a car", "a cat behind a car"]) @ clip.texts(["cat, car"])[0]
    assert torch.allclose(EntityAccuracy(told, "on").scores([noise(0)] * 2, prompts), wanted, atol=1e-5)
    with pytest.raises(FewShotError, match="there are none"):
        RelationAccuracy(told, "on", ["On"])


def test_a_relation_has_its_own_measures(clip):
    relation = Concept("<R>", "", "inside", kind="relation")
    one, two = relation_measures(clip, relation)
    assert (one.metric.name, one.axis, one.ceiling) == ("relation accuracy", "subject", 1.0)
    assert (two.metric.name, two.axis) == ("entity accuracy", "prompt")
    assert "inside" not in one.metric.others and len(one.metric.others) == 9
    assert relation_measures(clip, Concept("sks", "cat", "inside")) == []
    assert relation_measures(clip, Concept("<R>", "", kind="relation")) == []


def test_diversity(dino):
    same, other = noise(0), noise(1)
    assert diversity([same, same], ["p", "p"], CosineDistance(dino)) == pytest.approx(0, abs=1e-5)
    table = CosineDistance(dino)([same, other])
    assert diversity([same, other, same], "ppq", CosineDistance(dino)) == pytest.approx(float(table[0, 1]))
    lpips = Lpips(Path())
    lpips.network = lambda a, b: (a - b).abs().mean()
    assert diversity([Image.new("RGB", (8, 8)), Image.new("RGB", (9, 7), "white")], "pp", lpips) == pytest.approx(2)
    with pytest.raises(FewShotError, match="at least two of each"):
        diversity([same, other], "pq", CosineDistance(dino))
    with pytest.raises(FewShotError, match="2 pictures cannot lie in 1 groups"):
        diversity([same, other], "p", CosineDistance(dino))


class FakeLpips(torch.nn.Module):
    """The package's face: a trunk in slices, random where asked so, and a distance of two pictures."""

    made: list = []

    def __init__(self, net, pnet_rand, verbose):
        super().__init__()
        assert (net, pnet_rand, verbose) == ("alex", True, False), "a trunk that is not random would be fetched"
        self.net = torch.nn.ModuleDict({"slice1": torch.nn.ModuleDict({"0": torch.nn.Linear(1, 1)})})
        FakeLpips.made.append(self)

    def forward(self, one, other):
        return self.net["slice1"]["0"]((one - other).abs().mean().view(1, 1))


@pytest.fixture
def lpips(monkeypatch):
    """The package as it is seen by what looks for it; torch's own cache is empty."""
    module = types.ModuleType("lpips")
    module.__spec__ = importlib.machinery.ModuleSpec("lpips", None)
    module.LPIPS = FakeLpips
    monkeypatch.setitem(sys.modules, "lpips", module)
    monkeypatch.setattr(FakeLpips, "made", [])


def test_lpips_needs_the_package_and_local_weights(lpips, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    assert lpips_weights([tmp_path]) is None
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    for folder in (tmp_path / "hub" / "checkpoints", tmp_path):
        (folder / ALEXNET).write_bytes(b"")
        assert lpips_weights([tmp_path]) == folder / ALEXNET
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert lpips_weights([tmp_path]) is None, "the package is not there"


def test_lpips_is_opened_when_it_is_needed_and_with_those_weights(lpips, tmp_path):
    weights = {
        "features.0.weight": torch.tensor([[3.0]]),
        "features.0.bias": torch.tensor([0.5]),
        "more": torch.ones(1),
    }
    torch.save(weights, tmp_path / ALEXNET)
    distance = Lpips(tmp_path / ALEXNET)
    assert not FakeLpips.made, "nothing is opened before it is used"
    black, white = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), "white")
    assert distance([black, white]).flatten().tolist() == pytest.approx([0, 6.5, 6.5, 0])
    distance([black, white])
    assert len(FakeLpips.made) == 1
    torch.save({"other": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(FewShotError, match="does not hold torchvision's AlexNet"):
        Lpips(tmp_path / "other.pth")([black, white])
    (tmp_path / "page.pth").write_text("<html>")
    with pytest.raises(FewShotError, match="does not hold torchvision's AlexNet"):
        Lpips(tmp_path / "page.pth")([black, white])
