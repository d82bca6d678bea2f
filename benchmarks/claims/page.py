"""The page of all claims: a table of their rows, each with its own date and commit, and pictures of each part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .. import module_of
from ..harness.rows import BenchmarkRow
from ..harness.workshop import GUIDANCE, STEPS
from .table import CLAIMS, UNPROVEN, Claim, rows_of_claim


@dataclass(frozen=True)
class Sheet:
    """A sheet of judged samples, by its path beside the page, and its prompts."""

    file: str
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class PartResult:
    """The rows of a part of a bench, with the date, code and weights; `failed` is the reason where there are none.

    `older` is set where that code has changed since.
    """

    name: str
    rows: tuple[BenchmarkRow, ...] = ()
    date: str = ""
    commit: str = ""
    failed: str = ""
    sheets: tuple[Sheet, ...] = ()
    code: str = ""
    weights: str = ""
    older: bool = False


# By bench the parts that were started; None where there is no such bench.
PartsByBench = Mapping[str, Sequence[PartResult] | None]


def page(parts_by_bench: PartsByBench, quick: bool, weights: str) -> str:
    """The whole text; `weights` is the content key of the pocket's models."""
    steps = ", ".join(f"{bench} {count}" for bench, count in training_steps(parts_by_bench).items())
    lines = [
        f"# Claims, measured{' quickly' if quick else ''}",
        "",
        "Every claim of the methods on the pocket's world beside the figure of the document that made it. Their "
        "figures are of Stable Diffusion on photographs and ours of small models on drawings: signs and sizes of "
        "differences can be compared, numbers cannot. Written by `run.py bench claims"
        f"{' --quick' if quick else ''}`.",
        "",
        f"Weights of the pocket `{weights[:12]}`; {STEPS} sampling steps, guidance {GUIDANCE}; "
        + (
            "one subject, seed 0 and few steps (quick: signs only, no goals). "
            if quick
            else f"training steps of one subject or relation: {steps}; seeds 0 and 1. "
        )
        + "Intervals are 95 %, bootstrapped over runs. Rows are of the date and commit beside them; where that code "
        "has changed since, they say so.",
        "",
        "| claim | theirs | row | ours | interval | runs | goal | measured | note |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for claim in CLAIMS:
        lines += claim_lines(claim, parts_by_bench.get(claim.bench))
    for bench, parts in parts_by_bench.items():
        lines += unclaimed_rows(bench, parts or ())
    lines += unproven_lines()
    lines += [
        line for bench, parts in parts_by_bench.items() for part in parts or () for line in sheet_lines(bench, part)
    ]
    return "\n".join(lines) + "\n"


def unproven_lines() -> list[str]:
    """What no row here shows for want of full-size weights, and the command that shows it on a person's own."""
    lines = [
        "", "## Unproven here", "",
        "No weights of full size were at hand. What the rows above cannot show, and what shows it on weights of one's "
        "own:", "",
        "| what | why | rows of drawings or of code only | shown by |", "|---|---|---|---|",
    ]  # fmt: skip
    for one in UNPROVEN:
        shown = f"`{one.command}`" if one.command.startswith("run.py") and "," not in one.command else one.command
        rows = ", ".join(one.rows) or "none"
        lines.append(f"| {_cell(one.what)} | {_cell(one.why)} | {rows} | {shown or 'no command yet'} |")
    return lines


def training_steps(parts_by_bench: PartsByBench) -> dict[str, int | str]:
    """The training steps of each bench that has any."""
    modules = {bench: module_of(bench) for bench, parts in parts_by_bench.items() if parts}
    return {bench: module.STEPS for bench, module in modules.items() if hasattr(module, "STEPS")}


def claim_lines(claim: Claim, parts: Sequence[PartResult] | None) -> list[str]:
    """The rows of a claim, or why there are none."""
    claimed = [(row, part) for part in parts or () for row in rows_of_claim(claim, part.rows)]
    if claimed:
        cells = [f"{claim.text} | {claim.theirs}", *[" | "] * (len(claimed) - 1)]
        return [f"| {words} | {_row(row, part)} |" for words, (row, part) in zip(cells, claimed, strict=True)]
    if parts is None:
        reason = f"no bench {claim.bench}"
    else:
        reason = "; ".join(["not measured", *(f"{part.name} failed: {part.failed}" for part in parts if part.failed)])
    return [f"| {claim.text} | {claim.theirs} | {', '.join(claim.rows)} | {_cell(reason)} | | | | | |"]


def unclaimed_rows(bench: str, parts: Sequence[PartResult]) -> list[str]:
    """The rows of a bench that belong to no claim, so that no measured row is missing."""
    known = {
        row.name
        for claim in CLAIMS
        if claim.bench == bench
        for part in parts
        for row in rows_of_claim(claim, part.rows)
    }
    rest = [(row, part) for part in parts for row in part.rows if row.name not in known]
    return [f"| measured besides ({bench}) | | {_row(row, part)} |" for row, part in rest]


def _row(row: BenchmarkRow, part: PartResult) -> str:
    interval = "" if row.interval is None else f"{row.interval[0]:.3g} to {row.interval[1]:.3g}"
    verdict = {None: "", True: ", met", False: ", not met"}[row.met]
    goal = "" if row.goal is None else f"{'≥' if row.better == 'higher' else '≤'} {row.goal:g}{verdict}"
    when = f"{part.date} {part.commit}".strip() + (", older code" if part.older else "")
    return f"{row.name} | {row.value:.3g} {row.unit} | {interval} | {row.n} | {goal} | {when} | {_cell(row.note)}"


def sheet_lines(bench: str, part: PartResult) -> list[str]:
    """The sheets of a part, under the claims that it measures."""
    if not part.sheets:
        return []
    claimed = [claim.text for claim in CLAIMS if claim.bench == bench and rows_of_claim(claim, part.rows)]
    lines = ["", f"## {bench}: {part.name}", "", "; ".join(claimed) or ", ".join(row.name for row in part.rows)]
    for sheet in part.sheets:
        lines += ["", f"![{bench}: {part.name}]({sheet.file})", "", f"Row by row: {'; '.join(sheet.prompts)}."]
    return lines


def _cell(text: str) -> str:
    """Text that cannot break a table."""
    return " ".join(text.split()).replace("|", "\\|")
