"""L_local in training: what it is told, what it reaches, and that it is not there at weight 0."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from comfyui_fewshot.benchmarks.subject.plain_attention import PlainAttentionTraining, among_all_tokens
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.progress import NullProgress
from comfyui_fewshot.core.values import Concept, Part
from comfyui_fewshot.models.adapters.learned_tokens import LearnedTokens, TokenSpec
from comfyui_fewshot.models.stable_diffusion.model import StableDiffusion
from comfyui_fewshot.trainers.data.encoded_set import encode_set
from comfyui_fewshot.trainers.subject import method as subject
from comfyui_fewshot.trainers.subject.attention_supervision import supervise
from comfyui_fewshot.trainers.subject.method import LOCAL, PRIOR, REFERENCE, SubjectStep, SubjectTraining


@pytest.fixture
def chosen(settings):
    return replace(settings, resolution=32, alpha=4.0, micro_batch=4, local_weight=0.05)


@pytest.fixture
def prepared(model, pictures, chosen):
    """Builds the step and the layers for changed settings."""
    built = []

    def build(set_=None, training=SubjectTraining, **changes):
        while built:
            built.pop().remove()
        step, layers = training().prepare(model, set_ or pictures, replace(chosen, **changes), None, NullProgress())
        built.append(layers)
        return step, layers

    yield build
    for layers in built:
        layers.remove()


ONE = (Concept("sks", "ball"),)


def supervised(model, samples, concepts=ONE, **how):
    pool = encode_set(model, samples, 32, NullProgress())
    return supervise(model, pool, samples, concepts, **how)


# ------------------------------------------------------------------------------------------------ what it is told


def test_words_and_masks_are_found(model, pictures):
    """The letters of "sks" and "ball" in "a photo of sks ball", each a token; masks by area on the grid."""
    found = supervised(model, pictures.references)
    assert found.member[0, 0].nonzero().flatten().tolist() == list(range(8, 15))  # "aphotoof" comes before
    assert found.wanted[0].tolist() == list(range(1, 16)) and found.known.all() and found.valid.tolist() == [[1.0]] * 3
    assert found.masks.shape == (3, 1, 8, 8) and 0 < found.masks.mean() < 1


def test_the_plain_reading_shares_among_all_tokens(model, pictures):
    found = among_all_tokens(supervised(model, pictures.references), 32)
    assert found.wanted[0].tolist() == list(range(32)) and found.known.all()
    assert found.member[0, 0].nonzero().flatten().tolist() == list(range(9, 16))  # behind the window's beginning


def test_masks_of_another_size_are_fitted(model, pictures, tmp_path):
    from PIL import Image

    from comfyui_fewshot.augmentation.images.load import load_mask
    from comfyui_fewshot.core.images import pixel_key

    sample = pictures.references[0]
    small = load_mask(sample.mask).resize((20, 18), Image.Resampling.NEAREST)
    small.save(tmp_path / "small.png")
    mask = replace(sample.mask, path=tmp_path / "small.png", key=pixel_key(small), width=20, height=18)
    one, other = (supervised(model, [s]).masks for s in (sample, replace(sample, mask=mask)))
    assert (one - other).abs().max() < 0.3 and (one - other).abs().mean() < 0.05
    wide = replace(mask, path=tmp_path / "wide.png", key=pixel_key(small.resize((40, 18))))
    small.resize((40, 18)).save(tmp_path / "wide.png")
    with pytest.raises(FewShotError, match="a mask of 40 x 18 does not fit its picture of 40 x 36; crop both alike"):
        supervised(model, [replace(sample, mask=wide)])


def test_pictures_that_say_nothing_are_named(model, pictures, caplog):
    """Without a mask, without the identifier, and with no word besides the subject's."""
    first, second, third = pictures.references
    some = [first, replace(second, mask=None), replace(third, caption="a photo"), replace(first, caption="sks ball")]
    assert supervised(model, some).valid.flatten().tolist() == [1, 0, 0, 0]
    assert "3 of 4 pictures have no mask within the crop or no words of their subject" in caplog.text
    with pytest.raises(FewShotError, match=r"local_weight needs masks.*of 1 pictures 0 have a mask"):
        supervised(model, some[1:2])


