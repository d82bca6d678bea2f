"""The benches of evaluation and of claims: ranks, wear, and a page that holds every row and resumes."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from comfyui_fewshot.benchmarks import HERE, evaluate
from comfyui_fewshot.benchmarks.claims import parts as claims
from comfyui_fewshot.benchmarks.claims.page import PartResult, Sheet, page, training_steps
from comfyui_fewshot.benchmarks.claims.table import CLAIMS, UNPROVEN
from comfyui_fewshot.benchmarks.evaluate import (
    BASE,
    KINDS,
    PAIRS,
    AdapterScores,
    MetricBenchmark,
    degraded,
    parts,
    rank_correlation,
    rank_rows,
    watermark,
)
from comfyui_fewshot.benchmarks.harness.rows import BenchmarkRow
from comfyui_fewshot.benchmarks.harness.workshop import Workshop

GAIN = BenchmarkRow("poster.prompt_gain", 17.5, "points", "higher", 15, (4.0, 30.0), 26)


def test_rank_correlation():
    rising = [(n / 7, n**3) for n in range(12)]
    assert rank_correlation(rising)[0] == pytest.approx(1) and rank_correlation(rising)[1][0] > 0.9
    assert rank_correlation([(a, -b) for a, b in rising])[0] == pytest.approx(-1)
    assert rank_correlation([(1.0, n) for n in range(12)])[0] == 0
    assert rank_correlation([(0, 1), (2, 3)]) == (pytest.approx(1), None)


def test_each_subject_is_seen_from_its_own_base():
    base, one = AdapterScores({"subject": 0.1}, {"clip_i": 0.5}), AdapterScores({"subject": 0.9}, {"clip_i": 0.4})
    over = one.relative_to(base)
    assert over.judged["subject"] == pytest.approx(0.8) and over.measured["clip_i"] == pytest.approx(-0.1)


def test_each_metric_is_ranked_by_its_own_axis():
    """Text metrics rise with the prompt's fidelity here and likeness metrics with the subject's, which falls."""
    text, like = ("clip_t", "pickscore", "hpsv2"), ("clip_i", "masked_clip_i")
    seen = [
        AdapterScores({"prompt": n / 12, "subject": -n}, dict.fromkeys(text, float(n)) | dict.fromkeys(like, -float(n)))
        for n in range(12)
    ]
    rows = {row.name: row for row in rank_rows(seen, "rank_correlation", 0.9)}
    assert set(rows) == {f"metric.{name}.rank_correlation" for name in (*text, *like)}
    assert all(row.value == pytest.approx(1) and row.met and row.n == 12 for row in rows.values())
    assert "one CLIP" in rows["metric.hpsv2.rank_correlation"].note and not rows["metric.clip_t.rank_correlation"].note
    assert "no DINO" in rows["metric.clip_i.rank_correlation"].note
    assert len(KINDS) * len(PAIRS) == 12 and list(parts(True)) == ["watermark", "correlations"]


def test_what_the_base_draws_is_judged_and_kept(tmp_path, monkeypatch):
    """Every picture has its own seed, and the sheet lies beside those of other benches with its prompts."""
    drawn = []
    whole = evaluate.draw

    def draw(base, candidates, prompts, settings, *place):
        drawn.append(settings.seed)
        return whole(base, candidates, prompts, replace(settings, steps=1), *place)

    monkeypatch.setattr(evaluate, "draw", draw)
    found = MetricBenchmark(Workshop(1, folder=tmp_path), True).score("cat_striped", BASE)
    assert set(found.judged) == {"subject", "prompt"} and all(-1 <= v <= 100 for v in found.measured.values())
    assert drawn == list(range(12))
    sheet = next(tmp_path.glob("*/readings/evaluate_cat_striped_base.png"))
    assert len(json.loads(sheet.with_suffix(".json").read_text())["prompts"]) == 12


def test_wear_cuts_a_tenth_of_each_side():
    made = degraded(Image.new("RGB", (64, 100), "red"), 3)
    assert made.size == (57, 90) and made.format == "JPEG"


def test_the_rows_of_the_watermark():
    rows = {row.name: row for row in watermark(quick=True)}
    assert list(rows) == [f"watermark.{what}" for what in ("detected", "false", "drawn.detected", "drawn.false")]
    assert all(row.value > 0.9 and row.interval[0] < row.value for row in rows.values() if row.better == "higher")
    assert all(row.value <= 0.01 for row in rows.values() if row.better == "lower")


def test_the_page_tells_every_claim_and_what_is_missing():
    noted = BenchmarkRow("baseline.lora.subject", 80, "%", "higher", note="judges | disagree")
    loose = BenchmarkRow("something.else", 1, "s", "lower")
    sheet = Sheet("claims_quick/subject-poster_1.jpg", ("a photo of a sks cat",))
    parts = [PartResult("poster", (GAIN, noted, loose), "2026-11-25", "abc+", sheets=(sheet,))]
    found = {"subject": [*parts, PartResult("local", failed="MemoryError: none left")], "relation": None, "refine": []}
    text = page(found, True, "0123456789abcdef")
    assert "`0123456789ab`" in text and "seed 0" in text and "signs only" in text
    assert "| poster.prompt_gain | 17.5 points | 4 to 30 | 26 | ≥ 15, met | 2026-11-25 abc+ |  |" in text
    assert "| baseline.lora.subject | 80 % |" in text and "judges \\| disagree" in text and "no bench relation" in text
    assert "| measured besides (subject) | | something.else | 1 s |" in text
    attention = next(line for line in text.splitlines() if "local.iou_before" in line)
    assert "not measured; local failed: MemoryError: none left" in attention
    assert all(claim.text in text for claim in CLAIMS)
    assert text.index("## subject: poster") < text.index(f"]({sheet.file})")
    assert "Row by row: a photo of a sks cat." in text
    claims = text[: text.index("## Unproven here")]
    assert {line.count("|") - line.count("\\|") for line in claims.splitlines() if line.startswith("|")} == {10}


def test_every_bench_of_a_claim_tells_its_steps():
    assert set(training_steps({claim.bench: [PartResult("any")] for claim in CLAIMS})) == {
        claim.bench for claim in CLAIMS
    }


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Pages, kept rows and samples in a folder of the test; each bench has two parts."""
    monkeypatch.setattr(claims, "DOCS", tmp_path / "docs")
    monkeypatch.setattr(claims, "FOLDER", tmp_path / "runs")
    monkeypatch.setattr(claims, "parts_of", lambda bench, quick: {"one": None, "two": None})
    return tmp_path


