"""What does not change while training, computed once and kept on the device: latents, masks, prompts, sizes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from ..augmentation.pictures import fit_to, load_mask, load_picture
from ..models.errors import FewShotError
from ..models.latents import encode_pictures
from ..models.loading import Networks
from ..models.text import Conditioning, encode_prompts, time_ids
from ..models.values import Sample
from ..models.watching import Watcher

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pool:
    """N samples of one role, on the device.

    mean, std: the latents' distribution (N, C, h, w), scaled, fp32; a latent sample is mean + std * noise.
    masks: (N, 1, h, w) in [0, 1] with 1 on the subject, or None where they are not used.
    sizes: SDXL's size conditioning (N, 6), or None.
    prompts: the captions; conditioning: them encoded, row by row, or None where the text encoder is trained.
    weights: how often each sample is drawn, relatively.
    """

    mean: torch.Tensor
    std: torch.Tensor
    masks: torch.Tensor | None
    sizes: torch.Tensor | None
    prompts: tuple[str, ...]
    conditioning: Conditioning | None
    weights: tuple[float, ...]


def build_pool(
    networks: Networks,
    samples: Sequence[Sample],
    resolution: int,
    watcher: Watcher,
    masks: bool = False,
    live_text: bool = False,
    at_once: int = 4,
) -> Pool:
    """Read, fit, encode.

    Args:
        resolution: side in pixels that all pictures are cropped and resized to.
        masks: keep the masks; a sample without one counts as all subject.
        live_text: the text encoder is trained, so prompts are not encoded here.

    Raises:
        FewShotError: a picture cannot be read, or its mask is empty after cropping.
    """
    fitted = []
    for done, sample in enumerate(samples):
        watcher.check()
        fitted.append(_fit(sample, resolution, masks))
        if done % 10 == 0:
            watcher.progress(done, len(samples), f"reading picture {done + 1} of {len(samples)}")
    moments = []
    for start in range(0, len(fitted), at_once):
        watcher.check()
        batch = torch.stack([pixels for pixels, _, _ in fitted[start : start + at_once]])
        moments.append(encode_pictures(networks, batch.to(networks.device)))
    mean = torch.cat([m for m, _ in moments])
    std = torch.cat([s for _, s in moments])
    _check_latents(mean, samples)
    prompts = tuple(sample.caption for sample in samples)
    return Pool(
        mean=mean,
        std=std,
        masks=_latent_masks([m for _, m, _ in fitted], mean, samples) if masks else None,
        sizes=_sizes(networks, [crop for _, _, crop in fitted]),
        prompts=prompts,
        conditioning=None if live_text else _encoded(networks, prompts),
        weights=tuple(sample.weight for sample in samples),
    )


def _fit(sample: Sample, resolution: int, masks: bool):
    """Pixels (3, H, W) in [0, 1], the mask (1, H, W) or None, and the crop."""
    mask = load_mask(sample.mask) if sample.mask is not None else None
    picture, mask, crop = fit_to(
        load_picture(sample.image), mask, resolution, resolution, centre="mask" if mask is not None else "centre"
    )
    shape = None if mask is None or not masks else _tensor(mask)[None]
    return _tensor(picture).permute(2, 0, 1), shape, crop


def _tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).float() / 255.0


def _latent_masks(masks: list, mean: torch.Tensor, samples: Sequence[Sample]) -> torch.Tensor:
    """Masks on the latents' grid (N, 1, h, w), by area."""
    rows = []
    for mask, sample in zip(masks, samples, strict=True):
        row = torch.ones(1, *mean.shape[-2:])
        if mask is not None:
            row = torch.nn.functional.interpolate(mask[None], mean.shape[-2:], mode="area")[0]
        if not row.any():
            raise FewShotError(
                f"the mask of {sample.image.path} is empty within the crop. Mend it, or set background_weight to 1."
            )
        rows.append(row)
    return torch.stack(rows).to(mean.device)


def _check_latents(mean: torch.Tensor, samples: Sequence[Sample]) -> None:
    whole = mean.isfinite().flatten(1).all(1).tolist()
    if not all(whole):
        path = samples[whole.index(False)].image.path
        raise FewShotError(f"the autoencoder gives no numbers for {path}. Load the base in bfloat16 or float32.")


def _encoded(networks: Networks, prompts: Sequence[str], at_once: int = 16) -> Conditioning:
    """Each different prompt is encoded once."""
    unique = list(dict.fromkeys(prompts))
    with torch.no_grad():
        parts = [encode_prompts(networks, unique[i : i + at_once]) for i in range(0, len(unique), at_once)]
    whole = Conditioning.cat(parts)
    return whole.take([unique.index(prompt) for prompt in prompts])


def _sizes(networks: Networks, crops: Sequence) -> torch.Tensor | None:
    """Size conditioning, for the families that take it."""
    if networks.unet.config.get("addition_embed_type") != "text_time":
        return None
    rows = [time_ids(networks, crop.original, crop.corner, crop.target) for crop in crops]
    return torch.stack(rows).to(networks.device)
