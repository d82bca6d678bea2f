"""The check after trainings of a tiny base, from end to end: kept, found again, cancelled, without a ceiling."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from PIL import Image

from comfyui_fewshot.augmentation.images.relation_pictures import relation_from_folder
from comfyui_fewshot.core.context import RunContext
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.progress import NullProgress
from comfyui_fewshot.evaluation.learned import check as checking
from comfyui_fewshot.evaluation.learned import measure as measuring
from comfyui_fewshot.evaluation.learned.check import DRAWN, FILE, SHEET, check
from comfyui_fewshot.tests.trainers.refine.refining import PROMPTS, QUICK, Red, subject_adapter
from comfyui_fewshot.tests.trainers.relation.relating import WORD, captioned_folder, train_small
from comfyui_fewshot.trainers.check.common import Checker
from comfyui_fewshot.trainers.check.refinement import refinement_check
from comfyui_fewshot.trainers.check.relation import other_things, relation_check
from comfyui_fewshot.trainers.check.subject import size_of_check, subject_check
from comfyui_fewshot.trainers.context import TrainingContext
from comfyui_fewshot.trainers.refine.method import RefinementGoal, refine_adapter
from comfyui_fewshot.trainers.relation.settings import RelationSettings
from comfyui_fewshot.trainers.subject.method import train_subject
from comfyui_fewshot.trainers.validation.image_metrics import Validator


@pytest.fixture(scope="module")
def checker(clip_folder):
    return Checker(Validator(clip_folder))


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("trained"), steps=2)


class Counting(NullProgress):
    def __init__(self):
        self.lines = []

    def report(self, done, total, text="", picture=None, metrics=None):
        self.lines.append(text)


class Cancelled(BaseException):
    pass


class CancelAfter(Counting):
    """Cancels at the check that follows `batches` drawn batches."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def check(self):
        if sum("samples" in line for line in self.lines) >= self.batches:
            raise Cancelled


def test_a_training_is_checked_kept_and_found_again(base, pictures, settings, trained, checker, tmp_path, monkeypatch):
    work = subject_check(base, pictures, settings, trained, checker)
    assert size_of_check(pictures, settings, trained).prompts == 4
    progress = Counting()
    learned = check(work, RunContext(tmp_path, "cpu", progress))
    measured = learned.measurement
    assert [one.name for one in measured.columns] == ["base", "0.6", "1"] and len(measured.prompts) == 4
    assert all("sks" not in prompt for prompt in measured.prompts) and 0 < measured.ceiling <= 1
    assert any(line.startswith("did it learn?") and "s left" in line for line in progress.lines)
    record = json.loads((tmp_path / FILE).read_text())
    assert record["finding"] == learned.verdict.finding and tuple(record["lines"]) == learned.verdict.lines
    with Image.open(tmp_path / SHEET) as kept:
        assert kept.convert("RGB").tobytes() == learned.sheet.tobytes()
    assert not (tmp_path / DRAWN).exists()
    monkeypatch.setattr(measuring, "draw", lambda *_: pytest.fail("drawn again"))
    again = check(replace(work, open=lambda: pytest.fail("opened again")), RunContext(tmp_path, "cpu"))
    assert again.verdict == learned.verdict and again.measurement == measured


def test_what_it_depends_on_is_in_its_key(base, pictures, settings, trained, checker, clip_folder):
    key = subject_check(base, pictures, settings, trained, checker).content_key
    assert key == subject_check(base, pictures, settings, trained, Checker(Validator(clip_folder))).content_key
    fewer = pictures.with_samples(pictures.samples[1:])
    larger = replace(settings, resolution=40)
    other = replace(trained, adapter=replace(trained.adapter, trigger="zwx ball"))
    assert key != subject_check(base, fewer, settings, trained, checker).content_key
    assert key != subject_check(base, pictures, larger, trained, checker).content_key
    assert key == subject_check(base, pictures, settings, replace(other, adapter=trained.adapter), checker).content_key


def test_a_cancelled_check_goes_on_where_it_was(base, pictures, settings, trained, checker, tmp_path):
    work = subject_check(base, pictures, settings, trained, checker)
    with pytest.raises(Cancelled):
        check(work, RunContext(tmp_path, "cpu", CancelAfter(1)))
    drawn = set((tmp_path / DRAWN).rglob("*.png"))
    assert drawn and not (tmp_path / FILE).exists()
    progress = Counting()
    check(work, RunContext(tmp_path, "cpu", progress))
    assert not any("4 of 12 samples" in line for line in progress.lines)  # those were there


