"""Files of small networks, as ComfyUI's own loaders read them, plain or quantised by ComfyUI.

python -m comfyui_fewshot.tests.models.hosted.files COMFYUI_FOLDER FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from comfyui_fewshot.models.hosted import host
from comfyui_fewshot.tests.models.hosted.networks import model_of

FORMATS = {"float8_e4m3fn": "TensorCoreFP8E4M3Layout", "int8_tensorwise": "TensorWiseINT8Layout"}


def write_flux2(path: Path, form: str | None = None, dtype: torch.dtype = torch.float32) -> Path:
    """A small FLUX.2, whose blocks' linear weights are in one of `FORMATS`."""
    from comfy.quant_ops import QuantizedTensor

    network = model_of("flux2", dtype).model.diffusion_model
    tensors = {}
    for name, tensor in network.state_dict().items():
        tensor = tensor.clone()
        if form is None or tensor.dim() != 2 or "_blocks." not in name:
            tensors[name] = tensor
            continue
        made = QuantizedTensor.from_float(tensor, FORMATS[form])
        stem = name.removesuffix(".weight")
        for ending, part in made.state_dict(name).items():
            tensors[ending] = part
        tensors[f"{stem}.comfy_quant"] = torch.tensor(list(json.dumps({"format": form}).encode()), dtype=torch.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


if __name__ == "__main__":
    host.start(Path(sys.argv[1]), True)
    for name in (None, *FORMATS):
        write_flux2(Path(sys.argv[2], f"flux2_{name or 'plain'}.safetensors"), name)
