"""Advantages: how much better a picture was than what its prompt usually earns, in standard deviations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

EPSILON = 1e-6
"""rewards that differ by less than this share of their size are the same"""


def group_advantages(rewards: Tensor, groups: Sequence[int]) -> Tensor:
    """(r - mean) / std (n,) within each group (Shao et al. 2024, GRPO; Liu et al. 2025, Flow-GRPO).

    A group whose rewards are all the same tells nothing, and its advantages are exactly 0.
    """
    found = torch.zeros_like(rewards, dtype=torch.float64)
    for own in _members(groups):
        found[own] = _standard(rewards[own].double())
    return found.float()


def pooled_advantages(rewards: Tensor, groups: Sequence[int]) -> Tensor:
    """(r - mean of the group) / std (n,), with one std of all groups' deviations (Zheng et al. 2025, DiffusionNFT, Z).

    So a group counts by how much its pictures differ, and one in which they hardly do adds hardly any noise. A group
    whose rewards are all the same has advantages of exactly 0. This is the paper's text; in its released code the std
    is that of all rewards, which holds how groups differ from each other too.
    """
    found = torch.zeros_like(rewards, dtype=torch.float64)
    for own in _members(groups):
        if spread(rewards[own]):
            found[own] = rewards[own].double() - rewards[own].double().mean()
    std = found.square().mean().sqrt()
    return (found / std if std else found).float()


def _members(groups: Sequence[int]) -> list[Tensor]:
    """Which samples belong to each group, (n,) of truths."""
    names = torch.tensor(list(groups))
    return [names == name for name in names.unique()]


def _standard(rewards: Tensor, known: Tensor | None = None) -> Tensor:
    """(r - mean) / std with the mean and the standard deviation of `known`, or of the rewards themselves."""
    known = rewards if known is None else known
    mean, std = known.mean(), known.std(correction=0)
    if std <= EPSILON * known.abs().max().clamp(min=EPSILON):
        return torch.zeros_like(rewards)
    return (rewards - mean) / std


def spread(rewards: Tensor) -> float:
    """The standard deviation of the rewards that are no NaN; exactly 0 where all are the same, or there are none."""
    known = rewards[~rewards.isnan()].double()
    std = float(known.std(correction=0)) if len(known) else 0.0
    return 0.0 if not len(known) or std <= EPSILON * max(float(known.abs().max()), EPSILON) else std


class PromptStatistics:
    """DDPO's per-prompt statistics (Black et al. 2023, section 5.1 and appendix D): the latest rewards of each prompt.

    Args:
        prompts: how many prompts there are; their keys are 0 to prompts - 1.
        size: how many rewards of each are kept.
        enough: rewards from which on a prompt is compared with itself; before, with all of the round.
    """

    def __init__(self, prompts: int, size: int = 32, enough: int = 16):
        self.enough = enough
        self.table = torch.full((prompts, size), torch.nan, dtype=torch.float64)

    def advantages(self, rewards: Tensor, prompts: Sequence[int]) -> Tensor:
        """The advantages (n,) of a round's rewards (n,), which are remembered first."""
        everything, names = rewards.double(), torch.tensor(list(prompts))
        found = torch.zeros_like(everything)
        for name in names.unique():
            own = names == name
            kept = self._remember(int(name), everything[own])
            found[own] = _standard(everything[own], kept if len(kept) >= self.enough else everything)
        return found.float()

    def _remember(self, prompt: int, rewards: Tensor) -> Tensor:
        row = self.table[prompt]
        kept = torch.cat([row[~row.isnan()], rewards])[-len(row) :]
        self.table[prompt, : len(kept)] = kept
        return kept


def mixed(advantages: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean (n,) of several rewards' advantages, each in its own standard deviations.

    A reward that does not apply to a picture is NaN there, and the others' weights count alone.
    """
    table, shares = torch.stack(list(advantages)), torch.tensor(list(weights)).view(-1, 1)
    known = ~table.isnan()
    total = (shares * known).sum(0)
    return (table.nan_to_num(0.0) * shares).sum(0) / total.clamp(min=1e-12)
