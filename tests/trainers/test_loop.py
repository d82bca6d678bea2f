"""The loop with a task of two numbers, where everything that should happen can be computed by hand."""

import json
from dataclasses import replace

import pytest
import torch
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.progress import NullProgress
from comfyui_fewshot.core.randomness import Randomness
from comfyui_fewshot.models.memory.peak import peak_bytes
from comfyui_fewshot.trainers import loop as loops
from comfyui_fewshot.trainers.auto.fit import EMA_TEMPORARY, trained_bytes
from comfyui_fewshot.trainers.context import TrainingContext
from comfyui_fewshot.trainers.health import SlowdownDetector
from comfyui_fewshot.trainers.loop import Diverged, Plan, train
from comfyui_fewshot.trainers.optim.optimizers import FlatGradients, LearningRates, make_optimizer
from comfyui_fewshot.trainers.state import clock as clocks
from comfyui_fewshot.trainers.state.checkpoint import Checkpoints
from comfyui_fewshot.trainers.state.run_folder import Journal
from comfyui_fewshot.trainers.subject.method import SubjectTraining
from comfyui_fewshot.trainers.validation.schedule import ValidatedCheckpoint


class Pull:
    """Pulls `unet.x` (3,) to seeded targets in as many passes as asked; at step `broken` the loss is not a number."""

    def __init__(self, x, parts=1, broken=None, weights=None, error=None):
        self.x, self.parts, self.broken, self.error = x, parts, broken, error
        self.weights = weights or {"near": 1.0, "small": 0.5}
        self.random = Randomness(1)

    def passes(self, step, share):
        target = self.random.normal("target", step, range(4), (3,))
        for rows in torch.tensor(share(range(4))).chunk(self.parts):
            if self.error and step == self.error[0]:
                raise self.error[1]
            near = (self.x - target[rows]).square().mean(1).sum() / 4
            terms = {"near": near, "small": self.x.square().sum() * len(rows) / 4}
            if step == self.broken:
                terms["near"] = terms["near"] * float("nan")
            yield {name: terms[name] for name in self.weights}


@pytest.fixture
def unwatched(monkeypatch):
    """The loop as on a GPU, where losses are looked at only at log points."""
    prepare = loops._Run.__post_init__

    def changed(self):
        prepare(self)
        self.rollback.every_step = False

    monkeypatch.setattr(loops._Run, "__post_init__", changed)


def start():
    return {"unet.x": Parameter(torch.tensor([1.0, -2.0, 3.0]))}


def run(folder, parameters=None, steps=10, progress=None, save_every=4, cut=None, scale=False, **task):
    folder.mkdir(exist_ok=True)
    parameters = parameters or start()
    plan = Plan(
        steps, LearningRates({"unet": 0.1}, steps), save_every=save_every, log_every=4, scale_losses=scale, cut=cut
    )
    work = Pull(parameters["unet.x"], **task)
    context = TrainingContext(folder, "cpu", progress or NullProgress())
    outcome = train(work, parameters, plan, Checkpoints(folder / "c", "key"), Journal(folder / "log.jsonl"), context)
    return parameters["unet.x"].detach().clone(), outcome


def test_a_step_is_adamw_on_the_clipped_gradient(tmp_path):
    x, outcome = run(tmp_path, steps=3)
    other = Parameter(torch.tensor([1.0, -2.0, 3.0]))
    reference = torch.optim.AdamW([other], lr=0.1, weight_decay=0.0)
    for step in range(3):
        reference.zero_grad()
        (terms,) = Pull(other).passes(step, list)
        (terms["near"] + 0.5 * terms["small"]).backward()
        torch.nn.utils.clip_grad_norm_([other], 1.0)
        reference.step()
        assert outcome.terms["near"][step] == pytest.approx(terms["near"].item(), rel=1e-6)
    assert torch.allclose(x, other, atol=1e-6)


def test_passes_add_up(tmp_path):
    whole, parts = run(tmp_path / "a"), run(tmp_path / "b", parts=3)
    assert torch.allclose(whole[0], parts[0], atol=1e-6)
    assert parts[1].terms["near"] == pytest.approx(whole[1].terms["near"], rel=1e-6)


