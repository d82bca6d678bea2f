"""What is asked of a model of each kind, and what a model that works answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...core.values import Prompt
from ...evaluation.metrics.diversity import Lpips
from ...evaluation.metrics.metric import Metric
from ...evaluation.metrics.preference import HumanPreference, ImageReward, PickScore
from ...vision.captioners import ChatCaptioner, open_captioner
from ...vision.embedders.clip import Clip
from ...vision.embedders.clip_vision import open_image_embedder
from ...vision.embedders.interface import ImageEmbedder
from ...vision.language_model import LocalWriter
from ...vision.segmenters import open_finder, open_masker
from .scenes import KnownPictures

BOX_IOU, OUTLINE_IOU, COARSE_IOU = 0.5, 0.7, 0.4  # of what a working model finds, at least
LIKENESS_MARGIN = 0.02  # cosine
WORD = "ready"
SHOWN = 80  # letters of what a model said


@dataclass(frozen=True)
class Finding:
    """Whether a model answered as one that works, and what it answered in a line."""

    works: bool
    text: str


Probe = Callable[[Path, torch.device, KnownPictures], Finding]


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two masks."""
    union = (one | other).sum()
    return float((one & other).sum() / union) if union else 0.0


def box_iou(one: Sequence[float], other: Sequence[float]) -> float:
    """The same of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / max(sum(areas) - shared, 1e-9)


def finder(location: Path, device: torch.device, known: KnownPictures) -> Finding:
    """The thing is found where it is, and with a higher score than a thing that is not there."""
    model = open_finder(location, device)
    found = model.find(known.one.picture, [known.one.phrase], model.threshold)
    absent = model.find(known.one.picture, [known.absent], model.threshold)
    if not found:
        return Finding(False, f"expected {known.one.phrase!r} in its picture, found nothing")
    best = max(found, key=lambda instance: instance.score)
    if best.mask is not None:
        share, least = iou(np.asarray(best.mask, bool), known.one.mask), COARSE_IOU
    else:
        share, least = box_iou(best.box, known.one.box), BOX_IOU
    other = max((instance.score for instance in absent), default=0.0)
    text = f"{known.one.phrase!r} at IoU {share:.2f} (at least {least}), score {best.score:.2f}"
    text += f"; {known.absent!r}, which is not there, {other:.2f}"
    scored = best.score > other or best.score == 1.0  # Florence-2 gives no score: 1 whatever it drew
    return Finding(share >= least and best.score >= model.threshold and scored, text)


def masker(location: Path, device: torch.device, known: KnownPictures) -> Finding:
    """The outline of the thing in its box."""
    mask, estimate = open_masker(location, device).masks(known.one.picture, [known.one.box])[0]
    share = iou(np.asarray(mask, bool), known.one.mask)
    return Finding(
        share >= OUTLINE_IOU, f"outline at IoU {share:.2f} (at least {OUTLINE_IOU}), own estimate {estimate:.2f}"
    )


def clip(location: Path, device: torch.device, known: KnownPictures) -> Finding:
    """Each picture fits its own caption better than the other's, and the same thing is alike."""
    model = Clip(location, device)
    fits = (
        model.images([known.one.picture, known.other.picture]) @ model.texts([known.one.caption, known.other.caption]).T
    )
    captions, likeness = _own_captions(fits, known), _likeness(model, known)
    return Finding(captions.works and likeness.works, f"{captions.text}; {likeness.text}")


def embedder(location: Path, device: torch.device, known: KnownPictures) -> Finding:
    """The same thing elsewhere is more alike than another picture."""
    return _likeness(open_image_embedder(location, device), known)


def _likeness(model: ImageEmbedder, known: KnownPictures) -> Finding:
    one, again, other = model.images([known.one.picture, known.again.picture, known.other.picture])
    same, different = float(one @ again), float(one @ other)
    text = f"likeness of the same thing {same:.2f}, of another one {different:.2f}"
    return Finding(same > different + LIKENESS_MARGIN, text)


def _own_captions(fits: torch.Tensor, known: KnownPictures) -> Finding:
    """Of scores (picture, caption)."""
    right, wrong = fits.diagonal().tolist(), [float(fits[0, 1]), float(fits[1, 0])]
    text = f"{known.one.caption!r} {right[0]:.3g} and the other caption {wrong[0]:.3g}; "
    text += f"{known.other.caption!r} {right[1]:.3g} and {wrong[1]:.3g}"
    return Finding(right[0] > wrong[0] and right[1] > wrong[1], text)


def preference(metric: Callable[[Path, torch.device], Metric]) -> Probe:
    """Each picture is scored higher for its own caption."""

    def probe(location: Path, device: torch.device, known: KnownPictures) -> Finding:
        model = metric(location, device)
        pictures = [known.one.picture, known.other.picture]
        columns = [
            model.scores(pictures, [Prompt(caption, caption)] * 2, ())
            for caption in (known.one.caption, known.other.caption)
        ]
        return _own_captions(torch.stack(columns, 1), known)

    return probe


def captioner(location: Path, device: torch.device, known: KnownPictures) -> Finding:
    """The caption holds a word that describes the picture; a model that answers says yes to what is true of it."""
    model = open_captioner(location, device)
    caption = model.caption(known.one.picture, "short").strip()
    works = any(word in caption.lower() for word in known.one.words)
    text = f"said {caption[:SHOWN]!r}" + ("" if works else f", expected one of {', '.join(known.one.words)}")
    if isinstance(model, ChatCaptioner):
        yes = [
            model.answers(known.one.picture, f"Does this picture show {caption}? Answer yes or no.", ("yes", "no"))[0]
            for caption in (known.one.caption, known.other.caption)
        ]
        works, text = works and yes[0] > yes[1], f"{text}; yes to its own caption {yes[0]:.2f}, to another {yes[1]:.2f}"
    return Finding(works, text)


def writer(location: Path, device: torch.device, known: KnownPictures) -> Finding:
    """It does what it is told."""
    messages = [{"role": "user", "content": f"Answer with the one word {WORD!r} and nothing else."}]
    answer = LocalWriter(location, device).write(messages, 0).strip()
    works = WORD in answer.lower()
    return Finding(works, f"said {answer[:SHOWN]!r}" + ("" if works else f", expected {WORD!r}"))


def lpips(location: Path, device: torch.device, known: KnownPictures) -> Finding:
    """The same thing elsewhere is nearer than another picture."""
    distances = Lpips(location)([known.one.picture, known.again.picture, known.other.picture])
    near, far = float(distances[0, 1]), float(distances[0, 2])
    return Finding(near < far, f"distance of the same thing {near:.2f}, of another one {far:.2f}")


pickscore, image_reward, hpsv2 = preference(PickScore), preference(ImageReward), preference(HumanPreference)
