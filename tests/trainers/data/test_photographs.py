"""Real photographs at 512 px through loading, cropping and caching into steps of a UNet of SD 1.5's size."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import skimage.data
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image

from comfyui_fewshot.augmentation.images.load import subject_from_folder
from comfyui_fewshot.models.conditioning import Conditioning
from comfyui_fewshot.models.stable_diffusion.encoding.prompts import encode_prompts
from comfyui_fewshot.models.stable_diffusion.model import StableDiffusion
from comfyui_fewshot.trainers import run as training
from comfyui_fewshot.trainers.context import TrainingContext
from comfyui_fewshot.trainers.subject.method import train_subject
from comfyui_fewshot.trainers.subject.settings import SubjectSettings


@torch.no_grad()
def full_size_unet() -> UNet2DConditionModel:
    """The default configuration is Stable Diffusion 1.5's but for the prompt's width; weights are random."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    unet.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for name, parameter in unet.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(float("norm" in name and name.endswith("weight")))
        else:
            bound = parameter[0].numel() ** -0.5
            parameter.uniform_(-bound, bound, generator=generator)
    return unet.requires_grad_(False).eval()


def factor_8_autoencoder() -> AutoencoderKL:
    """Factor 8 and 4 channels as Stable Diffusion's, but narrow."""
    kinds = dict(down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
    vae = AutoencoderKL(block_out_channels=(16, 16, 16, 16), latent_channels=4, norm_num_groups=8, **kinds)
    return vae.requires_grad_(False).eval()


@pytest.mark.slow
def test_photographs_train_a_full_size_unet(base, model, tmp_path, monkeypatch):
    folder = tmp_path / "cat"
    folder.mkdir()
    Image.fromarray(skimage.data.chelsea()).save(folder / "chelsea.jpg")  # 451 x 300
    Image.fromarray(skimage.data.astronaut()[:, 100:400]).save(folder / "astronaut.png")  # 300 x 512

    @contextmanager
    def opened(*_, **__):
        yield replace(model, unet=full_size_unet(), vae=factor_8_autoencoder())

    def wide(_, prompts, *__):
        found = encode_prompts(model, prompts)
        return Conditioning.of(hidden=found["hidden"].repeat(1, 1, 768 // found["hidden"].shape[-1]))

    monkeypatch.setattr(StableDiffusion, "encode_prompts", wide)
    monkeypatch.setattr(training, "opened", opened)
    pictures = subject_from_folder(folder, "sks", "cat")
    result = train_subject(base, pictures, SubjectSettings(steps=2, rank=4), TrainingContext(tmp_path / "runs", "cpu"))
    assert len(result.losses) == 2 and 0.5 < min(result.losses) and max(result.losses) < 10
    assert len(result.adapter.factors) == 160 and result.lora.stat().st_size > 1_500_000
    assert all(factor.up.abs().max() > 0 for factor in result.adapter.factors.values())
