"""The blind comparison in a real browser: no console error, no names, votes stay, and what is exported counts."""

import asyncio
import json
import math

import numpy as np
import pytest
from PIL import Image

from comfyui_fewshot.core.statistics import wilson
from comfyui_fewshot.core.values import Prompt
from comfyui_fewshot.evaluation.report import evaluation
from comfyui_fewshot.evaluation.result import Evaluation, EvaluationSamples, MetricScores
from comfyui_fewshot.evaluation.samples import Candidate, DrawSettings
from comfyui_fewshot.evaluation.selection import Point
from comfyui_fewshot.tests.evaluation.report.browser import browse
from comfyui_fewshot.tests.evaluation.report.votes import win_rates

NAMES = ["base", "</script><b>evil", "plain & simple"]
PAIRS = 6


def made(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    prompts = (Prompt("a sks cat", "a <i>cat</i>"), Prompt("sks at night", "a cat at night"))
    points = tuple(Point(n, 0.3 + 0.2 * n, 0.3 - 0.05 * n, 0.1) for n in range(3))
    scores = {"DINO": [[p.subject] * 2 for p in points], "CLIP-T": [[p.prompt] * 2 for p in points]}
    images = [[made(10 * c + n) for n in range(2)] for c in range(3)]
    samples = EvaluationSamples("pocket", tuple(map(Candidate, NAMES)), prompts, DrawSettings(), images)
    metrics = MetricScores(scores, {}, {"DINO": "d", "CLIP-T": "c"}, {"DINO": "subject", "CLIP-T": "prompt"})
    found = Evaluation(samples, metrics, points, 0.9, [made(99)])
    return evaluation.write(found, tmp_path_factory.mktemp("report"), pairs=PAIRS)


async def vote(page, label):
    """Answer all questions of the shown pair, and go on."""
    await page.run(
        f"document.querySelectorAll('.vote-question').forEach(r => "
        f"[...r.querySelectorAll('button')].find(b => b.textContent === '{label}').click())"
    )
    await page.run("document.querySelector('[data-do=next]').click()")


STATUS = "document.querySelector('.vote-status').textContent"


def test_votes_are_taken_kept_and_exported(report):
    async def visit(page, downloads):
        await page.open(report.as_uri())
        assert await page.run(STATUS) == "Pair 1 of 6. 0 answered."
        assert await page.run("document.querySelector('[data-do=next]').disabled"), "three questions stand open"
        seen = await page.run("document.querySelector('.vote-task').innerText")
        assert not any(name in seen for name in NAMES) and ("<i>cat</i>" in seen or "at night" in seen)
        assert await page.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        for label in ("Left", "Right", "Same", "Left"):
            await vote(page, label)
        await page.open(report.as_uri())
        assert await page.run(STATUS) == "Pair 5 of 6. 4 answered.", "votes stay over a reload"
        await vote(page, "Left")
        await vote(page, "Right")
        assert "All pairs have been shown" in await page.run(STATUS)
        await page.run("document.querySelector('[data-do=results]').click()")
        shown = await page.run("[...document.querySelectorAll('.vote-results tr')].map(r => r.innerText.split('\\t'))")
        await page.run("document.querySelector('[data-do=export]').click()")
        for _ in range(100):
            if files := [f for f in downloads.glob("votes-*.json") if f.stat().st_size]:
                break
            await asyncio.sleep(0.1)
        (file,) = files
        return page.problems, json.loads(file.read_text()), shown

    problems, exported, shown = browse(visit)
    assert problems == []
    assert exported["pairs"] == PAIRS and len(exported["votes"]) == 3 * PAIRS
    assert sum(v["winner"] is None for v in exported["votes"]) == 3
    rates = win_rates(exported)
    assert set(rates) == {"subject", "text", "overall"} and sum(r.n for r in rates["overall"].values()) == 5
    told = {(row["question"], row["a"], row["b"]): row for row in exported["win_rates"]}
    assert set(told) == {(question, *pair) for question, found in rates.items() for pair in found}
    for (question, *pair), row in told.items():
        mine = rates[question][tuple(pair)]
        assert row["votes"] == mine.n and row["interval"] == pytest.approx([mine.low, mine.high], abs=1e-12)
        assert row["rate"] == (pytest.approx(mine.mean) if mine.n else None)
    assert sum(row["same"] for row in told.values()) == 3
    for question, first, second, *rest in shown[1:]:
        mine = rates[question][(first, second)]
        wanted = [f"{round(100 * mine.mean)} %", f"{round(100 * mine.low)} to {round(100 * mine.high)} %"]
        assert rest[:3] == [*wanted, str(mine.n)] if mine.n else rest[:3] == ["–", "–", "0"]
    assert wilson(1, 1).n == 1


def test_who_votes_sees_no_names_and_numbers_before(report):
    """They are folded away below the comparison, until they are opened."""

    async def visit(page, downloads):
        await page.open(report.as_uri())
        seen = [await page.run("document.body.innerText")]
        first = await page.run("document.querySelector('main section h2').textContent")
        await page.run("document.querySelector('summary').click()")
        return page.problems, first, [*seen, await page.run("document.body.innerText")]

    problems, first, (before, after) = browse(visit)
    assert problems == [] and first == "Blind comparison"
    for words in (*NAMES[1:], "0.500", "Frontier", "Rows are prompts"):
        assert words not in before and words in after, words


def test_orders_and_sides_are_random(report):
    """In fresh browsers the first pictures differ; within one, sides are turned for about half of the pairs."""

    async def visit(page, downloads):
        await page.open(report.as_uri())
        states = []
        for _ in range(12):
            await page.run("localStorage.clear()")
            await page.open(report.as_uri())
            key = "Object.keys(localStorage).find(k => k.startsWith('fewshot-votes-'))"
            states.append(json.loads(await page.run(f"localStorage.getItem({key})")))
        return states

    states = browse(visit)
    assert all(sorted(s["order"]) == list(range(PAIRS)) for s in states)
    assert len({tuple(s["order"]) for s in states}) > 6
    turned = sum(sum(s["turned"]) for s in states)
    assert 15 < turned < 57, "of 72; a fair coin is outside in fewer than one of a million runs"


@pytest.mark.parametrize(
    ("wins", "total", "low", "high"),
    [(0, 10, 0, 0.2775), (10, 10, 0.7225, 1), (5, 10, 0.2366, 0.7634), (60, 100, 0.502, 0.6906)],
)
def test_wilson(wins, total, low, high):
    found = wilson(wins, total)
    assert (found.mean, found.n) == (wins / total, total)
    assert found.low == pytest.approx(low, abs=1e-4) and found.high == pytest.approx(high, abs=1e-4)


def test_win_rates():
    def vote(winner, question="text"):
        return {"question": question, "a": "one", "b": "two", "winner": winner}

    rates = win_rates({"votes": [vote("one"), vote("two"), vote("one"), vote(None), vote(None, "overall")]})
    assert rates["text"][("one", "two")] == wilson(2, 3) and math.isnan(rates["overall"][("one", "two")].mean)
