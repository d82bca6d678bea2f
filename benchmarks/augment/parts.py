"""What makes more of few pictures: how true masks are, how fast composites, and that nothing is drawn twice."""

from __future__ import annotations

from .. import Parts
from . import captions as _augment_words
from . import images as _augment_pictures


def parts(quick: bool) -> Parts:
    return _augment_pictures.parts(quick) | _augment_words.parts(quick)
