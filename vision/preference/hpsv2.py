"""HPSv2 as published, an open_clip checkpoint of a ViT-H/14, converted to a folder of transformers' CLIPModel."""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from ...core.errors import FewShotError
from ...core.weight_files import open_tensors
from ..embedders.clip import MEAN, STD
from ..model_ids import MADE_FROM, made_from, origin_of, stamp

log = logging.getLogger(__name__)
PUBLISHED = "HPS*.pt"
LAST = "config.json"  # written last: it marks the folder complete
VISION_HEAD_WIDTH, TEXT_HEAD_WIDTH = 80, 64  # widths of an attention head in ViT-H's two towers
OUTER = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.proj": "visual_projection.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
TRANSPOSED = ("visual.proj", "text_projection")  # stored as inputs x outputs there
NORMS = {
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "ln_final": "text_model.final_layer_norm",
}
INNER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)")


def from_open_clip(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's weights under the names of transformers; queries, keys and values are split."""
    converted_weights: dict[str, Tensor] = {}
    for name, value in weights.items():
        module, _, kind = name.rpartition(".")
        if name in OUTER:
            converted_weights[OUTER[name]] = value.T if name in TRANSPOSED else value
        elif module in NORMS:
            converted_weights[f"{NORMS[module]}.{kind}"] = value
        elif block := BLOCK.fullmatch(name):
            tower, number, part, kind = block.groups()
            layer = f"{'vision' if tower else 'text'}_model.encoder.layers.{number}"
            if part == "attn.in_proj":
                for letter, piece in zip("qkv", value.chunk(3), strict=True):
                    converted_weights[f"{layer}.self_attn.{letter}_proj.{kind}"] = piece
            elif part in INNER:
                converted_weights[f"{layer}.{INNER[part]}.{kind}"] = value
    return {name: value.float().contiguous().clone() for name, value in converted_weights.items()}


def clip_of(weights: Mapping[str, Tensor]) -> CLIPModel:
    """The CLIPModel of an open_clip ViT-H checkpoint; sizes follow from the shapes.

    Raises:
        FewShotError: weights are missing.
    """
    try:
        patch, fc = weights["visual.conv1.weight"], "transformer.resblocks.0.mlp.c_fc.weight"
        tokens, positions = weights["token_embedding.weight"], weights["visual.positional_embedding"]
        config = CLIPConfig(
            projection_dim=weights["text_projection"].shape[1],
            vision_config={
                "hidden_size": patch.shape[0],
                "intermediate_size": weights[f"visual.{fc}"].shape[0],
                "num_hidden_layers": _layers(weights, "visual."),
                "num_attention_heads": patch.shape[0] // VISION_HEAD_WIDTH,
                "image_size": round((positions.shape[0] - 1) ** 0.5) * patch.shape[-1],
                "patch_size": patch.shape[-1],
                "projection_dim": weights["visual.proj"].shape[1],
                "hidden_act": "gelu",
            },
            text_config={
                "vocab_size": tokens.shape[0],
                "hidden_size": tokens.shape[1],
                "intermediate_size": weights[fc].shape[0],
                "num_hidden_layers": _layers(weights, ""),
                "num_attention_heads": tokens.shape[1] // TEXT_HEAD_WIDTH,
                "max_position_embeddings": weights["positional_embedding"].shape[0],
                "projection_dim": weights["text_projection"].shape[1],
                "hidden_act": "gelu",
                "bos_token_id": tokens.shape[0] - 2,
                "eos_token_id": tokens.shape[0] - 1,
                "pad_token_id": 0,
            },
        )
        model = CLIPModel(config)
        missing, _ = model.load_state_dict(from_open_clip(weights), strict=False)
    except (KeyError, RuntimeError, ValueError) as error:
        raise FewShotError(f"these weights are no whole open_clip ViT-H ({error}); fetch the file again") from error
    missing = [name for name in missing if not name.endswith("position_ids")]
    if missing:
        raise FewShotError(f"these weights are no whole open_clip ViT-H: {missing[0]} lacks; fetch the file again")
    return model


def converted(folder: Path) -> Path:
    """`folder` with a CLIPModel converted from the published file in it (of several the latest version).

    It is read without running code, once, and again when it was replaced. A model that a user put into the folder
    stays as it is.

    Raises:
        FewShotError: the published file is damaged, or the folder cannot be written to.
    """
    file = max(folder.glob(PUBLISHED), key=_version, default=None)
    if file is None:
        return folder
    made = made_from(folder)
    if (folder / LAST).is_file():
        if not made:
            log.warning("%s holds a model of transformers, so %s is not read", folder, file.name)
            return folder
        if (made["file"], made["stamp"]) == (file.name, stamp(file)):
            return folder
    log.info("making %s a CLIPModel of transformers, once", file)
    try:
        with open_tensors(file) as (weights, _):
            read = dict(weights)
    except FewShotError as error:
        raise FewShotError(f"{file} cannot be read: {error}") from error
    _write_model(clip_of(read), folder, origin_of(file))
    return folder


def _version(file: Path) -> tuple[tuple[int, ...], str]:
    """Of "HPS_v2.1_compressed.pt" (2, 1), so that it comes after "HPS_v2_compressed.pt"."""
    version = re.search(r"v(\d+(?:\.\d+)*)", file.name)
    return tuple(map(int, version[1].split("."))) if version else (), file.name


def _write_model(model: CLIPModel, folder: Path, origin: Mapping[str, str]) -> None:
    """Write the model's files to `folder`, replacing those converted before."""
    try:
        with tempfile.TemporaryDirectory(dir=folder) as made:
            model.save_pretrained(made)
            preprocessor = {"image_mean": MEAN, "image_std": STD}
            (Path(made) / "preprocessor_config.json").write_text(json.dumps(preprocessor), encoding="utf-8")
            (Path(made) / MADE_FROM).write_text(json.dumps(origin), encoding="utf-8")
            (folder / LAST).unlink(missing_ok=True)
            for file in sorted(Path(made).iterdir(), key=lambda path: path.name == LAST):
                os.replace(file, folder / file.name)
    except OSError as error:
        raise FewShotError(
            f"{folder} cannot be written: {error.strerror or error}; free some space or rights"
        ) from None


def _layers(weights: Mapping[str, Tensor], tower: str) -> int:
    prefix = f"{tower}transformer.resblocks."
    return 1 + max(int(name[len(prefix) :].split(".")[0]) for name in weights if name.startswith(prefix))
