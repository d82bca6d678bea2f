"""Refinement by rewards on a tiny base: exact at the start, resumed bit for bit, and it earns more."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest
import torch

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.progress import NullProgress
from comfyui_fewshot.core.values import Dense, Kept, LowRank, Prompt, PromptSet
from comfyui_fewshot.models.adapters.apply import applied
from comfyui_fewshot.models.open import open_base
from comfyui_fewshot.models.stable_diffusion.encoding.latents import decode_latents
from comfyui_fewshot.models.stable_diffusion.encoding.prompts import denoise, encode_prompts
from comfyui_fewshot.trainers.context import TrainingContext
from comfyui_fewshot.trainers.distributed import SingleProcess
from comfyui_fewshot.trainers.refine.losses import clip_for
from comfyui_fewshot.trainers.refine.method import RefinementGoal, naming, refine_adapter, split, together, trigger_of
from comfyui_fewshot.trainers.refine.methods.policy_gradient import CLIPPED, KL, POLICY
from comfyui_fewshot.trainers.refine.settings import RefinementSettings
from comfyui_fewshot.trainers.refine.step import REWARD

from .refining import PROMPTS, QUICK, SET, SUBJECT, Red, Slope, opened, prompts_of, subject_adapter

SILENT = LowRank(torch.zeros(32, 2), torch.ones(2, 32), 2.0)
MOVING = subject_adapter().factors[SUBJECT]
DORA = Kept({"lora_up.weight": MOVING.up, "lora_down.weight": MOVING.down, "dora_scale": torch.ones(32, 1)})
RED = Red()


@pytest.fixture
def refining(base):
    """A step of refinement with the tiny base open, for some settings."""
    with ExitStack() as stack:
        yield lambda *given, **changes: stack.enter_context(opened(base, *given, **changes))


def terms_of(step, number):
    found = {}
    for terms in step.passes(number, SingleProcess().shard):
        for name, value in terms.items():
            found[name] = found.get(name, 0) + value
    return found


def test_ratios_are_exactly_one_and_the_kl_zero_before_the_first_update(refining):
    step, injected, _ = refining(subject_adapter(), updates=2)
    for number in (0, 1):  # the second update's old log-probabilities are those of look_back
        terms = terms_of(step, number)
        chosen = step.rollout.advantages[step.part(number)]
        assert terms[CLIPPED] == 0 and terms[KL] == 0
        assert float(terms[POLICY].detach()) == pytest.approx(-float(chosen.mean()), abs=1e-6)
    for row, old in step.rollout.old.items():
        now, outcome = step.steps_at(step.rollout, [row])
        assert abs(float((now.log_prob(outcome)[0].detach() - old).exp()) - 1) < 1e-4
    rows = list(step.rollout.old)[: step.sampler.batch_size]
    now, outcome = step.steps_at(step.rollout, rows)
    assert torch.equal(now.log_prob(outcome).detach(), torch.stack([step.rollout.old[row] for row in rows]))


def test_ways_are_kept_exactly_whatever_the_base_computes_in(base):
    """Rounded to halves they would change log-probabilities by more than what is clipped."""
    with opened(replace(base, dtype="bfloat16"), updates=2) as (step, _, model):
        terms_of(step, 0)
        terms = terms_of(step, 1)  # whose old log-probabilities are those of look_back
        trajectory, old = step.rollout.trajectory.latents, step.rollout.old
        assert model.dtype == torch.bfloat16 and trajectory.dtype == torch.float32 and terms[CLIPPED] == 0
        rows = list(old)[: step.sampler.batch_size]
        step.rollout.trajectory = replace(step.rollout.trajectory, latents=trajectory.bfloat16().float())
        rounded, outcome = step.steps_at(step.rollout, rows)
        moved = (rounded.log_prob(outcome).detach() - torch.stack([old[row] for row in rows])).abs()
        assert moved.max() > clip_for(1e-4, 64 * 64 * 4)


def test_the_reference_is_the_base_with_the_subject_on(refining, base):
    subject = subject_adapter()
    step, injected, model = refining(subject)
    latents, places = torch.randn(1, *step.sampler.shape), torch.tensor([0])
    with torch.no_grad():
        for parameter in injected.parameters.values():
            parameter.add_(0.3)
        trained = step.sampler.predict(latents, places, [0])
        with injected.disabled():
            found = step.sampler.predict(latents, places, [0])
    assert not torch.allclose(trained, found)
    injected.remove()
    with torch.no_grad(), open_base(base, torch.device("cpu")) as fresh, applied(fresh, [(subject, 1.0)]):
        told = encode_prompts(fresh, ["", step.prompts[0].text])
        times = step.sampler.policy.times(places).repeat(2)
        away, towards = denoise(fresh, latents.repeat(2, 1, 1, 1), times, told).chunk(2)
        torch.testing.assert_close(found, away + 2.0 * (towards - away))
    with torch.no_grad(), open_base(base, torch.device("cpu")) as fresh:
        weight = fresh.unet.state_dict()[f"{SUBJECT.removeprefix('unet.')}.weight"]
        assert torch.equal(weight, model.unet.state_dict()[f"{SUBJECT.removeprefix('unet.')}.weight"])


def test_kl_is_the_squared_distance_of_predictions_and_grows(refining):
    step, injected, _ = refining(kl_weight=1.0)
    terms_of(step, 0)
    with torch.no_grad():
        for name, parameter in injected.parameters.items():
            if name.endswith("lora_up"):
                parameter.add_(0.2)
    rows = [(i, place) for i in step.part(0) for place in step.places(0, i)][: step.sampler.batch_size]
    with torch.no_grad():
        found = step.losses(rows)[KL] * step.rows_per_update
        now, _ = step.steps_at(step.rollout, rows)
        with injected.disabled():
            then, _ = step.steps_at(step.rollout, rows)
    spread = now.std.view(-1, 1, 1, 1).expand_as(now.mean)
    theirs = torch.distributions.kl_divergence(
        torch.distributions.Normal(now.mean, spread), torch.distributions.Normal(then.mean, spread)
    )
    assert found > 0
    torch.testing.assert_close(found, theirs.flatten(1).mean(1).sum(), rtol=1e-4, atol=1e-6)


def test_gradients_are_those_of_reinforce_at_the_start(refining):
    step, injected, _ = refining(method="ddpo", updates=1)
    (up, *_) = [p for name, p in injected.parameters.items() if name.endswith("lora_up")]
    total = terms_of(step, 0)[POLICY]
    (found,) = torch.autograd.grad(total, up)
    rows = [(i, place) for i in step.part(0) for place in step.places(0, i)]
    now, outcome = step.steps_at(step.rollout, rows)
    advantage = step.rollout.advantages[[i for i, _ in rows]]
    (wanted,) = torch.autograd.grad(-(advantage * now.log_prob(outcome)).mean(), up)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-7)


def test_passes_of_any_size_and_two_processes_add_up_to_the_same(refining):
    whole, *_ = refining()
    small, *_ = refining(micro_batch=2)
    one, two = terms_of(whole, 0), terms_of(small, 0)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-2, atol=1e-3)  # pictures are rounded to 8 bits
    assert whole.rows_per_update == len(whole.part(0)) * 2 and sorted(whole.part(0) + whole.part(1)) == list(range(8))


def test_direct_gradients_are_those_through_decoder_and_reward(refining):
    """Though the decoder and the reward are differentiated before the denoiser, when they may be gone."""
    step, injected, model = refining(method="draft", rewards=Slope(), trained_steps=8)
    on_device = []

    @contextmanager
    def context():
        on_device.append(True)
        yield
        on_device.append(False)

    step.sampler.on_device = context
    (up, *_) = [p for name, p in injected.parameters.items() if name.endswith("lora_up")]
    terms_of(step, 0)
    rows = [(i, 0) for i in step.part(0)][: step.sampler.batch_size]
    loss = step.losses(rows)[POLICY]
    assert on_device[-2:] == [True, False]
    (found,) = torch.autograd.grad(loss, up)
    last = len(step.sampler.policy) - 1
    before = torch.stack([step.rollout.trajectory.at(i)[last] for i, _ in rows])
    places = torch.full((len(rows),), last)
    clean = step.sampler.policy.step(
        step.sampler.predict(before, places, [step.rollout.prompts[i] for i, _ in rows]), before, places
    ).mean
    pixels = decode_latents(model, clean)
    rewards = (pixels[:, 0] - pixels[:, 2]).mean((1, 2)) / step.rollout.spreads[0]
    (wanted,) = torch.autograd.grad(-rewards.sum() / step.rows_per_update, up)
    torch.testing.assert_close(loss.detach(), -rewards.sum().detach() / step.rows_per_update)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-8)
    assert found.any()


def run(base, folder, adapter=None, rewards=RED, prompts=PROMPTS, progress=None, **changes):
    context = TrainingContext(folder, "cpu", progress or NullProgress(), name="refinement")
    return refine_adapter(base, adapter, RefinementGoal(prompts, rewards), replace(QUICK, **changes), context, SET)


def test_a_cut_refinement_ends_where_the_uncut_one_does(base, tmp_path, cut_at):
    whole = run(base, tmp_path / "whole", subject_adapter(), method="ddpo", statistics_from=2)
    for step in (2, 3):
        folder = tmp_path / f"cut{step}"
        with pytest.raises(KeyboardInterrupt):
            progress = cut_at(step, KeyboardInterrupt(), steps=6)
            run(base, folder, subject_adapter(), progress=progress, method="ddpo", statistics_from=2)
        again = run(base, folder, subject_adapter(), method="ddpo", statistics_from=2)
        assert again.training.resumed_from == step
        assert again.adapter.key == whole.adapter.key and again.training.losses == whole.training.losses
        assert again.readings == whole.readings
    assert run(base, tmp_path / "whole", subject_adapter(), method="ddpo", statistics_from=2).readings == whole.readings


@pytest.mark.parametrize("method", ["grpo", "ddpo"])
def test_the_reward_rises(base, tmp_path, method):
    found = run(
        base,
        tmp_path,
        method=method,
        steps=8,
        group=8,
        updates=1,
        trained_steps=2,
        sampling_steps=5,
        learning_rate=2e-2,
        guard_every=8,
        guidance=1.0,
        patience=0,
        **({"statistics_from": 8} if method == "ddpo" else {}),
    )
    rewards = found.training.terms[REWARD]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.01
    readings = found.readings["readings"]
    assert found.readings["best"] > 0 and max(r["gain"] for r in readings) > 1


def test_a_reward_that_is_always_the_same_changes_nothing(base, tmp_path, caplog):
    found = run(base, tmp_path, rewards=Red(0.5), steps=2, kl_weight=0.02)
    assert "is the same for all pictures" in caplog.text
    assert not any(factor.up.any() for factor in found.adapter.factors.values())


def test_a_reward_that_stays_the_same_ends_the_refinement_with_the_reason(base, tmp_path):
    with pytest.raises(FewShotError, match="redness gave all 8 pictures of each of the first 3 rounds the same reward"):
        run(base, tmp_path, rewards=Red(0.5), steps=8, patience=0)


def test_prompts_that_name_neither_subject_nor_class_are_left_out_by_name(caplog):
    odd = Prompt("a house at night", "a house at night", "train")
    kept = naming(PromptSet((*PROMPTS.prompts, odd)), "sks ball", SET)
    assert kept == PROMPTS and "a house at night" in caplog.text
    assert naming(PROMPTS, "sks ball", None) == PROMPTS and naming(PromptSet((odd,)), "", None).prompts == (odd,)
    with pytest.raises(FewShotError, match="none of 1 prompts names the subject"):
        naming(PromptSet((odd,)), "sks ball", SET)


def test_a_file_that_tells_no_trigger_takes_that_of_the_pictures(base, tmp_path):
    nameless = replace(subject_adapter(), trigger="")
    assert trigger_of(nameless, SET) == "sks ball" and trigger_of(subject_adapter(), None) == "sks ball"
    sample_prompts = PromptSet(tuple(replace(p, text=p.text.replace("sks ball", "{trigger}")) for p in PROMPTS.prompts))
    found = run(base, tmp_path, nameless, prompts=sample_prompts, steps=2)
    assert found.adapter.trigger == found.combined.trigger == "sks ball"


def test_a_v_prediction_base_is_refined(base, tmp_path):
    """What a step leads to and the KL follow from the prediction, whatever the denoiser predicts."""
    found = run(replace(base, prediction="v_prediction"), tmp_path, subject_adapter(), steps=4)
    plain = run(base, tmp_path, subject_adapter(), steps=4)
    assert found.training.terms[REWARD][0] != plain.training.terms[REWARD][0]
    for result in (found, plain):
        first, *others = result.training.terms[KL]
        assert first == 0.0 and min(others) > 0


def test_a_base_that_was_tuned_in_full_is_refined_alone(base, tmp_path, train):
    whole = train(tmp_path / "whole", steps=2, tuning="full", parameter_set="all", learning_rate=1e-3)
    found = run(whole.base, tmp_path, None, steps=4)
    plain = run(base, tmp_path, None, steps=4)
    assert any(factor.up.any() for factor in found.adapter.factors.values()) and found.combined is None
    assert "the subject is in the base itself" in found.apart
    assert found.training.terms[REWARD][0] != plain.training.terms[REWARD][0]


def test_subject_and_refinement_are_one_adapter_exactly(base, tmp_path, caplog):
    subject = subject_adapter()
    found = run(base, tmp_path, subject, steps=2)
    assert found.apart == "" and found.combined.trigger == found.adapter.trigger == "sks ball"
    refining = replace(found.adapter, factors={p: replace(f, up=f.up + 0.1) for p, f in found.adapter.factors.items()})
    both, _ = together(subject, refining)
    assert "share an identifier" not in caplog.text
    with open_base(base, torch.device("cpu")) as model:
        told = encode_prompts(model, ["a sks ball"])
        latents, times = torch.randn(1, 4, 8, 8), torch.tensor([500])
        with torch.no_grad(), applied(model, [(subject, 1.0), (refining, 1.0)]):
            stacked = denoise(model, latents, times, told)
        with torch.no_grad(), applied(model, [(both, 1.0)]):
            torch.testing.assert_close(denoise(model, latents, times, told), stacked, rtol=1e-4, atol=1e-5)
    assert together(None, refining)[0] is None


def test_a_loha_is_refined_and_stays_a_file_of_its_own_with_the_reason(base, tmp_path):
    loha = replace(subject_adapter(), factors={SUBJECT: Kept(product_of_pairs())})
    found, plain = run(base, tmp_path, loha, steps=2), run(base, tmp_path, None, steps=2)
    assert found.training.terms[REWARD][0] != plain.training.terms[REWARD][0]
    assert found.combined is None and found.adapter.factors and found.adapter.trigger == "sks ball"
    assert "stay two files" in found.apart and "LoHa, LoKr" in found.apart


def product_of_pairs():
    random = torch.Generator().manual_seed(0)
    sides = {"a": (32, 2), "b": (2, 32)}
    return {f"hada_w{n}_{side}": torch.randn(*sides[side], generator=random) for n in (1, 2) for side in "ab"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(rewards=Red(float("nan"))), "redness gave"),
        (dict(prompts=PromptSet(PROMPTS.prompts[:1])), "1 prompt was given"),
        (dict(prompts=prompts_of("red", "blue", held_out=0)), "hold some out"),
        (dict(adapter=replace(subject_adapter(), family="sdxl")), "sdxl"),
        (dict(adapter=replace(subject_adapter(), factors={SUBJECT: SILENT})), "changes nothing"),
        (dict(adapter=replace(subject_adapter(), factors={SUBJECT: Dense(torch.zeros(32, 32))})), "changes nothing"),
        (dict(adapter=replace(subject_adapter(), factors={SUBJECT: replace(MOVING, alpha=0.0)})), "changes nothing"),
        (dict(adapter=replace(subject_adapter(), factors={SUBJECT: DORA})), "is a DoRA"),
    ],
)
def test_what_cannot_be_refined_is_refused(base, tmp_path, changes, message):
    with pytest.raises(FewShotError, match=message):
        run(base, tmp_path, **changes)


def test_prompts_without_a_split_are_split():
    prompts = PromptSet(tuple(replace(prompt, split="held-out") for prompt in PROMPTS.prompts))
    learned, held_out = split(prompts)
    assert len(learned) == 6 and len(held_out) == 2 and not set(learned) & set(held_out)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(updates=3), "equal updates"),
        (dict(statistics=64), "statistics is for ddpo"),
        (dict(method="ddpo", statistics=4), "raise statistics"),
        (dict(eta=0.0), "grpo needs sampling steps with noise"),
        (dict(pair_passes=2), "pair_passes is for pairs"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(FewShotError, match=message):
        replace(QUICK, **changes)


def test_a_method_by_its_former_name_is_the_same():
    today = RefinementSettings.from_mapping({"method": "grpo_clamped"})
    assert RefinementSettings.from_mapping({"method": "dpok"}) == today and today.resolved_kl_weight == 0.01
    with pytest.raises(FewShotError, match="method is 'dpo'; it must be one of nft, grpo, ddpo, grpo_clamped"):
        RefinementSettings.from_mapping({"method": "dpo"})


def test_a_setting_of_another_training_is_refused():
    with pytest.raises(FewShotError, match="has no setting prior_weight for this training"):
        RefinementSettings.from_mapping({"prior_weight": 0.5})
