"""Where a training runs, with what others, and what chooses its best step."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..core.context import RunContext
from .distributed import Processes, SingleProcess
from .validation.image_metrics import Validator


@dataclass(frozen=True)
class TrainingContext(RunContext):
    """A run's context; its folder is <folder>/<name>_<key>/.

    Args:
        name: of the folder and the LoRA in it; it does not change what is learned.
        processes: where several compute one run together.
        validator: what chooses the best of the validated steps, which is returned; without it the last one is.
    """

    name: str = "run"
    processes: Processes = field(default_factory=SingleProcess)
    validator: Validator | None = None
