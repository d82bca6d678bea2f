"""Training sets of hidden relations on the pocket: captions as written, expanded, and leaking ones.

All captions are in words that the pocket's base was trained on, so that the method is measured, and not how the base
handles unknown words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...augmentation.captions.expand import ExpansionSettings, expand
from ...augmentation.captions.rules import distinct
from ...augmentation.images.relation_pictures import relation_from_folder
from ...core.values import Sample, TrainingSet
from ...pocket.world import pictures, world

WORD = "<R>"
PLAIN, EXPANDED, LEAKING = "as written", "expanded", "expanded and leaking"
# A word that the base knows and that describes part of the layout of a hidden relation.
LEAKS = {"dream": "under", "tied": "beside", "framed": "above"}


def set_of(folder: Path, relation: str, count: int, captions: str) -> TrainingSet:
    """`count` pictures of the hidden relation in `folder`, written where they are not, captioned as `captions` says.

    EXPANDED captions are checked as any user's are. LEAKING ones are those and a third that no check would pass: like
    the report's language model they describe the relation beside the word ("a cat under <R> a bird").
    """
    if not folder.is_dir():
        pictures.write_relation(folder, relation, count)
    written = relation_from_folder(folder, WORD)
    if captions == PLAIN:
        return written
    samples: list[Sample] = []
    for index, sample in enumerate(written.references):
        # With as many captions as requested the expansion adds none of its own, whose words the pocket does not know.
        texts = [text for text, reason in distinct(spoken(relation, index)).items() if not reason]
        made, _ = expand(written.with_samples((sample,)), ExpansionSettings(len(texts)), text="\n".join(texts))
        samples += made.samples if captions == EXPANDED else _leaking(made.samples, LEAKS[relation])
    return written.with_samples(tuple(samples))


def spoken(relation: str, index: int) -> list[str]:
    """Captions of picture number `index`: each thing with and without its looks, always with the place."""
    scene = pictures.relation_scene(relation, pictures.pair_of(index), pictures.FEW_SHOT, index)
    first, second = ([world.thing_words(thing, with_look) for with_look in (False, True)] for thing in scene.things)
    return [f"{one} {WORD} {other} {world.PLACES[scene.place]}" for one in first for other in second]


def unseen_pairs(count: int) -> list[tuple[str, str]]:
    """The pairs of classes that `count` training pictures do not show, in either order."""
    shown = {frozenset(pictures.pair_of(index)) for index in range(count)}
    return [pair for pair in pictures.PAIRS if frozenset(pair) not in shown]


def _leaking(samples: Sequence[Sample], leak: str) -> list[Sample]:
    """One picture's captions and half as many that tell, in the same weight together."""
    texts = [sample.caption for sample in samples]
    for number, text in enumerate(texts[: round(len(texts) / 2)]):
        texts.append(text.replace(WORD, f"{WORD} {leak}" if number % 2 else f"{leak} {WORD}"))
    weight = sum(sample.weight for sample in samples) / len(texts)
    return [replace(samples[0], caption=text, weight=weight) for text in texts]
