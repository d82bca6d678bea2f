"""What does not change while training, computed once and kept on the device: latents, masks, prompts, sizes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from PIL import Image, ImageChops

from ...augmentation.images.crop import as_large, fit_to
from ...augmentation.images.load import load_mask, load_picture
from ...core.errors import FewShotError
from ...core.progress import Progress
from ...core.values import BESIDE, Sample
from ...models.conditioning import Conditioning
from ...models.contract import DiffusionModel
from ..auto.fit import encoding_batch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodedSet:
    """N samples of one role, on the device.

    mean, std: the latents' distribution (N, C, h, w), scaled, fp32; a latent sample is mean + std * noise.
    masks: (N, 1, h, w) in [0, 1] with 1 on the subjects, or None where they are not used.
    sizes: SDXL's size conditioning (N, 6), or None.
    prompts: the captions; conditioning: them encoded, row by row, or None where the text encoder is trained.
    dropped: the empty caption encoded (1 row), under the same condition.
    weights: how often each sample is drawn, relatively.
    shapes: each sample's masks (1, h, w) by the number of their subject, on the host; BESIDE is that of other things
        in a composite.
    background_weights: of the loss beyond the masks (N, 1, 1, 1), as composites bring them, 1 for all others; None
        where no composite brings one.
    late_weights: as `weights`, towards the end of training; None where nothing changes.
    base_prompts, base, base_dropped: the captions without identifiers; them and the empty caption (1 row), as the base
        encodes them; where that is used.
    """

    mean: torch.Tensor
    std: torch.Tensor
    masks: torch.Tensor | None
    sizes: torch.Tensor | None
    prompts: tuple[str, ...]
    conditioning: Conditioning | None
    dropped: Conditioning | None
    weights: tuple[float, ...]
    shapes: tuple[Mapping[int, torch.Tensor], ...] = ()
    background_weights: torch.Tensor | None = None
    late_weights: tuple[float, ...] | None = None
    base_prompts: tuple[str, ...] = ()
    base: Conditioning | None = None
    base_dropped: Conditioning | None = None


def encode_set(
    model: DiffusionModel,
    samples: Sequence[Sample],
    resolution: int,
    progress: Progress,
    masks: bool = False,
    live_text: bool = False,
) -> EncodedSet:
    """Read, fit, encode.

    Args:
        resolution: side in pixels that all pictures are cropped and resized to.
        masks: keep the masks; a sample without one counts as all subject. They are kept too where a composite brings
            a weight of its background.
        live_text: the text encoder is trained, so prompts are not encoded here.

    Raises:
        FewShotError: a picture cannot be read, or its mask is empty after cropping.
    """
    fitted = []
    for done, sample in enumerate(samples):
        progress.check()
        fitted.append(_fit(sample, resolution, resolution // model.downscale))
        if done % 10 == 0:
            progress.report(done, len(samples), f"reading picture {done + 1} of {len(samples)}")
    _tell_fitting(samples, resolution)
    at_once = encoding_batch(resolution)
    moments = []
    for start in range(0, len(fitted), at_once):
        progress.check()
        batch = torch.stack([pixels for pixels, _, _ in fitted[start : start + at_once]])
        moments.append(model.encode_images(batch.to(model.device)))
    mean = torch.cat([m for m, _ in moments])
    std = torch.cat([s for _, s in moments])
    _check_latents(mean, samples)
    prompts = tuple(sample.caption for sample in samples)
    shapes = tuple(shape for _, shape, _ in fitted)
    background_weights = torch.tensor([sample.background for sample in samples]).reshape(-1, 1, 1, 1)
    weighed = bool((background_weights < 1).any())
    return EncodedSet(
        mean=mean,
        std=std,
        masks=_united(shapes, mean, samples, masks) if masks or weighed else None,
        sizes=model.size_conditioning([crop for _, _, crop in fitted]),
        prompts=prompts,
        conditioning=None if live_text else encoded(model, prompts),
        dropped=None if live_text else encoded(model, [""]),
        weights=tuple(sample.weight for sample in samples),
        shapes=shapes,
        background_weights=background_weights.to(model.device) if weighed else None,
    )


def _tell_fitting(samples: Sequence[Sample], resolution: int) -> None:
    """Name in the log what is cropped, and masks that are brought to the size of their pictures."""
    sizes = {s.image.key: (s.image.width, s.image.height) for s in samples}
    cropped = sum(width != height for width, height in sizes.values())
    if cropped:
        log.info("%d of %d pictures are cropped to %d x %d", cropped, len(sizes), resolution, resolution)
    masks = [(mask.width, mask.height) != sizes[s.image.key] for s in samples for mask in s.masks.values()]
    if any(masks):
        log.info("%d of %d masks are of another size than their picture, and are resized to it", sum(masks), len(masks))


def _fit(sample: Sample, resolution: int, cells: int):
    """Pixels (3, H, W) in [0, 1], each subject's mask on the latents' grid (1, h, w), and the crop around them all."""
    source = load_picture(sample.image)
    kept = sample.masks | ({} if sample.beside is None else {BESIDE: sample.beside})
    masks = {number: as_large(load_mask(mask), source) for number, mask in kept.items()}
    union = reduce(ImageChops.lighter, masks.values()) if masks else None
    picture, _, crop = fit_to(source, union, resolution, resolution, centre="mask" if masks else "centre")
    shapes = {}
    for number, mask in masks.items():
        cut = mask.resize(picture.size, Image.Resampling.BILINEAR, box=crop.box)
        shapes[number] = torch.nn.functional.interpolate(_tensor(cut)[None, None], (cells, cells), mode="area")[0]
    return _tensor(picture).permute(2, 0, 1), shapes, crop


def _tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).float() / 255.0


def _united(
    shapes: Sequence[Mapping[int, torch.Tensor]], mean: torch.Tensor, samples: Sequence[Sample], needed: bool
) -> torch.Tensor:
    """Where any subject or pasted thing is, on the latents' grid (N, 1, h, w), by area; all of it without a mask.

    In a composite the cells around the subject count as the subject, so that its outline is learned in full. Masks of
    other pictures may be empty unless they are `needed`.
    """
    rows = []
    for found, sample in zip(shapes, samples, strict=True):
        row = torch.ones(1, *mean.shape[-2:])
        if found:
            row = torch.stack(list(found.values())).sum(0).clamp(max=1.0)
        if sample.pasted:
            row = torch.nn.functional.max_pool2d(row[None], 3, 1, 1)[0]
        if not row.any() and (needed or sample.background < 1):
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


def encoded(model: DiffusionModel, prompts: Sequence[str], at_once: int = 16) -> Conditioning:
    """Each different prompt is encoded once."""
    unique = list(dict.fromkeys(prompts))
    with torch.no_grad():
        parts = [model.encode_prompts(unique[i : i + at_once]) for i in range(0, len(unique), at_once)]
    whole = Conditioning.cat(parts)
    return whole.take([unique.index(prompt) for prompt in prompts])
