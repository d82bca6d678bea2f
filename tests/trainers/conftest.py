"""A base model small enough to train in a second, pictures for it, and watchers that cut a run short."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from comfyui_fewshot.augmentation.images.load import picture_of, subject_from_folder
from comfyui_fewshot.core.progress import NullProgress
from comfyui_fewshot.core.randomness import seed_of
from comfyui_fewshot.core.values import Sample, TrainingSet
from comfyui_fewshot.models.open import base_from_path, open_base
from comfyui_fewshot.pocket.assemble import write_base
from comfyui_fewshot.pocket.world import words
from comfyui_fewshot.trainers.context import TrainingContext
from comfyui_fewshot.trainers.subject.method import train_subject
from comfyui_fewshot.trainers.subject.settings import SubjectSettings


def letter_tokenizer(folder: Path) -> CLIPTokenizer:
    """A tokenizer without merges: each letter is a token."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), words.BOS, words.EOS]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(
        folder, model_max_length=words.LENGTH, pad_token=words.EOS, unk_token=words.EOS
    )


def tiny_folder(folder: Path, make_tokenizer=letter_tokenizer) -> Path:
    """An SD 1.x of 32 px: UNet of widths 32 and 64, text encoder of two layers, autoencoder of factor 4."""
    tokenizer = make_tokenizer(folder / "tokenizer")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=words.LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 16, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
        scaling_factor=1.0,
    )
    for model in (unet, vae, text):
        fill(model)
    return write_base(folder, unet, vae, text, tokenizer)


@torch.no_grad()
def fill(model: torch.nn.Module) -> None:
    """Random weights that depend on the parameters' names alone, whichever library release made the model."""
    for name, parameter in model.named_parameters():
        name = name.removeprefix("text_model.")
        if parameter.dim() == 1:
            parameter.fill_(float("norm" in name and name.endswith("weight")))
        else:
            generator = torch.Generator().manual_seed(seed_of("weights", name))
            bound = parameter[0].numel() ** -0.5
            parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def wordy_base(tmp_path_factory):
    """The same with the pocket's words as tokens."""
    return base_from_path(tiny_folder(tmp_path_factory.mktemp("wordy"), words.build))


@pytest.fixture(scope="session")
def base(base_folder):
    return base_from_path(base_folder)


@pytest.fixture(scope="module")
def model(base):
    with open_base(base, torch.device("cpu")) as opened:
        yield opened


def draw_picture(path: Path, seed: int, size: tuple[int, int] = (40, 36)) -> Path:
    """A smooth random picture."""
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory) -> Path:
    """Three pictures with masks, without captions."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(3):
        draw_picture(folder / f"{i}.png", i)
        mask = Image.new("L", (40, 36))
        mask.paste(255, (8 + i, 8, 28, 28))
        mask.save(folder / f"{i}_mask.png")
    return folder


@pytest.fixture(scope="session")
def pictures(picture_folder, tmp_path_factory) -> TrainingSet:
    """Three references with masks and four priors."""
    references = subject_from_folder(picture_folder, "sks", "ball")
    folder = tmp_path_factory.mktemp("priors")
    priors = [draw_picture(folder / f"{i}.png", 100 + i) for i in range(4)]
    added = tuple(Sample(picture_of(path), "a photo of a ball", role="prior") for path in priors)
    return references.with_samples(references.samples + added)


@pytest.fixture(scope="session")
def settings() -> SubjectSettings:
    return SubjectSettings(
        steps=8,
        learning_rate=1e-3,
        rank=4,
        batch_size=2,
        save_every=3,
        log_every=2,
        warmup=0.25,
        seed=5,
        parameter_set="attention",
        local_weight=0.0,
        token="none",
    )


class CutAt(NullProgress):
    """Raises `error` at the check that follows `step` whole steps of `steps`."""

    def __init__(self, step: int, error: BaseException, steps: int = 8):
        self.step, self.error, self.steps, self.done = step, error, steps, -1

    def report(self, done, total, text="", picture=None, metrics=None):
        if total == self.steps:
            self.done = done

    def check(self):
        if self.done >= self.step:
            raise self.error


@pytest.fixture(scope="session")
def cut_at():
    return CutAt


@pytest.fixture
def one_thread():
    """Sums in parts have another rounding, and each of several processes on a CPU has one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def train(base, pictures, settings):
    """train_subject with the tiny base; keywords replace settings."""

    def run(folder, progress=None, set_=None, name="subject", start_from=None, **changes):
        context = TrainingContext(folder, "cpu", progress or NullProgress(), name=name)
        return train_subject(base, set_ or pictures, replace(settings, **changes), context, start_from)

    return run


@pytest.fixture(scope="session")
def uncut(train, tmp_path_factory):
    """The result of the plain run."""
    return train(tmp_path_factory.mktemp("uncut"))


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory) -> Path:
    """A CLIP with random weights and the pocket's words."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = words.build(folder)
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    text = dict(
        vocab_size=len(tokenizer), max_position_embeddings=32, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    model = CLIPModel(
        CLIPConfig(text_config=shape | text, vision_config=shape | dict(image_size=32, patch_size=8), projection_dim=16)
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    model.save_pretrained(folder)
    return folder
