"""Where long work keeps what it makes, on what device it computes, and who is told of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .progress import NullProgress, Progress

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RunContext:
    """None of it changes what is made.

    Args:
        folder: where what is made is kept by content keys: runs, priors, samples.
        tokenizer_folder: for bases that bring no tokenizer.
        embedding_folders: where the embeddings lie that prompts name.
    """

    folder: Path
    device: torch.device | str
    progress: Progress = field(default_factory=NullProgress)
    tokenizer_folder: Path | None = None
    embedding_folders: tuple[Path, ...] = ()
