"""How long work tells of itself and is cancelled, whoever watches: a node, a terminal, a test, nobody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from PIL import Image


class Progress(Protocol):
    """Given to every function that takes long."""

    def check(self) -> None:
        """Called once a step; raises when the work is to stop. What was learned is kept by the caller's `finally`."""

    def report(self, done: int, total: int, text: str = "", picture: Image.Image | None = None) -> None:
        """`done` of `total` steps are done; `text` is one line (loss, ETA); `picture` is a preview."""


class NullProgress:
    """Nobody watches."""

    def check(self) -> None:
        pass

    def report(self, done: int, total: int, text: str = "", picture: Image.Image | None = None) -> None:
        pass


@dataclass(frozen=True)
class CancelOnly:
    """Lets the work be cancelled, and tells nothing of its own progress."""

    outer: Progress

    def check(self) -> None:
        self.outer.check()

    def report(self, done: int, total: int, text: str = "", picture: Image.Image | None = None) -> None:
        pass
