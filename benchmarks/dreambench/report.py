"""The page to share, and the numbers as JSON. Neither names a folder of the machine."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ...core.atomic import write_whole
from ...core.images import open_picture
from ...evaluation.report.grids import before_after
from ...evaluation.report.html import Figure, Folded, Section, Table, Text, write_report
from ...evaluation.report.plots import DARK, LIGHT, Theme, difference_plot, frontier_plot
from ...trainers.state.run_folder import LIBRARIES
from ..harness.rows import BenchmarkRow
from .clock import Clock, duration
from .results import DIFFERENCES, FEWEST_CLUSTERS, Results, SubjectResult
from .run import Benchmark
from .sides import BASE, OURS, PLAIN, PLAIN_SETTINGS, REFINED, SIDES, TITLES

# (side, DINO, CLIP-I, CLIP-T, ImageReward, PickScore / 100) of papers on Stable Diffusion 1.x and DreamBench
PUBLISHED = (
    ("real pictures (Ruiz et al. 2023)", 0.774, 0.885, None, None, None),
    ("DreamBooth, whole network (Ruiz et al. 2023)", 0.668, 0.803, 0.305, None, None),
    ("Textual Inversion (Ruiz et al. 2023)", 0.569, 0.780, 0.255, None, None),
    ("DreamBooth (Chae et al. 2023)", 0.648, None, 0.297, 0.052, 0.214),
    ("InstructBooth (Chae et al. 2023)", 0.661, None, 0.306, 0.651, 0.217),
)
CELL, SHEET_PROMPTS, OPEN_SHEETS = 192, 3, 6
PUBLISHED_NOTE = (
    "Of the papers' own runs. Numbers can be set beside them only where base, prompts and models are theirs: Stable "
    "Diffusion 1.x, all 30 subjects and 25 prompts, CLIP ViT-B/32 and DINO ViT-S/16."
)


def write(bench: Benchmark, results: Results, clock: Clock) -> Path:
    """Write report.html and dreambench.json into the output's folder; gives the page's path."""
    folder = bench.options.out
    text = json.dumps(plain(bench, results, clock), indent=1, ensure_ascii=False) + "\n"
    write_whole(folder / "dreambench.json", text.encode())
    return write_report(folder, f"DreamBench on {bench.base.name}", sections(bench, results, clock))


def plain(bench: Benchmark, results: Results, clock: Clock) -> dict[str, Any]:
    """For JSON. What depends on the machine's speed and the date stands under "when"."""
    subjects = [
        {name: value for name, value in vars(subject).items() if name not in ("files", "references")}
        | {"failed": {side: named(bench, reason) for side, reason in subject.failed.items()}}
        for subject in results.subjects
    ]
    return {
        "base": bench.base.name,
        "family": bench.base.family,
        "base_key": bench.base.key,
        "protocol": protocol(bench),
        "settings": settings(bench),
        "models": bench.models,
        "not_measured": [named(bench, line) for line in bench.not_measured],
        "rows": [asdict(row) for row in results.rows()],
        "subjects": subjects,
        "versions": versions(),
        "when": {
            "date": datetime.date.today().isoformat(),
            "seconds": {kind: clock.total(kind) for kind in clock.plan},
        },
    }


def protocol(bench: Benchmark) -> dict[str, Any]:
    """What is drawn, the same for all sides."""
    options = bench.options
    return {
        "subjects": len(bench.subjects), "prompts": options.prompts, "pictures of a prompt": options.count,
        "seeds of the trainings": list(options.seeds), "seeds of the pictures": list(range(options.count)),
        "sampler": "DDIM", "sampling steps": options.sampling_steps, "guidance": options.guidance,
        "size": options.size or "the base's own", "prior pictures of a class": options.priors,
        "identifier": options.identifier, "dtype": options.dtype, "quick": options.quick,
    }  # fmt: skip


def settings(bench: Benchmark) -> dict[str, Any]:
    """By side what differs from the defaults of Training Settings and Refinement Settings."""
    options = bench.options
    steps = {"steps": options.steps} if options.steps else {}
    reward = ", ".join(f"{term.kind} x {term.weight:g}" for term in bench.judges.terms)
    return {
        PLAIN: {**PLAIN_SETTINGS, **steps},
        OURS: steps or "none: Train Subject without settings",
        REFINED: {"settings": options.refine or "none: the defaults", "reward": reward},
    }


def versions() -> dict[str, str]:
    found = {library: importlib.metadata.version(library) for library in LIBRARIES}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {"fewshot-training": pack_version(), "python": platform.python_version(), **found, "device": device}


def named(bench: Benchmark, text: str) -> str:
    """A message with names in the place of the machine's paths."""
    options = bench.options
    given = [options.base, options.pictures, options.out, *options.models, *vars(bench.judges).values()]
    paths = {Path(one) for one in given if one is not None}
    for path in sorted(paths, key=lambda path: -len(str(path))):
        text = text.replace(str(path), path.name)
    return text


