"""Run by test_forms_in_comfyui.py in a process of its own: what ComfyUI's own loader makes of LoRA files.

    python loader_probe.py COMFYUI_FOLDER FOLDER

FOLDER holds checkpoint.safetensors, job.json and LoRA files "<case>.safetensors"; for each strength in job.json
"<case>@<strength>.out" is left there with the weights that changed, by ComfyUI's names, and report.json with what
ComfyUI warned of, by case.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from comfy_start import start


def main(comfyui: str, folder: Path) -> None:
    complaints = start(comfyui)
    import comfy.lora
    import comfy.sd
    import comfy.utils
    import torch

    kron = torch.kron  # which takes no strided tensors, as einsum gives them for a LoKr in CP form
    torch.kron = lambda first, second: kron(first.contiguous(), second.contiguous())
    order = json.loads((folder / "job.json").read_text())
    report = {}
    with torch.inference_mode():
        base = comfy.sd.load_checkpoint_guess_config(
            str(folder / "checkpoint.safetensors"), output_vae=False, te_model_options=order["text_options"]
        )
        for case in order["cases"]:
            complaints.lines.clear()
            lora = comfy.utils.load_torch_file(str(folder / f"{case}.safetensors"))
            for strength in order["strengths"]:
                model, clip = comfy.sd.load_lora_for_models(base[0], base[1], lora, strength, strength)
                changed = patched(model) | patched(clip.patcher)
                comfy.utils.save_torch_file(changed or {"nothing": torch.zeros(1)}, folder / f"{case}@{strength}.out")
            report[case] = list(complaints.lines)
    (folder / "report.json").write_text(json.dumps(report))


def patched(patcher) -> dict:
    """The weights that a model's patches change, as ComfyUI computes them."""
    import comfy.lora
    import comfy.utils

    found = {}
    for key, patches in patcher.patches.items():
        weight = comfy.utils.get_attr(patcher.model, key).float()
        found[key] = comfy.lora.calculate_weight(patches, weight.clone(), key).contiguous()
    return found


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
