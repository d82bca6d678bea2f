"""The same training on SD 2.x and SDXL, with other predictions and in half precision."""

from dataclasses import replace

import pytest
import torch

from comfyui_fewshot.core.progress import NullProgress
from comfyui_fewshot.models.adapters.formats import read_lora
from comfyui_fewshot.models.open import base_from_path, open_base
from comfyui_fewshot.tests.models import checkpoints
from comfyui_fewshot.trainers.context import TrainingContext
from comfyui_fewshot.trainers.data.encoded_set import encode_set
from comfyui_fewshot.trainers.subject.method import train_subject


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Small checkpoints in the original format."""
    folder, markers = tmp_path_factory.mktemp("files"), {"v_pred": torch.empty(0), "ztsnr": torch.empty(0)}
    return {
        "sd2": checkpoints.save(checkpoints.sd2(), folder / "sd2.safetensors", {"modelspec.prediction_type": "v"}),
        "sdxl": checkpoints.save(checkpoints.sdxl(), folder / "sdxl.safetensors"),
        "sdxl-v": checkpoints.save(checkpoints.sdxl() | markers, folder / "v.safetensors"),
    }


@pytest.fixture(scope="module")
def tokens(base_folder):
    return base_folder / "tokenizer"


@pytest.mark.parametrize("name", ["sd2", "sdxl", "sdxl-v"])
def test_other_families_train(files, tokens, pictures, settings, tmp_path, name):
    base = base_from_path(files[name])
    assert (base.prediction, base.zero_snr) == {
        "sd2": ("v_prediction", False), "sdxl": ("epsilon", False), "sdxl-v": ("v_prediction", True),
    }[name]  # fmt: skip
    chosen = replace(settings, steps=2, resolution=32, text_encoder=True, min_snr_gamma=5.0)
    result = train_subject(base, pictures, chosen, TrainingContext(tmp_path, "cpu", tokenizer_folder=tokens))
    assert torch.tensor(result.losses).isfinite().all() and result.adapter.family == name[:4]
    moved = {path.split(".")[0] for path, factor in result.adapter.factors.items() if factor.up.abs().max() > 0}
    assert moved == {"unet", "text_encoder"} | ({"text_encoder_2"} if name != "sd2" else set())
    assert set(read_lora(result.lora).factors) == set(result.adapter.factors)


@pytest.mark.parametrize("name", ["sd2", "sdxl"])
def test_attention_is_supervised_and_dco_held_in_other_families(files, tokens, pictures, settings, tmp_path, name):
    """Both tokenizers of SDXL give the same places; the base's words are those of both encoders."""
    chosen = replace(settings, steps=2, resolution=32, local_weight=0.05, objective="dco", prior_weight=0.0)
    result = train_subject(
        base_from_path(files[name]), pictures, chosen, TrainingContext(tmp_path, "cpu", tokenizer_folder=tokens)
    )
    assert set(result.terms) == {"dco", "local"} and min(result.terms["local"]) > 0
    assert torch.tensor(result.losses).isfinite().all()


def test_sizes_are_each_pictures_own(files, tokens, pictures):
    """SDXL is told the picture's size before (36 x 40), where the crop lies, and the size after."""
    with open_base(base_from_path(files["sdxl"]), "cpu", tokenizer_folder=tokens) as model:
        pool = encode_set(model, pictures.references, 32, NullProgress())
    assert pool.sizes[:, :2].tolist() == [[36, 40]] * 3 and pool.sizes[:, 4:].tolist() == [[32, 32]] * 3
    assert pool.sizes[:, 2].tolist() == [0, 0, 0] and all(0 <= left <= 4 for left in pool.sizes[:, 3].tolist())
    assert pool.conditioning["pooled"].shape[0] == 3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_trains_nearly_alike(base, pictures, settings, uncut, tmp_path, dtype):
    """Frozen weights and activations in half precision; the adapter stays in float32."""
    result = train_subject(
        replace(base, dtype=dtype), pictures, replace(settings, steps=3), TrainingContext(tmp_path, "cpu")
    )
    assert result.losses == pytest.approx(uncut.losses[:3], rel=0.05)
    assert all(factor.up.dtype == torch.float32 for factor in result.adapter.factors.values())
