"""What is tuned: settings become sets, ranks and words; whole trainings of each kind on the tiny base."""

import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Adapter, Concept, Dense, LowRank
from comfyui_fewshot.models.adapters import formats
from comfyui_fewshot.models.adapters.apply import applied
from comfyui_fewshot.models.adapters.forms.word_rows import carried_words
from comfyui_fewshot.models.adapters.inject import Full, LoraSpec, inject
from comfyui_fewshot.models.adapters.learned_tokens import LearnedTokens
from comfyui_fewshot.models.adapters.token_files import read_embedding
from comfyui_fewshot.models.open import open_base
from comfyui_fewshot.models.stable_diffusion.encoding.prompts import denoise, encode_prompts
from comfyui_fewshot.trainers.auto.inputs import gather_auto_inputs
from comfyui_fewshot.trainers.auto.rules import resolve
from comfyui_fewshot.trainers.context import TrainingContext
from comfyui_fewshot.trainers.subject.method import train_subject
from comfyui_fewshot.trainers.subject.presets import PRESETS, with_preset
from comfyui_fewshot.trainers.subject.settings import SubjectSettings
from comfyui_fewshot.trainers.targets import resolve_token, sets_of, token_specs


def test_each_set_has_its_rank_and_alpha():
    chosen = SubjectSettings(
        parameter_set="attention_ff", rank=8, alpha=4.0, self_rank=2, feed_forward_rank=4, feed_forward_alpha=1.0,
        text_encoder=True, text_rank=6, text_alpha=3.0,
    )  # fmt: skip
    assert sets_of(chosen) == {
        "cross": LoraSpec(8, 4.0), "self": LoraSpec(2, 1.0), "feed_forward": LoraSpec(4, 1.0), "text": LoraSpec(6, 3.0),
    }  # fmt: skip
    assert sets_of(SubjectSettings(parameter_set="cross_kv", cross_rank=3)) == {"cross_kv": LoraSpec(3, 3.0)}
    assert sets_of(SubjectSettings(parameter_set="none", token="free")) == {}
    full = SubjectSettings(parameter_set="all", tuning="full", text_encoder=True)
    assert sets_of(full) == {"all": Full(), "text": LoraSpec(16, 16.0)}
    blocks = sets_of(SubjectSettings(parameter_set="cross", tuning="orthogonal", subject_block=3, rank=4))
    assert blocks == {"cross": LoraSpec(4, 4.0, 3)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(parameter_set="none", token="none"), "nothing would be trained"),
        (dict(parameter_set="all"), "parameter_set all needs tuning full, and tuning is low_rank"),
        (dict(extract_rank=4), "extract_rank is 4, which is for tuning full"),
        (dict(tuning="full", weights="float8"), "8 bits cannot be trained in full"),
        (dict(optimizer="schedule_free", schedule="cosine"), "schedule_free needs the schedule constant"),
    ],
)
def test_settings_that_contradict_each_other(train, tmp_path, changes, said):
    with pytest.raises(FewShotError, match=said):
        SubjectSettings(**changes).check()
    with pytest.raises(FewShotError, match=said):
        train(tmp_path, **changes)


IDLE = {
    "self_rank": dict(tuning="full", self_rank=8),
    "feed_forward_alpha": dict(parameter_set="attention", feed_forward_alpha=2.0),
    "cross_rank": dict(parameter_set="self", cross_rank=4),
    "text_rank": dict(text_rank=4),
    "text_learning_rate": dict(text_learning_rate=1e-5),
    "token_vectors": dict(token="none", token_vectors=2),
    "token_start": dict(token="none", token_start="toy"),
    "token_learning_rate": dict(token="none", token_learning_rate=0.1),
    "subject_block": dict(subject_block=1),
    "dco_beta": dict(dco_beta=2000.0),
    "patience": dict(patience=3, validate_every=0),
    "keep_validated": dict(keep_validated=True, validate_every=0),
}


@pytest.mark.parametrize("name", IDLE)
def test_a_value_that_would_do_nothing_is_refused(name):
    with pytest.raises(FewShotError, match=rf"^{name} is .*, but does nothing: .*Set it to"):
        SubjectSettings(**IDLE[name]).check()


