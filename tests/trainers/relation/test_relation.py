"""Relation training on a tiny base that knows the pocket's words: what is learned, what stays, resume, bad input."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from comfyui_fewshot.augmentation.images.relation_pictures import (
    relation_from_folder,
    relation_from_tensors,
    with_relation,
)
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.progress import NullProgress
from comfyui_fewshot.core.values import Concept, TrainingSet
from comfyui_fewshot.models.adapters.apply import applied
from comfyui_fewshot.models.adapters.token_files import read_embedding
from comfyui_fewshot.models.open import base_from_path, open_base
from comfyui_fewshot.models.stable_diffusion.encoding.prompts import encode_prompts
from comfyui_fewshot.pocket.world import words
from comfyui_fewshot.tests.models import checkpoints
from comfyui_fewshot.trainers import __main__ as command
from comfyui_fewshot.trainers.context import TrainingContext
from comfyui_fewshot.trainers.relation import adversarial as adversarial_module
from comfyui_fewshot.trainers.relation.method import RelationTraining, related, train_relation
from comfyui_fewshot.trainers.relation.settings import RelationSettings
from comfyui_fewshot.trainers.relation.steering import FUNCTION_WORDS, Steering, known_ids

from .relating import CHOSEN, WORD, captioned_folder, train_small


@pytest.fixture(scope="module")
def folder(picture_folder, tmp_path_factory):
    return captioned_folder(picture_folder, tmp_path_factory.mktemp("relation"))


@pytest.fixture(scope="module")
def relation(folder):
    return relation_from_folder(folder, WORD)


@pytest.fixture(scope="module")
def train(wordy_base, relation):
    return partial(train_small, wordy_base, relation, validate_every=0)


@pytest.fixture(scope="module")
def opened(wordy_base):
    with open_base(wordy_base, torch.device("cpu")) as model:
        yield model


def test_only_the_word_is_learned(train, tmp_path, opened):
    """The result is one embedding with no more in it; a direction keeps its length."""
    result = train(tmp_path, adversarial="sensible")
    assert not result.adapter.factors and set(result.adapter.embeddings) == {WORD}
    assert result.adapter.trigger == WORD
    assert set(result.terms) == {"reference", "steering", "adversarial", "discriminator"}
    vector = result.adapter.embeddings[WORD]["clip_l"]
    table = opened.text_encoders[0].get_input_embeddings().weight
    assert vector.norm().item() == pytest.approx(table.norm(dim=1).mean().item(), rel=1e-5)
    start = table[opened.tokenizers[0]("and", add_special_tokens=False).input_ids[0]]
    assert torch.cosine_similarity(vector[0], start, dim=0) < 0.999  # 0.04 radians and more


def test_a_discriminator_is_in_checkpoints_only(train, tmp_path):
    """Not in the adapter and no file of it; a loss map has its losses and not its weights."""
    result = train(tmp_path, adversarial="sensible")
    names = {file: set(load_file(file)) for file in result.folder.rglob("*.safetensors")}
    holding = {
        file.parent.name for file, held in names.items() if any("discriminator" in n and "weight" in n for n in held)
    }
    assert holding == {"checkpoints"}
    assert names[result.lora] == {"emb_params"} and not result.adapter.factors
    assert all(isinstance(value, float) for values in result.terms.values() for value in values)


@pytest.mark.parametrize("adversarial", ["off", "sensible"])
def test_an_optimiser_step_changes_nothing_of_the_base(opened, relation, adversarial):
    """Bitwise: denoiser, autoencoder, text encoder, and each row of its table; the word itself moves."""
    before = {name: p.clone() for root in _networks(opened) for name, p in _named(root)}
    settings = replace(CHOSEN, resolution=32, micro_batch=4, adversarial=adversarial)
    step, injected = RelationTraining().prepare(opened, relation, settings, None, NullProgress())
    try:
        word = injected.parameters[f"token.{WORD}.clip_l"]
        start = word.detach().clone()
        optimizer = torch.optim.AdamW(
            [*injected.parameters.values(), *(p for root in _networks(opened) for p in root.parameters())], 0.1
        )
        for number in (6, 7):
            optimizer.zero_grad()
            for terms in step.passes(number, list):
                sum(step.weights[name] * value for name, value in terms.items()).backward()
            optimizer.step()
        assert not torch.equal(word, start)
        after = {name: p for root in _networks(opened) for name, p in _named(root)}
        assert {n for n, p in after.items() if n in before and not torch.equal(before[n], p)} == set()
        assert set(before) <= set(after) and any("token_embedding" in name for name in before)
        assert any(name.startswith("AutoencoderKL") for name in before)
    finally:
        injected.remove()


def _networks(opened):
    return opened.unet, opened.vae, *opened.text_encoders


def _named(root):
    return [(f"{type(root).__name__}.{name}", p) for name, p in root.named_parameters()]


def test_a_step_changes_nothing_but_its_word(opened, relation):
    settings = replace(CHOSEN, resolution=32, micro_batch=4, adversarial="sensible")
    step, injected = RelationTraining().prepare(opened, relation, settings, None, NullProgress())
    frozen = [p for root in opened.parts().values() for p in root.parameters()]
    try:
        for terms in step.passes(7, list):  # the adversarial loss counts by then
            sum(step.weights[name] * value for name, value in terms.items()).backward()
        assert injected.parameters[f"token.{WORD}.clip_l"].grad.abs().sum() > 0
        assert all(p.grad is None for p in frozen)
    finally:
        injected.remove()


def test_parts_of_a_batch_add_up(opened, relation):
    """One pass of four pictures and four passes of one give the same terms."""
    found = []
    for most in (4, 1):
        settings = replace(CHOSEN, batch_size=4, resolution=32, micro_batch=most, adversarial="sensible")
        step, injected = RelationTraining().prepare(opened, relation, settings, None, NullProgress())
        sums = dict.fromkeys(step.weights, 0.0)
        for terms in step.passes(16, list):
            for name, value in terms.items():
                sums[name] += value.item()
        injected.remove()
        found.append(sums)
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize("adversarial", ["off", "sensible", "halved"])
def test_a_cut_run_ends_as_an_uncut_one(train, tmp_path, cut_at, adversarial, monkeypatch):
    """Bit for bit, the discriminator's state included, and how sure it was of real latents."""
    if adversarial == "halved":
        adversarial = "sensible"
        monkeypatch.setattr(adversarial_module, "SURE", -1)
        monkeypatch.setattr(adversarial_module, "WATCHED", 2)
    uncut = train(tmp_path / "uncut", adversarial=adversarial)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", cut_at(5, KeyboardInterrupt()), adversarial=adversarial)
    part = next((tmp_path / "cut").rglob("relation_*step*.safetensors"))
    assert WORD in read_embedding(part, "sd1").embeddings  # what was learned so far is usable
    again = train(tmp_path / "cut", adversarial=adversarial)
    assert 0 < again.resumed_from < 8 and again.terms == uncut.terms
    kind = again.adapter.embeddings[WORD]["clip_l"]
    assert torch.equal(kind, uncut.adapter.embeddings[WORD]["clip_l"])


