"""Measures hosted networks in a process of its own, because ComfyUI changes global state.

python -m comfyui_fewshot.tests.models.hosted.probe COMFYUI_FOLDER REPORT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from comfyui_fewshot.core.values import BaseModelRef
from comfyui_fewshot.models.adapters.lora_layers import LoraSpec, LowRankLayer, wrap
from comfyui_fewshot.models.conditioning import Conditioning
from comfyui_fewshot.models.hosted import host
from comfyui_fewshot.models.hosted.model import ROOT, HostedModel
from comfyui_fewshot.models.hosted.open import opened
from comfyui_fewshot.models.hosted.parts import HostedParts
from comfyui_fewshot.tests.models.hosted.networks import NETWORKS, model_of

CPU = torch.device("cpu")
SIDE, LENGTHS, RANK, STEP = 64, (5, 9, 9), 2, 1e-3


def conditioning_of(name: str, dtype: torch.dtype) -> Conditioning:
    """Three captions, of which one is shorter."""
    generator = torch.Generator().manual_seed(1)
    network, rows = NETWORKS[name], []
    for length in LENGTHS:
        more = (
            {"pooled_output": torch.randn(1, network.pooled, generator=generator).to(dtype)} if network.pooled else {}
        )
        states = torch.randn(1, length, network.width, generator=generator).to(dtype)
        rows.append(Conditioning.of(cross_attn=states, **more))
    return Conditioning.cat(rows)


def updates(model: HostedModel, dtype: torch.dtype) -> dict[str, LowRankLayer]:
    """Low-rank updates with effect beside all layers of attention_ff."""
    generator, layers = torch.Generator().manual_seed(2), wrap(model, model.layers("attention_ff"))
    for update in layers.values():
        wide: Any = update.layer
        down = torch.randn(RANK, wide.in_features, generator=generator) * 0.1
        update.set_weights(
            LoraSpec(RANK, RANK), (down, torch.randn(wide.out_features, RANK, generator=generator) * 0.1)
        )
        update.down, update.up = (nn.Parameter(part.detach().to(dtype)) for part in (update.down, update.up))
    return layers


class Measured:
    """One network, its noisy latents and its updates."""

    def __init__(self, name: str, model: HostedModel, dtype: torch.dtype):
        generator = torch.Generator().manual_seed(3)
        shape = (len(LENGTHS), *model.latent_shape(SIDE, SIDE))
        self.model, self.layers = model, updates(model, dtype)
        self.latents, self.weight = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
        self.times, self.conditioning = torch.tensor([0.3, 0.7, 0.5]), conditioning_of(name, dtype)

    def members(self) -> list[nn.Parameter]:
        return [part for update in self.layers.values() for part in (update.down, update.up)]

    def value(self, rows: slice = slice(None)) -> Tensor:
        given = self.model.predict(self.latents[rows], self.times[rows], self.conditioning.take(rows))
        return (given * self.weight[rows]).sum() / self.weight.numel()

    def pairs(self, gradients: list[Tensor]) -> list[list[tuple[nn.Parameter, Tensor]]]:
        """Both parts of each layer with their gradients."""
        both = list(zip(self.members(), gradients, strict=True))
        return [both[i : i + 2] for i in range(0, len(both), 2)]

    def errors(self, gradients: list[Tensor]) -> list[float]:
        """Each layer's gradient against finite differences, along itself and a random way at once."""
        layers = self.pairs(gradients)
        lengths = [float(torch.stack([g.norm() for _, g in layer]).norm()) for layer in layers]
        return [self.error(layer, n) / (n or 1) for layer, n in zip(layers, lengths, strict=True)]

    def error(self, layer: list[tuple[nn.Parameter, Tensor]], length: float) -> float:
        generator = torch.Generator().manual_seed(4)
        ways = [torch.randn(part.shape, generator=generator, dtype=part.dtype) for part, _ in layer]
        wide = torch.stack([way.norm() for way in ways]).norm()
        ways = [g / (length or 1) + way / wide for (_, g), way in zip(layer, ways, strict=True)]
        ends = []
        with torch.no_grad():
            for by in (STEP, -2 * STEP):
                for (part, _), way in zip(layer, ways, strict=True):
                    part.add_(by * way)
                ends.append(float(self.value()))
            for (part, _), way in zip(layer, ways, strict=True):
                part.add_(STEP * way)
        exact = sum(float((g * way).sum()) for (_, g), way in zip(layer, ways, strict=True))
        return abs(exact - (ends[0] - ends[1]) / (2 * STEP))

    def gradients(self) -> list[Tensor]:
        for part in self.members():
            part.grad = None
        with self.model.differentiable():
            self.value().backward()
        return [torch.zeros_like(part) if part.grad is None else part.grad for part in self.members()]


def relative(first: list[Tensor], second: list[Tensor]) -> float:
    """The largest difference of one tensor beside the other's norm, over all that are not zero."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(first, second, strict=True) if b.any())


def gradients_report(name: str) -> dict[str, Any]:
    """Gradients in float64 against finite differences, per tensor; with checkpoints; and row by row."""
    import comfy.model_management as management

    made = model_of(name, torch.float64)
    ref = BaseModelRef(name, HostedParts(made, None, None), name)  # type: ignore[arg-type]
    with opened(ref, ref.location, CPU) as model:  # type: ignore[arg-type]
        one = Measured(name, model, torch.float64)
        whole = one.gradients()
        model.checkpointing(True)
        again = one.gradients()
        model.checkpointing(False)
        management.in_training = True  # the fused kernels know no float64
        errors = one.errors(whole)
        with torch.no_grad():
            apart = sum(float(one.value(slice(i, i + 1))) for i in range(len(LENGTHS)))
            together = float(one.value())
        management.in_training = False
    return {
        "layers": len(one.layers),
        "felt": sum(bool(g.any()) for g in whole),
        "differences": errors,
        "checkpoints": relative(again, whole),
        "rows": abs(apart - together) / abs(together),
        "paths": sorted(one.layers),
        "family": model.family.name,
        "process": [model.process.prediction, len(model.process)],
    }


def left_as_it_was(name: str) -> bool:
    """Whether weights, hooks and modes are the same after a training step."""
    import comfy.model_management as management

    made = model_of(name, torch.float32)
    network = made.model.diffusion_model
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    objects = {key: id(tensor) for key, tensor in network.named_parameters()}
    ref = BaseModelRef(name, HostedParts(made, None, None), name)  # type: ignore[arg-type]
    try:
        with opened(ref, ref.location, CPU) as model:  # type: ignore[arg-type]
            model.checkpointing(True)
            one = Measured(name, model, torch.float32)
            one.gradients()
            for update in one.layers.values():
                update.remove()
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    return (
        objects == {key: id(tensor) for key, tensor in network.named_parameters()}
        and all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())
        and all(p.is_inference() for p in network.parameters())
        and not any(m._forward_hooks or "forward" in m.__dict__ for m in network.modules())
        and not management.in_training
    )


def main(folder: str, report: str) -> None:
    host.start(Path(folder), cpu=True)
    found = {name: gradients_report(name) | {"left": left_as_it_was(name)} for name in NETWORKS}
    Path(report).write_text(json.dumps(found | {"root": ROOT}))


if __name__ == "__main__":
    main(*sys.argv[1:])
