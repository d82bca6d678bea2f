"""The values that travel through a graph: frozen, cheap to hold, and each with a content key.

A key is the sha256 of what defines the value. Nothing here holds a live module, and only adapters hold tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch

from .errors import FewShotError
from .text.embeddings import unweighted
from .text.words import check_letters, check_seen
from .weight_files import SUFFIXES

LATER = {"later": True}
"""of a field that came after values had been keyed: where it is None the key is what it was"""


def content_key(*parts: Any) -> str:
    """sha256 (hex) of `parts`: dataclasses, mappings, sequences, numbers, strings, None and tensors."""
    return hashlib.sha256(json.dumps(_plain(parts), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        data = value.detach().cpu().contiguous()
        raw = data.view(torch.uint8) if data.dim() else data.reshape(1).view(torch.uint8)
        return ["tensor", str(data.dtype), list(data.shape), hashlib.sha256(raw.numpy().tobytes()).hexdigest()]
    key = getattr(value, "key", None)
    if isinstance(key, str):
        return [type(value).__name__, key]
    if is_dataclass(value):
        given = {f.name: getattr(value, f.name) for f in fields(value)}
        later = {f.name for f in fields(value) if f.metadata.get("later") and given[f.name] is None}
        return [type(value).__name__, {name: _plain(part) for name, part in given.items() if name not in later}]
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(v) for v in value)
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, Path):
        raise TypeError(f"a path does not define content: {value}; key the file's bytes instead")
    raise TypeError(f"no content key for {type(value).__name__}")


# ------------------------------------------------------------------------------------------------- training sets


@dataclass(frozen=True)
class Concept:
    """What is taught. `identifier` is the rare token ("sks"), `noun` the class ("cat"), `description` its looks."""

    identifier: str
    noun: str
    description: str = ""
    kind: Literal["subject", "relation"] = "subject"

    def __post_init__(self) -> None:
        for words in (self.identifier, self.noun, self.description):
            check_seen(words)

    @property
    def phrase(self) -> str:
        """ "sks striped cat": what stands for the subject in a prompt; of a relation its word alone."""
        if self.kind == "relation":
            return self.identifier
        return " ".join(word for word in (self.identifier, self.description, self.noun) if word)

    @property
    def trigger(self) -> str:
        return self.phrase


@dataclass(frozen=True)
class Picture:
    """A picture on disk: its file, the sha256 of its decoded pixels after EXIF rotation, and its size in pixels."""

    path: Path = field(compare=False)
    key: str
    width: int
    height: int


BESIDE = -1
"""stands in place of a concept for things in a composite that are no subject"""


@dataclass(frozen=True)
class Part:
    """Another subject in the same picture: an index into the set's concepts, and its visible mask."""

    concept: int
    mask: Picture


@dataclass(frozen=True)
class Sample:
    """One training picture. `concept` is an index into the set's concepts; `mask` is white where the subject is.

    A picture of several subjects (a composite) names the first in `concept` and `mask` and the rest in `others`.
    `pasted` says that cut-outs were laid on a made background; `background` is then the weight of the loss there, and
    `beside` the visible mask of things that are no subject and no background either.
    """

    image: Picture
    caption: str
    mask: Picture | None = None
    role: Literal["reference", "prior"] = "reference"
    concept: int = 0
    weight: float = 1.0
    others: tuple[Part, ...] = ()
    pasted: bool = False
    background: float = 1.0
    beside: Picture | None = None

    @property
    def key_fields(self) -> dict[str, Any]:
        """What defines the sample, for content keys; what only composites have is left out of all others."""
        made = ("pasted", "background", "beside")
        return {name: value for name, value in vars(self).items() if self.pasted or name not in made}

    @property
    def masks(self) -> dict[int, Picture]:
        """The mask of each subject that has one, by its index among the concepts."""
        own = {} if self.mask is None else {self.concept: self.mask}
        return own | {part.concept: part.mask for part in self.others}


@dataclass(frozen=True)
class TrainingSet:
    samples: tuple[Sample, ...]
    concepts: tuple[Concept, ...]

    def __post_init__(self):
        for sample in self.samples:
            for concept in (sample.concept, *(part.concept for part in sample.others)):
                if not 0 <= concept < len(self.concepts):
                    raise FewShotError(f"a sample names concept {concept}, but the set has {len(self.concepts)}")

    @cached_property
    def key(self) -> str:
        return content_key("TrainingSet", [s.key_fields for s in self.samples], [vars(c) for c in self.concepts])

    def having(self, role: str) -> tuple[Sample, ...]:
        return tuple(s for s in self.samples if s.role == role)

    @property
    def references(self) -> tuple[Sample, ...]:
        return self.having("reference")

    @property
    def priors(self) -> tuple[Sample, ...]:
        return self.having("prior")

    @property
    def trigger(self) -> str:
        return ", ".join(concept.trigger for concept in self.concepts)

    def with_samples(self, samples: tuple[Sample, ...]) -> TrainingSet:
        return replace(self, samples=tuple(samples))


# ---------------------------------------------------------------------------------------------------- base models


