"""The benches of evaluation and of claims: ranks, wear, and a page that holds every row and resumes."""

import json

import pytest
from PIL import Image

from comfyui_fewshot.benchmarks import Row, claims
from comfyui_fewshot.benchmarks.evaluate import Seen, rank_correlation, watermark, worn

GAIN = Row("poster.prompt_gain", 17.5, "points", "higher", 15, (4.0, 30.0), 26)


def test_rank_correlation():
    rising = [(n / 7, n**3) for n in range(12)]
    assert rank_correlation(rising)[0] == pytest.approx(1) and rank_correlation(rising)[1][0] > 0.9
    assert rank_correlation([(a, -b) for a, b in rising])[0] == pytest.approx(-1)
    assert rank_correlation([(1.0, n) for n in range(12)])[0] == 0
    assert rank_correlation([(0, 1), (2, 3)]) == (pytest.approx(1), None)


def test_each_subject_is_seen_from_its_own_base():
    base, one = Seen({"subject": 0.1}, {"clip_i": 0.5}), Seen({"subject": 0.9}, {"clip_i": 0.4})
    over = one.over(base)
    assert over.judged["subject"] == pytest.approx(0.8) and over.measured["clip_i"] == pytest.approx(-0.1)


def test_wear_cuts_a_tenth_of_each_side():
    made = worn(Image.new("RGB", (64, 100), "red"), 3)
    assert made.size == (57, 90) and made.format == "JPEG"


def test_the_rows_of_the_watermark():
    detected, false = watermark(quick=True)
    assert (detected.name, false.name) == ("watermark.detected", "watermark.false")
    assert detected.value > 0.9 and false.value <= 0.01 and detected.interval[0] < detected.value


def test_the_page_tells_every_claim_and_what_is_missing():
    found = {"subject": [GAIN, Row("baseline.lora.subject", 80, "%", "higher")], "relation": None}
    text = claims.page(found, True, "abc+", ["claims/samples_1.png"])
    assert "commit abc+" in text and "signs only" in text and "](claims/samples_1.png)" in text
    assert "| poster.prompt_gain | 17.5 points | 4 to 30 | 26 | ≥ 15, met |" in text
    assert "| baseline.lora.subject | 80 % |" in text and "no bench relation" in text
    assert text.count("| not measured |") == sum(
        c.bench == "subject" and not claims.chosen(c, found["subject"]) for c in claims.CLAIMS
    )
    assert all(claim.text in text for claim in claims.CLAIMS)


def test_rows_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "KEPT", tmp_path)
    calls = []

    def run(bench, quick):
        calls.append((bench, quick))
        return [GAIN]

    assert claims.rows_of("subject", True, run) == claims.rows_of("subject", True, run) == [GAIN]
    assert calls == [("subject", True)]
    claims.rows_of("subject", False, run)
    assert calls[1:] == [("subject", False)], "the whole bench is another one"
    assert claims.rows_of("nothing", True, run) is None and len(calls) == 2
    assert json.loads(next(tmp_path.glob("*quick*.json")).read_text())[0]["name"] == GAIN.name


def test_the_page_is_written_bench_by_bench(tmp_path, monkeypatch):
    """A bench that is stopped leaves the page of those before it, with the newest sheets of samples beside it."""
    page = tmp_path / "docs" / "claims.md"
    monkeypatch.setattr(claims, "PAGE", page)
    monkeypatch.setattr(claims, "PICTURES", page.parent / "claims")
    monkeypatch.setattr(claims, "FOLDER", tmp_path / "runs")
    sheets = tmp_path / "runs" / claims.sources_key()[:12] / "readings"
    sheets.mkdir(parents=True)
    for number in range(5):
        Image.new("RGB", (8, 8)).save(sheets / f"{number}.png")

    def rows_of(bench, quick):
        if bench == "evaluate":
            raise KeyboardInterrupt
        return [GAIN] if bench == "subject" else None

    monkeypatch.setattr(claims, "rows_of", rows_of)
    with pytest.raises(KeyboardInterrupt):
        claims.rows(True)
    text = page.read_text()
    assert "17.5 points" in text and "no bench relation" in text and "no bench evaluate" in text
    assert text.count("](claims/samples_") == 3 == len(list((page.parent / "claims").glob("*.png")))
    monkeypatch.setattr(claims, "rows_of", lambda bench, quick: [GAIN] if bench == "subject" else None)
    assert claims.rows(True) == [GAIN]
