"""Differential output preservation: the class stays what the base makes of it."""

from dataclasses import replace

import pytest

from comfyui_fewshot.trainers.context import TrainingContext
from comfyui_fewshot.trainers.subject.method import train_subject


def test_what_the_class_looks_like_is_preserved(base, pictures, settings, tmp_path):
    """With a heavy weight the network goes on predicting of the class what the base does; the first step's term is 0,
    since nothing was learned yet, and without a weight nothing of the run changes."""
    short = replace(settings, steps=12, prior_weight=0.0, learning_rate=3e-3, text_encoder=False, token="none")
    runs = {
        weight: train_subject(
            base, pictures, replace(short, preservation_weight=weight), TrainingContext(tmp_path, "cpu")
        )
        for weight in (0.3, 10.0)
    }
    assert all(set(run.terms) == {"reference", "preservation"} for run in runs.values())
    assert all(run.terms["preservation"][0] < 1e-9 for run in runs.values())
    moved = {weight: sum(run.terms["preservation"][-4:]) for weight, run in runs.items()}
    assert 0 < moved[10.0] < 0.7 * moved[0.3]
    assert runs[0.3].terms["reference"][0] == runs[10.0].terms["reference"][0]
    assert replace(short, preservation_weight=0.0).key() == short.key() != replace(short, preservation_weight=1.0).key()


@pytest.mark.parametrize("how", [dict(micro_batch=1), dict(text_encoder=True), dict(objective="dco")])
def test_preservation_goes_with_other_ways(base, pictures, settings, tmp_path, how):
    chosen = replace(settings, steps=2, preservation_weight=1.0, prior_weight=0.0, **how)
    result = train_subject(base, pictures, chosen, TrainingContext(tmp_path, "cpu"))
    assert len(result.losses) == 2 and all(value >= 0 for value in result.terms["preservation"])