def test_a_discriminator_without_weight_changes_nothing(train, tmp_path):
    plain = train(tmp_path / "a")
    weightless = train(tmp_path / "b", adversarial="sensible", adversarial_weight=0.0)
    same = [r.adapter.embeddings[WORD]["clip_l"] for r in (plain, weightless)]
    assert torch.equal(*same) and plain.terms["reference"] == weightless.terms["reference"]


def test_a_discriminator_is_shown_other_pictures_too(opened, relation, pictures, train, tmp_path, caplog):
    """Priors and pictures of the things beside those of the relation; without a discriminator nothing looks at them."""
    reference = pictures.references[0]
    prior = replace(reference, role="prior", caption="a photo of a cat", concept=1)
    subject = replace(reference, concept=1)
    set_ = TrainingSet((*relation.samples, prior, subject), (*relation.concepts, *pictures.concepts))
    ready = related(set_)
    assert len(ready.priors) == 2 and ready.references == relation.references and len(ready.concepts) == 1
    settings = replace(CHOSEN, resolution=32, micro_batch=4, adversarial="sensible")
    step, injected = RelationTraining().prepare(opened, ready, settings, None, NullProgress())
    injected.remove()
    adversary, shown = step.adversary, len(step.pools["reference"].mean)
    assert len(adversary.reals.mean) == len(relation.samples) + 2 and shown == len(relation.samples)
    batch = settings.batch_size
    seen = {float(row.sum()) for n in range(40) for row in adversary.draw_real(n, range(2), batch).round(decimals=0)}
    assert len(seen) > 4
    with caplog.at_level("INFO"):
        with_others, plain = train(tmp_path, set_=set_, steps=2), train(tmp_path, steps=2)
    assert with_others.folder == plain.folder and "2 pictures of other kinds" in caplog.text


