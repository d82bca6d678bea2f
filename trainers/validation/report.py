"""The HTML report of a validated run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...core.images import open_picture
from ...evaluation.report.html import Figure, Section, Table, settings_table, write_report
from ...evaluation.report.plots import DARK, loss_curve, validation_curve
from ...evaluation.selection import Curve
from ..settings.training import TrainingSettings
from ..state.run_folder import RunFolder

RULE = (
    "Likeness gained is 0 for the untrained base and 1 for a likeness as that of the references among themselves; "
    "prompt following kept is 1 for the untrained base and 0 for pictures that know nothing of their prompts. The "
    "score is their harmonic mean, and the step where it is highest is returned."
)


def report(run: RunFolder, chosen: TrainingSettings, losses: Sequence[float], curve: Curve, step: int) -> Path:
    """Write report.html: the chosen step, the curves, and the images sampled with it."""
    rows = [
        (p.step, p.subject, p.prompt, score, "chosen" if p.step == step else "")
        for p, score in zip(curve.points, curve.scores, strict=True)
    ]
    sections: list[Section] = [Table("Validations", rows, ("step", "subject (cosine)", "prompt (cosine)", "score", ""))]
    if curve.anchors is not None:
        dark = validation_curve(curve, step, DARK)
        sections.append(Figure("Which step is best", validation_curve(curve, step), RULE, dark))
    sheet = run.samples / f"validation_{step:08d}.png"
    if sheet.exists():
        sections.append(Figure("Drawn with it", open_picture(sheet), "Held-out prompts, always from the same noise."))
    sections.append(
        Figure("Loss", loss_curve(losses), "Each step and a moving average.", loss_curve(losses, theme=DARK))
    )
    sections.append(settings_table(chosen.values()))
    return write_report(run.folder, f"Training of {run.name}", sections)
