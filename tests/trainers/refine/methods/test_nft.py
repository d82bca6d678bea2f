"""DiffusionNFT: its loss against closed forms, its step against the same done by hand, and its old policy."""

from __future__ import annotations

import pytest
import torch

from comfyui_fewshot.models.stable_diffusion.encoding.prompts import denoise, encode_prompts
from comfyui_fewshot.trainers.distributed import SingleProcess
from comfyui_fewshot.trainers.refine.advantages import group_advantages, pooled_advantages
from comfyui_fewshot.trainers.refine.losses import nft_loss, optimality
from comfyui_fewshot.trainers.refine.methods.nft import KL, NFT_TERM, follows

from ..refining import opened, subject_adapter


def latents(seed: int, count: int = 3) -> torch.Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def gradient_of(now, old, clean, good, beta):
    now = now.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(nft_loss(now, old, clean, good, beta).sum(), now)
    return found


# ----------------------------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0])
def test_the_loss_is_that_of_its_two_branches(beta):
    """Picture by picture in double precision: the good branch goes beta times as far, the bad one as far back."""
    now, old, clean = latents(0), latents(1), latents(2)
    good = torch.tensor([1.0, 0.0, 0.3])
    found, slopes = nft_loss(now, old, clean, good, beta), gradient_of(now, old, clean, good, beta)
    for i, r in enumerate(good.double()):
        x, before, z = (one[i].double() for one in (now, old, clean))
        forth, back = before + beta * (x - before) - z, before - beta * (x - before) - z
        w_forth, w_back = forth.abs().mean(), back.abs().mean()
        wanted = (r * (forth**2).mean() / w_forth + (1 - r) * (back**2).mean() / w_back) / beta
        slope = 2 * (r * forth / w_forth - (1 - r) * back / w_back) / x.numel()
        torch.testing.assert_close(found[i].double(), wanted, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(slopes[i].double(), slope, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_where_nothing_was_learned_a_good_picture_is_learned_and_a_bad_one_unlearned(beta):
    """The gradient is (2 r - 1) times that of learning the picture, whatever beta is."""
    old, clean = latents(0), latents(1)
    missed = (old - clean).flatten(1)
    plain = 2 * (old - clean) / missed.shape[1] / missed.abs().mean(1).view(3, 1, 1, 1)
    for r in (1.0, 0.75, 0.0):
        found = gradient_of(old, old, clean, torch.full((3,), r), beta)
        torch.testing.assert_close(found, (2 * r - 1) * plain, rtol=1e-3, atol=1e-7)
    assert gradient_of(old, old, clean, torch.full((3,), 0.5), beta).abs().max() < 1e-7


def test_an_average_picture_draws_the_policy_back_to_the_old_one():
    """With r = 1/2 both branches are equally far from the picture only where they are the same."""
    old, clean = latents(0), latents(1)
    moved = latents(2)
    slope = gradient_of(old + moved, old, clean, torch.full((3,), 0.5), 1.0)
    assert ((slope * moved).flatten(1).sum(1) > 0).all()


def test_beta_divides_how_far_the_policy_goes():
    """Only beta times the way from the old policy counts, so that its optimum is 1 / beta times as far (eq. 6)."""
    old, clean, trajectory = latents(0), latents(1), latents(2)
    good = torch.tensor([1.0, 0.2, 0.5])
    one = nft_loss(old + trajectory, old, clean, good, 1.0)
    for beta in (0.1, 0.5):
        torch.testing.assert_close(
            beta * nft_loss(old + trajectory / beta, old, clean, good, beta), one, rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_the_optimum_is_what_better_pictures_have_more_of(beta):
    """A predictor that says the same of all pictures ends at old + E (2 r - 1)(z0 - old) / beta.

    With pictures of many numbers, that differ by little in few, the weights w are the same for all.
    """
    random = torch.Generator().manual_seed(0)
    old = torch.ones(1, 1, 1, 400)
    clean = torch.zeros(500, 1, 1, 400)
    clean[..., :2] = 0.1 * torch.randn(500, 1, 1, 2, generator=random)
    rewards = (clean[..., 0] - clean[..., 1]).flatten()
    good = optimality(group_advantages(rewards, [0] * 500), 5.0)
    wanted = ((2 * good - 1).view(-1, 1, 1, 1) * (clean - old)).mean(0, keepdim=True) / beta
    trajectory = torch.zeros_like(old).requires_grad_(True)
    for _ in range(60):
        loss = nft_loss((old + trajectory).expand_as(clean), old.expand_as(clean), clean, good, beta).mean()
        (slope,) = torch.autograd.grad(loss, trajectory)
        with torch.no_grad():
            trajectory -= 100 / beta * slope
    assert wanted[..., 0] > 0.01 / beta and wanted[..., 1] < -0.01 / beta
    torch.testing.assert_close(trajectory.detach()[..., :2], wanted[..., :2], rtol=0.05, atol=1e-4)


def test_optimality_is_a_probability():
    found = optimality(torch.tensor([-9.0, -5.0, 0.0, 2.5, 7.0]), 5.0)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 0.5, 0.75, 1.0]))


# ----------------------------------------------------------------------------------------------------------- the step


