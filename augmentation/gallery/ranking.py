"""Pictures in the order of how well they match: a search by words as SQLite reads it, and two rankings as one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RANK_CONSTANT = 60  # the constant of reciprocal rank fusion (Cormack et al. 2009)


@dataclass(frozen=True)
class Ranking:
    """Pictures by their numbers in the index (n,), and their scores (n,), higher for a better match."""

    numbers: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[tuple[int, float]]) -> Ranking:
        return cls(np.array([row[0] for row in rows], np.int64), np.array([row[1] for row in rows], np.float64))

    def order(self) -> np.ndarray:
        """Indices into `numbers`, best first; ties go to the earlier picture."""
        return np.lexsort((self.numbers, -self.scores))

    def among(self, numbers: np.ndarray) -> Ranking:
        """The part whose pictures are in `numbers`."""
        present = np.isin(self.numbers, numbers)
        return Ranking(self.numbers[present], self.scores[present])


def query_of(words: str) -> str:
    """Keywords as an FTS5 query: each quoted, so that none is an operator; "red*" stays a prefix."""
    keywords = re.findall(r"[\w'-]+\*?", words)
    return " ".join(f'"{w.rstrip("*")}"' + ("*" if w.endswith("*") else "") for w in keywords if w.strip("*'-_"))


def reciprocal_rank_fusion(rankings: Sequence[Ranking]) -> Ranking:
    """Reciprocal rank fusion: the sum of 1 / (60 + place) over the rankings that hold a picture."""
    numbers = np.unique(np.concatenate([ranking.numbers for ranking in rankings]))
    total = np.zeros(len(numbers))
    for ranking in rankings:
        order = ranking.order()
        total[np.searchsorted(numbers, ranking.numbers[order])] += 1 / (RANK_CONSTANT + np.arange(len(order)))
    return Ranking(numbers, total)
