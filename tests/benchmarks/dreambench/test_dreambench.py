"""DreamBench on the pocket as the base: what is read, what is refused, and a run that is cut and goes on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from comfyui_fewshot.benchmarks.dreambench import __main__ as command
from comfyui_fewshot.benchmarks.dreambench import arguments, clock
from comfyui_fewshot.benchmarks.dreambench.clock import Clock
from comfyui_fewshot.benchmarks.dreambench.judges import find_judges
from comfyui_fewshot.benchmarks.dreambench.results import FEWEST_CLUSTERS, Results, SubjectResult
from comfyui_fewshot.benchmarks.dreambench.run import PRIORS
from comfyui_fewshot.benchmarks.dreambench.sides import OURS, PLAIN, REFINED, TITLES
from comfyui_fewshot.benchmarks.dreambench.subjects import OBJECT_ACTIVITIES, read_subjects
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.evaluation.prompts.lists import BEINGS, OBJECTS, REFINING
from comfyui_fewshot.evaluation.prompts.sets import lines_of
from comfyui_fewshot.pocket.models.weights import WEIGHTS
from comfyui_fewshot.pocket.world import pictures
from comfyui_fewshot.tests.evaluation.report.browser import Page, browse
from comfyui_fewshot.vision import places

TINY = "steps=2,prompts_per_round=2,group=2,sampling_steps=3,trained_steps=1,guard_prompts=1"
# The form of the published file, whose second half are the prompts.
PUBLISHED = (
    "Classes\n\nsubject_name,class\ncat_striped,cat\nbear,stuffed animal\n\nPrompts\n\n'a {0} {1} in the jungle',\n"
)


def draw_subject(folder: Path, name: str, count: int) -> Path:
    pictures.write_subject(folder / name, name, count)
    for caption in (folder / name).glob("*.txt"):
        caption.unlink()
    return folder


def options_of(tmp_path: Path, *words: str, base: Path = WEIGHTS):
    given = ["--base", str(base), "--pictures", str(tmp_path), "--out", str(tmp_path / "out"), *words]
    return arguments.parse(arguments.parser("bench dreambench"), given)


# ------------------------------------------------------------------------------------------------ what is read


def test_the_published_form_of_the_classes_is_read(tmp_path):
    draw_subject(tmp_path, "cat_striped", 2)
    shutil.copytree(tmp_path / "cat_striped", tmp_path / "bear")
    (tmp_path / "empty").mkdir()
    (tmp_path / "prompts_and_classes.txt").write_text(PUBLISHED)
    bear, cat = read_subjects(tmp_path)
    assert (cat.noun, cat.live, bear.noun, bear.live) == ("cat", True, "stuffed animal", False)
    assert "a {trigger} wearing a santa hat" in cat.lines and "a {trigger} on top of a mirror" in bear.lines
    assert len(cat.lines) == len(bear.lines) == 25
    assert cat.activities == REFINING["live"] and bear.activities == REFINING["toy"]


def test_a_file_beside_the_folder_says_what_a_subject_is(tmp_path):
    draw_subject(tmp_path, "cat_striped", 1)
    (tmp_path / "cat_striped.txt").write_text("rc car, object\n")
    (car,) = read_subjects(tmp_path)
    assert (car.noun, car.live) == ("rc car", False)
    (tmp_path / "cat_striped.txt").write_text("car, fast\n")
    with pytest.raises(FewShotError, match="write the noun, and after it live or object"):
        read_subjects(tmp_path)


def test_what_no_one_says_is_asked_for(tmp_path):
    draw_subject(tmp_path, "cat_striped", 1)
    with pytest.raises(FewShotError, match=r"what is cat_striped\? Write the class noun, such as dog, into"):
        read_subjects(tmp_path)
    with pytest.raises(FewShotError, match="holds the pictures themselves"):
        read_subjects(tmp_path / "cat_striped")


def test_a_share_is_spread_over_all_subjects(tmp_path):
    for name in "abcdef":
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.txt").write_text("dog")
        (tmp_path / name / "0.png").write_bytes(b"")
    assert [subject.name for subject in read_subjects(tmp_path, 3)] == ["a", "c", "e"]


def test_nothing_that_is_learned_with_is_measured():
    measured = " / ".join((*lines_of(OBJECTS), *lines_of(BEINGS)))
    learned = [*OBJECT_ACTIVITIES, *(activity for kind in REFINING.values() for activity in kind)]
    assert len(OBJECT_ACTIVITIES) == 20 and not [activity for activity in learned if activity in measured]


# --------------------------------------------------------------------------------------------- the command line


def test_the_options_reach_another_process_as_they_are(tmp_path):
    words = ["--quick", "--subjects", "2", "--seeds", "0,3", "--refine", "steps=4", "--models", str(tmp_path)]
    chosen = options_of(tmp_path, *words)
    assert (chosen.subjects, chosen.prompts, chosen.count, chosen.seeds) == (2, 5, 2, (0, 3))
    again = arguments.parse(arguments.parser("x"), arguments.command_line(chosen))
    assert again == chosen
    usual = options_of(tmp_path)
    assert (usual.prompts, usual.count, usual.subjects, usual.refine) == (25, 4, 0, "")
    assert arguments.parse(arguments.parser("x"), arguments.command_line(usual)) == usual


@pytest.mark.parametrize(
    "words, reason",
    [
        (["--prompts", "26"], "DreamBench has 25"),
        (["--seeds", "a"], "are no seeds"),
        (["--guidance", "0"], "is no guidance"),
        (["--count", "0"], "0 is too few"),
        (["--dino", "/nowhere"], "which is no folder"),
    ],
)
def test_half_a_command_is_refused(tmp_path, capsys, words, reason):
    with pytest.raises(SystemExit):
        options_of(tmp_path, *words)
    assert reason in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ which models


def copy_clip(folder: Path) -> Path:
    shutil.copytree(WEIGHTS / "clip", folder)
    return folder


def test_what_measures_does_not_train_where_there_are_two(tmp_path):
    models = tmp_path / "models"
    options = options_of(tmp_path)
    options.models = [models]
    alone = find_judges(options)
    assert alone.shared and alone.clip == WEIGHTS / "clip"
    paper = copy_clip(models / "clip_vision" / "clip-vit-base-patch32")
    copy_clip(models / "rewards" / "PickScore_v1")
    found = find_judges(options)
    assert found.clip == paper and found.training_clip == WEIGHTS / "clip" and not found.shared
    assert found.pickscore == models / "rewards" / "PickScore_v1" and found.dino is None
    assert [term.kind for term in found.terms] == ["CLIP-T", "CLIP-I"]


def test_a_disk_without_a_clip_is_refused_with_what_to_do(tmp_path, caplog):
    draw_subject(tmp_path, "cat_striped", 1)
    (tmp_path / "classes.csv").write_text("subject_name,class\ncat_striped,cat\n")
    base = tmp_path / "base"
    shutil.copytree(WEIGHTS, base, ignore=shutil.ignore_patterns("clip", "reader_*", "clipseg"))
    words = ["--base", str(base), "--pictures", str(tmp_path), "--out", str(tmp_path / "out")]
    assert command.main([*words, "--models", str(tmp_path)]) == 1
    assert "there is no CLIP on the disk" in caplog.text and "or run Fetch Model" in caplog.text


def test_another_family_is_refused_by_name(tmp_path, caplog):
    draw_subject(tmp_path, "cat_striped", 1)
    file = tmp_path / "flux.safetensors"
    save_file({"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": torch.zeros(2)}, file)
    assert command.main(["--base", str(file), "--pictures", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "a Flux model" in caplog.text and not list((tmp_path / "out").glob("*.html"))


# ------------------------------------------------------------------------------------------------------ a run


def run(folder: Path, out: str, *words: str) -> int:
    return command.main([
        "--base", str(WEIGHTS), "--pictures", str(folder), "--prompts", "2", "--count", "1", "--steps", "2",
        "--priors", "2", "--sampling-steps", "2", "--refine", TINY, "--out", str(folder / out), *words,
    ])  # fmt: skip


def numbers(folder: Path) -> dict:
    found = json.loads((folder / "dreambench.json").read_text())
    del found["when"]
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Iterator[Path]:
    """A subject of one picture, measured in one go into "whole"; a PickScore that is damaged is on the disk."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in parts have another rounding
    folder = draw_subject(tmp_path_factory.mktemp("dreambench"), "cat_striped", 1)
    (folder / "cat_striped.txt").write_text("cat")
    damaged = copy_clip(folder / "models" / "rewards" / "PickScore_v1")
    (damaged / "model.safetensors").write_bytes(b"<html>")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COMFYUI_PATH", raising=False)
        assert run(folder, "whole", "--models", str(folder / "models")) == 0
    yield folder
    torch.set_num_threads(threads)


