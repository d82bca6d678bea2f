"""DINO embeddings equal the raw model's, and other kinds of models are refused."""

import json

import pytest
import skimage.data
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.vision.embedders.dino import Dino
from comfyui_fewshot.vision.find import CLASSIFIER, vision_kind


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    shape = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
    Dinov2Model(Dinov2Config(**shape)).save_pretrained(path)
    about = {"size": {"shortest_edge": 60}, "crop_size": {"height": 56, "width": 56}, "image_mean": [0.5] * 3}
    (path / "preprocessor_config.json").write_text(json.dumps(about))
    return path


def test_embeddings_are_the_class_token(folder):
    image = Image.fromarray(skimage.data.astronaut())
    opened = Dino(folder)
    assert opened.sizes == (60, 56)
    (mine,) = opened.images([image])
    small = image.resize((60, 60), Image.Resampling.BICUBIC).crop((2, 2, 58, 58))
    values = torch.tensor(list(small.tobytes())).view(56, 56, 3).permute(2, 0, 1) / 255
    values = (values - 0.5) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        raw = Dinov2Model.from_pretrained(folder).eval()(pixel_values=values[None]).pooler_output[0]
    assert torch.allclose(mine, raw / raw.norm(), atol=1e-5)


def test_a_vit_without_a_crop_is_prepared_as_dino_was(folder, tmp_path):
    """The hub's file for ViT-DINO says 224 pixels without a crop and 0.5 for every mean and deviation."""
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    about = {"do_resize": True, "size": {"height": 224, "width": 224}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    file = tmp_path / "preprocessor_config.json"
    for given in (about, about | {"size": 224}, about | {"do_center_crop": False, "crop_size": 224}):
        file.write_text(json.dumps(given))
        opened = Dino(tmp_path)
        assert opened.sizes == (256, 224)
        assert opened.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
        assert opened.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
    file.write_text(json.dumps(about | {"do_center_crop": True, "crop_size": 224, "size": {"shortest_edge": 248}}))
    assert (Dino(tmp_path).sizes[0], Dino(tmp_path).mean.flatten().tolist()) == (248, [0.5] * 3), (
        "what a file says counts"
    )


def test_a_batch_changes_nothing(folder):
    images = [Image.fromarray(array()) for array in (skimage.data.astronaut, skimage.data.coffee)]
    opened = Dino(folder)
    together = opened.images(images)
    assert torch.allclose(together, torch.cat([opened.images([image]) for image in images]), atol=1e-5)
    assert together.norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)


LABELS = {"id2label": {"0": "cat", "1": "dog"}}


@pytest.mark.parametrize(
    ("name", "about", "kind"),
    [
        ("dino-vits16", {"architectures": ["ViTModel"]}, "vit"),
        ("vit-base", {"architectures": ["ViTForImageClassification"]}, CLASSIFIER),
        ("vit-base", LABELS, CLASSIFIER),
        ("my-DINO-with-a-probe", {"architectures": ["ViTForImageClassification"]}, "vit"),
        ("probe", {"architectures": ["ViTForImageClassification"], "_name_or_path": "facebook/dino-vitb8"}, "vit"),
    ],
)
def test_a_vit_that_was_taught_labels_is_no_dino(tmp_path, name, about, kind):
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text(json.dumps({"model_type": "vit"} | about))
    assert vision_kind({"model_type": "vit"} | about, name) == kind
    if kind == "vit":
        assert Dino(tmp_path / name).kind == "vit"
    else:
        with pytest.raises(FewShotError, match="a vit classifier, not a DINO"):
            Dino(tmp_path / name)
    assert vision_kind({"model_type": "dinov2"} | about, name) == "dinov2" and vision_kind({}, name) is None


def test_other_models_are_refused(folder, tmp_path):
    with pytest.raises(FewShotError, match="model of unknown kind, not a DINO"):
        Dino(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(FewShotError, match="a clip, not a DINO; choose a folder"):
        Dino(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(FewShotError, match="cannot be read .*fetch its files again"):
        Dino(tmp_path).images([Image.new("RGB", (60, 60))])