def test_a_learned_word_of_several_tokens_is_found(model, pictures):
    """ "sks" is two tokens then, at the places where the conditioning has its vectors."""
    words = LearnedTokens(model, [TokenSpec("sks", "ball", vectors=2)])
    found = supervised(model, pictures.references)
    words.remove()
    assert found.member[0, 0].nonzero().flatten().tolist() == list(range(8, 8 + 2 + 4))
    assert found.known.sum(1).tolist() == [8 + 2 + 4] * 3


def test_two_subjects_have_their_own_words_and_masks(model, pictures):
    """In a composite each subject's mask is outside for the other; a lone subject says nothing of the other."""
    first, second, _ = pictures.references
    concepts = (Concept("sks", "ball"), Concept("zwx", "ball", "red"))
    both = replace(first, caption="a sks ball and a zwx red ball", others=(Part(1, second.mask),))
    found = supervised(model, [both, second], concepts)
    words = ["".join("asksballandazwxredball"[i] for i in row.nonzero().flatten()) for row in found.member[0]]
    assert words == ["sksball", "zwxredball"]
    assert found.valid.tolist() == [[1, 1], [1, 0]]
    assert torch.equal(found.masks[1, 0], supervised(model, [second], concepts).masks[0, 0])
    assert not torch.equal(found.masks[0, 0], found.masks[0, 1])


# ----------------------------------------------------------------------------------------------------- one step


def test_the_term_is_the_mean_over_the_references(prepared):
    step, _ = prepared()
    (terms,) = step.passes(0, list)
    assert list(terms) == [REFERENCE, PRIOR, LOCAL] == list(step.weights)
    step.settings = replace(step.settings, micro_batch=1)
    parts = [terms_of_pass.get(LOCAL) for terms_of_pass in step.passes(0, list)]
    assert [part is None for part in parts] == [False, False, True, True]
    assert (parts[0] + parts[1]).item() == pytest.approx(terms[LOCAL].item(), rel=1e-5)


def test_other_terms_stay_as_they_are_to_the_bit(prepared):
    (with_local,) = prepared()[0].passes(0, list)
    (without,) = prepared(local_weight=0.0)[0].passes(0, list)
    assert list(without) == [REFERENCE, PRIOR]
    assert all(with_local[name].item() == without[name].item() for name in without)


@pytest.mark.parametrize("training", [SubjectTraining, PlainAttentionTraining])
@pytest.mark.parametrize("layers", ["cross_kv", "self", "text"])
def test_gradients_reach_what_is_trained(prepared, training, layers):
    """Text side, picture side and text encoder, through attention alone."""
    changes = dict(parameter_set="cross_kv", text_encoder=True) if layers == "text" else dict(parameter_set=layers)
    step, injected = prepared(training=training, **changes)
    with torch.no_grad():
        for name, parameter in injected.parameters.items():
            if name.endswith("up"):
                parameter.add_(0.01)
    (terms,) = step.passes(0, list)
    terms[LOCAL].backward()
    found = [n for n, p in injected.parameters.items() if p.grad is not None and p.grad.abs().sum() > 0]
    where = {"cross_kv": "attn2.to_k", "self": "attn1", "text": "text_encoder"}[layers]
    assert any(where in name for name in found)


def test_checkpointing_gives_the_same_gradient(prepared, model):
    step, injected = prepared()
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.unet.enable_gradient_checkpointing()
            model.unet.train()
        (terms,) = step.passes(0, list)
        terms[LOCAL].backward()
        found.append({n: p.grad.clone() for n, p in injected.parameters.items() if p.grad is not None})
        for parameter in injected.parameters.values():
            parameter.grad = None
    model.unet.disable_gradient_checkpointing()
    model.unet.eval()
    assert found[0] and all(torch.allclose(g, found[1][n], atol=1e-7) for n, g in found[0].items())


def test_noise_says_less_of_places(prepared):
    """The loss weighs by sqrt(a_t); the plain reading weighs all timesteps alike."""
    for training, ratio in ((SubjectTraining, 0.0683 / 0.9996), (PlainAttentionTraining, 1.0)):
        step, _ = prepared(training=training)
        batch = step.draw(REFERENCE, 0, range(2))
        with torch.no_grad(), step._watched({REFERENCE: batch}) as kept:
            step.predict([batch])
        early, late = (step.local_errors(replace(batch, times=torch.full((2,), t)), kept) for t in (0, 999))
        assert (late / early).tolist() == pytest.approx([ratio] * 2, rel=1e-2)