def move(injected, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in injected.parameters.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))


def test_a_step_is_the_loss_of_pictures_noised_anew(base):
    """By hand: noised, seen with their prompts alone by the policy, by the one that drew them, and by the subject."""
    with opened(base, subject_adapter(), method="nft", updates=1, kl_weight=0.1) as (step, injected, model):
        rollout = step.begin(0, 0, SingleProcess().shard)
        step.rollout = rollout
        compared = pooled_advantages(rollout.rewards[0], rollout.prompts).clamp(-1, 1)
        torch.testing.assert_close(rollout.advantages, compared, check_dtype=False)
        assert compared.unique().numel() > 3
        drawn_with = {name: p.detach().clone() for name, p in injected.parameters.items()}
        move(injected, 1)
        moved = {name: p.detach().clone() for name, p in injected.parameters.items()}
        rows = [(1, 0), (1, 1), (6, 0)]
        seen = step.noised(rollout, rows)
        alpha = model.process.alphas_cumprod[seen.times].view(-1, 1, 1, 1)
        told = encode_prompts(model, [step.prompts[rollout.prompts[i]].text for i, _ in rows])

        def said(weights):
            injected.load(weights)
            with torch.no_grad():
                return denoise(model, seen.latents, seen.times, told)

        now, old, subject = (said(w) for w in (moved, drawn_with, {n: 0 * w for n, w in moved.items()}))
        injected.load(moved)
        found = step.losses(rows)
        clean = torch.stack([rollout.trajectory.at(i)[-1] for i, _ in rows])
        torch.testing.assert_close(seen.latents, alpha.sqrt() * clean + (1 - alpha).sqrt() * seen.noise)
        x, x_old = ((seen.latents - (1 - alpha).sqrt() * e) / alpha.sqrt() for e in (now, old))
        good = 0.5 + rollout.advantages[[i for i, _ in rows]] / 2
        wanted = nft_loss(x, x_old, clean, good, 1.0).sum() / step.rows_per_update
        torch.testing.assert_close(found[NFT_TERM].detach(), wanted, rtol=1e-3, atol=1e-6)
        held = (now - subject).square().flatten(1).mean(1).sum() / step.rows_per_update
        torch.testing.assert_close(found[KL].detach(), held, rtol=1e-3, atol=1e-7)
        assert float(held) > 0 and len(set(good.tolist())) > 1 and seen.times[0] != seen.times[1]


def test_where_all_pictures_earn_the_same_nothing_is_learned(base):
    with opened(base, method="nft", updates=1, kl_weight=0.0) as (step, injected, _):
        step.rollout = step.begin(0, 0, SingleProcess().shard)
        step.rollout.advantages.zero_()
        loss = step.losses([(0, 0), (5, 1)])[NFT_TERM]
        slopes = torch.autograd.grad(loss, list(injected.parameters.values()))
        assert loss > 0 and max(float(slope.abs().max()) for slope in slopes) < 1e-6


def test_the_old_policy_follows_from_round_to_round_and_draws(base):
    assert [follows(steps) for steps in (0, 2, 300, 500, 9000)] == [0.0, 0.002, 0.3, 0.5, 0.5]
    with opened(base, method="nft", updates=2) as (step, injected, _):
        step.begin(0, 0, SingleProcess().shard)
        first = {name: p.detach().clone() for name, p in injected.parameters.items()}
        move(injected, 2)
        now = {name: p.detach().clone() for name, p in injected.parameters.items()}
        rollout = step.begin(150, 0, SingleProcess().shard)
        assert all(torch.equal(p, now[name]) for name, p in injected.parameters.items())
        for name, old in step.old.items():
            torch.testing.assert_close(old, 0.3 * first[name] + 0.7 * now[name])
        rows = sorted(step.before)[: step.sampler.batch_size]
        injected.load(step.old)
        ways = step.sampler.draw(150, rollout.trajectory.samples, rollout.prompts)
        assert torch.equal(ways.latents, rollout.trajectory.latents)
        with torch.no_grad():
            found = step.predicted(rollout, rows, step.noised(rollout, rows))
        torch.testing.assert_close(found, torch.stack([step.before[row] for row in rows]), rtol=1e-4, atol=1e-5)
        injected.load(now)
        with torch.no_grad():
            assert not torch.allclose(found, step.predicted(rollout, rows, step.noised(rollout, rows)), atol=1e-4)


def test_what_a_cut_run_knows_is_the_old_policy_of_the_round_before(base):
    with opened(base, method="nft", updates=2) as (step, injected, _):
        step.begin(0, 0, SingleProcess().shard)
        move(injected, 3)
        between = step.state(2)
        step.begin(1, 0, SingleProcess().shard)
        amid, drew = step.state(3), dict(step.old)
        weights = {name: p.detach().clone() for name, p in injected.parameters.items()}
    for state, update in ((between, 0), (amid, 0), (amid, 1)):
        with opened(base, method="nft", updates=2) as (again, injected, _):
            injected.load(weights)
            again.load(state)
            again.begin(1, update, SingleProcess().shard)
            assert all(torch.equal(again.old[name], weight) for name, weight in drew.items())