def sheet(place, number):
    folder = place / "runs" / claims.sources_key()[:12] / "readings"
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(folder / f"{number}.png")
    (folder / f"{number}.json").write_text(json.dumps({"prompts": [f"prompt {number}"]}))


class FakeMeasurement:
    """Gives a row a part, as `measure_parts` would; what is named in `broken` fails."""

    def __init__(self, place, broken=()):
        self.place, self.broken, self.calls = place, broken, []

    def __call__(self, bench, quick, only):
        self.calls.append((bench, *only))
        if (bench, *only) in self.broken:
            raise RuntimeError("no part could be measured") from OSError("disk full")
        sheet(self.place, len(self.calls))
        yield [BenchmarkRow(f"{bench}.{only[0]}", len(self.calls), "points", "higher", None, (0.0, 1.0))]


def test_parts_are_kept_and_the_quick_page_lies_beside(place):
    run = FakeMeasurement(place)
    first = claims.ClaimsReport(True, run).measure("subject")
    assert [row.name for row in first] == ["subject.one", "subject.two"] and first[0].interval == (0.0, 1.0)
    assert claims.ClaimsReport(True, run).measure("subject") == first and len(run.calls) == 2
    text = (place / "docs" / "claims_quick.md").read_text()
    assert "](claims_quick/subject-one_1.jpg)" in text and "Row by row: prompt 1." in text
    assert (place / "docs" / "claims_quick" / "subject-two_1.jpg").is_file()
    claims.ClaimsReport(False, run).measure("subject")
    assert len(run.calls) == 4, "the whole bench is another one"
    assert (place / "docs" / "claims_quick.md").read_text() == text and (place / "docs" / "claims.md").is_file()


def test_a_kept_row_keeps_its_date_and_commit(place, monkeypatch):
    monkeypatch.setattr(claims, "commit", lambda: "first")
    claims.ClaimsReport(True, FakeMeasurement(place)).measure("subject")
    monkeypatch.setattr(claims, "commit", lambda: "second")
    claims.ClaimsReport(True, FakeMeasurement(place)).measure("relation")
    lines = (place / "docs" / "claims_quick.md").read_text().splitlines()
    assert "first" in next(line for line in lines if "| subject.one |" in line)
    assert "second" in next(line for line in lines if "| relation.one |" in line)


