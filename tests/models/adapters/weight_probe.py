"""Run by test_products.py in a process of its own: what ComfyUI's own classes make of LoHas and LoKrs.

    python weight_probe.py COMFYUI_FOLDER FOLDER

FOLDER holds factors.safetensors with names "<case>.<suffix>" and "<case>.weight"; changed.safetensors is left there.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(comfyui: str, folder: Path) -> None:
    sys.argv = sys.argv[:1]
    sys.path.insert(0, comfyui)
    from comfy.cli_args import args

    args.cpu = True
    import safetensors.torch
    import torch
    from comfy.weight_adapter.loha import LoHaAdapter
    from comfy.weight_adapter.lokr import LoKrAdapter

    kron = torch.kron  # which takes no strided tensors, as einsum gives them for a LoKr in CP form
    torch.kron = lambda first, second: kron(first.contiguous(), second.contiguous())
    tensors = safetensors.torch.load_file(folder / "factors.safetensors")
    changed = {}
    for case in sorted({name.split(".")[0] for name in tensors}):
        alpha = tensors.get(f"{case}.alpha")
        strength = None if alpha is None else alpha.item()
        kind = LoHaAdapter if case.startswith("loha") else LoKrAdapter
        found = kind.load(case, tensors, strength, None)
        weight = tensors[f"{case}.weight"].clone()
        changed[case] = found.calculate_weight(weight, case, 1.0, 1.0, None, lambda value: value)
    safetensors.torch.save_file(changed, folder / "changed.safetensors")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
