"""Full fine-tuning: float32 copies in place of frozen weights, and their differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...core.values import Dense, Factor, Kept
from .apply import changed_weight, check_fits, find_module

if TYPE_CHECKING:
    from ..contract import DiffusionModel

# The set of all parameters of the denoiser, which only full training has.
EVERYTHING = "all"


class FullWeights:
    """The weights and biases of some modules, trained in full; `parameters` by "<path>.weight" and "<path>.bias".

    They are float32 whatever the denoiser's compute type is, which its `predict` computes in by autocast.
    """

    def __init__(self, model: DiffusionModel, paths: Iterator[str], begin: Mapping[str, Factor]):
        self.parameters: dict[str, nn.Parameter] = {}
        self._originals: dict[str, tuple[nn.Module, str, nn.Parameter]] = {}
        roots = model.parts()
        with torch.inference_mode(False), torch.no_grad():
            for path in paths:
                module = find_module(roots, path)
                for name, original in list(module.named_parameters(recurse=False)):
                    trained = original.float() + _change(begin.get(path), name, original, path)
                    self.parameters[f"{path}.{name}"] = nn.Parameter(trained.clone())
                    self._originals[f"{path}.{name}"] = (module, name, original)
        self.use(True)

    def use(self, trained: bool) -> None:
        """Switch the networks to the trained weights, or to the original ones."""
        for key, (module, name, original) in self._originals.items():
            setattr(module, name, self.parameters[key] if trained else original)

    def extract(self) -> dict[str, Dense]:
        """The difference of each module's weight and bias: float32, on the CPU."""
        found: dict[str, dict[str, Tensor]] = {}
        for key, (_, name, original) in self._originals.items():
            change = self.parameters[key].detach() - original.float()
            found.setdefault(key.removesuffix(f".{name}"), {})[name] = change.to("cpu", copy=True)
        return {path: Dense(parts["weight"], parts.get("bias")) for path, parts in found.items()}


def _change(factor: Factor | None, name: str, original: Tensor, path: str) -> Tensor:
    """What the adapter to continue from adds to a parameter."""
    nothing = torch.zeros((), device=original.device)
    if factor is None:
        return nothing
    if name == "weight":
        check_fits(path, factor, original.shape)
        only_bias = isinstance(factor, Kept) and factor.only_bias
        return nothing if only_bias else changed_weight(original.float(), factor) - original.float()
    bias = factor.bias
    if bias is not None:
        check_fits(path, Dense(bias), original.shape)
    return nothing if bias is None else bias.to(original.device, torch.float32).reshape(original.shape)


def modules_with_weights(root: str, network: nn.Module) -> Iterator[str]:
    """The paths of all modules of a network, named `root`, that hold parameters of their own."""
    for name, module in network.named_modules():
        if next(module.named_parameters(recurse=False), None) is not None:
            yield f"{root}.{name}"
