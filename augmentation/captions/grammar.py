"""Captions without a language model: articles, given attributes, other names, and contexts that are true of any photo.

Deterministic by seed, and each caption passes the rules of `rules` by construction: it says nothing about the
picture that was not in the given caption.
"""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
from PIL import Image, ImageCms

from ...core.values import Concept
from .parse import ARTICLES, Parts
from .rules import RelationRules, SubjectRules, distinct

CONTEXTS = ("", "a photo", "photograph", "colour photo", "detailed photo", "snapshot", "sharp focus", "candid photo")
FRAMES = (
    "a photo of {}", "{}", "a photograph of {}", "a picture of {}", "a snapshot of {}", "a good photo of {}",
    "a colour photo of {}", "a detailed photo of {}", "an image of {}", "a candid photo of {}", "a cropped photo of {}",
    "a sharp photo of {}", "a clear photo of {}", "one photo of {}",
)  # fmt: skip
ARTICLE_CHOICES = ("a", "", "the", "one", "this")
COLOURS = {
    "red": (200, 30, 35), "orange": (240, 140, 30), "yellow": (245, 220, 60), "green": (50, 150, 60),
    "blue": (40, 90, 200), "purple": (125, 50, 160), "pink": (245, 150, 180), "brown": (115, 70, 35),
    "white": (248, 248, 248), "grey": (128, 128, 128), "black": (18, 18, 20),
}  # fmt: skip
# Share of a background's pixels in one colour, above which the background is named by it.
PLAIN_SHARE = 0.6


def with_article(article: str, phrase: str) -> str:
    """`phrase` behind `article`; "a" becomes "an" where the word asks for it."""
    if article == "a" and phrase[:1].lower() in "aeio":
        article = "an"
    return f"{article} {phrase}".strip()


def order(seed: int, *parts: object) -> str:
    """A key that sorts things in an order drawn by `seed`."""
    return hashlib.blake2b("\x1f".join(map(str, (seed, *parts))).encode(), digest_size=8).hexdigest()


def without_article(text: str) -> str:
    parts = text.split()
    return " ".join(parts[1:]) if parts and parts[0].lower() in ARTICLES else " ".join(parts)


def relation_captions(parts: Parts, rules: RelationRules, count: int, seed: int = 0) -> list[str]:
    """Up to `count` distinct captions of the two things in `parts`, bare nouns first, all good by `rules`."""
    firsts = _noun_phrases(parts.first.text, rules.first, seed, "first")
    seconds = _noun_phrases(parts.second.text, rules.second, seed, "second")
    contexts = list(dict.fromkeys(["", *([parts.context] if parts.context else []), *CONTEXTS]))
    every = [
        f"{first} {rules.placeholder} {second}" + (f", {context}" if context else "")
        for first, second, context in itertools.product(firsts, seconds, contexts)
    ]
    bare = [f"{parts.first.noun} {rules.placeholder} {parts.second.noun}"]
    drawn = bare + sorted((c for c in every if c not in bare), key=lambda c: order(seed, c))
    return _good(drawn, rules, count)


def _noun_phrases(given: str, names: tuple[str, ...], seed: int, side: str) -> list[str]:
    """The given phrase and its noun, with each article; other names for the noun one time in ten."""
    cores = list(dict.fromkeys([names[0], without_article(given)]))
    others = [name for name in names[1:] if int(order(seed, side, name)[:4], 16) % 10 == 0]
    return [with_article(article, core) for core in [*cores, *others] for article in ARTICLE_CHOICES]


def subject_captions(
    concept: Concept, rules: SubjectRules, count: int, seed: int = 0, contexts: tuple[str, ...] = ()
) -> list[str]:
    """Up to `count` distinct captions of a subject with the given `contexts` behind it, all good by `rules`."""
    phrase = concept.phrase
    framed = [
        frame.format(with_article(article, phrase))
        for frame, article in itertools.product(FRAMES, ("a", "", "the", "one", "this"))
    ]
    behind = list(dict.fromkeys([*contexts, *([] if contexts else [""])]))
    every = [text + (f", {context}" if context else "") for text, context in itertools.product(framed, behind)]
    return _good(sorted(every, key=lambda c: order(seed, c)), rules, count)


def _good(captions: list[str], rules: RelationRules | SubjectRules, count: int) -> list[str]:
    kept: list[str] = []
    for caption, duplicate in distinct(captions).items():
        if len(kept) == count:
            break
        if not duplicate and rules.check(caption).good:
            kept.append(caption)
    return kept


def background_colour(picture: Image.Image, mask: Image.Image) -> str:
    """The basic colour that most of the background has, by the nearest in CIELAB; "" when no colour prevails.

    `mask` ("L") is white on the subject. Naming the background keeps it out of what the identifier comes to mean.
    """
    small = (64, 64)
    lab = _lab(picture.convert("RGB").resize(small, Image.Resampling.BOX)).reshape(-1, 3)
    behind = np.asarray(mask.convert("L").resize(small, Image.Resampling.BOX)).ravel() < 16
    if behind.sum() < 0.05 * len(behind):
        return ""
    names = list(COLOURS)
    anchors = _lab(Image.fromarray(np.array([list(COLOURS.values())], np.uint8))).reshape(-1, 3)
    nearest = ((lab[behind, None] - anchors[None]) ** 2).sum(-1).argmin(1)
    counts = np.bincount(nearest, minlength=len(names))
    return names[int(counts.argmax())] if counts.max() >= PLAIN_SHARE * behind.sum() else ""


def _lab(picture: Image.Image) -> np.ndarray:
    """(H, W, 3) fp32: L in [0, 100], a and b about 0, as littlecms computes them from sRGB."""
    change = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    stored = np.array(ImageCms.applyTransform(picture, change))
    colours = stored.view(np.int8)[..., 1:].astype(np.float32)  # Pillow keeps a and b as signed bytes
    return np.concatenate([stored[..., :1].astype(np.float32) / 2.55, colours], axis=-1)