@pytest.mark.parametrize(("kind", "more"), [("adamw", 0), ("schedule_free", 4)])
def test_a_trained_number_takes_what_is_counted(tmp_path, unwatched, kind, more):
    """Beside the weight: its gradient, its last good value, moments, and for a while what averaging needs."""
    count, seen = 300_000, []
    x = Parameter(torch.ones(count))
    plan = Plan(
        9, LearningRates({"unet": 0.1}, 9), optimizer=kind, save_every=100, log_every=2, visits=[(4, seen.append)]
    )

    class Sum:
        weights = {"all": 1.0}

        def passes(self, step, share):
            yield {"all": x.sum()}

    class Nowhere(Checkpoints):
        def save(self, state):
            pass

    journal, context = Journal(tmp_path / "log.jsonl"), TrainingContext(tmp_path, "cpu")
    most = peak_bytes(lambda: train(Sum(), {"unet.x": x}, plan, Nowhere(tmp_path, "k"), journal, context), [x])
    assert seen == [4, 8] and EMA_TEMPORARY.get(kind, 0) == more
    assert most == pytest.approx(trained_bytes(count, kind) - x.nbytes + more * count, rel=0.01)


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 9])
@pytest.mark.parametrize("error", [KeyboardInterrupt, BaseException, RuntimeError])
def test_a_cut_run_ends_as_an_uncut_one(tmp_path, cut, error):
    whole, outcome = run(tmp_path / "whole")
    parts = []
    with pytest.raises(error):
        run(tmp_path / "cut", error=(cut, error("stop")), cut=parts.append)
    assert parts == [cut]
    resumed, again = run(tmp_path / "cut")
    assert torch.equal(resumed, whole)
    assert again.terms == outcome.terms
    assert (again.resumed_from, outcome.resumed_from) == (cut, 0)
    assert again.seconds > 0


def test_the_watcher_is_asked_before_each_step(tmp_path):
    class Impatient(NullProgress):
        asked = 0

        def check(self):
            self.asked += 1
            if self.asked == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, progress=Impatient())
    assert Checkpoints(tmp_path / "c", "key").latest().step == 3


def test_a_cut_in_the_middle_of_an_update_leaves_the_state_before(tmp_path, monkeypatch):
    whole, _ = run(tmp_path / "whole")
    real = loops.make_optimizer

    def tearing(*args):
        optimizer = real(*args)
        step, calls = optimizer.step, []

        def torn(*a, **k):
            calls.append(1)
            step(*a, **k)
            if len(calls) == 6:
                raise KeyboardInterrupt

        optimizer.step = torn
        return optimizer

    with monkeypatch.context() as patch:
        patch.setattr(loops, "make_optimizer", tearing)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut")
    assert Checkpoints(tmp_path / "cut" / "c", "key").latest().step == 4
    assert torch.equal(run(tmp_path / "cut")[0], whole)


def test_a_loss_that_is_not_a_number_stops_with_the_step_and_keeps_good_weights(tmp_path):
    parameters, parts = start(), []
    with pytest.raises(
        Diverged, match=r"diverged at step 7 of 10 \(near nan.*after step 6 are kept.*unet 0.1"
    ) as caught:
        run(tmp_path, parameters, broken=6, cut=parts.append)
    assert isinstance(caught.value, FewShotError) and caught.value.step == 6 and parts == [6]
    good, _ = run(tmp_path / "good", steps=6)
    assert torch.equal(parameters["unet.x"], good)
    state = Checkpoints(tmp_path / "c", "key").latest()
    assert state.step == 6 and torch.equal(state.weights["unet.x"], good)


def test_weights_of_a_device_that_is_not_watched_are_put_back(tmp_path, unwatched):
    """On a GPU losses are looked at only at log points: the weights of the last good look come back."""
    parameters, parts = start(), []
    with pytest.raises(Diverged, match="diverged at step 7 of 10 .*after step 3 are kept"):
        run(tmp_path, parameters, broken=6, cut=parts.append)
    assert torch.equal(parameters["unet.x"], run(tmp_path / "good", steps=3)[0]) and parts == [3]
    assert Checkpoints(tmp_path / "c", "key").latest().step == 4


def test_where_nothing_was_learned_no_weights_are_said_to_be_kept(tmp_path, unwatched):
    """In the first step no learning rate has done anything yet; later it may have, before the first good look."""
    for broken, told in (
        (0, "Nothing was learned: .* in bfloat16 or float32"),
        (2, "Nothing .* kept. Lower the learn"),
    ):
        with pytest.raises(Diverged, match=rf"step {broken + 1} of 10 \(near nan.*\)\. {told}") as caught:
            run(tmp_path / str(broken), broken=broken)
        assert caught.value.step == 0 and "are kept" not in str(caught.value)


class Clock:
    """A clock that only moves when it is told to, in place of `time`."""

    now = 0.0

    def monotonic(self):
        return self.now


