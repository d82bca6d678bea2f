"""All claims of the methods in one table: `run.py bench claims [--quick]` writes docs/claims.md.

Each claim is a row of another bench beside the figure of the document that made it. Benches are run as they are needed
and their rows kept, so that a stopped run goes on; a bench that is not there yet is named as not measured.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from . import Row, measure, names, write
from ._subject_runs import FOLDER, GUIDANCE, ROOT, STEPS, sources_key

log = logging.getLogger(__name__)

PAGE = ROOT / "docs" / "claims.md"
PICTURES = ROOT / "docs" / "claims"
MOST_PICTURES = 3
KEPT = FOLDER.parent / "claims"


@dataclass(frozen=True)
class Claim:
    """What is claimed, by whom and with which figure, and the rows (of one bench) that tell."""

    text: str
    theirs: str
    bench: str
    rows: tuple[str, ...]


CLAIMS = (
    Claim("Priors keep the class from turning into the subject", "DreamBooth: shown in pictures", "subject",
          ("priors.drift_ratio",)),
    Claim("Segment-and-paste with the attention loss follows prompts in new places", "poster: shown in pictures",
          "subject", ("poster.prompt_gain", "poster.subject_loss")),
    Claim("The attention loss brings attention onto the subject", "poster: shown in maps", "subject",
          ("local.iou_before", "local.iou_after")),
    Claim("Tuning more of the network raises likeness", "poster: stated", "subject",
          ("tuning.cross", "tuning.cross_self", "tuning.cross_self_text")),
    Claim("Several subjects in one picture stay apart", "poster: shown in pictures", "subject",
          ("multi.both", "multi.gain", "multi.fused")),
    Claim("A detailed description helps rare subjects", "InstructBooth: stated for its first stage", "subject",
          ("description.gain",)),
    Claim("The chosen checkpoint is as good as the best fixed one", "this project", "subject", ("auto.gap",)),
    Claim("Plain baselines", "CLIP-T / DINO: DreamBooth .310 / .699, Custom Diffusion .323 / .535, Textual Inversion "
          ".271 / .576", "subject", ("baseline.*", "preset.*")),
    Claim("A relation is learned from two pictures; captions and the adversarial loss help",
          "entity accuracy 23.96, 28.70 with captions, 28.25 and 26.78 with the adversarial loss", "relation",
          ("entity.*", "relation.*", "ours.entity_gain", "ours.relation_loss")),
    Claim("Relation inversion works with ten pictures", "ReVersion: by a classifier that cannot be had here",
          "relation", ("reversion10.relation",)),
    Claim("Steering and focal sampling help", "ReVersion: ablation", "relation", ("steering.*", "focal.*")),
    Claim("Refinement makes a subject follow actions without losing it",
          "InstructBooth: ImageReward .441 to 1.196, DINO .699 to .650", "refine",
          ("refined.prompt_gain", "refined.subject_share")),
    Claim("Refinement does more than undo overfitting", "this project", "refine",
          ("refined.over_auto", "refined.over_strength")),
    Claim("Prompts with and without the identifier need fewer samples", "InstructBooth: figure 8", "refine",
          ("idmix.samples_ratio",)),
    Claim("Ways of refinement, and the published implementation of DDPO", "this project", "refine",
          ("method.*", "ddpo_baseline.*")),
    Claim("Metrics rank adapters as the judge does", "this project", "evaluate", ("metric.*",)),
    Claim("The invisible mark is found after JPEG and a crop", "this project", "evaluate", ("watermark.*",)),
)  # fmt: skip


def chosen(claim: Claim, found: Sequence[Row]) -> list[Row]:
    """The rows of a claim; a pattern ends in *."""
    return [
        row
        for pattern in claim.rows
        for row in found
        if (row.name.startswith(pattern[:-1]) if pattern.endswith("*") else row.name == pattern)
    ]


def rows_of(bench: str, quick: bool, run: Callable[[str, bool], list[Row]] = measure) -> list[Row] | None:
    """A bench's rows: kept ones of the same sources, else measured now; None where there is no such bench."""
    if bench not in names():
        return None
    file = KEPT / f"{bench}-{'quick' if quick else 'whole'}-{_measured_by()}.json"
    if file.is_file():
        log.info("the rows of %s were measured before: %s", bench, file)
        return [_row(values) for values in json.loads(file.read_text(encoding="utf-8"))]
    found = run(bench, quick)
    write(found, file)
    return found


