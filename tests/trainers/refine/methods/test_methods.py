"""The other methods of refinement: closed forms of their losses, and that each earns more.

Nft and the gradients of policies have files of their own; in a world with an exact denoiser all are compared.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.progress import NullProgress
from comfyui_fewshot.core.values import Picture, Prompt
from comfyui_fewshot.evaluation.metrics.clip import ClipText, common_prefix
from comfyui_fewshot.evaluation.reward import Reward, RewardTerm
from comfyui_fewshot.pocket.models.weights import WEIGHTS
from comfyui_fewshot.trainers.context import TrainingContext
from comfyui_fewshot.trainers.refine.advantages import spread
from comfyui_fewshot.trainers.refine.losses import clamped_loss, preference_loss
from comfyui_fewshot.trainers.refine.method import STEPS, RefinementGoal, refine_adapter
from comfyui_fewshot.trainers.refine.methods.dpo import PairsStep, paired, paired_with
from comfyui_fewshot.trainers.refine.methods.table import METHODS, readers
from comfyui_fewshot.trainers.refine.settings import RefinementSettings
from comfyui_fewshot.trainers.refine.step import REWARD
from comfyui_fewshot.vision.embedders.clip import Clip

from ..refining import PROMPTS, QUICK, SET, Red, Slope, opened, subject_adapter

RED = Red()


def test_every_method_has_a_step_and_its_settings_exist():
    assert set(STEPS) == set(METHODS)
    own = set().union(*(method.only for method in METHODS.values()))
    assert own <= set(RefinementSettings.named_fields())
    assert readers("nft_beta") == ("nft",) and readers("steps") == tuple(METHODS)


def test_the_clamped_form_has_no_gradient_beyond_the_clip():
    log_prob = torch.tensor([0.5, -0.5, 0.01], requires_grad=True)
    loss, clipped = clamped_loss(log_prob, torch.zeros(3), torch.tensor([-1.0, 1.0, 1.0]), 0.1)
    (gradient,) = torch.autograd.grad(loss.sum(), log_prob)
    assert gradient[:2].tolist() == [0, 0] and gradient[2] < 0 and clipped.tolist() == [1, 1, 0]


def test_a_preference_begins_at_log_two_and_pulls_both_ways():
    won, lost = torch.tensor([0.3], requires_grad=True), torch.tensor([0.2], requires_grad=True)
    loss = preference_loss(won, won.detach(), lost, lost.detach(), 5000.0)
    assert float(loss.detach()) == pytest.approx(math.log(2))
    up, down = torch.autograd.grad(loss.sum(), (won, lost))
    assert float(up) == pytest.approx(1250.0) and float(down) == pytest.approx(-1250.0)


def test_pairs_are_best_with_worst_of_one_prompt():
    assert paired([0.1, 3.0, 2.0, -1.0, 5.0, 5.0], [0, 0, 0, 0, 1, 1]) == [(1, 3), (2, 0)]


def test_the_differentiable_clip_sees_what_the_other_sees():
    clip = ClipText(Clip(WEIGHTS / "clip"))
    pixels = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = (torch.nn.functional.interpolate(pixels, clip.model.sizes, mode="bilinear") * 255).round() / 255
    from comfyui_fewshot.trainers.refine.rollout import as_pictures

    prompts = [Prompt("a sks cat", "a cat"), Prompt("a house", "a house")]
    pixels.requires_grad_(True)
    found = clip.gradient(pixels, prompts)
    torch.testing.assert_close(found.detach(), clip.scores(as_pictures(pixels.detach()), prompts), atol=1e-4, rtol=0)
    (gradient,) = torch.autograd.grad(found.sum(), pixels)
    assert gradient.abs().max() > 0


def test_a_likeness_has_a_gradient_where_the_subject_is_named(tmp_path):
    pictures = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    reference = Picture(tmp_path / "cat.png", "k", 8, 8)
    terms = (RewardTerm("CLIP-T", WEIGHTS / "clip"), RewardTerm("CLIP-I", WEIGHTS / "clip", 0.5))
    reward_models = Reward(terms, (reference,)).open("cpu", pictures[:1])
    prompts = [Prompt("a sks cat", "a cat"), Prompt("a cat", "a cat")]
    pixels = torch.stack([torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])]).view(2, 3, 1, 1)
    pixels = pixels.expand(2, 3, 64, 64).clone().requires_grad_(True)
    with reward_models.on_device():
        found = reward_models.gradients(pixels, prompts)
    torch.testing.assert_close(
        found.detach().double(), reward_models.scores(pictures, prompts), atol=1e-4, rtol=0, equal_nan=True
    )
    (gradient,) = torch.autograd.grad(found[1].nan_to_num(0.0).sum(), pixels)
    assert gradient[0].abs().max() > 0 and not gradient[1].any()


def test_a_contrast_is_what_a_prompt_adds_to_the_words_that_all_begin_with(tmp_path):
    prompts = [Prompt("a sks cat in snow", "a cat in snow"), Prompt("a cat at night", "a cat at night")]
    images = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    plain = ClipText(Clip(WEIGHTS / "clip"))
    reward_models = Reward((RewardTerm("CLIP-T contrast", WEIGHTS / "clip"),)).open("cpu", (), prompts)
    wanted = plain.scores(images, prompts) - plain.scores(images, [Prompt("a cat", "a cat")] * 2)
    torch.testing.assert_close(reward_models.scores(images, prompts)[0].float(), wanted, atol=1e-6, rtol=0)
    pixels = torch.stack([torch.tensor(c).view(3, 1, 1).expand(3, 32, 32) for c in ([1.0, 0, 0], [0, 0, 1.0])])
    found = reward_models.gradients(pixels.clone().requires_grad_(True), prompts)
    torch.testing.assert_close(found[0].detach(), wanted, atol=1e-4, rtol=0)
    nothing = Prompt("A sks cat,", "A cat,")  # adds nothing, so that its pictures differ in nothing
    assert (
        not reward_models.scores(images, [nothing] * 2).any()
        and not reward_models.gradients(pixels, [nothing] * 2).any()
    )
    for alone in ((), prompts[:1], [Prompt("a cat", "a cat"), Prompt("a dog", "a dog")]):
        with pytest.raises(FewShotError, match="begin with none but articles in common, or do not differ"):
            Reward((RewardTerm("CLIP-T contrast", WEIGHTS / "clip"),)).open("cpu", (), alone)


@pytest.mark.parametrize(
    ("texts", "beginning"),
    [
        (["a cat in snow", "a cat at night", "a cat at night"], "a cat"),
        (["a cat", "a cat at night"], "a cat"),
        (["A cat, asleep", "a cat in snow", "a cat."], "a cat"),
        (["a cat", "an owl"], ""),
        (["a striped cat", "a cat"], ""),
        (["the cat", "the cat"], ""),
        (["a cat", "a cat"], ""),
        ([], ""),
    ],
)
def test_a_shared_beginning_is_whole_words(texts, beginning):
    assert common_prefix(texts) == beginning


def test_constant_rewards_have_no_spread():
    values = torch.tensor([0.5, 0.5 + 1e-9, torch.nan], dtype=torch.float64)
    assert spread(values) == 0.0 and spread(torch.full((3,), torch.nan)) == 0.0
    assert spread(torch.tensor([0.0, 1.0, torch.nan])) == 0.5


def test_a_picture_is_better_than_a_reference_by_what_both_can_earn():
    own = torch.tensor([[0.5, 0.1], [0.2, torch.nan], [9.0, 9.0]], dtype=torch.float64)
    others = torch.tensor([[0.3, 0.3], [0.8, 0.8], [0.0, 0.0]], dtype=torch.float64)
    assert paired_with(own, others, [0.1, 0.3, 0.0], [1.0, 0.5, 1.0]) == pytest.approx([1.0, -2.0])


def test_drawn_pictures_are_paired_with_references(base, tmp_path, pictures):
    changes = dict(method="pairs", steps=2, group=2, updates=1, pair_with="references", trained_steps=2)
    settings = replace(QUICK, patience=0, **changes)
    found = refine_adapter(
        base, None, RefinementGoal(PROMPTS, RED), settings, TrainingContext(tmp_path, "cpu"), pictures
    )
    first, second = found.training.terms["policy"]
    assert first == pytest.approx(math.log(2), abs=1e-5) and abs(second - math.log(2)) > 1e-6  # the first step moved it
    with pytest.raises(FewShotError, match="connect the subject's pictures"):
        refine_adapter(base, None, RefinementGoal(PROMPTS, RED), settings, TrainingContext(tmp_path, "cpu"), SET)


class Step:
    """What `PairsStep` needs of itself to part its pairs."""

    def __init__(self, pairs, updates, passes):
        self.pairs, self.places_per_sample, self.update_rows = pairs, 2, 1
        self.settings = SimpleNamespace(updates=updates, pair_passes=passes)


@pytest.mark.parametrize(("updates", "passes"), [(1, 1), (2, 3), (7, 1), (9, 1)])
def test_pairs_are_gone_through_again_with_other_noise_and_no_update_is_empty(updates, passes):
    step = Step([(0, 1), (2, 3), (4, 5)], updates, passes)
    seen = []
    for update in range(updates):
        items = PairsStep.items(step, None, update)
        rows = [(item % 3, n) for item in items for n in PairsStep.places(step, 0, item)]
        assert items and step.update_rows == len(rows)
        seen += rows
    wanted = max(passes, -(-updates // 3))
    assert sorted(seen) == [(pair, n) for pair in range(3) for n in range(2 * wanted)]


def run(base, folder, rewards=RED, progress=None, adapter=None, **changes):
    changes = (
        dict(steps=8, group=8, updates=1, trained_steps=2, learning_rate=2e-2, guidance=1.0, guard_every=8) | changes
    )
    settings = replace(QUICK, patience=0, **changes)
    context = TrainingContext(folder, "cpu", progress or NullProgress(), name="refinement")
    return refine_adapter(base, adapter, RefinementGoal(PROMPTS, rewards), settings, context, SET)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("grpo_clamped", {}),
        ("pairs", dict(trained_steps=4, pair_beta=200.0)),
        ("draft", dict(rewards=Slope(), trained_steps=8)),
    ],
)
def test_each_method_earns_more(base, tmp_path, method, changes):
    found = run(base, tmp_path, method=method, **changes)
    rewards = found.training.terms[REWARD]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3
    assert max(row["gain"] for row in found.readings["readings"]) > 0.2


def test_pictures_of_a_prompt_are_drawn_with_the_subject_from_its_own_strength_down(base):
    """Those at the lowest strength are what the adapter with half the strength draws, at the highest as without."""
    about = dict(method="nft", updates=1, group=3, prompts_per_round=2, eta=0.0)
    subject = subject_adapter()
    weaker = replace(subject, factors={path: replace(f, alpha=f.alpha / 2) for path, f in subject.factors.items()})
    drawn = {}
    for name, adapter, explore in (("explored", subject, 0.5), ("own", subject, 0.0), ("weaker", weaker, 0.0)):
        with opened(base, adapter, **about, explore=explore) as (step, *_):
            drawn[name] = step.begin(0, 0, list).trajectory.latents[:, -1]
    between = [1, 3]  # of 1, 3/4, 1/2 and 3/4, 1/2, 1
    for other, places in (("own", [0, 5]), ("weaker", [2, 4])):
        torch.testing.assert_close(drawn["explored"][places], drawn[other][places], rtol=1e-4, atol=2e-4)  # rounding
        assert not torch.allclose(drawn["explored"][between], drawn[other][between])


def test_nft_explores_by_itself_where_there_is_an_adapter_and_every_update_sees_all_strengths(base):
    with opened(base, subject_adapter(), method="nft", updates=2, group=2) as (step, *_):
        strengths = {update: {step._strength(i) for i in step.part(update)} for update in range(2)}
    assert strengths == {0: {1.0, 0.7}, 1: {1.0, 0.7}}
    with opened(base, method="nft") as (step, *_):
        assert {step._strength(i) for i in range(8)} == {1.0}
    with opened(base, subject_adapter(), method="grpo") as (step, *_):
        assert {step._strength(i) for i in range(8)} == {1.0}


def test_exploring_needs_an_adapter_of_the_denoiser(base, tmp_path):
    with pytest.raises(FewShotError, match="explore is 0.3, and there is no adapter of the denoiser"):
        run(base, tmp_path, method="nft", explore=0.3)
    with pytest.raises(FewShotError, match="explore is for nft, pairs"):
        replace(QUICK, explore=0.3)


@pytest.mark.parametrize(("method", "explore"), [("nft", 0.0), ("pairs", 0.0), ("nft", 0.4)])
def test_a_run_cut_amid_a_round_ends_where_the_uncut_one_does(base, tmp_path, cut_at, method, explore):
    changes = dict(method=method, steps=4, updates=2, group=4, guard_every=2, sampling_steps=3, eta=0.0)
    changes |= dict(explore=explore, adapter=subject_adapter()) if explore else {}
    whole = run(base, tmp_path / "whole", **changes)
    with pytest.raises(KeyboardInterrupt):
        run(base, tmp_path / "cut", progress=cut_at(3, KeyboardInterrupt(), steps=4), **changes)
    again = run(base, tmp_path / "cut", **changes)
    assert again.training.resumed_from == 3 and any(factor.up.any() for factor in again.adapter.factors.values())
    assert again.adapter.key == whole.adapter.key and again.training.losses == whole.training.losses


def test_a_reward_without_a_gradient_and_settings_of_other_methods_are_refused(base, tmp_path):
    with pytest.raises(FewShotError, match="redness has none"):
        run(base, tmp_path, method="draft", trained_steps=8)
    with pytest.raises(FewShotError, match="nft_beta is for nft"):
        replace(QUICK, nft_beta=0.5)
    with pytest.raises(FewShotError, match="kl_weight is for"):
        replace(QUICK, method="pairs", kl_weight=0.1)
