"""Opening models in transformers' layout from local folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..core.broken_files import stand_in
from ..core.errors import FewShotError
from ..core.weight_files import check_weights


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
    except Exception as error:  # a damaged file makes transformers, safetensors and the unpickler raise many kinds
        reason = broken_file(folder) or str(error).strip().partition("\n")[0] or type(error).__name__
        raise FewShotError(f"the {kind} in {folder} cannot be read ({reason}); fetch its files again") from error
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
            f"{folder} holds weights, but what prepares their input cannot be read ({broken_file(folder) or error}); "
            "fetch preprocessor_config.json and the tokenizer's files of the same model"
        ) from error


def broken_file(folder: Path) -> str | None:
    """What is wrong with the first file of a model's folder that is not what its name says; None where all are."""
    for file in sorted(folder.glob("*")):
        if file.suffix in (".safetensors", ".bin"):
            try:
                check_weights(file)
            except FewShotError as error:
                return str(error)
        elif file.suffix in (".json", ".txt", ".model") and (found := stand_in(file)):
            return found
    return None


class TransformersModel:
    """A model of transformers and what prepares its input, in a local folder; subclasses name their classes."""

    processor_class, model_class = "AutoProcessor", ""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype | None = None):
        self.device = device
        self.processor = open_processor(self.processor_class, folder)
        self.model = open_model(self.model_class, folder, device, dtype)
