"""What makes more of few pictures: how true masks are, how fast composites, and that nothing is drawn twice."""

from __future__ import annotations

from ..harness.rows import Parts
from . import captions, images


def parts(quick: bool) -> Parts:
    return images.parts(quick) | captions.parts(quick)
