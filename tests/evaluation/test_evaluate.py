"""Evaluation: what is drawn once stays, numbers are the metrics' own, and the report holds them."""

import json
import math
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from comfyui_fewshot.core.context import RunContext
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.progress import NullProgress
from comfyui_fewshot.core.values import Adapter, LowRank, Prompt, PromptSet, content_key
from comfyui_fewshot.evaluation import evaluate as evaluating
from comfyui_fewshot.evaluation import samples as drawing
from comfyui_fewshot.evaluation.evaluate import evaluate, unrelated
from comfyui_fewshot.evaluation.measurement import Measure, MeasurementPlan
from comfyui_fewshot.evaluation.prompts.sets import bounded, for_trigger
from comfyui_fewshot.evaluation.report import evaluation
from comfyui_fewshot.evaluation.report.blind_test import Comparison, pairs_of
from comfyui_fewshot.evaluation.report.grids import before_after
from comfyui_fewshot.evaluation.report.provenance import provenance
from comfyui_fewshot.evaluation.result import Evaluation, EvaluationSamples, MetricScores
from comfyui_fewshot.evaluation.samples import Candidate, DrawSettings, draw
from comfyui_fewshot.evaluation.selection import Point
from comfyui_fewshot.evaluation.set_metrics import DIV, PRES, VARIED
from comfyui_fewshot.evaluation.watermark import has_watermark
from comfyui_fewshot.models.open import base_from_path
from comfyui_fewshot.pocket.assemble import random_folder

PROMPTS = PromptSet((Prompt("a sks cat", "a cat"), Prompt("a {trigger} at night", "a cat at night")))
FAST = DrawSettings(count=2, steps=2, guidance=1.0, batch=3)
MODULE = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
NAME = MODULE.removeprefix("unet.") + ".weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_from_path(random_folder(tmp_path_factory.mktemp("base") / "pocket"))


def adapter_of(base, seed, trigger="sks cat", family=None):
    shape = next(
        weights[NAME].shape
        for file in sorted((base.location / "unet").glob("*.safetensors"))
        if NAME in (weights := load_file(file))
    )
    generator = torch.Generator().manual_seed(seed)
    up, down = torch.randn(shape[0], 2, generator=generator), torch.randn(2, shape[1], generator=generator)
    return Adapter({MODULE: LowRank(up, down, 2.0)}, family or base.family, trigger)


class Brightness:
    """A metric whose numbers are known: the mean of the picture, plus the length of what is read."""

    def __init__(self, name, reads=False):
        self.name, self.model_id, self.reads = name, f"{name}-1", reads
        self.model = self

    def scores(self, images, prompts, references):
        found = [sum(image.convert("L").histogram()[i] * i for i in range(256)) / 1e6 for image in images]
        if self.reads:
            found = [value + len(prompt.stripped) / 100 for value, prompt in zip(found, prompts, strict=True)]
        return torch.tensor(found)


MEASURES = (Measure(Brightness("DINO"), "subject"), Measure(Brightness("CLIP-T", reads=True), "prompt"))


class Counting(NullProgress):
    def __init__(self):
        self.told = []

    def report(self, done, total, text="", picture=None, metrics=None):
        self.told.append((done, total, text, picture))


def context(cache, progress=None):
    return RunContext(cache, "cpu", progress or NullProgress())


def distance(images):
    return torch.ones(len(images), len(images))


distance.model = None


@pytest.fixture(scope="module")
def found(base, tmp_path_factory):
    candidates = [Candidate("one", adapter_of(base, 1)), Candidate("two", adapter_of(base, 2), 0.5)]
    references = [Image.new("RGB", (64, 64), colour) for colour in ("red", "white")]
    plan = MeasurementPlan(MEASURES, references, "cat", 2, distance, "a ruler", ["PickScore: put it there"])
    return evaluate(base, candidates, PROMPTS, plan, FAST, context(tmp_path_factory.mktemp("samples")))


