"""Settings: ranges, unknown names, auto, and what belongs to the key."""

import subprocess
import sys
from dataclasses import fields, replace

import pytest

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.models.public_names import PARAMETER_SETS
from comfyui_fewshot.trainers.refine.settings import RefinementSettings
from comfyui_fewshot.trainers.relation.settings import RelationSettings
from comfyui_fewshot.trainers.subject.settings import SubjectSettings


def test_every_field_tells_what_a_widget_needs():
    for about in fields(SubjectSettings):
        says = about.metadata
        assert says["help"].endswith("."), about.name
        if type(about.default) in (int, float):
            assert says["min"] is not None and says["max"] is not None and says["step"] is not None, about.name


@pytest.mark.parametrize("kind", [SubjectSettings, RelationSettings, RefinementSettings])
def test_the_order_of_the_widgets_names_every_setting_once(kind):
    assert sorted(kind.ORDER) == sorted(about.name for about in fields(kind))
    assert not {*kind.FORMER, *kind.UNUSED} & set(kind.ORDER)


def test_a_training_has_only_the_settings_that_it_uses():
    with pytest.raises(FewShotError, match="rank is 8; version 0.1.0 has no setting rank for this training, leave it"):
        RelationSettings.from_mapping({"rank": 8})
    with pytest.raises(FewShotError, match="has no setting local_attention"):
        SubjectSettings.from_mapping({"local_attention": "plain"})
    assert SubjectSettings.from_mapping({"local_attention": "content"}) == SubjectSettings()  # as files written before
    with pytest.raises(FewShotError, match="has no setting batch_size for this training"):
        RefinementSettings.from_mapping({"batch_size": 16})
    with pytest.raises(TypeError, match="prior_weight"):
        RelationSettings(**{"prior_weight": 0.5})


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(FewShotError, match=r"'learning_rat'; did you mean 'learning_rate'\?"):
        SubjectSettings.from_mapping({"learning_rat": 1e-4})
    with pytest.raises(FewShotError, match="there is no setting 'zzz'; known are: alpha, "):
        SubjectSettings.from_mapping({"zzz": 1})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps", 0, "steps is 0; it must lie between 1 and 100000, or -1 to have it chosen"),
        ("steps", -5, "steps is -5"),
        ("steps", 2.5, "steps is 2.5; it must be a whole number"),
        ("rank", 0, "rank is 0; it must lie between 1 and 256"),
        ("learning_rate", float("nan"), "learning_rate is nan"),
        ("learning_rate", "fast", "learning_rate is 'fast'; it must be a number"),
        ("schedule", "cosin", "schedule is 'cosin'; .* Did you mean 'cosine'"),
        ("text_encoder", 1, "text_encoder is 1; it must be true or false"),
        ("prior_weight", -0.1, "prior_weight is -0.1"),
    ],
)
def test_bad_values_are_refused(name, value, message):
    with pytest.raises(FewShotError, match=message):
        SubjectSettings.from_mapping({name: value})


def test_auto_can_be_written_as_a_word():
    settings = SubjectSettings.from_mapping({"steps": "auto", "learning_rate": "auto", "alpha": 8, "rank": 8.0})
    assert settings == SubjectSettings(alpha=8.0, rank=8)
    assert settings.is_auto("steps") and settings.is_auto("learning_rate") and not settings.is_auto("alpha")
    with pytest.raises(FewShotError, match="rank is 'auto'"):
        SubjectSettings.from_mapping({"rank": "auto"})


def test_the_key_holds_what_matters():
    plain = SubjectSettings()
    for change in (dict(save_every=7), dict(log_every=3), dict(preview_every=5), dict(preview_prompt="a dog")):
        assert replace(plain, **change).key() == plain.key()
    for change in (dict(steps=10), dict(seed=1), dict(rank=8), dict(prior_weight=0.5), dict(parameter_set="cross")):
        assert replace(plain, **change).key() != plain.key()


def test_parameter_sets_are_those_of_the_models():
    from comfyui_fewshot.models.adapters import inject

    assert set(PARAMETER_SETS) == set(inject.PARAMETER_SETS) - {"text"} | {"all", "none"}


def test_importing_settings_imports_nothing_heavy():
    modules = ", ".join(f"comfyui_fewshot.trainers.{method}.settings" for method in ("subject", "relation", "refine"))
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
