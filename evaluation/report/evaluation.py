"""An evaluation for people: a table, a grid of all pictures, the frontier plot, a page that stands alone, and JSON."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from PIL import Image

from ...core.errors import FewShotError
from ..evaluate import Evaluation
from ..selection import Curve
from ..set_metrics import DIV, PRES, VARIED
from .blind_test import Comparison
from .grids import before_after, cell_width, fitted
from .html import Figure, Folded, Section, Table, Text, settings_table, write_report
from .plots import DARK, LIGHT, Theme, frontier_plot
from .provenance import SAID, provenance

ROWS_SHOWN = 60  # of the grid in the page; more would make it too heavy to open
UNBLIND = "Show or hide: after voting, since here it stands which pictures are whose"
ANSWERS = {
    "subject": "likeness to the subject",
    "prompt": "following of the prompt",
    "preference": "what people prefer",
}
WHOLE = {
    VARIED: "how different pictures of one prompt are",
    PRES: "likeness of the class alone to the subject",
    DIV: "how different pictures of the class alone are",
}


def table(evaluation: Evaluation) -> tuple[list[str], list[list[object]]]:
    """Column names and a row for each candidate: its means, and its score on the frontier where there is one."""
    found = evaluation
    columns = ["candidate", *found.scores, *found.whole, *(["score"] if found.frontier else [])]
    rows: list[list[object]] = []
    for number, one in enumerate(found.candidates):
        cells: list[object] = [one.name + (" (best)" if number == found.best else "")]
        for metric in found.scores:
            mean = found.interval(metric, number)
            spread = "" if mean.low is None else f" ({mean.low:.3f} to {mean.high:.3f})"
            cells.append(f"{mean.mean:.3f}{spread}")
        told = [values[number] for values in found.whole.values()]
        cells += [None if value is None else round(value, 3) for value in told]
        cells += [round(found.frontier[number], 3)] if found.frontier else []
        rows.append(cells)
    return columns, rows


def lines(evaluation: Evaluation) -> str:
    """The table as aligned text, for the node and the terminal."""
    columns, rows = table(evaluation)
    cells = [columns, *([f"{c:.3f}" if isinstance(c, float) else str(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    text = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([*text, *(f"left out: {reason}" for reason in evaluation.left_out)])


def grid(evaluation: Evaluation, rows: int | None = None) -> Image.Image:
    """Rows are prompts and seeds, columns the candidates."""
    found = evaluation
    count = len(found.groups) if rows is None else min(rows, len(found.groups))
    names = [one.name for one in found.candidates]
    cell = cell_width([found.images[0][0]], 0, len(names), count)  # all are of one size
    pictures = [[fitted(drawn[number], cell) for drawn in found.images] for number in range(count)]
    given, labels = list(_as_drawn(found)), []
    texts = given[0] if len(given) == 1 else [prompt.stripped for prompt in found.prompts]  # what all have in common
    for number in range(count):
        seed = found.settings.seed + number % found.settings.count
        text = texts[found.groups[number]]
        labels.append(f"{text} · seed {seed}" if found.settings.count > 1 else text)
    return before_after(pictures, labels, names, cell)


def frontier(evaluation: Evaluation, path: bool = False, theme: Theme = LIGHT) -> Image.Image | None:
    """The candidates between the two fidelities; None where one of them was not measured."""
    found, axes = evaluation, (evaluation.named("subject"), evaluation.named("prompt"))
    if not found.points or axes[0] is None or axes[1] is None:
        return None
    names = [one.name for one in found.candidates]
    points = [(name, point.subject, point.prompt) for name, point in zip(names, found.points, strict=True)]
    rivals = (found.points[0], *found.points)  # the base, which a curve begins with, is a rival here too
    edge = [point.step for point in Curve(rivals, found.likeness).frontier]
    return frontier_plot(points, (axes[0], axes[1]), edge, found.best, path, theme)


def sections(evaluation: Evaluation, path: bool = False, pairs: int = 40) -> list[Section]:
    """The page's parts. `path` for the strengths of one adapter; `pairs` of the blind comparison, 0 for none."""
    found = evaluation
    results = _results(found, path)
    parts: list[Section] = list(results)
    if pairs and len(found.candidates) > 1:  # who votes has seen neither numbers nor which pictures are whose
        parts = [Comparison(found, pairs), Folded("Results, names and samples", UNBLIND, results)]
    told = {name: ANSWERS[axis] for name, axis in found.axes.items()} | WHOLE
    models = [(name, told[name], model) for name, model in found.models.items()]
    parts.append(Table("Models of the metrics", models, ("metric", "tells", "model")))
    if found.left_out:
        parts.append(Text("Left out", "\n\n".join(found.left_out)))
    parts.append(_prompts(found))
    parts.append(settings_table({"base": found.base, **vars(found.settings)}))
    return parts


