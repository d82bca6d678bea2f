"""What L_local compares: for each reference picture the places of each subject's words and the subject's mask."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import interpolate

from ...augmentation.captions.spans import subject_spans
from ...augmentation.images.load import load_mask
from ...core.errors import FewShotError
from ...core.values import Concept, Sample
from ...models.attention import AttentionLayer
from ...models.conditioning import rows_of
from ...models.contract import DiffusionModel
from ..data.encoded_set import EncodedSet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Supervision:
    """Rows for N pictures and S subjects, on the device; see `losses.local_loss` and `attention.token_shares`.

    wanted (N, K), known (N, K): the tokens that share the attention; member (N, S, K): those of each subject.
    masks (N, S, h, w): where each subject is, on the finest layer's grid.
    valid (N, S): 1 where a subject is in the caption, in the picture, and has a mask.
    """

    wanted: torch.Tensor
    known: torch.Tensor
    member: torch.Tensor
    masks: torch.Tensor
    valid: torch.Tensor
    layers: tuple[AttentionLayer, ...]

    def take(self, indices: Sequence[int], captioned: Sequence[bool]) -> Supervision:
        """The rows `indices`, of which those that lost their caption are not valid."""
        nothing = torch.zeros_like(self.valid[0])
        valid = torch.stack([self.valid[i] if kept else nothing for i, kept in zip(indices, captioned, strict=True)])
        wanted, known, member, masks = (
            rows_of(one, indices) for one in (self.wanted, self.known, self.member, self.masks)
        )
        return Supervision(wanted, known, member, masks, valid, self.layers)


def supervise(
    model: DiffusionModel,
    pool: EncodedSet,
    samples: Sequence[Sample],
    concepts: Sequence[Concept],
) -> Supervision:
    """Find the words and bring the masks to the layers' grid.

    Args:
        pool: of these samples, with their `shapes`.

    Raises:
        FewShotError: no picture has both a mask and its subject's words in the caption.
    """
    height, width = pool.mean.shape[-2:]
    layers = model.attention_layers(height, width)
    grid = layers[0].grid(height, width)
    tokens, places = [], []
    for sample in samples:
        tokens.append(_caption_tokens(model, sample))
        places.append([_places(model, sample, concepts, number) for number in range(len(concepts))])
    most = max(1, *(len(row) for row in tokens))
    shape = (len(samples), len(concepts))
    wanted, known = torch.zeros(shape[0], most, dtype=torch.long), torch.zeros(shape[0], most, dtype=torch.bool)
    member, valid, masks = torch.zeros(*shape, most), torch.zeros(shape), torch.zeros(*shape, *grid)
    known[:, 0] = True  # a caption without words shares its attention with nothing, and is not valid
    for i, row in enumerate(tokens):
        wanted[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        known[i, : len(row)] = True
        for number, own in enumerate(places[i]):
            mask = pool.shapes[i].get(number)
            if mask is None or not own or len(own) == len(row) or not mask.any():
                continue  # where a subject's words are all words, there is nothing to share with
            member[i, number, : len(row)] = torch.tensor([float(token in own) for token in row])
            masks[i, number] = interpolate(mask[None], grid, mode="area")[0, 0]
            valid[i, number] = 1.0
    _tell([any(row) for row in valid.tolist()], samples)
    device = pool.mean.device
    return Supervision(
        wanted.to(device), known.to(device), member.to(device), masks.to(device), valid.to(device), layers
    )


def usable(model: DiffusionModel, sample: Sample, concepts: Sequence[Concept]) -> bool:
    """Whether a picture shall count for `supervise`, by its caption and masks; the crop is not looked at."""
    all_words = len(_caption_tokens(model, sample))
    return any(
        0 < len(_places(model, sample, concepts, number)) < all_words and load_mask(mask).getbbox() is not None
        for number, mask in sample.masks.items()
    )


def _caption_tokens(model: DiffusionModel, sample: Sample) -> list[int]:
    """The positions of the caption's tokens, which share the attention."""
    return list(range(1, model.count_tokens(sample.caption) + 1))


def _places(model: DiffusionModel, sample: Sample, concepts: Sequence[Concept], number: int) -> set[int]:
    """The tokens of one subject's words in the caption of a picture that shows it."""
    if number not in sample.masks:
        return set()
    others = [concept for i, concept in enumerate(concepts) if i != number]
    spans = subject_spans(sample.caption, concepts[number], others)
    return set(model.token_positions(sample.caption, spans))


def check_usable(model: DiffusionModel, samples: Sequence[Sample], concepts: Sequence[Concept]) -> None:
    """Refuse before any picture is encoded what `supervise` would refuse; crops are not looked at."""
    _tell([usable(model, sample, concepts) for sample in samples], samples)


def _tell(counted: Sequence[bool], samples: Sequence[Sample]) -> None:
    """Refuse pictures that are all unusable; name how many are."""
    without = [sample for sample, counts in zip(samples, counted, strict=True) if not counts]
    if len(without) == len(samples):
        masked = sum(1 for sample in samples if sample.masks)
        raise FewShotError(
            f"local_weight needs masks, and words besides the subject's in the captions: of {len(samples)} pictures "
            f"{masked} have a mask, and none can be used (the first caption is '{samples[0].caption[:60]}'). Segment "
            "by Prompt makes masks, and Caption Pictures captions that say more than the subject, such as "
            f"'{samples[0].caption[:60]} on the beach'; or set local_weight to 0, or take a preset that has none."
        )
    if without:
        log.warning(
            "%d of %d pictures have no mask within the crop or no words of their subject in the caption, and count for "
            "nothing in the attention loss (the first is %s)", len(without), len(samples), without[0].image.path,
        )  # fmt: skip
