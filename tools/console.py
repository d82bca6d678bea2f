"""The console of run.py: lines on standard output, and the error that ends it with a readable sentence."""

from __future__ import annotations


class Stop(Exception):
    """Ends run.py with exit code 1. The message gives what was wrong, the value and what to do."""


def say(text: str = "") -> None:
    print(text, flush=True)
