"""Each back-end's real loading and calling code on small random weights: what is planted in the model's own space must
come out at the right pixels of a picture that is not square and lies rotated in its file."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from comfyui_fewshot.augmentation.images.load import load_picture, picture_of
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.pocket.models.weights import WEIGHTS
from comfyui_fewshot.pocket.world import drawing, pictures
from comfyui_fewshot.tests.vision import tiny
from comfyui_fewshot.vision import find
from comfyui_fewshot.vision.segmenters import open_finder, open_masker

CPU = torch.device("cpu")
WIDTH, HEIGHT = 120, 80  # upright
PLACE = (30.0, 20.0, 90.0, 60.0)  # left, top, right, bottom in upright pixels


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A picture 120 wide and 80 high that its file holds as 80 x 120, turned by EXIF."""
    path = tmp_path_factory.mktemp("rotated") / "dog.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (HEIGHT, WIDTH), "grey").save(path, exif=exif)
    found = load_picture(picture_of(path))
    assert found.size == (WIDTH, HEIGHT)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Makes each tiny model once."""
    root, made = tmp_path_factory.mktemp("models"), {}

    def of(name):
        if name not in made:
            made[name] = getattr(tiny, name)(root / (name + (".pth" if name == "sam_file" else "")))
        return made[name]

    return of


def wanted():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[20:60, 30:90] = True
    return mask


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


def planted(model, plant):
    """Let `model` run as it is, and then change what comes out."""
    forward = model.forward

    def run(*args, **kwargs):
        outputs = forward(*args, **kwargs)
        plant(outputs)
        return outputs

    model.forward = run


def plant_box(scale_x, scale_y):
    """A box planted as the third query of a detector, in its relative (cx, cy, w, h)."""
    left, top, right, bottom = PLACE[0] / scale_x, PLACE[1] / scale_y, PLACE[2] / scale_x, PLACE[3] / scale_y

    def plant(outputs):
        outputs.logits = torch.full_like(outputs.logits, -6.0)
        outputs.logits[:, 2, : 1 if outputs.logits.shape[-1] == 1 else 3] = 1.0
        outputs.pred_boxes[:, 2] = torch.tensor([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])

    return plant


@pytest.mark.parametrize(
    "name, scales", [("grounding_dino", (WIDTH, HEIGHT)), ("owl", (max(WIDTH, HEIGHT), max(WIDTH, HEIGHT)))]
)
def test_a_detector_s_box_lies_on_the_right_pixels(name, scales, folder, picture):
    finder = open_finder(folder(name), CPU)
    planted(finder.model, plant_box(*scales))
    found = finder.find(picture, ["red dog", "cat"], finder.threshold)
    for phrase in ("red dog", "cat"):
        best = max((i for i in found if i.phrase == phrase), key=lambda i: i.score)
        assert best.box == pytest.approx(PLACE, abs=1e-3) and best.mask is None
        assert best.score == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-5)
    assert all(0 <= i.box[0] < i.box[2] <= WIDTH and 0 <= i.box[1] < i.box[3] <= HEIGHT for i in found)
    assert min(i.score for i in found) < finder.threshold, "weak ones are needed to name the best score"


def test_clipseg_s_map_lies_on_the_right_pixels(folder, picture):
    finder = open_finder(folder("clipseg"), CPU)

    def plant(outputs):
        assert outputs.logits.shape[-2:] == (64, 64)
        outputs.logits = torch.full_like(outputs.logits, -5.0)
        outputs.logits[..., 16:48, 16:48] = 5.0  # the middle half of both sides

    planted(finder.model, plant)
    (found,) = finder.find(picture, ["a dog"], finder.threshold)
    assert iou(found.mask, wanted()) > 0.95 and found.score == pytest.approx(1 / (1 + math.exp(-5)), abs=1e-4)
    assert found.box == pytest.approx(PLACE, abs=1.01)


def test_clipseg_reads_phrase_and_picture(folder, picture):
    finder = open_finder(folder("clipseg"), CPU)
    one = finder.heatmap(picture, "a cat")
    assert one.shape == (HEIGHT, WIDTH) and not torch.equal(one, finder.heatmap(picture, "a red boat"))
    assert not torch.equal(one, finder.heatmap(Image.new("RGB", (WIDTH, HEIGHT), "red"), "a cat"))


def test_clipseg_s_threshold_draws_its_mask(folder, picture):
    finder = open_finder(folder("clipseg"), CPU)

    def plant(outputs):
        ramp = torch.linspace(-4, 4, 64).expand(64, 64)
        outputs.logits = ramp.reshape(outputs.logits.shape).clone()

    planted(finder.model, plant)
    for threshold in (0.2, 0.5, 0.8):
        (found,) = finder.find(picture, ["a dog"], threshold)
        edge = (math.log(threshold / (1 - threshold)) + 4) / 8 * WIDTH
        assert found.mask.sum() / HEIGHT == pytest.approx(WIDTH - edge, abs=2)


def test_clipseg_is_asked_with_an_article(folder, picture):
    """It was trained on "a cat", and people write the bare class noun."""
    finder = open_finder(folder("clipseg"), CPU)
    bare, whole = finder.find(picture, ["cat", "a cat"], finder.threshold)
    assert (bare.phrase, whole.phrase) == ("cat", "a cat") and bare.score == whole.score
    assert bare.score == pytest.approx(float(finder.heatmap(picture, "a cat").max()))
    assert bare.score != pytest.approx(float(finder.heatmap(picture, "cat").max()), abs=1e-6)


def test_the_shipped_weights_find_the_pocket_s_subjects():
    """The bound is below what `segment.iou` must reach (0.85) by what 24 scenes may scatter."""
    finder, found = open_finder(WEIGHTS / "clipseg", CPU), []
    for subject in ("cat_striped", "cat_patched"):
        for number in range(12):
            scene = pictures.subject_scene(pictures.subject_named(subject), pictures.HELD_OUT, number)
            drawn, masks = drawing.render(scene)
            (instance,) = finder.find(drawn, ["cat"], finder.threshold)
            found.append(iou(instance.mask, np.asarray(masks[0]) > 0))
    assert np.mean(found) > 0.75 and sorted(found)[2] > 0.3


def test_florence_s_polygons_lie_on_the_right_pixels(folder, picture):
    finder = open_finder(folder("florence"), CPU)
    generate, asked = finder.model.generate, {}
    bins = [(30, 20), (90, 20), (90, 60), (30, 60)]
    text = "dog" + "".join(f"<loc_{round(x / WIDTH * 1000)}><loc_{round(y / HEIGHT * 1000)}>" for x, y in bins)

    def plant(**inputs):
        asked.update(inputs)
        generate(**{**inputs, "max_new_tokens": 3})  # the real call works on these inputs
        return finder.processor.tokenizer("</s><s>" + text + "</s>", return_tensors="pt").input_ids

    finder.model.generate = plant
    (found,) = finder.find(picture, ["a dog"], finder.threshold)
    assert iou(found.mask, wanted()) > 0.95 and found.score == 1.0
    assert found.box == pytest.approx(PLACE, abs=1.01)
    assert "Locate a dog in the image with mask" in finder.processor.decode(asked["input_ids"][0])


@pytest.mark.parametrize("name", ["sam", "sam2"])
def test_a_sam_s_mask_lies_on_the_right_pixels(name, folder, picture):
    masker = open_masker(folder(name), CPU)
    seen = {}

    def plant(outputs):
        side = outputs.pred_masks.shape[-1]
        # SAM keeps the aspect and pads below; SAM 2 squeezes to its square.
        x, y = side / WIDTH, side / (WIDTH if name == "sam" else HEIGHT)
        outputs.pred_masks = torch.full_like(outputs.pred_masks, -8.0)
        for box in range(outputs.pred_masks.shape[1]):
            outputs.pred_masks[:, box, :, round(20 * y) : round(60 * y), round(30 * x) : round(90 * x)] = 8.0
        outputs.iou_scores = torch.full_like(outputs.iou_scores, 0.9)

    forward = masker.model.prompt_encoder.forward

    def encode(*args, **kwargs):
        seen["boxes"] = kwargs.get("input_boxes", args[2] if len(args) > 2 else None)
        return forward(*args, **kwargs)

    masker.model.prompt_encoder.forward = encode
    planted(masker.model, plant)
    (mask, score), (second, _) = masker.masks(picture, [PLACE, (0, 0, 10, 10)])
    assert mask.shape == (HEIGHT, WIDTH) and mask.dtype == bool and score == pytest.approx(0.9)
    assert iou(mask, wanted()) > 0.8 and second.shape == mask.shape
    size = masker.processor.target_size
    scale = (size / WIDTH, size / WIDTH) if name == "sam" else (size / WIDTH, size / HEIGHT)
    expected = [PLACE[0] * scale[0], PLACE[1] * scale[1], PLACE[2] * scale[0], PLACE[3] * scale[1]]
    assert seen["boxes"].reshape(-1, 4)[0].tolist() == pytest.approx(expected, abs=0.6)


def test_a_pth_file_s_mask_lies_on_the_right_pixels(folder, picture):
    masker = open_masker(folder("sam_file"), CPU)
    decode, encode, seen = masker.model.mask_decoder.forward, masker.model.prompt_encoder.forward, {}

    def plant(**kwargs):
        masks, scores = decode(**kwargs)
        masks = torch.full_like(masks, -8.0)
        scale = masks.shape[-1] / WIDTH
        masks[..., round(20 * scale) : round(60 * scale), round(30 * scale) : round(90 * scale)] = 8.0
        return masks, torch.full_like(scores, 0.7)

    def encoded(points, boxes, masks):
        seen["boxes"] = boxes
        return encode(points=points, boxes=boxes, masks=masks)

    masker.model.mask_decoder.forward, masker.model.prompt_encoder.forward = plant, encoded
    ((mask, score),) = masker.masks(picture, [PLACE])
    assert mask.shape == (HEIGHT, WIDTH) and iou(mask, wanted()) > 0.95 and score == pytest.approx(0.7)
    assert seen["boxes"][0].tolist() == pytest.approx([v * 1024 / WIDTH for v in PLACE], abs=0.6)


def test_a_pth_file_is_known_by_its_tensors(folder, tmp_path):
    from segment_anything.build_sam import _build_sam

    from comfyui_fewshot.vision.segmenters.sam import _load_sam

    built, like = _load_sam(folder("sam_file")), tiny.seeded(lambda: _build_sam(16, 2, 2, [1]))
    assert all(torch.equal(v, built.state_dict()[k]) for k, v in like.state_dict().items())
    assert [b.window_size for b in built.image_encoder.blocks] == [14, 0]
    torch.save({"weight": torch.zeros(2)}, tmp_path / "sam_x.pth")
    with pytest.raises(FewShotError, match="no SAM 1.0 checkpoint"):
        _load_sam(tmp_path / "sam_x.pth")
    (tmp_path / "sam_y.pth").write_bytes(b"nonsense")
    with pytest.raises(FewShotError, match="cannot be read"):
        _load_sam(tmp_path / "sam_y.pth")


def test_pickled_code_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    torch.save({"x": Trap()}, tmp_path / "sam_z.pth")
    with pytest.raises(FewShotError, match="cannot be read"):
        open_masker(tmp_path / "sam_z.pth", CPU)
    assert not (tmp_path / "run").exists()


def test_the_best_on_disk_comes_first(tmp_path):
    for name, kind in (("clipseg/a", "clipseg"), ("x/dino", "grounding-dino"), ("sams/s2", "sam2"), ("sams/s1", "sam")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(f'{{"model_type": "{kind}"}}')
    (tmp_path / "sams" / "broken").mkdir()
    (tmp_path / "sams" / "broken" / "config.json").write_text("{")
    for number, name in enumerate(
        ("sam_vit_b.pth", "sam_vit_h.pth", "sam_hq_vit_b.pth", "mobile_sam.pth", "other.pth")
    ):
        (tmp_path / "sams" / name).write_bytes(b"0" * (number + 1))
    assert list(find.finders([tmp_path])) == ["x/dino", "clipseg/a"]
    assert list(find.maskers([tmp_path / "sams"])) == ["s2", "s1", "sam_vit_h.pth", "sam_vit_b.pth"]
    assert find.finders([tmp_path / "nowhere"]) == {}


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(FewShotError, match="find phrases"):
        open_finder(tmp_path, CPU)
    with pytest.raises(FewShotError, match="make masks"):
        open_masker(folder("clipseg"), CPU)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text('{"model_type": "clipseg"}')
    with pytest.raises(FewShotError, match="what prepares their input"):
        open_finder(bare, CPU)
    for file in folder("clipseg").iterdir():
        if not file.name.endswith(".safetensors"):
            (bare / file.name).write_bytes(file.read_bytes())
    with pytest.raises(FewShotError, match="cannot be read"):
        open_finder(bare, CPU)