def test_values_that_do_something_are_taken():
    SubjectSettings(text_encoder=True, text_rank=4, text_learning_rate=1e-5, tuning="full").check()
    SubjectSettings(parameter_set="cross_kv", cross_rank=4, token="free", token_start="toy").check()
    SubjectSettings(parameter_set="attention_ff", feed_forward_rank=4, self_alpha=2.0, patience=2).check()
    for name, values in PRESETS.items():
        SubjectSettings(**with_preset(name, values)).check()


def test_what_a_setting_needs_of_the_pictures_is_told(train, pictures, tmp_path, caplog):
    """And nothing is said of defaults."""
    bare = pictures.with_samples(tuple(replace(sample, mask=None) for sample in pictures.samples))
    train(tmp_path / "a", set_=bare, steps=1)
    assert "does nothing" not in caplog.text and "nothing is done" not in caplog.text
    train(tmp_path / "b", set_=bare, steps=1, background_weight=0.2, composite_share=0.5, patience=2, validate_every=1)
    assert "background_weight is 0.2, but no picture has a mask: it does nothing" in caplog.text
    assert "composite_share is 0.5, but no picture shows several subjects" in caplog.text
    assert "without a model that validates, patience: nothing is done" in caplog.text


def test_the_words_of_several_subjects(pictures):
    two = replace(pictures, concepts=(*pictures.concepts, Concept("zwx", "car")))
    specs = token_specs(SubjectSettings(token="direction", token_vectors=2), two)
    assert [(spec.word, spec.start, spec.vectors, spec.direction) for spec in specs] == [
        ("sks", "ball", 2, True), ("zwx", "car", 2, True),
    ]  # fmt: skip
    assert token_specs(SubjectSettings(token="free", token_start="toy"), two)[1].start == "toy"
    assert token_specs(SubjectSettings(token="none"), two) == ()


def test_a_direction_is_learned_beside_a_lora_of_layers(train, tmp_path):
    """The LoRA's layers stay on while the word turns, which is seen anew in each step."""
    layers = train(tmp_path / "layers", steps=2).adapter
    word = dict(parameter_set="none", token="direction", token_learning_rate=0.05)
    found = train(tmp_path / "word", steps=3, start_from=layers, **word)
    alone = train(tmp_path / "alone", steps=3, **word)
    assert len(found.losses) == 3 and set(found.adapter.embeddings) == {"sks"}
    assert not torch.equal(found.adapter.embeddings["sks"]["clip_l"], alone.adapter.embeddings["sks"]["clip_l"])


