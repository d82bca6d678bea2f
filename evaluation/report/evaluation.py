"""An evaluation for people: a table, a grid of all pictures, the frontier plot, a page that stands alone, and JSON."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from ...core.atomic import write_whole
from ..result import Evaluation, EvaluationSamples
from ..selection import Curve
from ..set_metrics import DIV, PRES, VARIED
from .blind_test import Comparison
from .grids import before_after, cell_width, fit_to_cell
from .html import Figure, Folded, Section, Table, Text, settings_table, write_report
from .plots import DARK, LIGHT, Theme, frontier_plot
from .provenance import ENTRIES, provenance

ROWS_SHOWN = 60  # of the grid in the page; more would make it too heavy to open
UNBLIND = "Show or hide: after voting, since here it stands which pictures are whose"
AXIS_MEANINGS = {
    "subject": "likeness to the subject",
    "prompt": "following of the prompt",
    "preference": "what people prefer",
}
SET_METRIC_MEANINGS = {
    VARIED: "how different pictures of one prompt are",
    PRES: "likeness of the class alone to the subject",
    DIV: "how different pictures of the class alone are",
}


def table(evaluation: Evaluation) -> tuple[list[str], list[list[object]]]:
    """Column names and a row for each candidate: its means, and its score on the frontier where there is one."""
    metrics = evaluation.metrics
    columns = ["candidate", *metrics.per_image, *metrics.per_set, *(["score"] if evaluation.frontier else [])]
    rows: list[list[object]] = []
    for number, candidate in enumerate(evaluation.samples.candidates):
        cells: list[object] = [candidate.name + (" (best)" if number == evaluation.best else "")]
        for metric in metrics.per_image:
            mean = evaluation.interval(metric, number)
            spread = "" if mean.low is None else f" ({mean.low:.3f} to {mean.high:.3f})"
            cells.append(f"{mean.mean:.3f}{spread}")
        values = [by_candidate[number] for by_candidate in metrics.per_set.values()]
        cells += [None if value is None else round(value, 3) for value in values]
        cells += [round(evaluation.frontier[number], 3)] if evaluation.frontier else []
        rows.append(cells)
    return columns, rows


def lines(evaluation: Evaluation) -> str:
    """The table as aligned text, for the node and the terminal."""
    columns, rows = table(evaluation)
    cells = [columns, *([f"{c:.3f}" if isinstance(c, float) else str(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    text = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([*text, *(f"left out: {reason}" for reason in evaluation.metrics.left_out)])


def grid(evaluation: Evaluation, rows: int | None = None) -> Image.Image:
    """Rows are prompts and seeds, columns the candidates."""
    samples = evaluation.samples
    count = len(samples.groups) if rows is None else min(rows, len(samples.groups))
    names = [candidate.name for candidate in samples.candidates]
    cell = cell_width([samples.images[0][0]], 0, len(names), count)  # all are of one size
    pictures = [[fit_to_cell(drawn[number], cell) for drawn in samples.images] for number in range(count)]
    variants = list(_prompt_variants(samples))
    texts = variants[0] if len(variants) == 1 else [prompt.stripped for prompt in samples.prompts]
    labels = []
    for number in range(count):
        seed = samples.settings.seed + number % samples.settings.count
        text = texts[samples.groups[number]]
        labels.append(f"{text} · seed {seed}" if samples.settings.count > 1 else text)
    return before_after(pictures, labels, names, cell)


def frontier(evaluation: Evaluation, path: bool = False, theme: Theme = LIGHT) -> Image.Image | None:
    """The candidates between the two fidelities; None where one of them was not measured."""
    axes = (evaluation.metrics.first_of("subject"), evaluation.metrics.first_of("prompt"))
    if not evaluation.points or axes[0] is None or axes[1] is None:
        return None
    names = [candidate.name for candidate in evaluation.samples.candidates]
    points = [(name, point.subject, point.prompt) for name, point in zip(names, evaluation.points, strict=True)]
    rivals = (evaluation.points[0], *evaluation.points)  # the base, which a curve begins with, is a rival here too
    edge = [point.step for point in Curve(rivals, evaluation.likeness).frontier]
    return frontier_plot(points, (axes[0], axes[1]), edge, evaluation.best, path, theme)


def sections(evaluation: Evaluation, path: bool = False, pairs: int = 40) -> list[Section]:
    """The page's parts. `path` for the strengths of one adapter; `pairs` of the blind comparison, 0 for none."""
    samples, metrics = evaluation.samples, evaluation.metrics
    results = _results(evaluation, path)
    parts: list[Section] = list(results)
    if pairs and len(samples.candidates) > 1:  # a blind vote must come before scores and names are visible
        parts = [Comparison(evaluation, pairs), Folded("Results, names and samples", UNBLIND, results)]
    meanings = {name: AXIS_MEANINGS[axis] for name, axis in metrics.axes.items()} | SET_METRIC_MEANINGS
    models = [(name, meanings[name], model) for name, model in metrics.models.items()]
    parts.append(Table("Models of the metrics", models, ("metric", "tells", "model")))
    if metrics.left_out:
        parts.append(Text("Left out", "\n\n".join(metrics.left_out)))
    parts.append(_prompts(samples))
    parts.append(settings_table({"base": samples.base, **vars(samples.settings)}))
    return parts