def test_a_further_adapter_draws_its_own_samples_only(base, tmp_path, monkeypatch):
    drawn = []
    real = drawing.sample
    monkeypatch.setattr(
        drawing, "sample", lambda n, prompts, *a, **k: drawn.extend(prompts) or real(n, prompts, *a, **k)
    )
    everyone = [Candidate("base"), Candidate("one", adapter_of(base, 1))]
    first = draw(base, everyone, PROMPTS, FAST, context(tmp_path))
    assert sorted(drawn) == sorted(["a cat", "a cat at night", "a sks cat", "a sks cat at night"] * 2)
    drawn.clear()
    progress = Counting()
    everyone.append(Candidate("two", adapter_of(base, 2)))
    again = draw(base, everyone, PROMPTS, FAST, context(tmp_path, progress))
    assert len(drawn) == 4 and list(again[0]) == list(first[0]) and list(again[1]) == list(first[1]) != list(again[2])
    assert progress.told[0][:2] == (11, 12) and progress.told[0][3] is not None and progress.told[-1][:2] == (12, 12)
    drawn.clear()
    draw(base, [Candidate("renamed", adapter_of(base, 2))], PROMPTS, FAST, context(tmp_path))
    assert not drawn, "a name is no content"
    draw(base, [Candidate("two", adapter_of(base, 2), 0.5)], PROMPTS, FAST, context(tmp_path))
    assert len(drawn) == 4


def test_pictures_stay_on_the_disk_until_they_are_asked_for(base, tmp_path):
    """And what is damaged there is named."""
    few = DrawSettings(steps=1, guidance=1.0)
    (kept,) = draw(base, [Candidate("base")], PROMPTS, few, context(tmp_path))
    assert len(kept) == 2 and kept[0].size == kept[1:][0].size == (64, 64) and kept[-1] == list(kept)[1]
    kept.files[1].write_bytes(b"no picture")
    assert kept[0].mode == "RGB"
    with pytest.raises(FewShotError, match=f"the kept sample {kept.files[1]} is damaged"):
        list(kept)


def test_cancelled_work_goes_on(base, tmp_path, monkeypatch):
    class Cancel(NullProgress):
        count = 0

        def report(self, done, total, text="", picture=None, metrics=None):
            if picture is not None:
                raise KeyboardInterrupt

    few = DrawSettings(count=1, steps=1, guidance=1.0, batch=1)
    with pytest.raises(KeyboardInterrupt):
        draw(base, [Candidate("base")], PROMPTS, few, context(tmp_path, Cancel()))
    assert len(list(tmp_path.rglob("*.png"))) == 1 and not list(tmp_path.rglob("*.draft"))
    progress = Counting()
    draw(base, [Candidate("base")], PROMPTS, few, context(tmp_path, progress))
    assert [t[0] for t in progress.told] == [2, 2]


def test_the_mark_is_off_until_asked_for(base, tmp_path):
    few = dict(count=1, steps=1, guidance=1.0)
    one = PromptSet(PROMPTS.prompts[:1])
    (plain,), (worn,) = (
        draw(base, [Candidate("base")], one, DrawSettings(**few, watermark=w), context(tmp_path))[0]
        for w in (False, True)
    )
    assert plain != worn and has_watermark(worn) and not has_watermark(plain)


def test_what_cannot_be_drawn_is_refused(base, tmp_path):
    other = Candidate("xl", adapter_of(base, 1, family="sdxl"))
    with pytest.raises(FewShotError, match="adapter xl is for sdxl and the base pocket is"):
        draw(base, [other], PROMPTS, FAST, context(tmp_path))
    nameless = Candidate("quiet", adapter_of(base, 1, trigger=""))
    with pytest.raises(FewShotError, match="quiet names no trigger phrase"):
        draw(base, [nameless], PROMPTS, FAST, context(tmp_path))
    with pytest.raises(FewShotError, match="there is no prompt"):
        evaluate(base, [], PromptSet(()), MeasurementPlan(MEASURES), FAST, context(tmp_path))
    with pytest.raises(FewShotError, match="two candidates have the same name"):
        same = [Candidate("base", adapter_of(base, 1))]
        evaluate(base, same, PROMPTS, MeasurementPlan(MEASURES), FAST, context(tmp_path))


