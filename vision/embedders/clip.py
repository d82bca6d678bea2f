"""Embeddings of texts and pictures by a CLIP (Radford et al. 2021), from any local folder of a `CLIPModel`."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoTokenizer, CLIPModel

from ...core.errors import FewShotError
from ...core.values import Prompt
from ..model_ids import model_id

log = logging.getLogger(__name__)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of OpenAI's CLIP
BATCH = 32


class Clip:
    """A CLIP opened from `folder` on first use, in fp32. Several metrics may share one."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        self.folder, self.device = Path(folder), torch.device(device)
        settings = read_model_json(self.folder, "config.json", needed=True)
        if settings.get("model_type") != "clip":
            raise FewShotError(
                f"{self.folder} holds a {settings.get('model_type', 'model of unknown kind')}, not a CLIP; choose a "
                "folder of a transformers CLIPModel, such as openai/clip-vit-base-patch32"
            )
        given = read_model_json(self.folder, "preprocessor_config.json")
        self.mean = torch.tensor(given.get("image_mean", MEAN)).view(3, 1, 1)
        self.std = torch.tensor(given.get("image_std", STD)).view(3, 1, 1)

    @property
    def model_id(self) -> str:
        return model_id(self.folder)

    @cached_property
    def model(self) -> Any:
        log.info("opening the CLIP in %s", self.folder)
        try:
            opened: Any = CLIPModel.from_pretrained(self.folder, local_files_only=True, output_loading_info=True)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise FewShotError(f"the CLIP in {self.folder} cannot be read ({error}); fetch its files again") from error
        model, info = opened
        if info["missing_keys"]:
            missing = ", ".join(sorted(info["missing_keys"])[:3])
            raise FewShotError(f"the CLIP in {self.folder} lacks weights ({missing}, ...); fetch its files again")
        return model.float().to(self.device).eval().requires_grad_(False)

    @cached_property
    def tokenizer(self):
        if not any((self.folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            raise FewShotError(f"{self.folder} holds no tokenizer; put vocab.json and merges.txt of the model there")
        try:
            return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError, TypeError) as error:
            raise FewShotError(f"the tokenizer in {self.folder} cannot be read ({error}); fetch it again") from error

    @property
    def size(self) -> int:
        return self.model.config.vision_config.image_size

    def move(self, device: torch.device | str) -> None:
        """Move the model to another device; on the CPU it takes no GPU memory."""
        self.device = torch.device(device)
        self.model.to(self.device)

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """(3, S, S): the shorter edge resized to the model's own size S (bicubic), cropped, normalised."""
        return pixels(image, self.size, self.size, self.mean, self.std)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Unit embeddings (n, D) of pixels (n, 3, H, W) in [0, 1] on the CLIP's device, differentiable.

        The same as `images` of the same pictures, up to the rounding of pixels between resizing and cropping.
        """
        cropped = preprocess_batch(pixels, self.size, self.size, self.mean, self.std)
        return torch.nn.functional.normalize(_embedding(self.model.get_image_features(pixel_values=cropped)), dim=-1)

    def fit(self, pixels: torch.Tensor, prompts: Sequence[Prompt]) -> torch.Tensor:
        """Cosines (n,) of pixels and their prompts without identifiers, differentiable."""
        texts = self.texts([prompt.stripped for prompt in prompts]).to(pixels.device)
        return (self.encode(pixels) * texts).sum(-1)

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Unit embeddings (n, D) on the CPU."""
        parts = []
        for start in range(0, len(images), BATCH):
            pixels = torch.stack([self.pixels(image) for image in images[start : start + BATCH]]).to(self.device)
            parts.append(_embedding(self.model.get_image_features(pixel_values=pixels)))
        return torch.nn.functional.normalize(torch.cat(parts), dim=-1).cpu()

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit embeddings (n, D) on the CPU. Texts beyond the model's length are truncated with a warning."""
        max_tokens = self.model.config.text_config.max_position_embeddings
        parts = []
        for start in range(0, len(texts), BATCH):
            batch = list(texts[start : start + BATCH])
            for text, ids in zip(batch, self.tokenizer(batch).input_ids, strict=True):
                if len(ids) > max_tokens:
                    log.warning("CLIP reads %d tokens; the end of this text is left out: %s", max_tokens, text)
            tokens = self.tokenizer(
                batch, padding="max_length", max_length=max_tokens, truncation=True, return_tensors="pt"
            )
            tokens = {name: tokens[name].to(self.device) for name in ("input_ids", "attention_mask")}
            parts.append(_embedding(self.model.get_text_features(**tokens)))
        return torch.nn.functional.normalize(torch.cat(parts), dim=-1).cpu()


def pixels(image: Image.Image, edge: int, side: int, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """(3, side, side): the shorter edge resized to `edge` (bicubic), cropped in the middle, normalised."""
    width, height = image.size
    shape = (edge, int(edge * height / width)) if width <= height else (int(edge * width / height), edge)
    resized = image.convert("RGB").resize(shape, Image.Resampling.BICUBIC)
    left, top = (shape[0] - side) // 2, (shape[1] - side) // 2
    values = np.asarray(resized.crop((left, top, left + side, top + side)), np.float32) / 255
    return (torch.from_numpy(values).permute(2, 0, 1) - mean) / std


def preprocess_batch(pixels: torch.Tensor, edge: int, side: int, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """`pixels` for a batch (n, 3, H, W) in [0, 1]: differentiable, without rounding to bytes."""
    height, width = pixels.shape[-2:]
    shape = (int(edge * height / width), edge) if width <= height else (edge, int(edge * width / height))
    resized = torch.nn.functional.interpolate(pixels, shape, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    cropped = resized[..., top : top + side, left : left + side]
    return (cropped - mean.to(pixels.device)) / std.to(pixels.device)


def read_model_json(folder: Path, name: str, needed: bool = False) -> dict:
    """A JSON file in a model's folder; empty where it is missing and not needed.

    Raises:
        FewShotError: it is damaged, or needed and missing.
    """
    path = folder / name
    if not path.is_file():
        if needed:
            raise FewShotError(f"there is no CLIP in {folder}: {name} is missing; put a CLIPModel folder there")
        return {}
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise FewShotError(f"{path} is damaged ({error}); fetch it again") from None


def _embedding(output) -> torch.Tensor:
    """The projected embedding: transformers 5 gives an output object, transformers 4 the tensor itself."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output
