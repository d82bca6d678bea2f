"""Opening models in transformers' layout from local folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ..core.errors import FewShotError


def transformers_class(name: str) -> Any:
    """The class `name` of transformers; FewShotError where the installed version has none."""
    import transformers

    try:
        return getattr(transformers, name)
    except AttributeError:
        raise FewShotError(
            f"transformers {transformers.__version__} has no {name}; install a newer transformers (pip install -U)"
        ) from None


def open_model(
    name: str,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype | None = None,
    kind: str = "model",
    unused: str | None = None,
) -> Any:
    """The model of the class `name` in `folder`, frozen and in evaluation mode on `device`.

    Only local files are read, and no code beside the weights is run.

    Args:
        dtype: None keeps fp32.
        kind: what errors call it.
        unused: weights with this in their names may be missing.

    Raises:
        FewShotError: it cannot be read, or lacks weights.
    """
    model_class = transformers_class(name)
    try:
        model, info = model_class.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, torch_dtype=dtype or torch.float32
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise FewShotError(f"the {kind} in {folder} cannot be read ({error}); fetch its files again") from error
    missing = sorted(weight for weight in info["missing_keys"] if unused is None or unused not in weight)
    if missing:
        names = ", ".join(missing[:3])
        raise FewShotError(f"the {kind} in {folder} lacks weights ({names}, ...); fetch its files again")
    return model.to(device).eval().requires_grad_(False)


def open_processor(name: str, folder: Path) -> Any:
    """The processor or tokenizer of the class `name` in `folder`; FewShotError when files of it are missing."""
    try:
        return transformers_class(name).from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise FewShotError(
            f"{folder} holds weights, but what prepares their input cannot be read ({error}); fetch "
            "preprocessor_config.json and the tokenizer's files of the same model"
        ) from error


class TransformersModel:
    """A model of transformers and what prepares its input, in a local folder; subclasses name their classes."""

    processor_class, model_class = "AutoProcessor", ""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype | None = None):
        self.device = device
        self.processor = open_processor(self.processor_class, folder)
        self.model = open_model(self.model_class, folder, device, dtype)
