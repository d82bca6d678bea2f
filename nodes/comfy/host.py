"""The one module that imports ComfyUI: its node API, progress, cancel and memory."""

from __future__ import annotations

import gc
import html
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.latent_formats
import comfy.ldm.models.autoencoder
import comfy.lora
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.patcher_extension
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import comfy.utils
import folder_paths
from comfy_api.latest import ComfyExtension, io, ui
from server import PromptServer

from ...core.errors import FewShotError
from ...core.progress import NO_METRICS, Metrics

if TYPE_CHECKING:
    import torch
    from PIL import Image

__all__ = ["ComfyExtension", "comfy", "folder_paths", "io", "ui"]

log = logging.getLogger(__name__)

# CLIP's vocabulary as ComfyUI ships it, for checkpoints, which bring none
TOKENIZER = Path(comfy.sd1_clip.__file__).parent / "sd1_tokenizer"

Interrupted = comfy.model_management.InterruptProcessingException
"""raised at Cancel; a BaseException"""

PREVIEW = 512  # pixels of the longer side
READING = "reading/"  # prefix of the metrics of a refinement's readings
TEXT_INTERVAL = 0.2  # seconds between two lines of text on a node


class NodeProgress:
    """Shows the progress of one node in the graph and stops it when the person presses Cancel."""

    def __init__(self, node_id: str | None):
        self.node_id = node_id
        self._bar: comfy.utils.ProgressBar | None = None
        self._text, self._last_text = "", 0.0

    def check(self) -> None:
        """Raises ComfyUI's InterruptProcessingException (a BaseException) when the run was cancelled."""
        comfy.model_management.throw_exception_if_processing_interrupted()

    def report(
        self, done: int, total: int, text: str = "", picture: Image.Image | None = None, metrics: Metrics = NO_METRICS
    ) -> None:
        if self._bar is None or self._bar.total != total:
            self._bar = comfy.utils.ProgressBar(total, node_id=self.node_id)
        preview = None if picture is None else ("JPEG", picture, PREVIEW)
        self._bar.update_absolute(done, total, preview)
        now = time.monotonic()
        new = text and text != self._text and now - self._last_text >= TEXT_INTERVAL
        if text and (new or done >= total or picture is not None):
            self._text, self._last_text = text, now
            self._tell(done, total, text, metrics)

    def _tell(self, done: int, total: int, text: str, metrics: Metrics) -> None:
        say(self.node_id, text)
        if self.node_id is not None:
            event = {"node": self.node_id, "step": done, "total": total, "loss": metrics.get("loss")}
            reading = {name.removeprefix(READING): value for name, value in metrics.items() if name.startswith(READING)}
            if reading:
                event["reading"] = reading
            PromptServer.instance.send_sync("fewshot.progress", event, PromptServer.instance.client_id)


def say(node_id: str | None, text: str) -> ui.PreviewText:
    """Shows `text` on the node at once; what is returned keeps it in the history.

    Only to who queued the graph: another one that is open may have a node of the same number. The page reads it as
    HTML, in which a learned word such as <R> would vanish.
    """
    if node_id is not None:
        server = PromptServer.instance
        server.send_progress_text(html.escape(text, quote=False), node_id, server.client_id)
    return ui.PreviewText(text)


def show(cls: type[io.ComfyNode], image: torch.Tensor, text: str) -> dict:
    """A picture and a text on the node; shown at once and kept in the history."""
    return ui.PreviewImage(image, cls=cls).as_dict() | say(cls.hidden.unique_id, text).as_dict()


@contextmanager
def engine(node_id: str | None) -> Iterator[NodeProgress]:
    """Around every call of the engine: gradients allowed, ComfyUI's models out of the way, memory given back last."""
    import torch

    comfy.model_management.unload_all_models()  # in the mode that nodes run in, as ComfyUI moves quantised weights in
    comfy.model_management.soft_empty_cache()
    with torch.inference_mode(False):
        try:
            yield NodeProgress(node_id)
        except torch.cuda.OutOfMemoryError as error:
            raise FewShotError(
                f"{device()} has too little memory ({str(error).splitlines()[0]}): in Training Settings lower "
                "resolution or batch_size, or set micro_batch to 1 and gradient_checkpointing to on; where pictures "
                "are drawn, lower batch"
            ) from error
        finally:
            gc.collect()
            comfy.model_management.soft_empty_cache()


def device():
    """The device that ComfyUI computes on."""
    return comfy.model_management.get_torch_device()