def _results(found: Evaluation, path: bool) -> list[Text | Table | Figure]:
    """Numbers and pictures with the candidates' names."""
    columns, rows = table(found)
    parts: list[Text | Table | Figure] = [Table("Results", rows, columns), Text("", _how_to_read(found))]
    light = frontier(found, path)
    if light is not None:
        told = "Further right: more like the subject. Further up: follows the prompts better."
        parts.append(Figure("Frontier", light, told, frontier(found, path, DARK)))
    shown = min(ROWS_SHOWN, len(found.groups))
    more = f" The first {shown} of {len(found.groups)} rows." if shown < len(found.groups) else ""
    parts.append(Figure("Samples", grid(found, shown), f"Rows are prompts, columns share their noise.{more}"))
    return [*parts, *_origins(found)]


def _how_to_read(found: Evaluation) -> str:
    if not found.scores:
        return "Nothing was measured; the samples can be compared by eye."
    told = (
        "Means over the samples with 95 % intervals, bootstrapped over prompts; numbers of different models cannot be "
        "compared. The base is asked without the identifier, which it never saw."
    )
    if found.frontier:
        told += (
            " The score is the harmonic mean of the likeness gained (0: the base, 1: as the references among "
            "themselves) and of the prompt following kept (1: the base)."
        )
    best = found.best
    if found.frontier and len(found.candidates) > 1:
        told += f" Best: {found.candidates[best].name}." if best is not None else " None gained anything over the base."
    return told


def _prompts(found: Evaluation) -> Table:
    """What was asked for, with the words that each adapter was called by."""
    read = [prompt.stripped for prompt in found.prompts]
    drawn = _as_drawn(found)
    names = ["an adapter"] if len(drawn) == 1 else [", ".join(names) for names in drawn.values()]
    columns = (*(f"as drawn with {name}" for name in names), "as read by metrics and drawn by the base")
    return Table("Prompts", list(zip(*drawn, read, strict=True)), columns, found.note)


def _as_drawn(found: Evaluation) -> dict[tuple[str, ...], list[str]]:
    """The adapters' names by the prompts that they were given: several where their triggers differ."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for one in found.candidates:
        if one.adapter is not None:
            groups.setdefault(tuple(map(one.text, found.prompts)), []).append(one.name)
    return groups


def _origins(found: Evaluation) -> list[Table]:
    rows = []
    for one in {c.adapter.key: c for c in found.candidates if c.adapter is not None}.values():
        assert one.adapter is not None
        origin = provenance(one.adapter)
        missing = ", ".join(origin.missing) or "nothing"
        rows.append((one.name, *(origin.said.get(name) for name in SAID), missing))
    return [Table("Where the adapters come from", rows, ("adapter", *SAID, "not told"))] if rows else []


def write(evaluation: Evaluation, folder: Path, title: str = "Evaluation", path: bool = False, pairs: int = 40) -> Path:
    """Write report.html and evaluation.json into `folder`; gives the page's path.

    Raises:
        FewShotError: the folder cannot be written to.
    """
    page = write_report(folder, title, sections(evaluation, path, pairs))
    file = folder / "evaluation.json"
    draft = folder / f".evaluation-{os.getpid()}-{secrets.token_hex(4)}.draft"
    try:
        try:
            draft.write_text(json.dumps(evaluation.plain(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            os.replace(draft, file)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise FewShotError(f"{file} cannot be written: {error.strerror or error}; free some space or rights") from None
    return page
