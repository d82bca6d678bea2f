"""Embeddings of texts and pictures by a CLIP (Radford et al. 2021), from any local folder of a `CLIPModel`."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from ...core.broken_files import stand_in
from ...core.errors import FewShotError
from ..model_ids import model_id
from ..open import broken_file, open_model
from .embedder import BATCH, FrozenEmbedder

log = logging.getLogger(__name__)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of OpenAI's CLIP


class Clip(FrozenEmbedder):
    """A CLIP in `folder`."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        self.folder = Path(folder)
        settings = read_model_json(self.folder, "config.json", needed=True)
        if settings.get("model_type") != "clip":
            raise FewShotError(
                f"{self.folder} holds a {settings.get('model_type', 'model of unknown kind')}, not a CLIP; choose a "
                "folder of a transformers CLIPModel, such as openai/clip-vit-base-patch32"
            )
        given = read_model_json(self.folder, "preprocessor_config.json")
        super().__init__(device, given.get("image_mean", MEAN), given.get("image_std", STD))

    @property
    def model_id(self) -> str:
        return model_id(self.folder)

    @property
    def sizes(self) -> tuple[int, int]:
        side = self.model.config.vision_config.image_size
        return side, side

    def _open(self) -> Any:
        log.info("opening the CLIP in %s", self.folder)
        return open_model("CLIPModel", self.folder, self.device, kind="CLIP")

    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        return _embedding(self.model.get_image_features(pixel_values=pixels))

    @cached_property
    def tokenizer(self):
        if not any((self.folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            raise FewShotError(f"{self.folder} holds no tokenizer; put vocab.json and merges.txt of the model there")
        try:
            return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        except Exception as error:  # a damaged one makes the tokenizers' library raise many kinds
            reason = broken_file(self.folder) or error
            raise FewShotError(f"the tokenizer in {self.folder} cannot be read ({reason}); fetch it again") from error

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
        raise FewShotError(f"{path} is damaged ({stand_in(path) or error}); fetch it again") from None


def _embedding(output) -> torch.Tensor:
    """The projected embedding: transformers 5 gives an output object, transformers 4 the tensor itself."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output
