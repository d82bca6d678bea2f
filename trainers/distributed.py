"""One process or several: shard samples, all-reduce gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch

T = TypeVar("T")


class Processes(Protocol):
    """What the loop needs of its processes; `main` writes files and logs."""

    main: bool

    def shard(self, rows: Sequence[T]) -> list[T]:
        """The rows this process computes; the shards of all processes are all rows, each once."""
        ...

    def all_reduce(self, buffer: torch.Tensor) -> None:
        """Replace `buffer` by its sum over all processes."""
        ...

    def barrier(self) -> None:
        """Wait until all processes reach this point."""
        ...


class SingleProcess:
    """One process."""

    main = True

    def shard(self, rows: Sequence[T]) -> list[T]:
        return list(rows)

    def all_reduce(self, buffer: torch.Tensor) -> None:
        pass

    def barrier(self) -> None:
        pass


class MultiProcess:
    """The processes that `accelerate launch` started. The network is not prepared: only one buffer is reduced.

    They give what one process gives with the same global batch, but for rounding: its passes hold other rows at once,
    and their gradients are added in another order. Where it has one pass for each process, of the same rows
    (`micro_batch`) and by as many threads, it is the same bit for bit.
    """

    def __init__(self, accelerator: Any):
        self.accelerator = accelerator
        self.main = accelerator.is_main_process

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def count(self) -> int:
        return self.accelerator.num_processes

    def shard(self, rows: Sequence[T]) -> list[T]:
        return list(rows[self.accelerator.process_index :: self.count])

    def all_reduce(self, buffer: torch.Tensor) -> None:
        if self.count > 1:
            buffer.copy_(self.accelerator.reduce(buffer, reduction="sum"))

    def barrier(self) -> None:
        self.accelerator.wait_for_everyone()


@contextmanager
def launched(cpu: bool = False) -> Iterator[MultiProcess]:
    """The processes accelerate knows of; its global state is cleared at the end.

    Of the environment accelerate changes one variable in a process that it did not launch, on Apple's devices; that one
    is put back.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from accelerate.utils import patch_environment

    with patch_environment(PYTORCH_ENABLE_MPS_FALLBACK="1"):
        accelerator = Accelerator(cpu=cpu, mixed_precision="no")
        try:
            yield MultiProcess(accelerator)
        finally:
            PartialState().destroy_process_group()
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
