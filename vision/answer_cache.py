"""Answers of models cached on disk by question, so that no model is opened to answer the same again."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..core.atomic import write_whole
from ..core.values import content_key

log = logging.getLogger(__name__)
# Raised when a back-end's arithmetic or prompts change.
REVISION = 1
M = TypeVar("M")


class AnswerCache(Generic[M]):
    """Answers in `folder` of one model, which `open_model` opens at the first cache miss.

    `key` identifies the model: its kind and its files.
    """

    def __init__(self, open_model: Callable[[], M], key: str, folder: Path):
        self.open_model, self.key, self.folder = open_model, key, folder
        self._model: M | None = None

    @property
    def model(self) -> M:
        if self._model is None:
            self._model = self.open_model()
        return self._model

    def get(self, *question: Any, by: Callable[[M], Any]) -> Any:
        """The cached answer to `question`, or a new one computed `by` the model.

        `question` holds all that the answer depends on, as `content_key` takes it; the answer is a JSON value. A
        damaged file is computed again.
        """
        file = self.folder / f"{content_key('answer', REVISION, self.key, question)}.json"
        try:
            return json.loads(file.read_text("utf-8"))["answer"]
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is not usable and is made again (%s)", file, error)
        answer = by(self.model)
        write_whole(file, json.dumps({"answer": answer}, ensure_ascii=False).encode())
        return answer
