"""What models answered, kept on disk under what they were asked, so that no model is opened to say the same again."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..core.images import write_bytes
from ..core.values import content_key

log = logging.getLogger(__name__)
REVISION = 1  # of what the models are asked with; raised when a back-end's arithmetic or words change
M = TypeVar("M")


class Answers(Generic[M]):
    """The answers in `folder` of the model that `opening` opens, which happens at the first question that is new.

    `key` names the model: its kind and its files.
    """

    def __init__(self, opening: Callable[[], M], key: str, folder: Path):
        self.opening, self.key, self.folder = opening, key, folder
        self._model: M | None = None

    @property
    def model(self) -> M:
        if self._model is None:
            self._model = self.opening()
        return self._model

    def to(self, *asked: Any, by: Callable[[M], Any]) -> Any:
        """The answer to `asked` (what `content_key` takes, all that it depends on): from disk, or now `by` the model.

        An answer is what JSON can hold. One whose file is damaged is made again.
        """
        file = self.folder / f"{content_key('answer', REVISION, self.key, asked)}.json"
        try:
            return json.loads(file.read_text("utf-8"))["answer"]
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is not usable and is made again (%s)", file, error)
        answer = by(self.model)
        write_bytes(json.dumps({"answer": answer}, ensure_ascii=False).encode(), file)
        return answer
