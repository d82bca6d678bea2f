"""Parallel work of a bench: one process an item, each with one thread.

Trainings of small models leave most of a second thread idle, so that two at once are done in little more than the time
of one. Results do not depend on how many processes there are, since each computes with one thread.
"""

from __future__ import annotations

import logging
import multiprocessing
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import torch

A = TypeVar("A")
B = TypeVar("B")


def each(function: Callable[[A], B], items: Iterable[A]) -> list[B]:
    """`function` of every item, in order. It is pickled: a function of a module, a method or a partial of one.

    Nested calls compute one item after the other. As many processes work as torch would use threads.
    """
    todo = list(items)
    workers = min(torch.get_num_threads(), len(todo))
    if workers < 2:
        return [function(item) for item in todo]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_begin) as pool:
        return list(pool.map(function, todo))


def _begin() -> None:
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
