"""Whether a learned word explains its pictures: the curve of their error with it against the word it began as.

Every few steps the same pictures are noised in the same ways and predicted twice: told of the word as it is, and of the
one it began as. A draw counts by the share of its own error, timesteps are those of the noisiest quarter, in which a
layout is decided, and the standard error is that between pictures, not that between draws: a word can learn one picture
by heart, which says nothing of a relation. On the pocket, over four sets of ten pictures each and 40 steps, the share
was 4.3, 2.7, 4.0 and 1.7 standard errors with one hidden relation ("framed"), and 0.5, 1.2, 0.1 and -2.3 with six mixed
ones; by draws and over all timesteps two pictures of different relations came out surest of all.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...core.progress import Progress
from ...core.randomness import Randomness
from ...core.values import Sample, TrainingSet
from ...models.conditioning import Conditioning, rows_of
from ...models.contract import DiffusionModel
from ...models.stable_diffusion.encoding.prompt_tokens import pieces_of
from ..data.encoded_set import EncodedSet
from ..losses import squared_error
from ..validation.schedule import FILE, BestCheckpoint, write_readings
from .settings import RelationSettings

if TYPE_CHECKING:
    from ..distributed import Processes
    from ..state.run_folder import RunFolder

log = logging.getLogger(__name__)

DRAWS, EACH = 64, 8  # of all pictures together, and of each at least
MOST_PICTURES, AT_ONCE = 32, 8
SHARE = 0.1  # of the training's evaluations of the denoiser that the readings may cost
FEWEST, MOST = 3, 10  # readings
SURE = 2.0  # standard errors
NOISY = 0.75  # the share of the timesteps, the cleaner ones, that are not looked at


@dataclass(frozen=True)
class Gain:
    """The share of the error that the word takes away after `step` steps, and its standard error; NaN: it failed."""

    step: int
    share: float
    error: float

    @property
    def sure(self) -> bool:
        """Whether the share is above zero by its error."""
        return self.least > 0

    @property
    def least(self) -> float:
        """The share less its error."""
        return self.share - SURE * self.error


class GainReader:
    """Takes the reading of the networks as they are.

    Args:
        pool: the latents and captions of the references of `pictures`, in the same order.
        pictures: of one relation, whose captions hold its word; `settings.token_start` takes its place to compare.
        without: the context in which the networks are without what is trained beside the word.
    """

    def __init__(
        self,
        model: DiffusionModel,
        pool: EncodedSet,
        pictures: TrainingSet,
        settings: RelationSettings,
        progress: Progress,
        without: Callable[[], AbstractContextManager] = nullcontext,
    ):
        self.without = without
        self.model, self.pool, self.settings, self.progress = model, pool, settings, progress
        self.word = pictures.concepts[0].identifier
        self.random = Randomness(settings.seed, model.device)
        self.draws = drawn(pictures.references)
        self.first: torch.Tensor | None = None  # log errors (n,) with the word it began as, always the same

    @property
    def every(self) -> int:
        """Steps between readings: as set, else as many as a tenth of the training pays for, 3 to 10.

        A reading costs an evaluation of the denoiser a draw, a picture trained on three a step.
        """
        settings = self.settings
        if not settings.is_auto("validate_every"):
            return settings.validate_every
        affordable = int(SHARE * settings.steps * settings.batch_size * 3 / len(self.draws))
        return max(1, math.ceil(settings.steps / min(max(affordable, FEWEST), MOST)))

    @torch.no_grad()
    def __call__(self, step: int) -> Gain:
        """A reading that fails is named in the log and harms nothing."""
        try:
            if self.first is None:
                with self.without():
                    self.first = self._log_errors([self._plain(prompt) for prompt in self.pool.prompts])
            shares = self.first - self._log_errors(self.pool.prompts)
        except Exception as error:  # whatever it is, the training is worth more than its readings
            log.warning("the reading after step %d failed: %s", step, error)
            return Gain(step, math.nan, math.nan)
        return Gain(step, *between_pictures(shares.tolist(), [draw.picture for draw in self.draws]))

    def _plain(self, prompt: str) -> str:
        """The caption with the word it began as in place of the learned one, where this is a word of its own."""
        start, pieces = self.settings.token_start, pieces_of(prompt, (self.word,))
        return "".join(text + (start if word else "") for text, word in pieces)

    @property
    def at_once(self) -> int:
        """Pictures in a pass: no more than fit into a training step, or two, as when a picture is drawn."""
        return min(AT_ONCE, max(2, self.settings.micro_batch))

    def _log_errors(self, prompts: Sequence[str]) -> torch.Tensor:
        looked_at = sorted({draw.row for draw in self.draws})  # of a large set few captions are
        conditioning = self.model.encode_prompts([prompts[row] for row in looked_at])
        places = {row: place for place, row in enumerate(looked_at)}
        parts = [self.draws[i : i + self.at_once] for i in range(0, len(self.draws), self.at_once)]
        return torch.cat([self._errors(part, conditioning.take([places[d.row] for d in part])) for part in parts]).log()

    def _errors(self, draws: Sequence[Draw], conditioning: Conditioning) -> torch.Tensor:
        self.progress.check()
        model, process, rows = self.model, self.model.process, [draw.row for draw in draws]
        clean = rows_of(self.pool.mean, rows)
        noise = torch.cat(
            [self.random.normal("explained/noise", d.picture, [d.number], clean.shape[1:]) for d in draws]
        )
        places = [NOISY + (1 - NOISY) * draw.place for draw in draws]
        times = torch.stack([process.time_at(place) for place in places]).to(model.device)
        sizes = None if self.pool.sizes is None else rows_of(self.pool.sizes, rows)
        prediction = model.predict(process.add_noise(clean, noise, times), times, conditioning, sizes)
        return squared_error(prediction, process.target(clean, noise, times))


@dataclass(frozen=True)
class Draw:
    """A picture's draw number `number`: the row of its sample, and where among the noisy timesteps its own lies."""

    picture: int
    number: int
    row: int
    place: float