def test_what_cannot_be_measured_is_left_out_by_name(base, tmp_path):
    few = DrawSettings(steps=1, guidance=1.0)
    found = evaluate(base, [], PROMPTS, MeasurementPlan(MEASURES, drift=2), few, context(tmp_path))
    assert list(found.metrics.per_image) == ["CLIP-T"] and not found.points and found.best is None
    assert [reason.split(":")[0] for reason in found.metrics.left_out] == ["DINO", VARIED, PRES]
    bare = evaluate(base, [Candidate("one", adapter_of(base, 1))], PROMPTS, MeasurementPlan(), few, context(tmp_path))
    assert not bare.metrics.per_image and bare.metrics.left_out[0].startswith(
        "all numbers: there is no model that measures; put"
    )
    assert "left out: all numbers" in evaluation.lines(bare)
    text = evaluation.write(bare, tmp_path).read_text("utf-8")
    assert "Nothing was measured" in text and "votes-data" in text


class Damaged(Brightness):
    """As a model whose weights hold NaN."""

    def scores(self, images, prompts, references):
        return super().scores(images, prompts, references) * math.nan


@pytest.mark.parametrize("axis", ["subject", "prompt"])
def test_a_metric_that_gives_no_numbers_does_not_cost_the_others(base, tmp_path, axis):
    reference = (Image.new("RGB", (8, 8), "white"),)
    broken = Measure(Damaged("Broken"), axis)
    plan = MeasurementPlan((broken, *MEASURES), reference, noun="cat", drift=2)
    found = evaluate(base, [], PROMPTS, plan, FAST, context(tmp_path))
    assert list(found.metrics.per_image) == [m.name for m in MEASURES] and "Broken" not in found.metrics.models
    assert "Broken: 4 of its scores are not numbers; its model's files may be damaged" in found.metrics.left_out
    assert evaluation.write(found, tmp_path).is_file()


def test_numbers_are_the_metrics_own(found):
    assert [len(drawn) for drawn in found.samples.images] == [4, 4, 4] and found.samples.groups == [0, 0, 1, 1]
    wanted = [p for p in PROMPTS.prompts for _ in range(2)]
    for number, drawn in enumerate(found.samples.images):
        for measure in MEASURES:
            assert found.metrics.per_image[measure.name][number] == pytest.approx(
                measure.metric.scores(drawn, wanted, ()).tolist()
            )
        mean = sum(found.metrics.per_image["DINO"][number]) / 4
        assert found.interval("DINO", number).mean == pytest.approx(mean) and found.interval("DINO", number).n == 2
    assert (
        found.metrics.per_set[VARIED] == [1, 1, 1] == found.metrics.per_set[DIV]
        and len(found.metrics.per_set[PRES]) == 3
    )
    by = {"DINO": "DINO-1", "CLIP-T": "CLIP-T-1", PRES: "DINO of DINO-1", VARIED: "a ruler", DIV: "a ruler"}
    assert found.metrics.models == by and found.metrics.left_out == ("PickScore: put it there",)
    stray = found.points[0].prompt - found.points[0].unrelated
    assert stray == pytest.approx(0, abs=1e-6), "with two prompts the others' lengths are the same ones"


def test_all_is_drawn_before_the_first_metric_takes_memory(base, tmp_path, monkeypatch):
    """The base and a metric's model are never open together, also where the class alone is drawn."""
    order = []
    real = evaluating.draw
    monkeypatch.setattr(evaluating, "draw", lambda *a, **k: order.append("draw") or real(*a, **k))

    class Recorded(Brightness):
        def scores(self, *given):
            order.append("score")
            return super().scores(*given)

    few = DrawSettings(steps=1, guidance=1.0)
    reference = Image.new("RGB", (64, 64), "red")
    plan = MeasurementPlan([Measure(Recorded("DINO"), "subject")], [reference], "cat", 2, distance)
    found = evaluate(base, [], PROMPTS, plan, few, context(tmp_path))
    assert order == ["draw", "draw", "score", "score"] and set(found.metrics.per_set) == {PRES, DIV}