def pack_version() -> str:
    try:
        return importlib.metadata.version("fewshot-training")
    except importlib.metadata.PackageNotFoundError:  # run from its source
        return "source"


# ------------------------------------------------------------------------------------------------------- the page


def sections(bench: Benchmark, results: Results, clock: Clock) -> list[Section]:
    """The page's parts."""
    rows = {row.name: row for row in results.rows()}
    parts: list[Section] = [
        Text("What this is", about(bench, results)),
        Table("Means over subjects", means(rows, results.metrics), ("side", *results.metrics), MEANS_NOTE),
        Table("Differences", differences(rows, results.metrics), ("sides", *results.metrics), DIFFERENCES_NOTE),
        *figures(rows, results),
        *sheets(bench, results),
        Table("Each subject", *by_subject(results)),
        Table("Published", PUBLISHED, ("", "DINO", "CLIP-I", "CLIP-T", "ImageReward", "PickScore"), PUBLISHED_NOTE),
    ]
    left_out = [named(bench, line) for line in (*bench.not_measured, *failures(results.subjects))]
    cautions = [f"{metric}: {text}" for metric, text in results.cautions.items() if text]
    if left_out or cautions:
        parts.append(Text("Not measured, and with care", "\n\n".join([*left_out, *cautions])))
    parts += [
        Table("Models that measure", list(bench.models.items()), ("metric", "model")),
        Table("How the sides differ", [(TITLES[side], _readable(how)) for side, how in settings(bench).items()]),
        Table("The same for all sides", list(protocol(bench).items())),
        Folded("Prompts", "The prompts, each as the base is asked", [prompts_table(bench)]),
        Table("Time", [(kind, duration(clock.total(kind))) for kind in clock.plan]),
        Table("Versions", list(versions().items())),
    ]
    return parts


MEANS_NOTE = (
    "PickScore is printed divided by 100, as papers do. The base is asked for the class without the identifier: the "
    f"floor of likeness. 95 % intervals are bootstrapped over subjects, where there are {FEWEST_CLUSTERS} or more."
)
DIFFERENCES_NOTE = "Paired by prompt and seed. A difference whose interval holds 0 is none that was shown."


def about(bench: Benchmark, results: Results) -> str:
    done, planned, options = len(results.subjects), len(bench.subjects), bench.options
    share = (
        "A small share of the protocol, for the signs alone. "
        if options.quick or options.prompts < 25 or options.count < 4 or planned < 30
        else ""
    )
    cut = f"So far {done} of {planned} subjects; the same command goes on. " if done < planned else ""
    return (
        f"DreamBench (Ruiz et al. 2023) on {bench.base.name} ({bench.base.family}): {done} subjects, {options.prompts} "
        f"prompts each, {options.count} pictures a prompt. {cut}{share}Three sides draw the same prompts from the same "
        "noise by the same sampler, learn from the same pictures and the same prior pictures, and differ in what this "
        "page says and in nothing else: plain LoRA DreamBooth as diffusers' example has it, Train Subject without "
        "settings, and Refine LoRA over that adapter.\n\nMetrics read the prompt without the identifier. Train Subject "
        "chooses its step by pictures of its own prompts, of which two places (in the snow, on the beach) are among "
        "the 25; what Refine LoRA learns with is among them nowhere."
    )


def means(rows: dict[str, BenchmarkRow], metrics: Sequence[str]) -> list[tuple[object, ...]]:
    names = {"real": "real pictures", BASE: TITLES[BASE], **{side: TITLES[side] for side in SIDES}}
    return [
        (title, *(shown(rows.get(f"{side}.{metric}"), metric) for metric in metrics)) for side, title in names.items()
    ]


def differences(rows: dict[str, BenchmarkRow], metrics: Sequence[str]) -> list[tuple[object, ...]]:
    return [
        (f"{TITLES[after]} over {TITLES[before]}",
         *(shown(rows.get(f"{after}_over_{before}.{metric}"), metric, "+") for metric in metrics))
        for after, before in DIFFERENCES
    ]  # fmt: skip


def shown(row: BenchmarkRow | None, metric: str, sign: str = "") -> str | None:
    """A row's value with its interval."""
    if row is None:
        return None
    scale = scale_of(metric)
    ends = (
        "" if row.interval is None else f" ({row.interval[0] * scale:{sign}.3f} to {row.interval[1] * scale:{sign}.3f})"
    )
    return f"{row.value * scale:{sign}.3f}{ends}"


def scale_of(metric: str) -> float:
    return 0.01 if metric == "PickScore" else 1.0