def test_a_dropped_caption_says_nothing(prepared):
    step, _ = prepared(caption_dropout=1.0)
    (terms,) = step.passes(0, list)
    assert terms[LOCAL].item() == 0 and terms[REFERENCE].item() > 0
    batch = step.draw(REFERENCE, 0, range(2))
    assert batch.prompts == ("", "") and batch.caption_kept == (False, False)
    some = prepared(caption_dropout=0.5)[0]
    caption_kept = [kept for number in range(40) for kept in some.draw(REFERENCE, number, range(2)).caption_kept]
    assert 20 < sum(caption_kept) < 60


def test_dropping_no_caption_changes_nothing(prepared):
    (never,) = prepared(caption_dropout=0.0)[0].passes(3, list)
    (hardly,) = prepared(caption_dropout=1e-12)[0].passes(3, list)
    assert {n: v.item() for n, v in never.items()} == {n: v.item() for n, v in hardly.items()}


# ---------------------------------------------------------------------------------------------------- a whole run


def test_at_weight_zero_the_weights_are_those_without_the_term(train, uncut, tmp_path, monkeypatch):
    """The same bits after all steps as a run in which nothing of the term can be called."""

    def never(*_, **__):
        raise AssertionError("called")

    for name in ("supervise", "shares_on_grid", "base_words"):
        monkeypatch.setattr(subject, name, never)
    monkeypatch.setattr(StableDiffusion, "record_attention", never)
    monkeypatch.setattr(SubjectStep, "local_errors", never)
    monkeypatch.setattr(SubjectStep, "_watched", lambda *_: nullcontext())
    result = train(tmp_path, local_weight=0.0, objective="mse", caption_dropout=0.0)
    assert list(result.terms) == [REFERENCE, PRIOR]
    for path, factor in uncut.adapter.factors.items():
        assert torch.equal(factor.up, result.adapter.factors[path].up)
        assert torch.equal(factor.down, result.adapter.factors[path].down)


def test_a_weight_changes_the_weights_and_is_logged(train, uncut, tmp_path):
    result = train(tmp_path, local_weight=0.05)
    assert len(result.terms[LOCAL]) == 8 and min(result.terms[LOCAL]) > 0
    total = [result.terms[REFERENCE][i] + result.terms[PRIOR][i] + 0.05 * result.terms[LOCAL][i] for i in range(8)]
    assert result.losses == pytest.approx(total)
    assert any(not torch.equal(f.up, uncut.adapter.factors[p].up) for p, f in result.adapter.factors.items())


def test_its_gradient_rises_over_the_first_tenth(model, pictures, chosen):
    """What is logged is the term as it is."""
    norms, values = [], []
    for steps in (1, 100):  # a warm-up of less than a step, and of ten
        step, injected = SubjectTraining().prepare(model, pictures, replace(chosen, steps=steps), None, NullProgress())
        (terms,) = step.passes(0, list)
        terms[LOCAL].backward()
        norms.append(torch.stack([p.grad.norm() for p in injected.parameters.values() if p.grad is not None]).norm())
        values.append(terms[LOCAL].item())
        injected.remove()
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert norms[1].item() == pytest.approx(0.1 * norms[0].item(), rel=1e-4)


def test_attention_alone_learns_where_the_subject_is(model, pictures, chosen):
    """Only L_local, on one picture: the thresholded map meets the mask (IoU from below 0.3 to above 0.7)."""
    one = pictures.with_samples(pictures.references[:1])
    how = replace(chosen, rank=16, alpha=16.0, batch_size=1, parameter_set="attention_ff", prior_weight=0.0)
    step, injected = SubjectTraining().prepare(model, one, how, None, NullProgress())
    optimizer = torch.optim.Adam(injected.parameters.values(), lr=5e-3)
    slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=100)  # so that it comes to rest
    mask = step.supervision.masks[0, 0] > 0.5

    def iou(number):
        batch = step.draw(REFERENCE, number, [0])
        with torch.no_grad(), step._watched({REFERENCE: batch}) as kept:
            step.predict([batch])
        rows = step.supervision.take([0], [True])
        found = subject.shares_on_grid(kept, slice(1), (8, 8), rows.wanted, rows.known, rows.member)[0, 0] > 0.5
        return ((found & mask).sum() / (found | mask).sum()).item()

    before = iou(0)
    for _ in range(100):
        optimizer.zero_grad()
        (terms,) = step.passes(0, list)
        terms[LOCAL].backward()
        optimizer.step()
        slower.step()
    after = iou(0)
    injected.remove()
    assert before < 0.3 and after > 0.7