def test_what_is_dropped_is_told_and_gives_its_weight(relation):
    first, second = relation.samples[:2]
    told = replace(second, caption="a cat sitting <R> a car")
    said = []
    kept = related(TrainingSet((first, told), relation.concepts), said)
    assert [s.weight for s in kept.references] == [1.0] and first.weight == 0.5
    assert "sitting" in said[0] and "one picture of the relation" in said[1]


def test_the_word_means_the_same_from_its_file(train, tmp_path, opened):
    result = train(tmp_path)
    read = read_embedding(result.lora, "sd1")
    prompts = ["a cat <R> a house"]
    with applied(opened, [(result.adapter, 1.0)]):
        own = encode_prompts(opened, prompts)["hidden"]
    with applied(opened, [(read, 1.0)]):
        from_file = encode_prompts(opened, prompts)["hidden"]
    assert torch.equal(own, from_file)
    assert not torch.allclose(own, encode_prompts(opened, ["a cat and a house"])["hidden"])


def test_steering_never_holds_away_padding_or_function_words(opened, relation):
    tokenizer = opened.tokenizers[0]
    steering = Steering(opened, WORD, [s.caption for s in relation.references], RelationSettings())
    vocabulary = steering.of["clip_l"]
    told = [set(tokenizer.convert_ids_to_tokens(row)) for row in vocabulary.negatives]
    assert told[1] - {",</w>"} == {"cat</w>", "car</w>", "red</w>", "night</w>"}
    assert not set(tokenizer.all_special_ids) & {i for row in vocabulary.negatives for i in row}
    assert not set(known_ids(tokenizer, FUNCTION_WORDS)) & {i for row in vocabulary.negatives for i in row}
    positives = {token.removesuffix("</w>") for token in tokenizer.convert_ids_to_tokens(vocabulary.positives)}
    assert {"on", "under", "beside", "behind"} <= positives and "of" in positives


@pytest.mark.parametrize("family, pads", [("sd2", ("!",)), ("sdxl", ("<|endoftext|>", "!"))])
def test_other_families_learn_a_relation(tmp_path, relation, family, pads):
    """A row for each text encoder, steered by its own words, summed; what pads is held away from by none of them."""
    made = getattr(checkpoints, family)()
    file = checkpoints.save(made, tmp_path / "base.safetensors", {"modelspec.prediction_type": "epsilon"})
    base, tokens = base_from_path(file), tmp_path / "tokenizer"
    words.build(tokens)
    settings = replace(CHOSEN, steps=2, resolution=32)
    result = train_relation(
        base, relation, settings, TrainingContext(tmp_path / "runs", "cpu", tokenizer_folder=tokens)
    )
    rows = result.adapter.embeddings[WORD]
    captions = [sample.caption for sample in relation.references]
    with open_base(base, torch.device("cpu"), tokenizer_folder=tokens) as model:
        kinds = [which.embedding for which in model.family.text_encoders]
        assert [tokenizer.pad_token for tokenizer in model.tokenizers] == list(pads)
        widths = [encoder.config.hidden_size for encoder in model.text_encoders]
        steering = Steering(model, WORD, captions, RelationSettings())
        pad_ids = [tokenizer.pad_token_id for tokenizer in model.tokenizers]
        alone = [steering_of(steering, {kind: rows[kind]}) for kind in kinds]
        assert steering_of(steering, rows) == pytest.approx(sum(alone)) and min(alone) > 0
    assert [rows[kind].shape for kind in kinds] == [(1, width) for width in widths] and len(rows) == len(pads)
    for kind, pad in zip(kinds, pad_ids, strict=True):
        negatives = [i for row in steering.of[kind].negatives for i in row]
        assert negatives and pad not in negatives
    assert set(read_embedding(result.lora, family).embeddings[WORD]) == set(kinds)


def steering_of(steering, vectors):
    return steering.loss(vectors, 0, 0, [0, 1]).item()


# ---------------------------------------------------------------------------------------------------- pictures


def test_captions_and_their_weights(relation):
    assert [s.caption for s in relation.samples] == [
        "cat <R> car", "a red cat <R> a car, at night", "bird <R> house", "a cup <R> a blue boat, in the snow",
    ]  # fmt: skip
    assert [s.weight for s in relation.samples] == [0.5, 0.5, 1, 1]
    assert relation.concepts == (Concept(WORD, "", "", kind="relation"),)


def test_reversion_s_folders_are_read(folder, tmp_path):
    for i in range(2):
        (tmp_path / f"{i}.jpg").write_bytes((folder / f"{i}.png").read_bytes())
    (tmp_path / "text.json").write_text(
        json.dumps({"0.jpg": ["cat {} stone", "a man and a cat {} a stone on the ground"], "1.jpg": "bird {} wall"})
    )
    found = relation_from_folder(tmp_path, WORD)
    captions = ["cat <R> stone", "a man and a cat <R> a stone on the ground", "bird <R> wall"]
    assert [s.caption for s in found.samples] == captions == [s.caption for s in related(found).samples]


