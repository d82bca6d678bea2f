"""`run.py bench`: which parts run, what is written after each, and what becomes of a part that fails."""

from __future__ import annotations

import json

import pytest

from comfyui_fewshot import benchmarks
from comfyui_fewshot.benchmarks import __main__
from comfyui_fewshot.benchmarks.harness.rows import BenchmarkRow
from comfyui_fewshot.benchmarks.relation import parts as relation


def row(name: str) -> BenchmarkRow:
    return BenchmarkRow(name, 1.0, "%", "higher")


@pytest.fixture
def parts(monkeypatch, tmp_path):
    """Three parts of the bench of relations, the second of which fails; what was written before each began."""
    file, written = tmp_path / "rows.json", []

    def part(name):
        def call():
            written.append([one["name"] for one in json.loads(file.read_text())] if file.is_file() else None)
            if name == "b":
                raise OSError("no disk")
            return [row(name)]

        return call

    monkeypatch.setattr(relation, "parts", lambda quick: {name: part(name) for name in "abc"})
    return file, written


def test_rows_are_written_after_each_part_and_a_failing_one_loses_no_other(parts, capsys):
    file, written = parts
    assert __main__.main(["relation", "--json", str(file)]) == 0
    assert written == [None, ["a"], ["a"]]
    assert [one["name"] for one in json.loads(file.read_text())] == ["a", "c"]
    assert "written to" in capsys.readouterr().out


def test_only_some_parts_run(parts):
    file, written = parts
    assert __main__.main(["relation", "--json", str(file), "--only", "c"]) == 0
    assert written == [None]
    with pytest.raises(RuntimeError, match="no part of the bench 'relation' could be measured"):
        __main__.main(["relation", "--json", str(file), "--only", "b"])


def test_a_part_that_is_not_there_is_said_in_a_sentence(parts, capsys):
    with pytest.raises(SystemExit) as left:
        __main__.main(["relation", "--only", "a,d"])
    assert left.value.code == 2
    assert "the bench 'relation' has no part 'd'; it has a, b, c" in capsys.readouterr().err
    with pytest.raises(ValueError, match="has no part 'd'"):
        list(benchmarks.measure_parts("relation", True, ["d"]))
