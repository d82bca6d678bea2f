"""What makes more of few pictures: how true masks are, how fast composites, and that nothing is drawn twice."""

from __future__ import annotations

from . import Row, _augment_pictures, _augment_words


def rows(quick: bool) -> list[Row]:
    return [*_augment_pictures.rows(quick), *_augment_words.rows(quick)]
