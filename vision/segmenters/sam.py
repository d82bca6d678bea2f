"""Segment Anything: boxes into masks. SAM (Kirillov et al. 2023), its .pth files, and SAM 2 (Ravi et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...core.errors import FewShotError
from ...core.weight_files import open_tensors
from ..open import TransformersModel
from .interface import Box

ScoredMasks = list[tuple[np.ndarray, float]]


class Sam(TransformersModel):
    """A SAM in transformers' layout."""

    processor_class, model_class = "SamProcessor", "SamModel"
    # what the processor says of the sizes, in the order in which it takes them back
    size_names: tuple[str, ...] = ("original_sizes", "reshaped_input_sizes")

    @torch.no_grad()
    def masks(self, picture: Image.Image, boxes: Sequence[Box]) -> ScoredMasks:
        input_boxes = [[list(map(float, box)) for box in boxes]]
        inputs = self.processor(images=picture, input_boxes=input_boxes, return_tensors="pt")
        sizes = [inputs.pop(name) for name in self.size_names]
        # Boxes are computed as float64, which some devices do not know.
        inputs = {name: value.float().to(self.device) for name, value in inputs.items()}
        outputs = self.model(**inputs, multimask_output=False)
        (made,) = self.processor.image_processor.post_process_masks(outputs.pred_masks.float().cpu(), *sizes)
        scores = outputs.iou_scores.float().cpu().reshape(-1).tolist()
        return [(mask[0].numpy().astype(bool), score) for mask, score in zip(made, scores, strict=True)]


class Sam2(Sam):
    """A SAM 2 in transformers' layout."""

    processor_class, model_class = "Sam2Processor", "Sam2Model"
    size_names = ("original_sizes",)


class SegmentAnything:
    """A .pth file of models/sams, through the package segment-anything."""

    def __init__(self, file: Path, device: torch.device):
        try:
            from segment_anything import SamPredictor
        except ImportError:
            raise FewShotError(
                f"{file.name} needs the package segment-anything; install it (pip install segment-anything), or put "
                "a SAM in transformers' layout beside the file"
            ) from None
        self.model = _load_sam(file).to(device).eval().requires_grad_(False)
        self.predictor = SamPredictor(self.model)
        self.device = device

    @torch.no_grad()
    def masks(self, picture: Image.Image, boxes: Sequence[Box]) -> ScoredMasks:
        self.predictor.set_image(np.asarray(picture.convert("RGB")))
        input_boxes = torch.tensor(boxes, dtype=torch.float32, device=self.device)
        input_boxes = self.predictor.transform.apply_boxes_torch(input_boxes, (picture.height, picture.width))
        made, scores, _ = self.predictor.predict_torch(None, None, boxes=input_boxes, multimask_output=False)
        self.predictor.reset_image()
        return [(mask[0].cpu().numpy(), float(score)) for mask, score in zip(made, scores, strict=True)]


def _load_sam(file: Path) -> Any:
    """The network of a SAM 1.0 file: its sizes are read from the tensors, not guessed from the file's name."""
    from segment_anything.build_sam import _build_sam

    try:
        with open_tensors(file) as (tensors, _):
            state = dict(tensors)
    except FewShotError as error:
        raise FewShotError(f"{file} cannot be read: {error}") from None
    if "image_encoder.patch_embed.proj.weight" not in state:
        raise FewShotError(f"{file} is no SAM 1.0 checkpoint; choose a file such as sam_vit_b_01ec64.pth")
    blocks = sorted(
        (key for key in state if key.endswith("attn.rel_pos_h") and key.startswith("image_encoder.blocks.")),
        key=lambda key: int(key.split(".")[2]),
    )
    width = state["image_encoder.patch_embed.proj.weight"].shape[0]
    # Relative positions reach over the window (14) or, in global blocks, over the whole grid (64).
    global_blocks = [index for index, key in enumerate(blocks) if state[key].shape[0] > 2 * 14 - 1]
    model = _build_sam(width, len(blocks), width // state[blocks[0]].shape[1], global_blocks)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise FewShotError(f"{file} is no SAM 1.0 checkpoint ({str(error).splitlines()[0]})") from None
    return model
