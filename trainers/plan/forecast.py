"""What a training will take, by formula: memory on the GPU and on the host, for this device and for cards of any size.

GPU memory is that of the phase that needs most. Formulas are good to about a quarter; whatever was not measured is
called estimated where it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...core.settings import SubjectSettings
from ..auto.fit import CONTEXT, HEADROOM, Split, drawn_at_once, trained_bytes
from ..auto.rules import FLOAT8_SAVES, Facts, split_of, work_of

LIBRARIES = 2_000_000_000  # bytes of host memory that Python, torch and what they load take
STATES = 3 * 0.8  # of what is trained, while a state is written: all but gradients, and copied twice
CARDS = (8, 12, 16, 24)  # GB
BARE = 4  # bytes of a trained number before the first step
LOADING, ENCODING, STEP, DRAWING, DECODING, JUDGING = (
    "loading the base", "encoding the pictures", "the training step", "drawing pictures", "decoding drawn pictures",
    "validating drawn pictures",
)  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """How many numbers the frozen networks have."""

    denoiser: int
    autoencoder: int
    text: int


@dataclass(frozen=True)
class Demand:
    """Bytes of GPU memory by what they are for."""

    context: float
    frozen: float
    trained: float
    activations: float

    @property
    def total(self) -> float:
        return self.context + self.frozen + self.trained + self.activations


Phases = Mapping[str, Demand]
"""By phase, in the order in which they come, what each takes"""


def largest(phases: Phases) -> str:
    """The phase that needs most, the first of equals."""
    return max(phases, key=lambda name: phases[name].total)


@dataclass(frozen=True)
class Card:
    """How a training fits on a card of so many bytes."""

    size: float
    split: Split
    phases: Phases

    @property
    def phase(self) -> str:
        return largest(self.phases)

    @property
    def demand(self) -> Demand:
        """Of the phase that needs most."""
        return self.phases[self.phase]

    @property
    def headroom(self) -> float:
        return self.size - self.demand.total

    @property
    def fits(self) -> bool:
        return self.headroom >= HEADROOM


def on_card(settings: SubjectSettings, facts: Facts, weights: Weights, size: float) -> Card:
    """What `auto` chooses on a CUDA card of `size` bytes that nothing else uses, in half precision (bfloat16).

    `settings` have batch_size and resolution chosen, and what is left to memory as the person set it.
    """
    there = placed(facts, weights, 2, 2, settings.reads_text, size - CONTEXT)
    split = split_of(settings, there)
    return Card(size, split, phases(settings, split, there, weights))


def placed(facts: Facts, weights: Weights, width: int, wide: int, reads_text: bool, room: float | None) -> Facts:
    """`facts` as on a device with `room` bytes (None: not known) for networks whose numbers take `width` bytes, the
    autoencoder's `wide`."""
    text, seeing = width * weights.text, wide * weights.autoencoder
    waiting = 0 if reads_text else text
    return replace(
        facts,
        half=width == 2,
        wide=wide,
        free=None if room is None else int(room - width * weights.denoiser - text - seeing),
        denoiser=width * weights.denoiser,
        encoders=seeing + waiting,
        text=waiting,
    )


def phases(settings: SubjectSettings, split: Split, facts: Facts, weights: Weights) -> dict[str, Demand]:
    """What each phase of a training takes that is split so; pictures are drawn and validated where that is asked for.

    The denoiser is loaded alone, before it is brought to 8 bits. Encoders are there to encode and to draw, and wait
    on the host in a step and while models that validate look, if they wait at all; to decode, only the autoencoder is.
    """
    width, work = 2 if facts.half else 4, work_of(settings, facts)
    denoiser = width * weights.denoiser * (1 - FLOAT8_SAVES if split.float8 else 1)
    seeing, text = facts.wide * weights.autoencoder, width * weights.text
    whole = denoiser + seeing + text
    resting = whole - (facts.encoders if split.offload else 0)
    decoding = whole - (facts.text if split.offload else 0)
    bare, trained = BARE * facts.trained, trained_bytes(facts.trained, settings.optimizer)
    found = {
        LOADING: Demand(CONTEXT, width * weights.denoiser, 0, 0),
        ENCODING: Demand(CONTEXT, whole, bare, work.encoding),
        STEP: Demand(CONTEXT, resting, trained, max(split.bytes, work.averaged)),  # a pass, and later the update
    }
    if not facts.draws:
        return found
    drawn = drawn_at_once(split.micro_batch)
    found[DRAWING] = Demand(CONTEXT, whole, trained, work.drawing(drawn))
    found[DECODING] = Demand(CONTEXT, decoding, trained, drawn * work.decoding + work.averaged)
    if work.judging:
        found[JUDGING] = Demand(CONTEXT, resting, trained, work.judging + work.averaged)
    return found


def host_memory(phases: Phases, split: Split, trained: int, facts: Facts, on_gpu: bool, validator: int) -> float:
    """Bytes of host memory: what waits there, a state while it is written, a validating model; on a CPU, everything.

    `trained` are the bytes of `trained_bytes`.
    """
    fixed = LIBRARIES + STATES * trained + validator
    if not on_gpu:
        return fixed + phases[largest(phases)].total - CONTEXT
    return fixed + (facts.encoders if split.offload else 0)