@pytest.mark.parametrize("spill", [None, 24])
def test_only_steps_that_become_slow_are_told_of(tmp_path, monkeypatch, caplog, spill):
    """Saving, validating and a preview take as long as many steps, and none of that is taken for a spill."""
    clock = Clock()
    monkeypatch.setattr(clocks, "time", clock)

    class Slow(Pull):
        def passes(self, step, share):
            clock.now += 1.0 if spill is None or step < spill else 40.0
            yield from super().passes(step, share)

    class SlowSaves(Checkpoints):
        def save(self, state):
            clock.now += 300.0
            super().save(state)

    class SlowLooks(ValidatedCheckpoint):
        def evaluate(self, step, parameters, processes):
            clock.now += 500.0
            super().evaluate(step, parameters, processes)

    def preview(step):
        clock.now += 200.0

    best_checkpoint = SlowLooks(lambda step: (0.5, 0.5, 0.0), 5, 40)
    plan = Plan(
        40,
        LearningRates({"unet": 0.1}, 40),
        save_every=7,
        log_every=4,
        visits=[(6, preview)],
        best_checkpoint=best_checkpoint,
        slowdown=SlowdownDetector(),
    )
    parameters = start()
    store, journal = SlowSaves(tmp_path, "k"), Journal(tmp_path / "log.jsonl")
    train(Slow(parameters["unet.x"]), parameters, plan, store, journal, TrainingContext(tmp_path, "cpu"))
    told = [record.getMessage() for record in caplog.records if "spills" in record.getMessage()]
    speeds = [json.loads(line)["steps_per_second"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    if spill is None:
        assert not told and speeds == [1.0] * 10
    else:
        assert len(told) == 1 and told[0].startswith("step 28: a step suddenly takes 40.00 s, 40 times as long")
        assert speeds == [1.0] * 6 + [1 / 40] * 4


def test_scaled_losses_give_the_same_steps_and_resume(tmp_path):
    """What fp16 needs: gradients are scaled up for the backward pass and down again before clipping."""
    plain, scaled = run(tmp_path / "plain")[0], run(tmp_path / "scaled", scale=True)[0]
    assert torch.allclose(plain, scaled, atol=1e-6)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", scale=True, error=(6, KeyboardInterrupt()))
    assert torch.equal(run(tmp_path / "cut", scale=True)[0], scaled)


def test_a_gradient_that_overflows_under_scaling_is_skipped(tmp_path):
    parameters = start()
    huge = {"near": 1e34, "small": 0.0}  # finite, but not times 65536
    x, outcome = run(tmp_path, parameters, steps=2, scale=True, weights=huge)
    assert x.tolist() == [1.0, -2.0, 3.0] and len(outcome.terms["near"]) == 2
    assert Checkpoints(tmp_path / "c", "key").latest().extra["scale"] == 65536 / 4


def test_log_lines(tmp_path):
    _, outcome = run(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 10]
    assert set(lines[0]) == {
        "time", "step", "loss", "terms", "gradient_norm", "learning_rate", "steps_per_second", "seconds_left",
    }  # fmt: skip
    near, small = (sum(outcome.terms[name][4:8]) / 4 for name in ("near", "small"))
    assert lines[1]["terms"] == pytest.approx({"near": near, "small": small}, rel=1e-5)
    assert lines[1]["loss"] == pytest.approx(near + 0.5 * small, rel=1e-5)
    assert lines[2]["seconds_left"] == 0


def test_progress_carries_the_numbers_of_the_log(tmp_path):
    seen = []

    class Told(NullProgress):
        def report(self, done, total, text="", picture=None, metrics=None):
            seen.append((done, dict(metrics)))

    run(tmp_path, progress=Told())
    for line in map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines()):
        expected = {"loss": line["loss"], "gradient_norm": line["gradient_norm"]}
        expected |= {f"loss/{name}": value for name, value in line["terms"].items()}
        assert (line["step"], expected) in seen


def test_the_time_left_counts_what_is_done_beside_steps(tmp_path, monkeypatch):
    """A clock that moves only beside steps: a step takes none, and what is done after each three takes 6 seconds."""
    now = [0.0]
    monkeypatch.setattr(clocks.time, "monotonic", lambda: now[0])

    def visit(step):
        now[0] += 6.0

    parameters = start()
    plan = Plan(9, LearningRates({"unet": 0.1}, 9), visits=[(3, visit)], log_every=2)
    checkpoints, journal, context = (
        Checkpoints(tmp_path, "k"), Journal(tmp_path / "log.jsonl"), TrainingContext(tmp_path, "cpu")
    )  # fmt: skip
    train(Pull(parameters["unet.x"]), parameters, plan, checkpoints, journal, context)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {line["step"]: round(line["seconds_left"], 3) for line in lines} == {2: 0, 4: 7.5, 6: 3, 8: 1.5, 9: 0}


def test_visits_follow_their_steps(tmp_path):
    seen = []
    parameters = start()
    plan = Plan(7, LearningRates({"unet": 0.1}, 7), visits=[(3, seen.append)])
    checkpoints, journal, context = (
        Checkpoints(tmp_path, "k"), Journal(tmp_path / "log.jsonl"), TrainingContext(tmp_path, "cpu")
    )  # fmt: skip
    train(Pull(parameters["unet.x"]), parameters, plan, checkpoints, journal, context)
    assert seen == [3, 6]


def test_half_precision_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must be float32"):
        run(tmp_path, {"unet.x": Parameter(torch.zeros(3, dtype=torch.bfloat16))})


def test_rates():
    constant = LearningRates({"unet": 2.0}, 10, 4)
    assert [constant.factor(s) for s in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    cosine = LearningRates({"unet": 2.0}, 12, 2, "cosine")
    assert cosine.factor(2) == 1.0 and cosine.factor(7) == pytest.approx(0.5) and cosine.factor(11) < 0.03
    linear = LearningRates({"unet": 2.0}, 12, 2, "linear")
    assert [linear.factor(s) for s in (2, 7, 11)] == pytest.approx([1.0, 0.5, 0.1])
    assert linear.at(7) == {"unet": pytest.approx(1.0)}


def test_groups_have_their_own_rates():
    parameters = {name: Parameter(torch.zeros(1)) for name in ("unet.a", "text_encoder.b", "text_encoder_2.c")}
    rates = LearningRates({"unet": 1.0, "text_encoder": 0.5}, 10, 2)
    optimizer = make_optimizer(parameters, rates)
    rates.set(optimizer, 0)
    assert [(len(g["params"]), g["lr"]) for g in optimizer.param_groups] == [(1, 0.5), (2, 0.25)]
    with pytest.raises(ValueError, match="no learning rate for vae.x"):
        make_optimizer({"vae.x": Parameter(torch.zeros(1))}, rates)


def test_gradients_lie_in_one_buffer():
    a, b = Parameter(torch.tensor([1.0, 2.0])), Parameter(torch.tensor([[3.0]]))
    flat = FlatGradients([a, b], ["loss"])
    (a.sum() * 3 + b.sum() * 4).backward()
    (a.sum() * 0 + b.sum() * 0).backward()
    assert flat.buffer.tolist() == [3, 3, 4, 0]
    norm = flat.clip(1.0)
    assert norm.item() == pytest.approx(34**0.5) and flat.gradients.norm().item() == pytest.approx(1.0, abs=1e-5)
    assert b.grad.data_ptr() == flat.buffer[2:].data_ptr()
    flat.clip(10.0)
    assert flat.gradients.norm().item() == pytest.approx(1.0, abs=1e-5)


class Touches(TorchDispatchMode):
    """Counts what would make a host wait for a device: numbers read, tensors made from the host's numbers."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in ("_local_scalar_dense", "lift_fresh", "is_nonzero", "nonzero"):
            self.seen.append(function)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "kind", [{}, dict(text_encoder=True), dict(token="direction", token_vectors=2, caption_dropout=0.5)]
)
def test_nothing_touches_the_host_between_log_points(model, pictures, settings, tmp_path, unwatched, kind):
    """With prompts that are encoded once, and with those that each step encodes anew."""
    chosen = replace(settings, resolution=32, alpha=4.0, micro_batch=3, noise_offset=0.1, min_snr_gamma=5.0, **kind)
    step, injected = SubjectTraining().prepare(model, pictures, chosen, None, NullProgress())
    plan = Plan(
        9, LearningRates(dict.fromkeys(("unet", "text_encoder", "token"), 1e-3), 9), save_every=100, log_every=8,
        rules=injected.rules,
    )  # fmt: skip
    touches = Touches()

    class Counting(NullProgress):
        """Counts from the third step (all is set up) to the seventh; the log point is the eighth."""

        def report(self, done, total, text="", picture=None, metrics=None):
            if done == 2:
                touches.__enter__()
            if done == 7:
                touches.__exit__(None, None, None)

    checkpoints, journal = Checkpoints(tmp_path, "k"), Journal(tmp_path / "log.jsonl")
    train(step, injected.parameters, plan, checkpoints, journal, TrainingContext(tmp_path, "cpu", Counting()))
    injected.remove()
    assert touches.seen == []
    with touches:
        torch.ones(1).item()
    assert len(touches.seen) == 1