WORD = dict(parameter_set="none", token="free", token_learning_rate=0.05)
EVERYTHING = dict(tuning="full", parameter_set="all", learning_rate=1e-3)
KINDS = {
    "textual inversion": WORD,
    "pivotal, direction": dict(token="direction", token_vectors=2, text_encoder=True, text_learning_rate=1e-3),
    "custom diffusion": dict(tuning="full", parameter_set="cross_kv", token="free", token_learning_rate=0.01),
    "orthogonal": dict(tuning="orthogonal", parameter_set="cross", subject_block=1),
    "dco with a direction": dict(objective="dco", prior_weight=0.0, token="direction"),
    "everything": EVERYTHING,
    "prodigy": dict(optimizer="prodigy", learning_rate=1.0),
    "schedule free": dict(optimizer="schedule_free", token="free"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_trained_is_counted_before_it_is_made(model, pictures, kind):
    two = replace(pictures, concepts=(*pictures.concepts, Concept("zwx", "car")))
    chosen = SubjectSettings(**{"rank": 4, **KINDS[kind]})
    words = LearnedTokens(model, token_specs(chosen, two))
    injected = inject(model, sets_of(chosen), 0, words=words)
    made = sum(parameter.numel() for parameter in injected.parameters.values())
    injected.remove()
    assert gather_auto_inputs(model, two, chosen).trainable_parameters == made


def test_a_picture_with_several_captions_is_one_picture(model, pictures):
    many = [replace(s, caption=f"{s.caption} {n}") for s in pictures.references for n in range(12)]
    expanded = pictures.with_samples((*many, *pictures.priors))
    once, often = (gather_auto_inputs(model, each, SubjectSettings()) for each in (pictures, expanded))
    assert once == often and once.references == 3


@pytest.fixture(scope="module")
def wordy(wordy_base):
    """A model to whose text encoder sks is one token."""
    with open_base(wordy_base, "cpu") as opened:
        yield opened


def called(pictures, identifier):
    """The set with another identifier."""
    return replace(pictures, concepts=(Concept(identifier, "ball"),))


def test_a_word_is_learned_where_a_file_carries_it(wordy, pictures):
    open_choice = SubjectSettings()
    assert open_choice.token == "auto"
    chosen, (reason,) = resolve_token(open_choice, wordy, pictures)
    assert chosen == replace(open_choice, token="free") and "sks is one token" in reason
    named = called(pictures, "my friend")
    chosen, (reason,) = resolve_token(open_choice, wordy, named)
    assert chosen.token == "none" and "my friend is several tokens" in reason
    for given in ("none", "free", "direction"):
        settings = SubjectSettings(token=given)
        assert resolve_token(settings, wordy, named) == (settings, ())


@pytest.mark.parametrize(("embeddings", "token"), [
    ({}, "none"), ({"sks": {"clip_l": torch.ones(1, 32)}}, "free"), ({"SKS": {"clip_l": torch.ones(1, 32)}}, "free"),
    ({"sks": {"clip_l": torch.ones(2, 32)}}, "none"), ({"zwx": {"clip_l": torch.ones(1, 32)}}, "none"),
])  # fmt: skip
def test_what_is_trained_on_keeps_the_meaning_of_its_word(wordy, pictures, embeddings, token):
    start = Adapter({}, "sd1", "sks ball", embeddings)
    assert resolve_token(SubjectSettings(), wordy, pictures, start)[0].token == token


def test_the_default_s_file_carries_its_word(wordy_base, pictures, settings, tmp_path):
    result = train_subject(wordy_base, pictures, replace(settings, token="auto"), TrainingContext(tmp_path, "cpu"))
    assert set(result.adapter.embeddings) == {"sks"} and carried_words(result.adapter)
    assert carried_words(formats.read_lora(result.lora))


def test_attention_is_tied_to_masks_where_every_picture_can_count(model, pictures):
    """A picture without a mask, or whose caption says nothing besides the subject, leaves the loss out for all."""

    def weight(made, **settings):
        chosen, reasons = resolve(
            SubjectSettings(**settings), gather_auto_inputs(model, made, SubjectSettings(**settings))
        )
        return chosen.local_weight, [reason for reason in reasons if reason.startswith("local_weight")]

    found, (reason,) = weight(pictures)
    assert found == 0.05 and "every picture has a mask" in reason
    first, *rest = pictures.references
    for other in (replace(first, mask=None), replace(first, caption="sks ball")):
        found, (reason,) = weight(pictures.with_samples((other, *rest)))
        assert found == 0 and "not every picture has a mask" in reason
    for given in (0.0, 0.3):
        assert weight(pictures, local_weight=given) == (given, [])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_goes_on_bit_for_bit(train, tmp_path, cut_at, kind):
    whole = train(tmp_path / "whole", steps=5, **KINDS[kind])
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", cut_at(2, KeyboardInterrupt(), steps=5), steps=5, **KINDS[kind])
    (folder,) = (tmp_path / "cut").iterdir()
    assert [path for path in folder.glob("subject_step_00000002*")]
    resumed = train(tmp_path / "cut", steps=5, **KINDS[kind])
    assert resumed.resumed_from == 2 and resumed.losses == whole.losses
    assert resumed.adapter.key == whole.adapter.key
    assert not [path for path in folder.glob("subject_step_*")]
    if whole.base is not None:
        one, other = (safetensors.torch.load_file(result.model) for result in (resumed, whole))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_textual_inversion_learns_a_word_and_nothing_else(train, tmp_path, base):
    result = train(tmp_path, **WORD)
    assert not result.adapter.factors and set(result.adapter.embeddings) == {"sks"}
    back = read_embedding(result.lora, "sd1")
    assert torch.equal(back.embeddings["sks"]["clip_l"], result.adapter.embeddings["sks"]["clip_l"])
    assert back.trigger == "sks ball"
    with open_base(base, "cpu") as model:
        start = model.text_encoders[0].get_input_embeddings().weight
        ids = model.tokenizers[0]("ball", add_special_tokens=False).input_ids
        first = start[torch.tensor(ids)].mean(0)
    assert not torch.allclose(back.embeddings["sks"]["clip_l"][0], first, atol=1e-2)


def test_words_are_kept_with_the_lora_and_beside_it(train, tmp_path):
    result = train(tmp_path, token="direction", steps=3)
    names = {path.name for path in result.folder.glob("*.safetensors")}
    assert names == {"subject.safetensors", "subject_sks.safetensors"}
    bundled = formats.read_lora(result.lora).embeddings["sks"]["clip_l"]
    assert torch.allclose(bundled, result.adapter.embeddings["sks"]["clip_l"], atol=1e-3)


def test_training_on_from_a_word(train, tmp_path):
    first = train(tmp_path, token="free", steps=3)
    frozen = train(tmp_path, start_from=first.adapter, steps=2)
    assert frozen.adapter.embeddings["sks"]["clip_l"].equal(first.adapter.embeddings["sks"]["clip_l"])
    moved = train(tmp_path, start_from=first.adapter, steps=2, token="free")
    distance = (moved.adapter.embeddings["sks"]["clip_l"] - first.adapter.embeddings["sks"]["clip_l"]).abs().max()
    assert 0 < distance < 0.1


def test_training_on_beside_weights_in_8_bits(train, tmp_path):
    """What is kept of a LoRA acts on 8 bits as it does on whole weights; what is no LoRA is refused."""
    first = train(tmp_path, steps=4, learning_rate=0.02, parameter_set="attention")
    on = dict(start_from=first.adapter, steps=2, parameter_set="cross_kv", cross_rank=4)
    wide, small, without = (
        train(tmp_path, **on), train(tmp_path, **on, weights="float8"), train(tmp_path, steps=2, weights="float8"),
    )  # fmt: skip
    assert small.losses == pytest.approx(wide.losses, rel=0.03)
    assert abs(small.losses[0] - wide.losses[0]) < abs(small.losses[0] - without.losses[0])
    dense = train(tmp_path, steps=1, parameter_set="self", tuning="full")
    with pytest.raises(
        FewShotError, match="in 8 bits, beside which only a plain LoRA can be used.*set weights to full"
    ):
        train(tmp_path, start_from=dense.adapter, parameter_set="cross_kv", weights="float8")


def test_everything_gives_a_base_that_is_what_was_trained(train, tmp_path, base):
    """The base that is returned, and the old one with the extracted adapter on, predict alike, and unlike the old."""
    result = train(tmp_path, **EVERYTHING, extract_rank=512)
    assert result.model == result.folder / "subject_model.safetensors" and result.base.family == "sd1"
    error = float(result.adapter.metadata["fewshot.extraction_error"])
    assert error < 0.2 and {type(f) for f in result.adapter.factors.values()} == {LowRank, Dense}
    latents, time = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])

    def drawn(model):
        with torch.no_grad():
            return denoise(model, latents, time, encode_prompts(model, ["a photo of sks ball"]))

    with open_base(result.base, "cpu") as model:
        trained = drawn(model)
    with open_base(base, "cpu") as model:
        before = drawn(model)
        with applied(model, [(result.adapter, 1.0)]):
            adapted_parts = drawn(model)
    far = (trained - before).norm()
    assert far > 0.05 and (trained - adapted_parts).norm() < 0.3 * far
    again = train(tmp_path, **EVERYTHING, extract_rank=512)
    assert again.base.key == result.base.key and again.adapter.key == result.adapter.key