def test_every_side_is_measured(measured):
    found = numbers(measured / "whole")
    rows = {row["name"]: row for row in found["rows"]}
    sides = {f"{side}.{metric}" for side in ("base", "plain", "ours", "refined") for metric in ("CLIP-T", "CLIP-I")}
    assert sides <= set(rows) and "refined_over_ours.CLIP-T" in rows
    assert all(row["interval"] is None and row["n"] == 1 for row in rows.values())  # one subject has no interval
    assert not any(name.startswith("real.") for name in rows)  # one picture has no other to be like
    assert "no independent judge" in rows["refined.CLIP-T"]["note"] and not rows["plain.CLIP-T"]["note"]
    assert [line.partition(":")[0] for line in found["not_measured"]] == ["DINO", "ImageReward", "PickScore"]
    assert "download" in found["not_measured"][2]  # what is wrong with the damaged file
    assert found["settings"]["ours"] == {"steps": 2} and found["subjects"][0]["steps"]["plain"] == [2]


def cut_after(patch: pytest.MonkeyPatch, looks: int, part: str = "") -> None:
    """Ctrl-C after so many looks at whether a part shall go on; any part, where none is named."""
    left = iter(range(looks))

    def check(log: clock.SlowLog) -> None:
        if part in log.part and next(left, None) is None:
            raise KeyboardInterrupt

    patch.setattr(clock.SlowLog, "check", check)