def test_a_known_ceiling_stands_for_the_references(base, tmp_path):
    ceiling = (Measure(Brightness("relation accuracy"), "subject", ceiling=1.0), MEASURES[1])
    few = DrawSettings(steps=1, guidance=1.0)
    references = [Image.new("RGB", (64, 64), colour) for colour in ("red", "white")]
    found = evaluate(base, [], PROMPTS, MeasurementPlan(ceiling, references), few, context(tmp_path))
    assert found.likeness == 1.0 and len(found.points) == 1


def test_others_of_the_set():
    a, b, c = (Prompt(x, x) for x in "abc")
    assert unrelated([a, a, b, c]) == [b, b, c, a] and unrelated([a, a]) == []


def known(points, likeness=0.9):
    """An evaluation of which only the points count."""
    names = ["base", "weak", "good", "burnt"]
    images = [[Image.new("RGB", (64, 64), (60 * n, 90, 120))] for n in range(4)]
    samples = EvaluationSamples("pocket", tuple(map(Candidate, names)), PROMPTS.prompts[:1], DrawSettings(), images)
    scores = {"DINO": [[p.subject] for p in points], "CLIP-T": [[p.prompt] for p in points]}
    metrics = MetricScores(scores, {}, {"DINO": "d", "CLIP-T": "c"}, {"DINO": "subject", "CLIP-T": "prompt"})
    return Evaluation(samples, metrics, tuple(points), likeness)


def test_the_best_is_that_of_the_frontier():
    numbers = [(0.3, 0.30), (0.5, 0.30), (0.8, 0.28), (0.85, 0.12)]
    one = known([Point(n, s, p, 0.1) for n, (s, p) in enumerate(numbers)])
    f, p = (0.8 - 0.3) / 0.6, (0.28 - 0.1) / 0.2
    assert one.best == 2 and one.frontier[2] == pytest.approx(2 * f * p / (f + p)) and one.frontier[0] == 0
    assert evaluation.table(one)[1][2][0] == "good (best)"
    worse = known([Point(n, s, 0.3, 0.1) for n, s in enumerate((0.5, 0.4, 0.3, 0.2))])
    assert worse.best is None
    assert evaluation.frontier(one, path=True).size == (840, 560)


def test_the_report(found, tmp_path):
    page = evaluation.write(found, tmp_path, "A <title>")
    text = page.read_text("utf-8")
    assert "A &lt;title&gt;" in text and "http" not in text.replace("http-equiv", "")
    assert text.count("<script>") == 1 and "script-src 'sha256-" in text
    told = json.loads((tmp_path / "evaluation.json").read_text())
    assert [c["name"] for c in told["candidates"]] == ["base", "one", "two"]
    assert told["candidates"][1]["metrics"]["DINO"]["scores"] == found.metrics.per_image["DINO"][1]
    assert told["models"]["DINO"] == "DINO-1" and told["settings"]["count"] == 2
    assert "pictures, steps" in text, "what the adapters' files do not tell"
    assert evaluation.grid(found).height > evaluation.grid(found, 1).height
    pictures = [[drawn[n] for drawn in found.samples.images] for n in range(4)]
    labels = [f"{text} · seed {seed}" for text in ("a sks cat", "a sks cat at night") for seed in range(2)]
    assert evaluation.grid(found) == before_after(pictures, labels, ["base", "one", "two"])
    assert evaluation.lines(found).splitlines()[0].split()[:2] == ["candidate", "DINO"]


