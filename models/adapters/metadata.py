"""The metadata of LoRA and embedding files: kohya's `ss_*` keys, ModelSpec 1.0.1 and the hashes that readers use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import safetensors.torch
from torch import Tensor

from ...core.values import Adapter, LowRank
from ..public_names import DENOISER_RATE, IS_V2, TEXT_ENCODER_RATE
from .families import family_named
from .forms.word_rows import without_words

WORD = "fewshot.word"
"""in an embedding file: the word that its vectors stand for in prompts of this pack"""
BASE_NAME, BASE_KEY = "ss_sd_model_name", "fewshot.base_key"
"""the name of the base that was trained on, and its content key, which tells bases of one name apart"""
SOURCES = "fewshot.sources"
"""in an adapter made of several: a line of JSON for each, with its trigger, strength and facts of its training"""
FACTS = (
    BASE_NAME, BASE_KEY, "ss_max_train_steps", "ss_steps", "ss_learning_rate", DENOISER_RATE, TEXT_ENCODER_RATE,
    "ss_lr_scheduler", "ss_lr_warmup_steps", "ss_optimizer", "ss_max_grad_norm", "ss_seed", "ss_resolution",
    "ss_min_snr_gamma", "ss_noise_offset", "ss_prior_loss_weight", "ss_batch_size_per_device", "ss_num_train_images",
    "ss_num_reg_images",
)  # fmt: skip
"""what is told of a training; other tools' lists of files and captions are not among it"""
_SPEC = "modelspec."
_STATED = ("modelspec.resolution", "modelspec.description", "modelspec.author", "modelspec.prediction_type")
"""what an adapter may say of itself; the rest follows from what is written"""


def lora_metadata(adapter: Adapter, tensors: Mapping[str, Tensor], title: str) -> dict[str, str]:
    """Everything that goes into a LoRA file's header; what the adapter says of its training wins."""
    family = family_named(adapter.family)
    pairs = [factor for factor in without_words(adapter).values() if isinstance(factor, LowRank)]
    ranks, alphas = [pair.rank for pair in pairs], [pair.alpha for pair in pairs]
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": _common(ranks),
        "ss_network_alpha": _common(alphas),
        "ss_network_args": "{}",
        "ss_base_model_version": family.base_model_version,
        IS_V2: str(family.is_v2),
    }
    if adapter.trigger:
        metadata["ss_tag_frequency"] = json.dumps({title: {adapter.trigger: 1}})
    metadata = metadata | dict(adapter.metadata) | {"ss_output_name": title}
    metadata |= _model_spec(adapter, family, title, family.architectures[0])
    return metadata | _hashes(tensors, metadata)


def embedding_metadata(adapter: Adapter, title: str) -> dict[str, str]:
    """The header of an embedding file: what the adapter says of its training, and nothing of a LoRA's network."""
    family = family_named(adapter.family)
    of_several = {SOURCES: adapter.metadata[SOURCES]} if SOURCES in adapter.metadata else {}
    facts = training_facts(adapter.metadata) | of_several
    return facts | _model_spec(adapter, family, title, family.architectures[1])


def training_facts(metadata: Mapping[str, str]) -> dict[str, str]:
    """The facts of a training that are told."""
    return {name: metadata[name] for name in FACTS if name in metadata}


def source_lines(adapters: Sequence[tuple[Adapter, float]]) -> str:
    """What goes under `SOURCES` of an adapter made of these at these strengths.

    One that is made of several itself gives its own lines, at strengths that are multiplied.
    """
    facts: list[dict[str, Any]] = []
    for adapter, strength in adapters:
        own = read_sources(adapter.metadata) or [{"trigger": adapter.trigger, **training_facts(adapter.metadata)}]
        facts += [{**one, "strength": round(strength * one.get("strength", 1.0), 4)} for one in own]
    return "\n".join(json.dumps(one, ensure_ascii=False) for one in facts)


def read_sources(metadata: Mapping[str, str]) -> list[dict[str, Any]]:
    """Those lines, read; none where there are none or another tool wrote something else there."""
    try:
        found = [json.loads(line) for line in metadata.get(SOURCES, "").splitlines()]
    except ValueError:
        return []
    whole = all(isinstance(one, dict) and isinstance(one.get("strength"), int | float) for one in found)
    return found if whole else []


def _common(values: list) -> str:
    """The one value that all modules have, else "Dynamic", as kohya's tools write it."""
    if not values:
        return "0"
    return f"{values[0]:g}" if len(set(values)) == 1 else "Dynamic"


def _model_spec(adapter: Adapter, family: Any, title: str, architecture: str) -> dict[str, str]:
    side = family.resolution
    spec = {
        "sai_model_spec": "1.0.1",
        "architecture": architecture,
        "implementation": family.implementation,
        "title": title,
        "resolution": f"{side}x{side}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if adapter.trigger:
        spec["trigger_phrase"] = adapter.trigger
    stated = {key: adapter.metadata[key] for key in _STATED if key in adapter.metadata}
    return {_SPEC + key: value for key, value in spec.items()} | stated


def _hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """`sshs_*` over a file with the training keys alone, so that editing other metadata keeps the hashes."""
    training = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    data = safetensors.torch.save(dict(tensors), training)
    body = memoryview(data)[8 + int.from_bytes(data[:8], "little") :]
    model = hashlib.sha256(body).hexdigest()
    legacy = hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]
    return {"sshs_model_hash": model, "sshs_legacy_hash": legacy, f"{_SPEC}hash_sha256": f"0x{model}"}