def figures(rows: dict[str, BenchmarkRow], results: Results) -> list[Section]:
    """The differences, and the sides between likeness and prompt following."""

    def plotted(theme: Theme):
        found = [(f"{metric}: {TITLES[after]} over {TITLES[before]}", rows[f"{after}_over_{before}.{metric}"], metric)
                 for metric in results.metrics for after, before in DIFFERENCES[:2]
                 if f"{after}_over_{before}.{metric}" in rows]  # fmt: skip
        scaled = [
            (name, row.value * scale_of(m), row.interval and tuple(end * scale_of(m) for end in row.interval))
            for name, row, m in found
        ]
        return difference_plot(scaled, theme=theme) if scaled else None

    like = "DINO" if "DINO" in results.metrics else "CLIP-I"

    def frontier(theme: Theme):
        known = [side for side in (BASE, *SIDES) if f"{side}.{like}" in rows]
        points = [(TITLES[s], rows[f"{s}.{like}"].value, rows[f"{s}.CLIP-T"].value) for s in known]
        return frontier_plot(points, (like, "CLIP-T"), theme=theme)

    parts: list[Section] = []
    light = plotted(LIGHT)
    if light is not None:
        parts.append(Figure("Differences and their intervals", light, DIFFERENCES_NOTE, plotted(DARK)))
    caption = "Further right: more like the subject. Further up: follows the prompts better."
    return [*parts, Figure("Likeness and prompt following", frontier(LIGHT), caption, frontier(DARK))]


def sheets(bench: Benchmark, results: Results) -> list[Section]:
    """Pictures of the first seed side by side, a sheet a subject."""
    made = [Figure(s.name, sheet(bench, s), "The same noise in each row.") for s in results.subjects]
    rest = (
        [Folded("", f"{len(made) - OPEN_SHEETS} more subjects", made[OPEN_SHEETS:])] if len(made) > OPEN_SHEETS else []
    )
    return [*made[:OPEN_SHEETS], *rest]


def sheet(bench: Benchmark, subject: SubjectResult):
    """Some prompts of a subject: one of its own pictures, then each side's."""
    sides = [side for side in (BASE, *SIDES) if side in subject.files]
    lines = bench.lines_of(subject.name)
    count = bench.options.count
    numbers = [number * len(lines) // SHEET_PROMPTS for number in range(SHEET_PROMPTS)]
    numbers = list(dict.fromkeys(numbers))
    rows = []
    for row, number in enumerate(numbers):
        own = open_picture(subject.references[row % len(subject.references)]).convert("RGB")
        side = min(own.size)
        left, top = (own.width - side) // 2, (own.height - side) // 2
        drawn = [open_picture(subject.files[name][number * count]).convert("RGB") for name in sides]
        rows.append([own.crop((left, top, left + side, top + side)), *drawn])
    titles = ["its own picture", *(TITLES[name] for name in sides)]
    return before_after(rows, [lines[number] for number in numbers], titles, CELL)


def by_subject(results: Results) -> tuple[list[tuple[object, ...]], tuple[str, ...]]:
    """Each subject's means by side, and the step that each training returned."""
    columns = ("subject", "what", "pictures", *(f"{TITLES[s]}: {m}" for m in results.metrics for s in SIDES), "steps")
    rows = []
    for subject in results.subjects:
        cells = []
        for metric in results.metrics:
            for side in SIDES:
                values = subject.scores.get(side, {}).get(metric)
                cells.append(round(sum(values) / len(values) * scale_of(metric), 3) if values else None)
        kind = "live" if subject.live else "object"
        steps = "; ".join(f"{TITLES[side]} {', '.join(map(str, taken))}" for side, taken in subject.steps.items())
        rows.append((subject.name, f"{subject.noun} ({kind})", subject.pictures, *cells, steps))
    return rows, columns


def failures(subjects: Sequence[SubjectResult]) -> list[str]:
    """What could not be trained, and refinements that came to nothing."""
    lines = [f"{s.name}, {TITLES[side]}: {reason}" for s in subjects for side, reason in s.failed.items()]
    steps = [step for subject in subjects for step in subject.steps.get(REFINED, ())]
    if idle := steps.count(0):
        lines.append(
            f"{TITLES[REFINED]}: in {idle} of {len(steps)} runs no reading was better than the start, which is returned"
        )
    return lines


def prompts_table(bench: Benchmark) -> Table:
    shown_prompts = {name: bench.lines_of(name) for name in {s.live: s.name for s in bench.subjects}.values()}
    columns = tuple(shown_prompts)
    rows = list(zip(*shown_prompts.values(), strict=True))
    return Table("", rows, columns, "DreamBench's lists (github.com/google/dreambooth, prompts_and_classes.txt).")


def _readable(how: Any) -> str:
    if isinstance(how, dict):
        return "; ".join(f"{name} {_readable(value)}" for name, value in how.items())
    return str(how)