def _results(evaluation: Evaluation, path: bool) -> list[Text | Table | Figure]:
    """Numbers and pictures with the candidates' names."""
    columns, rows = table(evaluation)
    parts: list[Text | Table | Figure] = [Table("Results", rows, columns), Text("", _how_to_read(evaluation))]
    light = frontier(evaluation, path)
    if light is not None:
        caption = "Further right: more like the subject. Further up: follows the prompts better."
        parts.append(Figure("Frontier", light, caption, frontier(evaluation, path, DARK)))
    total = len(evaluation.samples.groups)
    shown = min(ROWS_SHOWN, total)
    more = f" The first {shown} of {total} rows." if shown < total else ""
    parts.append(Figure("Samples", grid(evaluation, shown), f"Rows are prompts, columns share their noise.{more}"))
    return [*parts, *_origins(evaluation.samples)]


def _how_to_read(evaluation: Evaluation) -> str:
    if not evaluation.metrics.per_image:
        return "Nothing was measured; the samples can be compared by eye."
    text = (
        "Means over the samples with 95 % intervals, bootstrapped over prompts; numbers of different models cannot be "
        "compared. The base is asked without the identifier, which it never saw."
    )
    if evaluation.frontier:
        text += (
            " The score is the harmonic mean of the likeness gained (0: the base, 1: as the references among "
            "themselves) and of the prompt following kept (1: the base)."
        )
    best = evaluation.best
    if evaluation.frontier and len(evaluation.samples.candidates) > 1:
        text += (
            f" Best: {evaluation.samples.candidates[best].name}."
            if best is not None
            else " None gained anything over the base."
        )
    return text


def _prompts(samples: EvaluationSamples) -> Table:
    """The prompts as metrics read them, and as each adapter drew them by its own trigger."""
    read = [prompt.stripped for prompt in samples.prompts]
    variants = _prompt_variants(samples)
    names = ["an adapter"] if len(variants) == 1 else [", ".join(names) for names in variants.values()]
    columns = (*(f"as drawn with {name}" for name in names), "as read by metrics and drawn by the base")
    return Table("Prompts", list(zip(*variants, read, strict=True)), columns, samples.note)


def _prompt_variants(samples: EvaluationSamples) -> dict[tuple[str, ...], list[str]]:
    """The adapters' names by the prompts that they drew: several where their triggers differ."""
    variants: dict[tuple[str, ...], list[str]] = {}
    for candidate in samples.candidates:
        if candidate.adapter is not None:
            variants.setdefault(tuple(map(candidate.text, samples.prompts)), []).append(candidate.name)
    return variants


def _origins(samples: EvaluationSamples) -> list[Table]:
    rows = []
    for candidate in {c.adapter.key: c for c in samples.candidates if c.adapter is not None}.values():
        assert candidate.adapter is not None
        origin = provenance(candidate.adapter)
        missing = ", ".join(origin.missing) or "nothing"
        rows.append((candidate.name, *(origin.stated.get(name) for name in ENTRIES), missing))
    return [Table("Where the adapters come from", rows, ("adapter", *ENTRIES, "not told"))] if rows else []


def write(evaluation: Evaluation, folder: Path, title: str = "Evaluation", path: bool = False, pairs: int = 40) -> Path:
    """Write report.html and evaluation.json into `folder`; gives the page's path.

    Raises:
        FewShotError: the folder cannot be written to.
    """
    page = write_report(folder, title, sections(evaluation, path, pairs))
    text = json.dumps(evaluation.plain(), indent=2, ensure_ascii=False) + "\n"
    write_whole(folder / "evaluation.json", text.encode())
    return page
