"""The diffusion processes against diffusers, ComfyUI's own classes, and closed forms."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.randomness import Randomness
from comfyui_fewshot.models.process import DiffusionProcess, Gaussian, gaussian, step
from comfyui_fewshot.models.rectified_flow import RectifiedFlow, shifted
from comfyui_fewshot.models.stable_diffusion.ddpm import DDPM

PROBE = Path(__file__).with_name("probes") / "flow_probe.py"
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
EPSILON, VELOCITY = DDPM.from_config(SD), DDPM.from_config(SD, "v_prediction")
TERMINAL = DDPM.from_config(SD, "v_prediction", zero_snr=True)
FLOW = RectifiedFlow(shift=3.0)
ALL = [EPSILON, VELOCITY, TERMINAL, FLOW]
NAMES = ["epsilon", "v", "v zero snr", "flow"]
SHAPES = [(3, 4, 2, 2), (3, 4, 1, 2, 2)]
every = pytest.mark.parametrize("process", ALL, ids=NAMES)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def row(value: float | int, like: torch.Tensor) -> torch.Tensor:
    """A time as (1,) in the type of `like`."""
    return torch.tensor([value]).to(like.dtype)


# --- the forward process and what predictions say -------------------------------------------------------------------


@settings(deadline=None)
@given(seed=st.integers(0, 1000), place=st.integers(0, 999), shape=st.sampled_from(SHAPES))
@every
def test_a_perfect_prediction_gives_back_latents_and_noise(process, seed: int, place: int, shape: tuple[int, ...]):
    x0, noise = normal(seed, 2, *shape).unbind()
    t = process.times[torch.tensor([place, 0, 999])]
    x, target = process.add_noise(x0, noise, t), process.target(x0, noise, t)
    tolerance = 2e-4 if process.prediction == "epsilon" else 1e-5
    assert x.shape == shape and x.dtype == torch.float32
    assert (process.to_clean(x, target, t) - x0).abs().max() < tolerance
    assert (process.to_noise(x, target, t) - noise).abs().max() < tolerance


@every
def test_what_a_prediction_says_is_what_noises_to_the_latents(process: DiffusionProcess):
    """Any prediction: x_t = signal x0_hat + spread noise_hat."""
    t = process.times[[1, 400, 998]]
    x, said = normal(0, 2, 3, 4, 2, 2).unbind()
    again = process.add_noise(process.to_clean(x, said, t), process.to_noise(x, said, t), t)
    torch.testing.assert_close(again, x, rtol=1e-4, atol=1e-5)


@every
def test_the_limits(process):
    x, said = normal(0, 2, 3, 4, 2, 2).unbind()
    clean = row(process.CLEAN, process.times)
    assert torch.equal(process.add_noise(x, said, clean), x)
    assert torch.equal(process.to_clean(x, said, clean), x)
    assert process.signal(clean) == 1 and process.noise_level(clean) == 0
    assert process.snr(clean) == math.inf and process.error_ratio(clean) == math.inf
    times = process.times
    assert len(process) == len(times) == 1000 and bool((times.diff() > 0).all())
    assert bool((process.snr(times).diff() < 0).all()) and bool((process.signal(times).diff() < 0).all())
    assert process.noise_level(times).min() >= 0 and process.noise_level(times).max() <= 1
    assert bool((process.noise_level(times).diff() > 0).all())
    for told in (process.snr, process.signal, process.noise_level, process.error_ratio):
        assert told(times).dtype == torch.float32 and told(times.view(10, 100)).shape == (10, 100)


def test_pure_noise():
    x, noise = normal(0, 2, 3, 4, 2, 2).unbind()
    end = torch.ones(1)
    assert torch.equal(FLOW.times[-1:], end) and FLOW.snr(end) == 0 and FLOW.signal(end) == 0
    assert torch.equal(FLOW.add_noise(x, noise, end), noise) and torch.equal(FLOW.to_noise(noise, x, end), noise)
    torch.testing.assert_close(TERMINAL.add_noise(x, noise, TERMINAL.times[-1:]), noise, rtol=0, atol=1e-3)
    assert 0 < TERMINAL.snr(TERMINAL.times[-1]) < 1e-7


def test_the_velocity_is_the_slope_of_the_path():
    """d x / d sigma for the flow; d x / d phi for v, with signal = cos phi and spread = sin phi."""
    x0, noise = normal(0, 2, 3, 4, 2, 2).double().unbind()
    sigma = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    _, slope = torch.func.jvp(lambda s: FLOW.add_noise(x0, noise, s), (sigma,), (torch.ones_like(sigma),))
    torch.testing.assert_close(slope, FLOW.target(x0, noise, sigma))
    width = 1e-5
    phi = 0.7 + width * torch.arange(3, dtype=torch.float64)
    circle, places = DDPM(phi.cos().square(), "v_prediction"), torch.arange(3)
    before, here, after = (circle.add_noise(x0[:1], noise[:1], place[None]) for place in places)
    wanted = circle.target(x0[:1], noise[:1], places[1:2])
    torch.testing.assert_close((after - before) / (2 * width), wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(here.square() + wanted.square(), (x0**2 + noise**2)[:1])


@every
def test_the_error_ratio_is_that_of_errors(process: DiffusionProcess):
    x0, noise, off = normal(0, 3, 5, 4, 2, 2).unbind()
    t = process.times[[100, 300, 500, 700, 900]]
    x, target = process.add_noise(x0, noise, t), process.target(x0, noise, t)
    moved = process.to_clean(x, target + off, t) - process.to_clean(x, target, t)
    found = off.square().flatten(1).sum(1) / moved.square().flatten(1).sum(1)
    torch.testing.assert_close(process.error_ratio(t), found, rtol=1e-3, atol=0)


def test_signal_to_noise_in_closed_form():
    sigma = torch.tensor([0.25, 0.5, 0.8])
    torch.testing.assert_close(FLOW.snr(sigma), torch.tensor([9.0, 1.0, 0.0625]))
    torch.testing.assert_close(FLOW.signal(sigma), torch.tensor([0.75, 0.5, 0.2]))
    assert EPSILON.snr(torch.tensor([0, 999])).tolist() == pytest.approx([1175.5, 0.00468], rel=1e-3)
    for process in (EPSILON, FLOW):
        signal = process.signal(process.times[[10, 500]])
        spread = process.add_noise(torch.zeros(2, 1), torch.ones(2, 1), process.times[[10, 500]]).flatten()
        torch.testing.assert_close(process.snr(process.times[[10, 500]]), (signal / spread).square(), rtol=1e-4, atol=0)


def test_a_share_is_reached_where_it_was():
    """Spans ask `level >= start`; adapters of timesteps were written for `t >= start * T`."""
    t = torch.arange(1000)
    for thousandth in range(1, 1000):
        start = thousandth / 1000
        assert torch.equal(EPSILON.noise_level(t) >= start, t >= start * 1000), start
        assert torch.equal(EPSILON.noise_level(t) >= start, t >= thousandth), start
    assert EPSILON.noise_level(t).double() == pytest.approx([place / 1000 for place in range(1000)], abs=3e-8)


@given(share=st.floats(0, 1, exclude_max=True))
def test_the_time_at_a_share(share: float):
    time = EPSILON.time_at(share)
    assert time.dtype == torch.int64 and time.dim() == 0 and int(time) == int(1000 * share)
    assert -1e-6 < share - float(EPSILON.noise_level(time)) < 0.001 + 1e-6
    assert FLOW.time_at(share).dtype == torch.float32
    assert bool(FLOW.noise_level(FLOW.time_at(share)) >= share)


# --- drawn times ----------------------------------------------------------------------------------------------------


@every
def test_drawn_times_depend_on_their_address_alone(process: DiffusionProcess):
    def drawn(seed: int = 3, stream: str = "a", step: int = 5, samples=range(8)) -> torch.Tensor:
        return process.draw_times(Randomness(seed), stream, step, samples, None)

    whole = drawn()
    assert whole.shape == (8,) and whole.dtype == process.times.dtype
    assert torch.equal(drawn(samples=[6, 2]), whole[[6, 2]])
    for other in (drawn(seed=4), drawn(stream="b"), drawn(step=6), drawn(samples=range(8, 16))):
        assert not torch.equal(other, whole)


def test_drawn_timesteps_are_the_integers_of_the_stream():
    for length in (1000, 17):
        process = DDPM(EPSILON.alphas_cumprod[:length])
        wanted = Randomness(3).integers("a", 5, range(50), length)
        assert torch.equal(process.draw_times(Randomness(3), "a", 5, range(50), (512, 512)), wanted)


@pytest.mark.parametrize(("mean", "std", "shift"), [(0.0, 1.0, 1.0), (1.09, 0.5, 1.0), (0.0, 1.0, 3.0)])
def test_drawn_sigmas_are_logit_normal(mean: float, std: float, shift: float):
    from scipy.stats import kstest, norm

    drawn = RectifiedFlow(shift, mean, std).draw_times(Randomness(0), "t", 0, range(4000), None).double()
    assert drawn.min() > 0 and drawn.max() < 1
    logits = torch.logit(drawn) - math.log(shift)  # logit(shifted(u)) = logit(u) + log s
    assert kstest(logits.numpy(), norm(mean, std).cdf).pvalue > 0.05
    assert kstest(logits.numpy(), norm(mean + 0.1, std).cdf).pvalue < 0.01


@given(u=st.floats(0.001, 0.999), factor=st.floats(0.2, 20))
def test_a_shift_moves_the_logit(u: float, factor: float):
    found = shifted(torch.tensor(u, dtype=torch.float64), factor)
    assert float(torch.logit(found)) == pytest.approx(math.log(u / (1 - u)) + math.log(factor), abs=1e-9)
    assert shifted(torch.tensor([0.0, 1.0]), factor).tolist() == pytest.approx([0.0, 1.0])


def test_training_may_have_another_shift_than_sampling():
    one, two = RectifiedFlow(3.0, mean=math.log(2 / 3)), RectifiedFlow(2.0)
    drawn = [process.draw_times(Randomness(0), "t", 0, range(50), None) for process in (one, two)]
    torch.testing.assert_close(*drawn, rtol=1e-5, atol=0)


def test_a_shift_by_size():
    process = RectifiedFlow(lambda size: size[0] / size[1])
    for size, factor in (((512, 512), 1.0), ((1024, 512), 2.0), ((512, 1024), 0.5)):
        fixed = RectifiedFlow(factor)
        assert torch.equal(process.sampling_times(7, size), fixed.sampling_times(7, None))
        drawn = [p.draw_times(Randomness(0), "t", 0, range(5), size) for p in (process, fixed)]
        assert torch.equal(*drawn)
    assert torch.equal(process.times, RectifiedFlow().times)
    for ask in (
        lambda: process.sampling_times(7, None),
        lambda: process.draw_times(Randomness(0), "t", 0, range(5), None),
    ):
        with pytest.raises(FewShotError, match="size"):
            ask()


# --- against other implementations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_is_that_of_diffusers(shift: float):
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    mine = RectifiedFlow(shift)
    assert torch.equal(mine.times, theirs.sigmas.flip(0))
    x0, noise = normal(0, 2, 3, 4, 2, 2).unbind()
    places = torch.tensor([0, 420, 999])
    wanted = theirs.scale_noise(x0, theirs.timesteps[999 - places], noise)
    assert torch.equal(mine.add_noise(x0, noise, mine.times[places]), wanted)


@pytest.mark.parametrize("steps", [1, 9, 30])
def test_a_flow_trajectory_is_that_of_diffusers(steps: int):
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    plain = RectifiedFlow().sampling_times(steps, None)
    theirs.set_timesteps(sigmas=plain[:-1].tolist())
    times = FLOW.sampling_times(steps, None)
    torch.testing.assert_close(times, theirs.sigmas, rtol=1e-6, atol=1e-7)

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return torch.tanh(2 * x.roll(1, 1)) + sigma.view(-1, 1, 1, 1) * x

    mine = other = normal(0, 2, 4, 8, 8)
    for place, timestep in enumerate(theirs.timesteps):
        t, after = times[place, None], times[place + 1, None]
        mine = step(FLOW, mine, model(mine, t), t, after).mean
        other = theirs.step(model(other, timestep / 1000), timestep, other).prev_sample
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    assert (mine - normal(0, 2, 4, 8, 8)).abs().max() > 0.5


def test_ddpm_is_that_of_diffusers():
    from diffusers import DDIMScheduler

    for prediction, rescaled in (("epsilon", False), ("v_prediction", True)):
        theirs = DDIMScheduler(**SD, prediction_type=prediction, rescale_betas_zero_snr=rescaled)
        mine = DDPM.from_config(theirs.config)
        assert mine.prediction == prediction
        torch.testing.assert_close(mine.alphas_cumprod, theirs.alphas_cumprod, atol=1e-6, rtol=1e-4)
        x0, noise = normal(0, 2, 3, 4, 2, 2).unbind()
        t = torch.tensor([0, 500, 998])
        torch.testing.assert_close(mine.add_noise(x0, noise, t), theirs.add_noise(x0, noise, t), atol=1e-5, rtol=1e-4)
        if prediction == "v_prediction":
            wanted = theirs.get_velocity(x0, noise, t)
            torch.testing.assert_close(mine.target(x0, noise, t), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("process", [EPSILON, VELOCITY], ids=NAMES[:2])
def test_ddim_steps_are_those_of_diffusers(process: DDPM, eta: float):
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(
        **SD,
        prediction_type=process.prediction,
        clip_sample=False,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
    )
    theirs.set_timesteps(20)
    times = process.sampling_times(20, None)
    assert times[:-1].tolist() == theirs.timesteps.tolist()
    x, said, noise = normal(0, 3, 3, 4, 8, 8).unbind()
    for place, timestep in enumerate(theirs.timesteps):
        found = step(process, x, said, times[place, None], times[place + 1, None], eta).draw(noise)
        wanted = theirs.step(said, int(timestep), x, eta=eta, variance_noise=noise).prev_sample
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def comfyui(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What ComfyUI makes of some inputs, and these."""
    job = tmp_path_factory.mktemp("flow")
    inputs = dict(zip(("clean", "noise", "prediction"), normal(0, 3, 3, 4, 2, 2).unbind(), strict=True))
    inputs["sigmas"] = torch.tensor([0.1, 0.73, 1.0])
    safetensors.torch.save_file({key: part.contiguous() for key, part in inputs.items()}, job / "inputs.safetensors")
    done = subprocess.run([sys.executable, str(PROBE), str(comfyui_path), str(job)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return inputs | safetensors.torch.load_file(job / "outputs.safetensors")


def test_flow_is_that_of_comfyui(comfyui: dict[str, torch.Tensor]):
    noisy = FLOW.add_noise(comfyui["clean"], comfyui["noise"], comfyui["sigmas"])
    assert torch.equal(noisy, comfyui["noisy"])
    assert torch.equal(FLOW.to_clean(noisy, comfyui["prediction"], comfyui["sigmas"]), comfyui["denoised"])


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_sigmas_are_those_of_comfyui(comfyui: dict[str, torch.Tensor], shift: float):
    """With its multiplier 1000 ComfyUI multiplies and divides by 1000 first, which rounds."""
    process = RectifiedFlow(shift)
    assert torch.equal(process.times, comfyui[f"table/1/{shift}"])
    torch.testing.assert_close(process.times, comfyui[f"table/1000/{shift}"], rtol=2e-7, atol=0)
    for steps in (1, 8, 25, 38, 1000):
        times = process.sampling_times(steps, None)
        assert torch.equal(times, comfyui[f"simple/1/{shift}/{steps}"])
        torch.testing.assert_close(times, comfyui[f"simple/1000/{shift}/{steps}"], rtol=2e-7, atol=0)


def test_flux_sigmas_are_those_of_comfyui(comfyui: dict[str, torch.Tensor]):
    """The same function of u, which ComfyUI computes from 1 / u."""
    process = RectifiedFlow(math.exp(1.15), count=10_000)
    torch.testing.assert_close(process.times, comfyui["table/flux"], rtol=1e-6, atol=0)
    torch.testing.assert_close(process.sampling_times(20, None), comfyui["simple/flux"], rtol=1e-6, atol=0)


# --- steps ----------------------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_steps_keep_the_marginal(process: DiffusionProcess, eta: float):
    """x0 gets the factor that it has at t_next, and old and fresh noise together have the spread there."""
    times = process.sampling_times(12, None)
    table = process.coefficients(times[:-1], times[1:], eta)
    assert {part.dtype for part in (table.clean, table.noise, table.std)} == {torch.float64} and len(table) == 12
    spread = process.add_noise(torch.zeros(12, 1), torch.ones(12, 1), times[1:]).flatten()
    torch.testing.assert_close(table.clean.float(), process.signal(times[1:]), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close((table.noise**2 + table.std**2).sqrt().float(), spread, rtol=1e-5, atol=1e-7)
    assert (eta > 0) == bool((table.std[:-1] > 0).all()) and bool((table.noise >= 0).all())


@every
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_the_last_step_ends_in_what_is_thought_clean(process: DiffusionProcess, eta: float):
    x, said = normal(0, 2, 3, 4, 2, 2).unbind()
    t, end = process.sampling_times(5, None)[-2:].split(1)
    last = step(process, x, said, t, end, eta)
    assert torch.equal(last.mean, process.to_clean(x, said, t)) and not last.std.any()


@given(sigma=st.floats(0.01, 1), share=st.floats(0, 0.99), eta=st.floats(0, 1), seed=st.integers(0, 99))
def test_a_flow_step_in_closed_form(sigma: float, share: float, eta: float, seed: int):
    """Mean and std of Wang & Yu 2025; with eta 0 Euler's step."""
    x, said = normal(seed, 2, 2, 4, 1, 2, 2).double().unbind()
    now, after = torch.tensor([sigma]), torch.tensor([sigma * share])
    s, p = float(now), float(after)
    found = step(FLOW, x, said, now.double(), after.double(), eta)
    clean, noise = x - s * said, x + (1 - s) * said
    fresh = p * math.sin(eta * math.pi / 2)
    mean = (1 - p) * clean + math.sqrt(max(p**2 - fresh**2, 0)) * noise
    torch.testing.assert_close(found.mean, mean, rtol=1e-5, atol=1e-5)
    assert float(found.std) == pytest.approx(fresh, abs=1e-6)
    euler = step(FLOW, x, said, now.double(), after.double()).mean
    torch.testing.assert_close(euler, x + (p - s) * said, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("process", [EPSILON, VELOCITY, FLOW], ids=["epsilon", "v", "flow"])
def test_drawn_steps_have_the_marginal(process: DiffusionProcess):
    """Many steps with the true prediction, from x_t of one x0, land where `add_noise` would: by 4 standard errors."""
    count, value = 40_000, 1.5
    noise, fresh = normal(0, 2, count, 1).unbind()
    t, after = process.times[[800]], process.times[[500]]
    x0 = torch.full((count, 1), value)
    x, said = process.add_noise(x0, noise, t), process.target(x0, noise, t)
    outcome = step(process, x, said, t, after, 0.7).draw(fresh).double()
    spread = process.add_noise(torch.zeros(1, 1), torch.ones(1, 1), after).item()
    wanted = value * process.signal(after).item()
    assert outcome.mean().item() == pytest.approx(wanted, abs=4 * spread / math.sqrt(count))
    assert outcome.var().item() == pytest.approx(spread**2, abs=4 * spread**2 * math.sqrt(2 / count))


def test_drawn_cps_steps_have_its_mean_and_std():
    count, sigma, after, eta = 40_000, 0.8, 0.6, 0.5
    x, said = torch.tensor([[0.3]]), torch.tensor([[-1.2]])
    found = step(FLOW, x, said, torch.tensor([sigma]), torch.tensor([after]), eta)
    outcome = found.draw(normal(1, count, 1)).double()
    std = after * math.sin(eta * math.pi / 2)
    mean = (1 - after) * (0.3 + sigma * 1.2) + after * math.cos(eta * math.pi / 2) * (0.3 - (1 - sigma) * 1.2)
    assert outcome.mean().item() == pytest.approx(mean, abs=4 * std / math.sqrt(count))
    assert outcome.std().item() == pytest.approx(std, abs=4 * std / math.sqrt(2 * count))


@every
def test_rows_of_a_batch_take_their_own_steps(process: DiffusionProcess):
    times = process.sampling_times(10, None)
    table = process.coefficients(times[:-1], times[1:], 0.8).to(torch.device("cpu"))
    assert table.clean.dtype == torch.float32
    x, said = normal(0, 2, 3, 4, 1, 2, 2).unbind()
    places = torch.tensor([7, 0, 4])
    together = gaussian(process, x, said, times[places], table.take(places))
    for i, place in enumerate(places):
        t, after = times[place, None], times[place + 1, None]
        alone = step(process, x[i : i + 1], said[i : i + 1], t, after, 0.8)
        assert torch.equal(together.mean[i], alone.mean[0]) and together.std[i] == alone.std[0]
    shared = gaussian(process, x, said, times[4, None], table.take(slice(4, 5)))
    assert torch.equal(shared.mean[2], together.mean[2])


def test_gradients_pass_through_steps():
    """d mean / d v = -sigma (1 - s) + (1 - sigma) s cos(eta pi / 2) for a flow; d mean / d x likewise."""
    x, said = normal(0, 2, 2, 4, 2, 2).unbind()
    x, said = x.requires_grad_(), said.requires_grad_()
    sigma, after, kept = 0.8, 0.6, 0.6 * math.cos(0.35 * math.pi)
    step(FLOW, x, said, torch.tensor([sigma]), torch.tensor([after]), 0.7).mean.sum().backward()
    torch.testing.assert_close(said.grad, torch.full_like(said, -sigma * (1 - after) + (1 - sigma) * kept))
    torch.testing.assert_close(x.grad, torch.full_like(x, 1 - after + kept))
    for process in (EPSILON, VELOCITY):
        leaf = normal(3, 2, 4, 2, 2).requires_grad_()
        found = step(process, x.detach(), leaf, torch.tensor([700, 30]), torch.tensor([500, 10]), 1.0)
        found.log_prob(normal(4, 2, 4, 2, 2))[0].backward()
        assert leaf.grad is not None and bool((leaf.grad[0] != 0).all()) and not leaf.grad[1].any()


def test_log_probability_is_that_of_torchs_normal():
    for shape in SHAPES:
        found = Gaussian(normal(0, *shape), torch.tensor([0.5, 0.1, 0.02]))
        outcome = found.draw(normal(1, *shape))
        spread = found.std.view(-1, *[1] * (len(shape) - 1))
        theirs = torch.distributions.Normal(found.mean, spread).log_prob(outcome).flatten(1).mean(1)
        torch.testing.assert_close(found.log_prob(outcome), theirs, rtol=1e-5, atol=1e-5)
        other = Gaussian(found.mean + 0.05, found.std)
        torch.testing.assert_close(found.kl(other), 0.05**2 / (2 * found.std.square()), rtol=1e-3, atol=1e-7)


# --- sampling times, devices and refusals ---------------------------------------------------------------------------


@every
@settings(deadline=None)
@given(steps=st.integers(1, 1000))
def test_sampling_times_fall_to_clean(process, steps: int):
    times = process.sampling_times(steps, None)
    assert times.shape == (steps + 1,) and times.dtype == process.times.dtype
    assert times[0] == process.times[-1] and times[-1] == process.CLEAN
    assert bool((times.diff() < 0).all()) and bool(torch.isin(times[:-1], process.times).all())


@every
@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_impossible_numbers_of_steps(process: DiffusionProcess, steps: int):
    with pytest.raises(FewShotError, match="1 to 1000"):
        process.sampling_times(steps, None)


@every
def test_another_device_is_given_no_float64(process):
    """Times may lie on the host; what goes to the device of the latents is float32 or whole numbers."""
    there = torch.device("meta")
    moved = process.to(there)
    assert moved.times.device == there and process.times.device.type == "cpu" and len(moved) == len(process)
    assert moved.prediction == process.prediction
    x = torch.empty(2, 4, 2, 2, device=there)
    times = process.sampling_times(4, None)
    assert times.device.type == "cpu"
    found = gaussian(moved, x, x, times[:2], process.coefficients(times[:2], times[1:3], 0.5))
    told = [moved.snr(moved.times), moved.noise_level(moved.times), moved.add_noise(x, x, times[:1])]
    for tensor in (found.mean, found.std, *told):
        assert tensor.device == there and tensor.dtype == torch.float32


def test_a_moved_process_is_the_same():
    by_size = RectifiedFlow(lambda size: size[0] / size[1], 0.5, 0.7, 500)
    for process in (*ALL, by_size):
        moved, size = process.to(torch.device("cpu")), (3, 2)
        assert torch.equal(moved.times, process.times)
        assert torch.equal(moved.sampling_times(9, size), process.sampling_times(9, size))
        drawn = [p.draw_times(Randomness(0), "t", 0, range(5), size) for p in (process, moved)]
        assert torch.equal(*drawn) and torch.equal(moved.snr(process.times), process.snr(process.times))


def test_other_schedules():
    trained = DDPM.from_config({"trained_betas": [0.1, 0.2]})
    torch.testing.assert_close(trained.alphas_cumprod, torch.tensor([0.9, 0.72]))
    linear = DDPM.from_config({"beta_schedule": "linear", "beta_start": 0.1, "beta_end": 0.2})
    assert linear.alphas_cumprod[0] == pytest.approx(0.9)
    kept = DDPM.from_config({**SD, "rescale_betas_zero_snr": True}, zero_snr=False)
    assert torch.equal(kept.alphas_cumprod, EPSILON.alphas_cumprod)
    with pytest.raises(FewShotError, match="squaredcos"):
        DDPM.from_config({"beta_schedule": "squaredcos_cap_v2"})
    with pytest.raises(FewShotError, match="'sample'"):
        DDPM.from_config({**SD, "prediction_type": "sample"})
