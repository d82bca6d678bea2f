"""ImageReward's network on transformers' BLIP towers, read from the published checkpoint without its package.

A ViT encodes the picture; a BERT encodes the prompt with cross-attention to the ViT's features; five linear layers
without activations map its first token to a reward (Xu et al. 2023). All sizes follow from the checkpoint's shapes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, BertTokenizer, BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from ...core.atomic import replacing
from ...core.broken_files import stand_in
from ...core.errors import FewShotError
from ...core.weight_files import file_hash, open_tensors
from ..embedders.clip import MEAN, STD
from ..embedders.embedder import pixels, preprocess_batch
from ..model_ids import DIGITS, model_id, origin_of, stamp
from ..open import broken_file

log = logging.getLogger(__name__)
PUBLISHED, CONVERTED = "ImageReward.pt", "ImageReward.safetensors"
REWARD_MEAN, REWARD_STD = 0.16717362830052426, 1.0333394966054072  # of the rewards the authors measured
MAX_TOKENS = 35
BATCH = 8
SIZE = "BLIP"  # ViT-L/16 and BERT; the file says no more of itself
HEAD_WIDTH = 64  # of both towers' attention heads
HEAD = (0, 2, 4, 6, 7)  # the linear layers of the published `mlp.layers`; dropout stands between them
RENAMED = (
    (r"^blocks\.", "encoder.layers."),
    (r"\.attn\.", ".self_attn."),
    (r"self_attn\.proj\.", "self_attn.projection."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"^norm\.", "post_layernorm."),
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
)


class ImageRewardNetwork(nn.Module):
    """The two towers and the head. Their sizes follow from `weights`, which have this module's parameter names."""

    def __init__(self, weights: Mapping[str, Tensor]):
        super().__init__()
        patch, positions = (weights[f"vision.embeddings.{n}"] for n in ("patch_embedding.weight", "position_embedding"))
        vocabulary, cross_keys = (
            weights["text.embeddings.word_embeddings.weight"],
            weights["text.encoder.layer.0.crossattention.self.key.weight"],
        )
        side = round((positions.shape[1] - 1) ** 0.5) * patch.shape[-1]
        self.vision = BlipVisionModel(
            BlipVisionConfig(
                hidden_size=patch.shape[0],
                intermediate_size=weights["vision.encoder.layers.0.mlp.fc1.weight"].shape[0],
                num_hidden_layers=_layers(weights, "vision.encoder.layers"),
                num_attention_heads=patch.shape[0] // HEAD_WIDTH,
                image_size=side,
                patch_size=patch.shape[-1],
                layer_norm_eps=1e-6,
            )
        )
        self.text = BlipTextModel(
            BlipTextConfig(
                vocab_size=vocabulary.shape[0],
                hidden_size=vocabulary.shape[1],
                encoder_hidden_size=cross_keys.shape[1],
                num_hidden_layers=_layers(weights, "text.encoder.layer"),
                num_attention_heads=vocabulary.shape[1] // HEAD_WIDTH,
                intermediate_size=weights["text.encoder.layer.0.intermediate.dense.weight"].shape[0],
                max_position_embeddings=weights["text.embeddings.position_embeddings.weight"].shape[0],
                hidden_act="gelu",
            ),
            add_pooling_layer=False,
        )
        shapes = [weights[f"head.{number}.weight"].shape for number in range(len(HEAD))]
        self.head = nn.Sequential(*(nn.Linear(into, out) for out, into in shapes))
        self.side = side

    def forward(self, pictures: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Rewards (n,) of pictures (n, 3, S, S) and tokens (n, L)."""
        features = self.vision(pixel_values=pictures).last_hidden_state
        hidden = self.text(
            input_ids=ids,
            attention_mask=mask,
            encoder_hidden_states=features,
            encoder_attention_mask=torch.ones(features.shape[:2], dtype=torch.long, device=features.device),
            is_decoder=False,
        ).last_hidden_state[:, 0]
        return (self.head(hidden).squeeze(-1) - REWARD_MEAN) / REWARD_STD


def from_published(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published checkpoint's weights under `ImageRewardNetwork`'s names; unused ones are dropped.

    Raises:
        FewShotError: these are not ImageReward's weights.
    """
    weights: dict[str, Tensor] = {}
    for name, value in published.items():
        if name.startswith("blip.visual_encoder."):
            new_name = name.removeprefix("blip.visual_encoder.")
            for pattern, text in RENAMED:
                new_name = re.sub(pattern, text, new_name)
            weights["vision." + new_name] = value
        elif name.startswith("blip.text_encoder.") and not name.endswith("position_ids"):
            weights["text." + name.removeprefix("blip.text_encoder.")] = value
        elif layer := re.fullmatch(r"mlp\.layers\.(\d+)\.(weight|bias)", name):
            weights[f"head.{HEAD.index(int(layer[1]))}.{layer[2]}"] = value
    if not all(any(name.startswith(part) for name in weights) for part in ("vision.", "text.", "head.")):
        raise FewShotError("these weights are not ImageReward's: blip.visual_encoder, blip.text_encoder or mlp lacks")
    return weights


class ImageRewardModel:
    """The model in `folder`, opened on first use in fp32: ImageReward.pt (or its converted copy) and BERT's tokenizer.

    The published file is read without running code in it and converted to ImageReward.safetensors beside it; again when
    it was replaced.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        self.folder, self.device = Path(folder), torch.device(device)
        if not any((self.folder / name).is_file() for name in (PUBLISHED, CONVERTED)):
            raise FewShotError(f"there is no {PUBLISHED} in {self.folder}; put the file of zai-org/ImageReward there")
        if found := stand_in(self.folder / PUBLISHED) or stand_in(self.folder / CONVERTED):
            raise FewShotError(f"ImageReward in {self.folder} cannot be read: {found}")

    @property
    def model_id(self) -> str:
        """By the published file's weights, also where only the converted file is left."""
        published, converted = self.folder / PUBLISHED, self.folder / CONVERTED
        if published.is_file():
            return model_id(published, SIZE)
        digest = _metadata(converted).get("sha256", "") or file_hash(converted)
        return f"{published.stem} {SIZE} {digest[:DIGITS]}"

    @cached_property
    def network(self) -> ImageRewardNetwork:
        log.info("opening ImageReward in %s", self.folder)
        weights = self._weights()
        try:
            network = ImageRewardNetwork(weights)
            missing, _ = network.load_state_dict(weights, strict=False)
        except (KeyError, RuntimeError) as error:
            raise FewShotError(f"the weights in {self.folder} are not whole ({error}); fetch them again") from error
        missing = [name for name in missing if not name.endswith("position_ids")]
        if missing:
            raise FewShotError(f"ImageReward in {self.folder} lacks weights ({missing[0]}, ...); fetch it again")
        return network.float().to(self.device).eval().requires_grad_(False)

    def _weights(self) -> dict[str, Tensor]:
        published, converted = self.folder / PUBLISHED, self.folder / CONVERTED
        try:
            if converted.is_file() and (
                not published.is_file() or _metadata(converted).get("stamp") == stamp(published)
            ):
                with open_tensors(converted) as (tensors, _):
                    return dict(tensors)
            with open_tensors(published) as (tensors, _):
                checkpoint = dict(tensors)
        except FewShotError as error:
            raise FewShotError(f"ImageReward in {self.folder} cannot be read: {error}") from error
        weights = {name: value.contiguous().clone() for name, value in from_published(checkpoint).items()}
        self._save_converted(weights)
        return weights

    def _save_converted(self, weights: Mapping[str, Tensor]) -> None:
        try:
            with replacing(self.folder / CONVERTED) as draft:
                save_file(dict(weights), draft, origin_of(self.folder / PUBLISHED))
        except OSError as error:
            log.warning("ImageReward could not be saved as %s (%s); %s stays", CONVERTED, error.strerror, PUBLISHED)

    @cached_property
    def tokenizer(self) -> Any:
        words = self.folder / "vocab.txt"
        if not words.is_file() and not (self.folder / "tokenizer.json").is_file():
            raise FewShotError(f"{self.folder} holds no tokenizer; put vocab.txt of bert-base-uncased there")
        try:
            if not any((self.folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
                return BertTokenizer(str(words), do_lower_case=True)  # of words alone, as the model was trained
            return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        except Exception as error:  # a damaged one makes the tokenizers' library raise many kinds
            reason = broken_file(self.folder) or error
            raise FewShotError(f"the tokenizer in {self.folder} cannot be read ({reason}); fetch it again") from error

    def move(self, device: torch.device | str) -> None:
        """Move the model to another device."""
        self.device = torch.device(device)
        self.network.to(self.device)

    @torch.no_grad()
    def rewards(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        """Rewards (n,) on the CPU of each picture and its text."""
        side = self.network.side
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        parts = []
        for start in range(0, len(images), BATCH):
            some = slice(start, start + BATCH)
            batch = torch.stack([pixels(image, side, side, mean, std) for image in images[some]]).to(self.device)
            parts.append(self.network(batch, *self._tokenize(texts[some])).cpu())
        return torch.cat(parts)

    def score_batch(self, pixels: Tensor, texts: Sequence[str]) -> Tensor:
        """Rewards (n,) of pixels (n, 3, H, W) in [0, 1] on the model's device, differentiable."""
        side = self.network.side
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        return self.network(preprocess_batch(pixels, side, side, mean, std), *self._tokenize(texts))

    def _tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokens = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        ).to(self.device)
        return tokens.input_ids, tokens.attention_mask


def _metadata(converted: Path) -> dict[str, str]:
    """The metadata in the header of a converted file."""
    with open_tensors(converted) as (_, metadata):
        return metadata


def _layers(weights: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max(int(name[len(prefix) + 1 :].split(".")[0]) for name in weights if name.startswith(prefix + "."))
