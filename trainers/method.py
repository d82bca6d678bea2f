"""What differs between methods of training, and what every one of them gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..core.progress import Progress
from ..core.values import Adapter, BaseModelRef, TrainingSet
from ..evaluation.selection import Curve
from ..models.adapters.inject import Injected
from ..models.contract import DiffusionModel
from .health import Divergence
from .loop import Memory, Step
from .settings.training import TrainingSettings
from .state.run_folder import RunFolder
from .validation.schedule import BestCheckpoint

Chosen = TypeVar("Chosen", bound=TrainingSettings, contravariant=True)


@dataclass(frozen=True)
class TrainingResult:
    """What training gives.

    `terms` holds each loss term at each step, unweighted; `losses` their weighted sum. `resumed_from` is the step that
    was gone on from: 0 for a new run, all steps for one that was found finished. `seconds` include earlier parts.
    `adapter` is that after step `chosen`: the best one that was validated, else the last. `validation` is None where
    nothing was validated; `readings` are `BestCheckpoint.plain`. `base` is the base that was trained in full, None
    where it is as it was; the adapter then holds the rest, and what was extracted from it.
    """

    adapter: Adapter
    losses: tuple[float, ...]
    terms: Mapping[str, tuple[float, ...]]
    folder: Path
    resumed_from: int
    seconds: float
    chosen: int
    validation: Curve | None = None
    base: BaseModelRef | None = None
    readings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lora(self) -> Path:
        """The LoRA file in the run's folder; where only a word was learned, its embedding."""
        return RunFolder(self.folder, "").lora

    @property
    def model(self) -> Path | None:
        """The checkpoint in the run's folder, where the base was trained."""
        return RunFolder(self.folder, "").model if self.base is not None else None

    @property
    def files(self) -> tuple[Path, ...]:
        """Those of the two that are there: a base tuned in full may leave no LoRA."""
        return tuple(path for path in (self.lora, self.model) if path is not None and path.exists())


class TrainingStep(Step, Protocol):
    """A step of a method.

    `reads_text`: the text encoders take part in it; `memory`: what it remembers, if anything; `divergence`: when its
    losses are those of a lost training.
    """

    @property
    def reads_text(self) -> bool: ...

    @property
    def memory(self) -> Memory | None: ...

    @property
    def divergence(self) -> Divergence | None: ...

    def best_checkpoint(self, run: RunFolder, on_device: Callable[[], AbstractContextManager]) -> BestCheckpoint | None:
        """The method's own schedule of readings, in place of the validation on held-out prompts.

        Args:
            on_device: the context in which all networks can compute.
        """
        ...


class Method(Protocol[Chosen]):
    """What differs between methods. `revision` is raised whenever the method's arithmetic changes."""

    @property
    def name(self) -> str: ...

    @property
    def revision(self) -> int: ...

    @property
    def inputs(self) -> tuple[str, ...]:
        """Content keys of what it learns from besides base, pictures and settings."""
        ...

    def prepare(
        self,
        model: DiffusionModel,
        pictures: TrainingSet,
        chosen: Chosen,
        start_from: Adapter | None,
        progress: Progress,
    ) -> tuple[TrainingStep, Injected]:
        """What one step computes, and what it trains."""
        ...