def test_a_run_that_is_cut_goes_on_to_the_same_numbers(measured, monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    go_on = partial(run, measured, "cut", "--models", str(measured / "models"))
    for looks, part in ((40, PRIORS), (1, TITLES[PLAIN]), (5, TITLES[OURS]), (3, TITLES[REFINED])):
        with monkeypatch.context() as patch:
            cut_after(patch, looks, part)
            assert go_on() == 130
    assert not (measured / "cut" / "dreambench.json").is_file()
    assert go_on() == 0
    assert numbers(measured / "cut") == numbers(measured / "whole")
    drawn = {file.name: file.read_bytes() for file in (measured / "whole" / "samples").rglob("*.png")}
    assert drawn == {file.name: file.read_bytes() for file in (measured / "cut" / "samples").rglob("*.png")}


def test_a_run_that_ended_is_found(measured, monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    before = numbers(measured / "whole")
    cut_after(monkeypatch, 0)  # nothing that could be cut is done again
    assert run(measured, "whole", "--models", str(measured / "models")) == 0
    assert numbers(measured / "whole") == before


def test_the_page_stands_alone_and_names_no_folder(measured):
    page = measured / "whole" / "report.html"
    text = page.read_text()
    assert str(measured) not in text and str(WEIGHTS) not in text and not re.search(r'(src|href)="(?!data:)', text)
    assert str(measured) not in (measured / "whole" / "dreambench.json").read_text()

    async def visit(opened: Page, downloads: Path) -> tuple[list[str], list[str], int]:
        await opened.open(page.as_uri())
        headings = await opened.run("[...document.querySelectorAll('h2')].map((h) => h.textContent)")
        seen = await opened.run("[...document.images].filter((i) => i.naturalWidth > 0).length")
        return opened.problems, headings, seen

    problems, headings, seen = browse(visit)
    assert not problems and seen >= 3
    assert {"Means over subjects", "Differences", "cat_striped", "Not measured, and with care", "Versions"} <= set(
        headings
    )


# ------------------------------------------------------------------------------------------------------- numbers


def subject(number: int, **sides: list[float]) -> SubjectResult:
    made = SubjectResult(f"s{number}", "dog", True, 4)
    for side, values in sides.items():
        made.add(side, {"DINO": values})
    return made


def test_an_interval_needs_eight_subjects():
    def rows(count: int):
        many = [subject(n, plain=[0.5, 0.7], ours=[0.6, 0.9 + 0.01 * n], base=[0.1, 0.1]) for n in range(count)]
        return {row.name: row for row in Results(many, ["DINO"], {}).rows()}

    few, enough = rows(FEWEST_CLUSTERS - 1), rows(FEWEST_CLUSTERS)
    assert few["ours_over_plain.DINO"].interval is None
    low, high = enough["ours_over_plain.DINO"].interval
    assert enough["ours_over_plain.DINO"].value == pytest.approx(0.15 + 0.005 * 3.5)
    assert low < 0.15 + 0.005 * 3.5 < high
    assert enough["plain.DINO"].value == pytest.approx(0.6) and enough["plain.DINO"].n == 8
    assert "refined.DINO" not in enough and "refined_over_ours.DINO" not in enough


def test_a_side_that_failed_leaves_its_subject_out_of_the_pairs():
    many = [subject(0, plain=[0.0], ours=[1.0]), subject(1, plain=[9.0])]
    rows = {row.name: row for row in Results(many, ["DINO"], {}).rows()}
    assert rows["ours_over_plain.DINO"].value == 1 and rows["ours_over_plain.DINO"].n == 1
    assert rows["plain.DINO"].n == 2


def test_the_clock_knows_what_is_left_after_the_first_of_each_kind(tmp_path, caplog):
    caplog.set_level("INFO")
    made = Clock(tmp_path / "times.json", {"training": 2, "drawing": 2})
    with made.part("training", "a") as own:
        own["seconds"] = 7200.0
    assert "[1/4] a: training, 2.0 h; what is left is known after the first drawing" in caplog.text
    with made.part("drawing", "a") as own:
        own["seconds"] = 60.0
    assert made.left() == "2.0 h left"
    again = Clock(tmp_path / "times.json", {"training": 2, "drawing": 2})
    with again.part("training", "a"):  # found: it keeps its time
        pass
    assert again.seconds["training"]["a"] == 7200 and again.left() == "2.0 h left"
    assert again.total("drawing") == 60
    assert places.plain("ViT-B/32") == "vitb32"