def test_two_names_are_a_caption():
    assert with_relation("cat, chair", WORD) == "cat <R> chair"
    assert with_relation("a cat <R> a chair, indoors", WORD) == "a cat <R> a chair, indoors"
    for wrong in ("cat", "cat <R> dog <R> bird", "<R> chair", "cat, chair, table"):
        with pytest.raises(FewShotError, match="<R>"):
            with_relation(wrong, WORD)


def test_tensors_need_a_caption_each(tmp_path):
    images = torch.rand(2, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    found = relation_from_tensors(images, tmp_path, WORD, "on", "cat, chair | a cat <R> a chair\nbird, cup")
    assert [s.caption for s in found.samples] == ["cat <R> chair", "a cat <R> a chair", "bird <R> cup"]
    with pytest.raises(FewShotError, match="2 pictures but 3 lines"):
        relation_from_tensors(images, tmp_path, WORD, "", "a, b\nc, d\ne, f")


def test_captions_that_tell_the_relation_are_left_out(relation, caplog):
    first = relation.samples[0]
    told = replace(first, caption="a cat sitting <R> a car")
    kept = related(TrainingSet((first, told), relation.concepts))
    assert [s.caption for s in kept.samples] == ["cat <R> car"] and "sitting" in caplog.text
    with pytest.raises(FewShotError, match="sitting"):
        related(TrainingSet((told,), relation.concepts))


def test_words_of_the_relation_are_left_out(relation):
    named = Concept(WORD, "", "towed by", kind="relation")
    told = replace(relation.samples[0], caption="cat <R> car, towed home")
    with pytest.raises(FewShotError, match="towed"):
        related(TrainingSet((told,), (named,)))


def test_one_picture_is_warned_of(relation, caplog):
    related(TrainingSet(relation.samples[:2], relation.concepts))
    assert "one picture of the relation" in caplog.text


def test_other_sets_and_settings_are_refused(pictures, relation):
    with pytest.raises(FewShotError, match="Relation Pictures"):
        related(pictures)
    with pytest.raises(FewShotError, match="two to ten"):
        related(TrainingSet((), relation.concepts))
    with pytest.raises(FewShotError, match="has no setting rank for this training"):
        RelationSettings.from_mapping({"rank": 8})
    with pytest.raises(FewShotError, match=r"'focel'; did you mean 'focal'"):
        RelationSettings.from_mapping({"focel": 0.5})
    with pytest.raises(FewShotError, match="token_start"):
        RelationSettings(token_start=" ")


def test_settings_that_change_nothing_are_named():
    assert RelationSettings().idle == RelationSettings(adversarial="sensible", adversarial_weight=0.5).idle == []
    idle = RelationSettings(adversarial_weight=0.5, adversarial_order="sequence", steering_positives=3).idle
    assert [line.split()[0] for line in idle] == ["adversarial_weight", "adversarial_order"]
    (line,) = RelationSettings(steering_weight=0, steering_positives=3).idle
    assert line == "steering_positives = 3 changes nothing, because steering_weight is 0"


def test_the_command_learns_a_relation(tmp_path, wordy_base, folder, caplog):
    """And refuses what only a subject has."""
    run = dict(base=str(wordy_base.location), pictures=str(folder), identifier=WORD, relation="towed by", name="tow",
               settings=dict(steps=2, batch_size=2))  # fmt: skip
    path = tmp_path / "run.json"
    path.write_text(json.dumps(run))
    with caplog.at_level("INFO"):
        assert command.main([str(path), "--cpu"]) == 0
    (file,) = (tmp_path / "runs").rglob("tow*.safetensors")
    assert WORD in read_embedding(file, "sd1").embeddings and "its trigger: <R>" in caplog.text
    assert "'and'" in caplog.text  # whether the word explains the pictures
    for wrong, said in (
        (dict(noun="cat"), "no use for noun"),
        (dict(relation=3), "relation is 3, and shall be text in quotes"),
    ):
        path.write_text(json.dumps(run | wrong))
        assert command.main([str(path), "--cpu"]) == 1 and said in caplog.text


def test_a_base_without_prepositions_says_so(base, relation, tmp_path):
    with pytest.raises(FewShotError, match="knows no preposition"):
        train_relation(base, relation, RelationSettings(steps=2), TrainingContext(tmp_path, "cpu"))