def test_the_report_shows_the_words_that_were_drawn(found, tmp_path):
    """A trigger that is left to the adapters stands in the report as each of them was called; the source's note too."""
    one, two = found.samples.candidates[1:]
    assert one.adapter is not None
    other = replace(two, adapter=replace(one.adapter, trigger="<b> owl"))
    table = {section.heading: section for section in evaluation.sections(found)}["Prompts"]
    assert table.columns[0] == "as drawn with an adapter" and table.rows[1] == ("a sks cat at night", "a cat at night")
    candidates = (found.samples.candidates[0], one, other)
    mixed = replace(found, samples=replace(found.samples, candidates=candidates, note="reconstructed: <here>"))
    table = {section.heading: section for section in evaluation.sections(mixed)}["Prompts"]
    assert table.columns == (
        "as drawn with one", "as drawn with two", "as read by metrics and drawn by the base",
    )  # fmt: skip
    assert table.rows[1] == ("a sks cat at night", "a <b> owl at night", "a cat at night")
    page = evaluation.write(mixed, tmp_path).read_text("utf-8")
    assert (
        page.index("<p>reconstructed: &lt;here&gt;</p>") < page.index("as drawn with one") and "{trigger}" not in page
    )
    assert json.loads((tmp_path / "evaluation.json").read_text())["prompts_note"] == "reconstructed: <here>"
    assert evaluation.grid(mixed) != evaluation.grid(found), "labels are what all have in common"


def test_where_prompts_come_from_is_no_content():
    noted = replace(PROMPTS, note="reconstructed")
    assert noted == PROMPTS and noted.key == PROMPTS.key
    assert for_trigger(noted, "sks cat").note == bounded(noted, 1)[0].note == "reconstructed"


def test_without_pairs_there_is_no_script(found, tmp_path):
    text = evaluation.write(found, tmp_path, pairs=0).read_text("utf-8")
    assert "<script" not in text and "script-src" not in text


def test_pairs_share_prompt_and_seed_and_are_even(found):
    chosen = pairs_of(found, 6)
    assert len(chosen) == 6 and all(n == m and a < b for a, n, b, m in chosen)
    assert sorted((a, b) for a, _, b, _ in chosen) == [(0, 1), (0, 1), (0, 2), (0, 2), (1, 2), (1, 2)]
    assert len(pairs_of(found, 400)) == 12 == len(set(pairs_of(found, 400)))
    data = Comparison(found, 6).data()
    assert {p["a"] for p in data["pairs"]} | {p["b"] for p in data["pairs"]} == set(data["pictures"])
    assert [q["id"] for q in data["questions"]] == ["subject", "text", "overall"] and len(data["references"]) == 2
    assert "one" not in Comparison(found, 6).html().split('id="votes-data"')[0].split("<p>")[-1]


def test_provenance(base):
    plain = adapter_of(base, 1)
    assert provenance(plain).missing == ("pictures", "steps") and provenance(plain).stated["trigger"] == "sks cat"
    told = {"ss_num_train_images": "4", "ss_steps": "400", "modelspec.trigger_phrase": "sks red cat", "ss_seed": "None"}
    full = provenance(Adapter(plain.factors, plain.family, "", metadata=told))
    assert full.complete and full.stated["trigger"] == "sks red cat" and "seed" not in full.stated


def test_prompts_that_are_not_literal_have_keys_of_their_own(base, tmp_path):
    """Of a literal prompt nothing has changed; a trigger with parentheses is drawn with them."""
    folder = tmp_path / "embeddings"
    folder.mkdir()
    context = RunContext(tmp_path, "cpu", embedding_folders=(folder,))

    def key(text: str, **changes) -> str:
        settings = DrawSettings(**changes)
        return drawing._jobs(base, Candidate("base"), PromptSet((Prompt(text, text),)), settings, context)[0].file.stem

    how = (30, 7.0, "", 0, 0, False)
    model = (base.key, base.dtype, base.clip_skip, base.prediction, base.zero_snr)
    assert key("a [cat]") == content_key("Sample", 1, model, None, "a [cat]", 0, how)[2:34]
    before = key("a embedding:x cat"), key("a cat", negative="embedding:x"), key("a cat")
    (folder / "x.pt").write_bytes(b"x")
    after = key("a embedding:x cat"), key("a cat", negative="embedding:x"), key("a cat")
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, False, True]
    named = for_trigger(PromptSet((Prompt("a {trigger}", "a cat"),)), "sks (cat)").prompts[0]
    assert named.text == r"a sks \(cat\)"
