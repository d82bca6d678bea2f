"""How run.py speaks: lines on standard output, and one kind of error that ends it with a readable sentence."""

from __future__ import annotations


class Stop(Exception):
    """Ends run.py with exit code 1. The message says what was wrong, the value seen and what to do."""


def say(text: str = "") -> None:
    print(text, flush=True)