@cache
def _measured_by() -> str:
    """What the code does that trains, draws and measures."""
    digest = hashlib.sha256(sources_key().encode())
    for file in sorted(path for room in ("evaluation", "benchmarks") for path in (ROOT / room).rglob("*.py")):
        digest.update(file.name.encode() + b"\n" + file.read_bytes())
    return digest.hexdigest()[:12]


def _row(values: dict) -> Row:
    interval = values.pop("interval")
    return Row(**values, interval=None if interval is None else (interval[0], interval[1]))


def page(found: dict[str, list[Row] | None], quick: bool, commit: str, images: Sequence[str] = ()) -> str:
    """docs/claims.md."""
    lines = [
        "# Claims, measured",
        "",
        "Every claim of the methods on the pocket's world beside the figure of the document that made it. Their "
        "figures are of Stable Diffusion on photographs and ours of small models on drawings: signs and sizes of "
        "differences can be compared, numbers cannot. Written by `run.py bench claims"
        f"{' --quick' if quick else ''}`.",
        "",
        f"Measured on {datetime.date.today().isoformat()}, commit {commit}. Settings: {STEPS} sampling steps, guidance "
        f"{GUIDANCE}, "
        + (
            "one subject and one seed (quick: signs only, no goals)"
            if quick
            else "the subjects and seeds of each bench"
        )
        + ". Intervals are 95 %, bootstrapped over runs.",
        "",
        "| claim | theirs | row | ours | interval | runs | goal |",
        "|---|---|---|---|---|---|---|",
    ]
    for claim in CLAIMS:
        lines += _table_rows(claim, found.get(claim.bench))
    if images:
        lines += ["", "## Pictures", ""]
        lines += [f"![samples judged in these rows]({name})" for name in images]
    return "\n".join(lines) + "\n"


def _table_rows(claim: Claim, found: Sequence[Row] | None) -> list[str]:
    if found is None:
        return [f"| {claim.text} | {claim.theirs} | {', '.join(claim.rows)} | no bench {claim.bench} | | | |"]
    own = chosen(claim, found)
    if not own:
        return [f"| {claim.text} | {claim.theirs} | {', '.join(claim.rows)} | not measured | | | |"]
    lines = []
    for number, row in enumerate(own):
        said = f"{claim.text} | {claim.theirs}" if number == 0 else " | "
        interval = "" if row.interval is None else f"{row.interval[0]:.3g} to {row.interval[1]:.3g}"
        verdict = {None: "", True: ", met", False: ", not met"}[row.met]
        goal = "" if row.goal is None else f"{'≥' if row.better == 'higher' else '≤'} {row.goal:g}{verdict}"
        lines.append(f"| {said} | {row.name} | {row.value:.3g} {row.unit} | {interval} | {row.n} | {goal} |")
    return lines


def _commit() -> str:
    """The commit that is measured, "+" where files differ from it."""
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude", "*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _pictures(folder: Path, into: Path) -> list[str]:
    """A few sheets of judged samples, the newest of this code's, copied beside the page."""
    sheets = sorted((folder / sources_key()[:12] / "readings").glob("*.png"), key=lambda path: path.stat().st_mtime)
    into.mkdir(parents=True, exist_ok=True)
    told = []
    for number, sheet in enumerate(sheets[-MOST_PICTURES:]):
        shutil.copyfile(sheet, into / f"samples_{number + 1}.png")
        told.append(f"{into.name}/samples_{number + 1}.png")
    return told


def rows(quick: bool) -> list[Row]:
    """All rows of the claims; the page is written after every bench, so that a stopped run leaves what it has."""
    found: dict[str, list[Row] | None] = {}
    for bench in dict.fromkeys(claim.bench for claim in CLAIMS):
        found[bench] = rows_of(bench, quick)
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page(found, quick, _commit(), _pictures(FOLDER, PICTURES)), encoding="utf-8")
        log.info("%s holds the rows of %s", PAGE, ", ".join(name for name, own in found.items() if own is not None))
    return [row for own in found.values() if own is not None for row in own]
