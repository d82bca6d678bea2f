"""Did it learn? The check after a training: its widget, and what the node shows of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..comfy import host
from ..comfy.host import io
from ..pictures.sets import picture_tensor
from ..schema.metric_inputs import INSTRUCTIONS
from ..schema.validation_inputs import AUTO, OFF

if TYPE_CHECKING:
    from ...core.context import RunContext
    from ...evaluation.learned.check import Check, Learned
    from ...trainers.check.common import Checker

log = logging.getLogger(__name__)
NO_CLIP = f"Did it learn? Not checked, as there is no CLIP: {INSTRUCTIONS['CLIP']}"
CANCELLED = "Did it learn? The check was cancelled and left out; what was trained is kept"


@dataclass(frozen=True)
class CheckShown:
    """What the node shows of the check: lines for its text, and the sheet as an IMAGE, if there is one."""

    lines: tuple[str, ...] = ()
    picture: Any = None

    def show(self, cls: type[io.ComfyNode], text: str) -> Any:
        """The node's text, and the sheet beside it."""
        if self.picture is None:
            return host.say(cls.hidden.unique_id, text)
        return host.show(cls, self.picture, text)


def check_input() -> io.Input:
    """The widget that turns the check off."""
    return io.Combo.Input(
        "check",
        options=[AUTO, OFF],
        default=AUTO,
        optional=True,
        advanced=True,
        tooltip="Did it learn? auto draws held-out prompts by the base and by what was trained, compares them by the "
        "CLIP or DINO on the disk, and says what was learned and which strength is best; for at most a quarter of the "
        "training's cost, or four prompts. Cancel leaves it out and keeps what was trained.",
    )


def checked(
    choice: str, models: Callable[[], Any], make: Callable[[Checker], Check], context: RunContext, folder: Path
) -> CheckShown:
    """The check of a finished training in the run's `folder`. Whatever happens to it, the training is kept.

    Args:
        models: gives the models that compare, as a `Validator`; None where there are none.
        make: gives the check to be made.
        context: the training's.
    """
    from ...core.context import RunContext
    from ...evaluation.learned.check import check
    from ...trainers.check.common import Checker

    if choice == OFF:
        return CheckShown()
    own = RunContext(folder, context.device, context.progress, context.tokenizer_folder, context.embedding_folders)
    try:
        validator = models()
        if validator is None:
            return CheckShown((NO_CLIP,))
        learned = check(make(Checker(validator)), own)
    except host.Interrupted:
        log.info(CANCELLED)
        return CheckShown((CANCELLED,))
    except Exception as error:  # whatever it is, the training is worth more than its check
        log.warning("the check failed: %s", error, exc_info=True)
        return CheckShown((f"Did it learn? It could not be checked: {error}",))
    return CheckShown((*learned.verdict.lines, seen_by(learned)), picture_tensor(learned.sheet))


def seen_by(learned: Learned) -> str:
    """What the verdict rests on."""
    measured = learned.measurement
    names = ", ".join(column.name for column in measured.columns)
    return f"checked on {len(measured.prompts)} prompts ({names}) by {measured.models}"