def test_everything_without_an_adapter(train, tmp_path):
    result = train(tmp_path, **EVERYTHING, steps=2)
    assert not result.adapter.factors and result.adapter.trigger == "sks ball"
    assert {path.name for path in result.folder.glob("*.safetensors")} == {"subject_model.safetensors"}


def test_a_rate_that_diverges_keeps_the_word_and_says_so(train, tmp_path):
    with pytest.raises(FewShotError, match="training diverged at step .* are kept. Lower the learning rate") as raised:
        train(tmp_path, token="free", learning_rate=1.0, token_learning_rate=1.0, text_encoder=True,
              text_learning_rate=1.0, max_gradient_norm=1e6, steps=300, rank=4, alpha=1000.0)  # fmt: skip
    (folder,) = tmp_path.iterdir()
    (part,) = folder.glob("subject_step_????????.safetensors")
    assert str(part) in str(raised.value)
    kept = formats.read_lora(part)
    assert all(torch.isfinite(v).all() for v in kept.embeddings["sks"].values())


def test_the_choices_are_told(train, tmp_path):
    result = train(tmp_path, steps=1, token="free", learning_rate=0.0, tuning="full", parameter_set="cross_kv")
    told = json.loads((result.folder / "settings.json").read_text())["inputs"]
    assert told["chosen"]["token_learning_rate"] > 0 and told["chosen"]["learning_rate"] == pytest.approx(1e-4)
    assert any("of the vocabulary's usual number" in line for line in told["auto"])
