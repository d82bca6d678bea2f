"""One step of refinement, whatever the method: which round it belongs to, what the round drew and earned."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.errors import FewShotError
from ...evaluation.report.grids import contact_sheet
from ...evaluation.reward import RewardModels
from ...models.adapters.inject import Injected
from ..distributed import Processes
from ..loop import Memory, Share
from ..losses import part_of_mean
from ..state.run_folder import RunFolder
from ..validation.schedule import BestCheckpoint
from .advantages import PromptStatistics, group_advantages, mixed, spread
from .rollout import RolloutSampler, Trajectory, sample_prompts, score_rollout
from .settings import RefinementSettings

log = logging.getLogger(__name__)

REWARD = "reward"
SHOWN = 16  # pictures of a round on the node
SAME = "same"
SAME_ROUNDS = 3
"""rounds at the beginning whose rewards may all be the same: a reward that says no more after them says nothing"""


@dataclass
class Rollout:
    """A round as it was drawn. `prompts` and `advantages` are of all its samples, `trajectory` of this process's.

    `rewards` are its samples' (terms, n), `spreads` their standard deviations, 0 where all are the same. `old` holds
    log-probabilities under the weights that drew it, by (sample, place), where they are needed.
    """

    number: int
    prompts: list[int]
    trajectory: Trajectory
    advantages: Tensor
    reward: float
    rewards: Tensor
    spreads: list[float]
    old: dict[tuple[int, int], Tensor]


class RefiningStep(ABC):
    """The step of a method that learns from rewarded pictures; a method gives `losses` and its `weights`.

    Round r is drawn before step r * updates with the weights of then, and each of its samples is learned from in one of
    its updates. Everything drawn is a function of (seed, round, sample).

    Args:
        sampler: of the prompts that are learned from.
        injected: the refining adapter; with it disabled the networks are the subject's.
        guard: makes the readings that watch over it, in a run's folder.
    """

    methods: ClassVar[tuple[str, ...]] = ()
    """the methods that it is the step of"""
    reads_text = False

    def __init__(
        self,
        sampler: RolloutSampler,
        reward_models: RewardModels,
        injected: Injected,
        settings: RefinementSettings,
        processes: Processes,
        guard: Callable[[RunFolder], BestCheckpoint],
    ):
        self.sampler, self.reward_models, self.injected = sampler, reward_models, injected
        self.settings, self.processes, self.guard = settings, processes, guard
        self.prompts, self.progress = sampler.prompts, sampler.progress
        self.random, self.device = sampler.random, sampler.model.device
        self.wanted = min(settings.prompts_per_round, len(self.prompts))
        self.statistics = [
            PromptStatistics(len(self.prompts), settings.statistics, settings.statistics_from)
            for _ in reward_models.terms
        ]
        self.same_rounds = 0  # from the beginning; -1 when rewards once differed
        self.rollout: Rollout | None = None
        self.begun = -1  # the round that was begun, drawn or not
        self.begun_with: dict[str, Tensor] = {}  # the weights that drew it, and the statistics before it
        self.weights: dict[str, float] = {REWARD: 0.0}  # which is noted, not minimised

    # ------------------------------------------------------------------------------------------------- the loop's

    divergence = None  # rewards' losses have no natural height

    @property
    def memory(self) -> Memory:
        return self

    def best_checkpoint(self, run: RunFolder, on_device: Callable[[], AbstractContextManager]) -> BestCheckpoint:
        """The guards'; see `guards`."""
        self.sampler.on_device = on_device
        return self.guard(run)

    def passes(self, step: int, share: Share) -> Iterator[Mapping[str, Tensor]]:
        """What each pass adds to each term; the round's mean reward goes with the first sample."""
        number, update = divmod(step, self.settings.updates)
        if self.rollout is None or self.rollout.number != number:
            self.rollout = self.begin(number, update, share)
        if share([0]) == [0]:
            yield {REWARD: torch.tensor(self.rollout.reward, device=self.device, requires_grad=True)}
        items = share(self.items(self.rollout, update))
        rows = [(i, place) for i in items for place in self.places(number, i)]
        for start in range(0, len(rows), self.sampler.batch_size):
            yield self.losses(rows[start : start + self.sampler.batch_size])

    def part(self, update: int) -> list[int]:
        """The samples of a round that an update learns from: of every prompt as many."""
        return list(range(self.wanted * self.settings.group))[update :: self.settings.updates]

    def items(self, rollout: Rollout, update: int) -> list[int]:
        """What an update learns from: its samples, unless a method pairs them."""
        return self.part(update)

    @property
    def rows_per_update(self) -> int:
        """The rows of an update's items and their places, of all processes together."""
        return len(self.part(0)) * self.places_per_sample

    def mean(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What rows' values (n,) add to the update's means."""
        return {name: part_of_mean(values, self.rows_per_update) for name, values in found.items()}

    def state(self, step: int) -> dict[str, Tensor]:
        """The statistics; amid a round those before it, and the weights that drew it and draw it again."""
        if step // self.settings.updates == self.begun:
            return self.begun_with
        return self._statistics()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        for i, statistics in enumerate(self.statistics):
            statistics.table.copy_(state[f"statistics/{i}"])
        self.same_rounds = int(state[SAME][0])
        self.begun_with = dict(state)

    def _statistics(self) -> dict[str, Tensor]:
        tables = {f"statistics/{i}": one.table.clone() for i, one in enumerate(self.statistics)}
        return tables | {SAME: torch.tensor([self.same_rounds])}

    # ------------------------------------------------------------------------------------------------ the method's

    @property
    def places_per_sample(self) -> int:
        return self.settings.trained_steps

    def places(self, number: int, sample: int) -> list[int]:
        """The places on a sample's way that are learned from, or numbers of noisings of its picture."""
        return list(range(self.places_per_sample))

    @abstractmethod
    def losses(self, rows: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """What rows of (sample, place) add to each term."""

    def advantages(self, rewards: Tensor, prompts: Sequence[int], statistics: PromptStatistics) -> Tensor:
        """A term's advantages (n,) of its rewards (n,): over the other pictures of the prompt, unless a method compares
        with more."""
        return group_advantages(rewards, prompts)

    def cache_old_policy(self, rollout: Rollout, share: Share) -> None:  # noqa: B027 - most methods need none
        """Called with the weights that drew the round in place."""

    # ------------------------------------------------------------------------------------------------------ rounds

    def begin(self, number: int, update: int, share: Share) -> Rollout:
        """Draw and reward a round; in the middle of one that was cut, draw it again as it was."""
        if update == 0:
            statistics = self._statistics()
            weights = {f"weights/{name}": weight for name, weight in self.drawing(number).items()}
            self.begun_with = statistics | weights
        self.begun = number
        with self._as_begun():
            rollout = self._drawn(number, share)
            self.cache_old_policy(rollout, share)
        return rollout

    def drawing(self, number: int) -> dict[str, Tensor]:
        """The weights that draw a round, copied: those of now, unless a method draws with others."""
        return {name: p.detach().clone() for name, p in self.injected.parameters.items()}

    @contextmanager
    def _as_begun(self) -> Iterator[None]:
        """With the weights that draw the round."""
        parameters = self.injected.parameters
        now = {name: p.detach().clone() for name, p in parameters.items()}
        self.injected.load({name: self.begun_with[f"weights/{name}"] for name in parameters})
        try:
            yield
        finally:
            self.injected.load(now)

    def _drawn(self, number: int, share: Share) -> Rollout:
        settings = self.settings
        prompts = sample_prompts(settings.seed, number, len(self.prompts), self.wanted, settings.group)
        own = [i for update in range(settings.updates) for i in share(self.part(update))]
        done = number * settings.updates
        self.progress.report(done, settings.steps, f"drawing {len(prompts)} pictures, round {number + 1}")
        trajectory = self.sampler.draw(number, own, prompts, self._strength)
        pictures = self.sampler.pictures(trajectory.latents[:, -1]) if own else []
        table = torch.zeros(len(self.reward_models.terms), len(prompts), dtype=torch.float64, device=self._exact)
        rewards = score_rollout(self.reward_models, pictures, own, [self.prompts[prompts[i]] for i in own], table)
        self.processes.all_reduce(rewards)
        rewards = rewards.cpu()
        advantages, mean = self._advantages(rewards, prompts), self._mean(rewards)
        text = f"round {number + 1}: reward {mean:.4f}"
        log.info("%s", text)
        if pictures:
            few = range(0, len(pictures), max(1, -(-len(pictures) // SHOWN)))
            sheet = contact_sheet([pictures[i] for i in few], [self.prompts[prompts[own[i]]].text for i in few])
            self.progress.report(done, settings.steps, text, picture=sheet)
        spreads = [spread(row) for row in rewards]
        self._check_differs(spreads, rewards)
        return Rollout(number, prompts, trajectory, advantages, mean, rewards, spreads, {})

    def _strength(self, sample: int) -> float:
        """That of the subject while a sample is drawn: evenly from 1 to 1 - explore over the pictures of a prompt.

        Each prompt begins with another, as an update takes every n-th sample and needs all strengths. No paper does so.
        """
        group = self.settings.group
        return 1.0 - self.settings.resolved_explore * ((sample + sample // group) % group) / (group - 1)

    def _check_differs(self, spreads: Sequence[float], rewards: Tensor) -> None:
        """Raise FewShotError where the rewards of all pictures of all rounds so far are the same."""
        if any(spreads):
            self.same_rounds = -1
        elif self.same_rounds >= 0:
            self.same_rounds += 1
        if self.same_rounds == SAME_ROUNDS:
            names = ", ".join(term.name for term in self.reward_models.terms)
            raise FewShotError(
                f"{names} gave all {rewards.shape[1]} pictures of each of the first {SAME_ROUNDS} rounds the same "
                f"reward ({float(rewards.nan_to_num(0.0).max()):.4g}), so there is nothing to learn. Choose another, "
                "or prompts that the base draws differently each time"
            )

    @property
    def _exact(self) -> torch.device:
        """Where processes add up numbers in float64; Apple's devices have none."""
        return torch.device("cpu") if self.device.type == "mps" else self.device

    def _mean(self, rewards: Tensor) -> float:
        """The weighted mean reward of a round."""
        weights = torch.tensor(self.reward_models.weights, dtype=rewards.dtype)
        return float((rewards.nanmean(1).nan_to_num(0.0) * weights).sum() / weights.sum())

    def _advantages(self, rewards: Tensor, prompts: Sequence[int]) -> Tensor:
        """(n,) of a round's rewards (terms, n), each term in its own deviations, mixed by weight."""
        found = []
        for term, row, statistics in zip(self.reward_models.terms, rewards, self.statistics, strict=True):
            known = ~row.isnan()
            keys = [prompt for prompt, there in zip(prompts, known.tolist(), strict=True) if there]
            advantages = torch.full(row.shape, torch.nan)
            if keys:
                own = self.advantages(row[known], keys, statistics)
                advantages[known] = own
                if not own.any():
                    log.warning(
                        "the reward %s is the same for all pictures: this round learns nothing of it", term.name
                    )
            found.append(advantages)
        clip = self.settings.resolved_advantage_clip
        return mixed(found, self.reward_models.weights).clamp(-clip, clip)
