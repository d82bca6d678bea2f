"""What must stay as it is while the house is rebuilt: keys, random streams, what five steps learn, public names.

A content key finds a person's finished run again, a stream's numbers are what a cut run goes on with, and the names are
read by other programs. Learned weights are kept as the norm and a fixed projection of each layer's change, since their
last digits differ by processor. `python -m comfyui_fewshot.tests.goldens.write` writes the record anew; a change of it
means that saved runs no longer resume, and is made on purpose or not at all.
"""

from __future__ import annotations

import json

import pytest

from comfyui_fewshot.tests.goldens import keys, names, runs, streams
from comfyui_fewshot.tests.goldens.record import RECORD

GOLDEN = json.loads(RECORD.read_text(encoding="utf-8"))


def test_content_keys_stay():
    assert keys.content_keys() == GOLDEN["keys"] and len(GOLDEN["keys"]) >= 20


def test_exact_random_streams_stay():
    assert streams.exact() == GOLDEN["streams"]["exact"]


def test_normal_random_streams_stay():
    """Their last digits come from the processor's logarithm."""
    found, wanted = streams.normal(), GOLDEN["streams"]["normal"]
    assert list(found) == list(wanted) and len(found) + len(GOLDEN["streams"]["exact"]) >= 30
    for stream, values in wanted.items():
        assert found[stream] == pytest.approx(values, abs=1e-5), stream


@pytest.mark.parametrize("method", runs.METHODS)
def test_five_steps_learn_what_they_learned(method, tmp_path):
    found, wanted = runs.learned(method, tmp_path), GOLDEN["runs"][method]
    assert found["key"] == wanted["key"], "a finished run of before would not be found"
    assert list(found["losses"]) == list(wanted["losses"])
    for term, values in wanted["losses"].items():
        assert found["losses"][term] == pytest.approx(values, rel=runs.LOSS, abs=runs.LOSS), term
    assert list(found["layers"]) == list(wanted["layers"])
    size = sum(norm**2 for norm, _ in wanted["layers"].values()) ** 0.5
    typical = size / len(wanted["layers"]) ** 0.5
    assert size > 0
    apart, near = 0.0, 0
    for path, (norm, projection) in wanted["layers"].items():
        differences = [abs(a - b) for a, b in zip(found["layers"][path], (norm, projection), strict=True)]
        near += max(differences) <= runs.CHANGE * max(norm, typical)
        apart += differences[1] ** 2
    assert near >= runs.MOST * len(wanted["layers"])
    assert apart**0.5 <= runs.ALL_CHANGES * size


@pytest.mark.parametrize("kind", names.KINDS)
def test_public_names_stay(kind, tmp_path):
    assert names.KINDS[kind](tmp_path) == GOLDEN["names"][kind]