def test_a_damaged_record_is_measured_again(base, pictures, settings, trained, checker, tmp_path):
    work = subject_check(base, pictures, settings, trained, checker)
    first = check(work, RunContext(tmp_path, "cpu"))
    (tmp_path / FILE).write_text('{"key": ')
    assert check(work, RunContext(tmp_path, "cpu")).measurement == first.measurement


def test_one_picture_has_no_ceiling(base, pictures, settings, train, checker, tmp_path):
    alone = pictures.with_samples(pictures.references[:1])
    result = train(tmp_path / "runs", set_=alone, steps=2)
    learned = check(subject_check(base, alone, settings, result, checker), RunContext(tmp_path / "run", "cpu"))
    assert learned.measurement.ceiling is None and any("One picture" in line for line in learned.verdict.lines)


def test_a_base_tuned_in_full_is_drawn_by_itself(base, pictures, settings, train, checker, tmp_path):
    result = train(tmp_path / "runs", steps=2, parameter_set="all", tuning="full", batch_size=1)
    work = subject_check(base, pictures, settings, result, checker)
    assert [column.base.key for column in work.question.columns] == [base.key, result.base.key]
    learned = check(work, RunContext(tmp_path / "run", "cpu"))
    floor, trained = learned.measurement.columns
    assert trained.name == "trained" and trained.subject != floor.subject and learned.verdict.best is None


def test_the_training_is_the_same_with_its_check(base, pictures, settings, trained, checker, tmp_path):
    check(subject_check(base, pictures, settings, trained, checker), RunContext(tmp_path, "cpu"))
    chosen = replace(settings, steps=2)
    again = train_subject(base, pictures, chosen, TrainingContext(trained.folder.parent, "cpu", name="subject"))
    assert again.folder == trained.folder and again.adapter.key == trained.adapter.key


# ------------------------------------------------------------------------------------------------- other trainings


def test_a_word_is_tried_on_other_things(wordy_base, picture_folder, checker, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    relation = relation_from_folder(captioned_folder(picture_folder, folder), WORD, "painted on")
    prompts = other_things(relation, 4, lambda _: True)
    assert prompts[0].text == f"a dog {WORD} a bottle" and prompts[0].stripped == "a dog painted on a bottle"
    assert not any(word in prompt.text for prompt in prompts for word in ("cat", "bird", "car", "house", "boat"))
    result = train_small(wordy_base, relation, tmp_path / "runs", steps=2, validate_every=1)
    work = relation_check(wordy_base, relation, RelationSettings(), result, checker)
    learned = check(work, RunContext(tmp_path / "run", "cpu"))
    assert [one.name for one in learned.measurement.columns] == ["base", "word"]
    assert not learned.measurement.columns[1].subject and learned.verdict.best is None
    with pytest.raises(FewShotError, match="knows none of the things"):
        other_things(relation, 4, lambda _: False)
    few = [prompt.text for prompt in other_things(relation, 3, lambda thing: thing in ("cat", "fish", "cup", "bottle"))]
    assert few == [f"a fish {WORD} a bottle", f"a fish {WORD} a cup", f"a cat {WORD} a bottle"]


def test_a_refinement_is_compared_with_what_it_was_given(base, pictures, checker, tmp_path):
    goal, given = RefinementGoal(PROMPTS, Red()), subject_adapter()
    context = TrainingContext(tmp_path / "runs", "cpu", name="refined")
    result = refine_adapter(base, given, goal, replace(QUICK, steps=2), context, pictures)
    work = refinement_check(base, given, goal, QUICK, result, (checker, pictures))
    assert [c.adapter and c.adapter.key for c in work.question.columns] == [None, given.key, result.combined.key]
    learned = check(work, RunContext(tmp_path / "run", "cpu"))
    assert [one.name for one in learned.measurement.columns] == ["base", "before", "after"]
    assert len(learned.measurement.columns[2].subject) == len(learned.measurement.prompts)
    alone = refinement_check(base, None, goal, QUICK, replace(result, combined=None), (checker, None))
    assert alone.question.columns[1].adapter is None and not alone.question.references
    with pytest.raises(FewShotError, match="two files"):
        apart = replace(result, combined=None, apart="they stay two files")
        refinement_check(base, given, goal, QUICK, apart, (checker, pictures))


def test_a_full_disk_loses_no_verdict(base, pictures, settings, trained, checker, tmp_path, monkeypatch):
    def full(*_):
        raise FewShotError("no space left")

    monkeypatch.setattr(checking, "write_whole", full)
    work = subject_check(base, pictures, settings, trained, checker)
    assert check(work, RunContext(tmp_path, "cpu")).verdict.lines