def drawn(samples: Sequence[Sample]) -> tuple[Draw, ...]:
    """The same number of draws of each picture, evenly spread over timesteps, its captions by turns."""
    rows: dict[str, list[int]] = {}
    for row, sample in enumerate(samples):
        rows.setdefault(sample.image.key, []).append(row)
    pictures = list(rows.values())
    pictures = pictures[:: math.ceil(len(pictures) / MOST_PICTURES)]
    each = max(EACH, math.ceil(DRAWS / len(pictures)))
    return tuple(
        Draw(picture, number, captions[number % len(captions)], (number + 0.5) / each)
        for picture, captions in enumerate(pictures)
        for number in range(each)
    )


def between_pictures(shares: Sequence[float], pictures: Sequence[int]) -> tuple[float, float]:
    """The mean of the pictures' means, and its standard error by their spread; of one picture by that of its draws."""
    of: dict[int, list[float]] = {}
    for share, picture in zip(shares, pictures, strict=True):
        of.setdefault(picture, []).append(share)
    values = [sum(own) / len(own) for own in of.values()] if len(of) > 1 else list(shares)
    mean = sum(values) / len(values)
    spread = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(spread / len(values))


class GainCheckpoint(BestCheckpoint):
    """Readings of the word; it returns the last step and never ends a training.

    Args:
        read: called in the main process only.
        file: where the readings are kept for people.
        tell: given each reading.
    """

    def __init__(self, read: Callable[[int], Gain], every: int, last: int, file: Path, tell: Callable[[Gain], None]):
        super().__init__(every, last)
        self.read, self.file, self.tell = read, file, tell
        self.gains: tuple[Gain, ...] = ()

    @property
    def steps(self) -> list[int]:
        return [gain.step for gain in self.gains]

    def plain(self) -> dict[str, Any]:
        return _plain(self.gains)

    def evaluate(self, step: int, parameters: Mapping[str, torch.Tensor], processes: Processes) -> None:
        """Take a reading; all processes know what the main one saw."""
        gain = self.read(step) if processes.main else Gain(step, 0.0, 0.0)
        gains = (*self.gains, Gain(step, *self.broadcast((gain.share, gain.error), parameters, processes)))
        if processes.main:
            write_readings(self.file, _plain(gains))
            self.tell(gains[-1])
        self.gains = gains  # where the disk was full a resumed run takes the reading again

    def state(self) -> dict[str, torch.Tensor]:
        rows = [[gain.step, gain.share, gain.error] for gain in self.gains]
        return {"gains": torch.tensor(rows, dtype=torch.float64).reshape(-1, 3)} | super().state()

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        self.gains = tuple(Gain(int(step), share, error) for step, share, error in state["gains"].tolist())
        super().load(state)


