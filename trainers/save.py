"""Save results: adapters, learned tokens, and the base itself where it was trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from ..core.progress import Progress
from ..core.settings import SubjectSettings
from ..core.values import Adapter, BaseModelRef, Dense, TrainingSet
from ..models.adapters.metadata import BASE_KEY, BASE_NAME
from ..models.adapters.token_files import write_parts
from ..models.export import write_checkpoint
from ..models.svd_extract import svd_low_rank
from .optim.optimizers import OPTIMIZERS

log = logging.getLogger(__name__)
# Metadata key: the relative error of the extracted low-rank adapter.
ERROR_KEY = "fewshot.extraction_error"


def write_learned(
    base: BaseModelRef, adapter: Adapter, path: Path, metadata: Mapping[str, str], everything: bool = False
) -> None:
    """Write an adapter to `path`, its words beside it, and the base where its denoiser was trained; never over a file.

    Args:
        everything: the adapter's dense factors are the trained denoiser, and go into a checkpoint beside `path`.
    """
    if everything:
        write_base(base, adapter, path.with_name(f"{path.stem}_model{path.suffix}"), metadata)
        adapter = extract_lora(adapter)
    if not path.exists() and (adapter.factors or adapter.embeddings):
        write_parts(adapter, path)


def write_base(base: BaseModelRef, adapter: Adapter, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the checkpoint of a trained denoiser, if it is not there."""
    if path.exists():
        return
    changes: dict[str, torch.Tensor] = {}
    for module, change in _of_denoiser(adapter).items():
        parts = {"weight": change.weight, "bias": change.bias}
        changes |= {f"{module.removeprefix('unet.')}.{n}": t for n, t in parts.items() if t is not None}
    write_checkpoint(base, changes, path, metadata)
    log.info("the trained base is %s", path)


def extract_lora(
    adapter: Adapter, rank: int = 0, device: torch.device | str = "cpu", progress: Progress | None = None
) -> Adapter:
    """The adapter without the trained base's differences, or with them approximated at `rank`."""
    mine = _of_denoiser(adapter)
    rest = {path: factor for path, factor in adapter.factors.items() if path not in mine}
    metadata = dict(adapter.metadata)
    if rank:
        pairs, error = svd_low_rank(mine, rank, device, progress)
        log.info("an adapter of rank %d misses %.1f %% of what was trained", rank, 100 * error)
        metadata[ERROR_KEY] = f"{error:.4f}"
        rest = {**pairs, **rest}
    return replace(adapter, factors=rest, metadata=metadata)


def _of_denoiser(adapter: Adapter) -> dict[str, Dense]:
    """What was learned of the denoiser's own weights."""
    return {path: f for path, f in adapter.factors.items() if isinstance(f, Dense) and path.startswith("unet.")}


def training_metadata(base: BaseModelRef, chosen: SubjectSettings, pictures: TrainingSet) -> dict[str, str]:
    """What a LoRA's metadata says of its training, by the names other tools read.

    Of files it names the base alone: no pictures and no captions.
    """
    values = {
        BASE_NAME: base.name,
        BASE_KEY: base.key,
        "ss_max_train_steps": chosen.steps,
        "ss_steps": chosen.steps,
        "ss_learning_rate": chosen.learning_rate,
        "ss_unet_lr": chosen.learning_rate,
        "ss_text_encoder_lr": chosen.text_learning_rate if chosen.text_encoder else None,
        "ss_lr_scheduler": chosen.schedule,
        "ss_lr_warmup_steps": round(chosen.warmup * chosen.steps),
        "ss_optimizer": f"{OPTIMIZERS[chosen.optimizer]}.{chosen.optimizer}",
        "ss_max_grad_norm": chosen.max_gradient_norm,
        "ss_seed": chosen.seed,
        "ss_resolution": f"({chosen.resolution}, {chosen.resolution})",
        "ss_min_snr_gamma": chosen.min_snr_gamma or None,
        "ss_noise_offset": chosen.noise_offset or None,
        "ss_prior_loss_weight": chosen.prior_weight,
        "ss_batch_size_per_device": chosen.batch_size,
        "ss_num_train_images": len(pictures.references),
        "ss_num_reg_images": len(pictures.priors),
    }
    return {name: str(value) for name, value in values.items()}