@dataclass(frozen=True)
class Loaded:
    """Weights that live in the host: `state_dict()` gives them in the original checkpoint's names.

    `components` may name a folder in diffusers' layout that holds what a checkpoint does not carry: configs and
    tokenizer files. Without it the family's stock configs are used. `elsewhere` names another folder, or None for the
    stock configs, for parts that do not come with the denoiser: "text", "autoencoder". `prediction` and `zero_snr` win
    over what the weights look like. `patched` is how many weights LoRAs change.
    """

    state_dict: Callable[[], Mapping[str, torch.Tensor]] = field(compare=False)
    label: str = "from the graph"
    components: Path | None = field(default=None, compare=False)
    patched: int = field(default=0, compare=False)
    elsewhere: Mapping[str, Path | None] = field(default_factory=dict, compare=False)
    prediction: str | None = field(default=None, compare=False)
    zero_snr: bool | None = field(default=None, compare=False)

    def folder_of(self, part: str) -> Path | None:
        """The folder that holds the configs of a part; None for the family's stock."""
        return self.elsewhere.get(part, self.components)


@dataclass(frozen=True)
class BaseModelRef:
    """Names a base model's weights. `location` is a checkpoint file, a diffusers folder, `Loaded` or `HostedParts`.

    `family` is a key of `models.families`; `dtype` is the compute type ("auto", "float32", "bfloat16", "float16").
    `key` is the content key of the weights.
    """

    family: str
    location: Any = field(compare=False)
    key: str
    prediction: Literal["epsilon", "v_prediction", "velocity"] = "epsilon"
    zero_snr: bool = False
    clip_skip: int = 0
    dtype: str = "auto"

    @property
    def name(self) -> str:
        """What people call it: a file's name without its suffix, or a folder's, which may have dots in it."""
        if not isinstance(self.location, Path):
            return self.location.label
        return self.location.stem if self.location.suffix in SUFFIXES else self.location.name


# ------------------------------------------------------------------------------------------------------- adapters


@dataclass(frozen=True)
class LowRank:
    """delta = (alpha / rank) * up @ down; up (out, rank[, 1, 1]), down (rank, in[, kh, kw]), mid for LoCon-CP.

    `bias` is a difference of the layer's bias.
    """

    up: torch.Tensor
    down: torch.Tensor
    alpha: float
    mid: torch.Tensor | None = None
    bias: torch.Tensor | None = field(default=None, metadata=LATER)

    @property
    def rank(self) -> int:
        return self.down.shape[0]


@dataclass(frozen=True)
class Dense:
    """A full difference of a weight (and of its bias)."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None


BIAS = "diff_b"
"""the suffix of a difference of a bias"""


@dataclass(frozen=True)
class Kept:
    """Another factor form (`models.adapters.forms`), kept as read: tensors by their suffix ("hada_w1_a", ...)."""

    tensors: Mapping[str, torch.Tensor]

    @property
    def bias(self) -> torch.Tensor | None:
        """The difference of the layer's bias."""
        return self.tensors.get(BIAS)

    @property
    def only_bias(self) -> bool:
        return set(self.tensors) == {BIAS}


Factor = LowRank | Dense | Kept


NOISY_FROM = "fewshot.noisy_from"
"""in an adapter's metadata: the share of the schedule, above 0 and below 1, from which on its factors count"""


@dataclass(frozen=True)
class Adapter:
    """What training gives. `factors` go by module path in diffusers' names with the network in front:

    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj", "text_encoder_2.…" (always with `text_model`).
    `embeddings` go by the word that they stand for, then by "clip_l", "clip_g" or "clip_h", each (tokens, width). All
    tensors lie on the CPU.
    """

    factors: Mapping[str, Factor]
    family: str
    trigger: str = ""
    embeddings: Mapping[str, Mapping[str, torch.Tensor]] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self):
        for name in ("factors", "embeddings", "metadata"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @cached_property
    def key(self) -> str:
        span = [self.noisy_from] if self.noisy_from else []
        return content_key("Adapter", self.family, self.trigger, self.factors, self.embeddings, *span)

    @cached_property
    def noisy_from(self) -> float:
        """The share of the schedule below which the factors do nothing (`timestep_range`), 0 if they always count."""
        text = self.metadata.get(NOISY_FROM, "0") if self.factors else "0"
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value < 1:
            raise FewShotError(
                f"the adapter says {NOISY_FROM} = {text!r}; it must be a number from 0 to 1: train it again"
            )
        return value


# -------------------------------------------------------------------------------------------------------- prompts


@dataclass(frozen=True)
class Prompt:
    """`text` is what the model is given; `stripped` is the same without identifiers."""

    text: str
    stripped: str
    split: Literal["train", "held-out"] = "held-out"

    def __post_init__(self):
        check_letters(self.text)

    @property
    def words(self) -> str:
        """What rewards and text metrics read: `stripped` without weights, escapes and embeddings."""
        return unweighted(self.stripped)


@dataclass(frozen=True)
class PromptSet:
    """`note` is for reports: what is to be known of where the prompts come from. It is no part of the content."""

    prompts: tuple[Prompt, ...]
    note: str = field(default="", compare=False)

    @cached_property
    def key(self) -> str:
        return content_key("PromptSet", [vars(p) for p in self.prompts])