def _plain(gains: Sequence[Gain]) -> dict[str, Any]:
    return {"readings": [asdict(gain) for gain in gains]}


def gain_checkpoint(reader: GainReader, run: RunFolder) -> GainCheckpoint | None:
    """The readings of a run, told to who watches; None where `validate_every` is 0."""
    settings = reader.settings
    if not settings.validate_every:
        return None
    log.info("a reading of %d noised pictures every %d steps", len(reader.draws), reader.every)

    def tell(gain: Gain) -> None:
        text = f"measured after step {gain.step}: {_percent(gain)} less error than with '{settings.token_start}'"
        log.info("%s", text)
        reader.progress.report(gain.step, settings.steps, text)

    return GainCheckpoint(reader, reader.every, settings.steps, run.folder / FILE, tell)


def _percent(gain: Gain) -> str:
    return f"{100 * gain.share:.2f} % (give or take {100 * SURE * gain.error:.2f})"


def explained(readings: Mapping[str, Any], settings: RelationSettings) -> str:
    """The curve of `GainCheckpoint.plain` in words; a warning where the word says no more than what it began as."""
    start = settings.token_start
    if not settings.validate_every:
        return "validate_every is 0: whether the word explains its pictures was not measured"
    whole = [gain for gain in _gains_of(readings) if math.isfinite(gain.share)]
    if not whole:
        return "whether the word explains its pictures could not be measured"
    curve = ", ".join(f"{gain.step}: {100 * gain.share:.2f}" for gain in whole)
    return f"less error than with '{start}', in % after so many steps: {curve}\n{_judged(whole, start)}"


def last_gain(readings: Mapping[str, Any]) -> Gain | None:
    """The reading of the word that is returned; None where there is none."""
    gains = _gains_of(readings)
    return gains[-1] if gains and math.isfinite(gains[-1].share) else None


def _gains_of(readings: Mapping[str, Any]) -> list[Gain]:
    """The readings of a run; none where someone wrote something else into its file."""
    try:
        rows = readings.get("readings", ())
        return [Gain(int(row["step"]), float(row["share"]), float(row["error"])) for row in rows]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        log.warning("the run holds no readings of a word: %r", error)
        return []


def _judged(gains: Sequence[Gain], start: str) -> str:
    """What the best reading says, and whether the word that is returned, the last one, is still as good."""
    best, last = max(gains, key=lambda gain: gain.least), gains[-1]
    if not best.sure:
        text = (
            f"the word explains the pictures no better than '{start}' in its place, or some of them only: "
            f"{_percent(best)} less error at the best. They may not share a relation, or more steps or pictures are "
            "needed"
        )
        log.warning("%s", text)
        return text
    text = f"the word takes {_percent(best)} of the error that '{start}' in its place leaves, after step {best.step}"
    if not last.sure:
        text += f"; after the last step {_percent(last)}: take fewer steps or a lower token_learning_rate"
        log.warning("%s", text)
    return text