def test_a_row_of_older_code_stays_until_it_is_measured_anew(place, monkeypatch):
    def lines(report):
        return {name: [line for line in report.file.read_text().splitlines() if f"| {name}.one |" in line] for name in
                ("subject", "relation")}  # fmt: skip

    run = FakeMeasurement(place)
    monkeypatch.setattr(claims, "code_key", lambda bench: "first")
    claims.ClaimsReport(True, run).measure("subject")
    monkeypatch.setattr(claims, "code_key", lambda bench: "second")
    report = claims.ClaimsReport(True, run)
    report.measure("relation")
    shown = lines(report)
    assert ", older code |" in shown["subject"][0] and ", older code |" not in shown["relation"][0]
    report.measure("subject")
    assert len(run.calls) == 6 and ", older code |" not in lines(report)["subject"][0]
    monkeypatch.setattr(claims, "weights_key", lambda: "others")
    monkeypatch.setattr(claims, "code_key", lambda bench: "third")
    report.write()
    assert lines(report) == {"subject": [], "relation": []}, "figures of other weights are no figures of these"


def test_what_fails_is_named_and_loses_nothing(place):
    run = FakeMeasurement(place, [("subject", "one"), ("refine", "one"), ("refine", "two")])
    report = claims.ClaimsReport(True, run)
    assert [row.name for row in report.measure("subject")] == ["subject.two"]
    with pytest.raises(RuntimeError, match="one failed: OSError: disk full"):
        report.measure("refine")
    text = report.file.read_text()
    assert "| subject.two |" in text and text.count("one failed: OSError: disk full") >= 2
    run.broken = ()
    assert [row.name for row in claims.ClaimsReport(True, run).measure("subject")] == ["subject.one", "subject.two"]


def test_quick_ends_in_its_time(place):
    run = FakeMeasurement(place)
    with pytest.raises(RuntimeError, match="the time of --quick was over"):
        claims.ClaimsReport(True, run, seconds=0).measure("evaluate")
    assert not run.calls
    assert len(claims.ClaimsReport(False, run, seconds=0).measure("evaluate")) == 2, "the whole one has no such limit"


def test_rows_belong_to_code_and_weights(monkeypatch):
    before = claims.code_key.__wrapped__("relation")
    assert claims.code_key.__wrapped__("relation") == before
    assert claims.code_key.__wrapped__("refine") != before
    monkeypatch.setattr(claims, "weights_key", lambda: "others")
    assert claims.code_key.__wrapped__("relation") != before


def test_rows_of_a_bench_outlast_changes_of_another():
    files = {
        bench: {str(file.relative_to(HERE)) for file in claims.imported_files(bench)} for bench in claims.parts(True)
    }
    assert {"__init__.py", "relation/parts.py", "relation/sets.py", "harness/workshop.py"} <= files["relation"]
    assert {"subject/bench.py", "subject/training_cases.py"} <= files["refine"], "imported by what it imports"
    assert not {"subject/parts.py", "refine/parts.py", "claims/parts.py"} & files["relation"]
    assert {"augment/captions.py", "relation/report_captions.py"} <= {
        str(file.relative_to(HERE)) for file in claims.imported_files("augment")
    }
    assert "import_.py" in {str(file.relative_to(HERE)) for file in claims.imported_files("import")}


def test_the_bench_begins_with_evaluation():
    assert next(iter(claims.parts(True))) == "evaluate"
    assert set(claims.parts(True)) == {claim.bench for claim in CLAIMS}


def test_what_is_unproven_is_listed_with_the_command_that_shows_it():
    text = page({}, False, "0123456789abcdef")
    listed = text[text.index("## Unproven here") :]
    assert all(one.what in listed and one.command in listed for one in UNPROVEN)
    assert listed.count("no command yet") == sum(not one.command for one in UNPROVEN) > 0
    named = {row.rstrip("*") for one in UNPROVEN for row in one.rows}
    claimed = {row for claim in CLAIMS for row in claim.rows}
    assert all(any(row.startswith(name.partition(".")[0]) for row in claimed) for name in named)
    assert listed in (HERE.parent / "docs" / "claims.md").read_text(encoding="utf-8")
