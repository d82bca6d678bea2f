"""Files of tensors that are read back and checked before they get their name, which is never written over."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from .atomic import remedy
from .errors import FewShotError
from .weight_files import DRAFT


def write_checked(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], check: Callable[[Path], None]
) -> Path:
    """Draft, check, then name; the name is given in a way that fails when it is taken."""
    path = Path(path)
    if os.path.exists(path):  # which has no objection to a name that is too long
        raise FewShotError(f"{path.name} exists already in {path.parent}, and is not written over: choose another name")
    draft = path.with_name(f".{uuid.uuid4().hex[:16]}{DRAFT}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(dict(tensors), draft, dict(metadata))
        check(draft)
        draft.chmod(0o666 & ~_mask())  # safetensors writes files that only their owner can read
        _name(draft, path)
    except (OSError, safetensors.SafetensorError) as error:
        system = isinstance(error, OSError)
        reason, advice = (error.strerror if system else None) or error, "Check the folder and the free space."
        advice = remedy(error, advice) if system else advice
        raise FewShotError(f"{path} cannot be written: {reason}. {advice}") from error
    finally:
        with contextlib.suppress(OSError):  # where there is no folder there is no draft, and the error above says so
            draft.unlink(missing_ok=True)
    return path


def _mask() -> int:
    """The rights that this process takes from files it makes; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _name(draft: Path, path: Path) -> None:
    try:
        os.link(draft, path)
    except FileExistsError:
        raise FewShotError(f"{path.name} exists already in {path.parent}: choose another name") from None
    except OSError:  # a file system without hard links
        if path.exists():
            raise FewShotError(f"{path.name} exists already in {path.parent}: choose another name") from None
        draft.replace(path)


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise FewShotError(
                f"{key} is not finite in float16: its training diverged, or it holds numbers beyond 65504; use a lower "
                "learning rate"
            )


def same(written: Mapping[str, Tensor], meant: Mapping[str, Tensor]) -> None:
    if set(written) != set(meant) or any(not torch.equal(written[key], meant[key]) for key in meant):
        raise FewShotError("the file on disk differs from what was written: the disk or the folder is faulty")
