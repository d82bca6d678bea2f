"""The low-rank update beside a layer, against peft's."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from comfyui_fewshot.models.adapters.lora_layers import LoraSpec, LowRankLayer


@pytest.mark.parametrize(
    ("frozen", "autocast"), [(torch.float32, False), (torch.float32, True), (torch.bfloat16, True)]
)
def test_it_is_pefts_bit_for_bit(frozen, autocast):
    """Outputs, and gradients of both factors and of the input, in every mixture of types."""
    torch.manual_seed(0)
    first = torch.randn(3, 8), torch.randn(5, 3)
    x = torch.randn(4, 2, 8, dtype=torch.float32 if autocast else frozen)

    def measured(ours: bool) -> list[torch.Tensor]:
        network = nn.Sequential(nn.Linear(8, 5, dtype=frozen)).requires_grad_(False)
        with torch.no_grad():
            network[0].weight.copy_(torch.linspace(-1, 1, 40).view(5, 8))
            network[0].bias.zero_()
        if ours:
            down, up = LowRankLayer(network[0]).set_weights(LoraSpec(3, 2.0), first)
        else:
            inject_adapter_in_model(LoraConfig(target_modules="0", r=3, lora_alpha=2), network)
            layer = network[0]
            down, up = (nn.Parameter(part.clone()) for part in first)
            layer.lora_A["default"].weight, layer.lora_B["default"].weight = down, up
        given = x.clone().requires_grad_(True)
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            y = network(given)
        y.float().square().sum().backward()
        assert given.grad is not None and down.grad is not None and up.grad is not None
        return [y.detach(), given.grad, down.grad, up.grad]

    for ours, theirs in zip(measured(True), measured(False), strict=True):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)


def test_it_computes_in_the_type_of_what_it_is_given():
    """In half precision without autocast, where peft would compute in float32: as ComfyUI's networks compute."""
    torch.manual_seed(0)
    layer, x = nn.Linear(8, 5, dtype=torch.bfloat16), torch.randn(4, 8, dtype=torch.bfloat16)
    plain = layer(x)
    down, up = LowRankLayer(layer).set_weights(LoraSpec(3, 6.0), (torch.randn(3, 8), torch.randn(5, 3)))
    made = layer(x)
    assert made.dtype == torch.bfloat16 and torch.equal(made, plain + 2 * (x @ down.bfloat16().T @ up.bfloat16().T))
    made.float().sum().backward()
    assert down.grad is not None and down.grad.dtype == torch.float32


def test_a_layer_of_any_class_has_one_and_is_as_before_without_it():
    class Doubling(nn.Module):
        """As ComfyUI's quantised layers: no nn.Linear, but with its numbers of inputs and outputs."""

        def __init__(self):
            super().__init__()
            self.in_features, self.out_features = 4, 4
            self.weight = nn.Parameter(torch.ones(1), requires_grad=False)

        def forward(self, x):
            return 2 * x

    layer, x = Doubling(), torch.randn(3, 4)
    update = LowRankLayer(layer)
    assert torch.equal(layer(x), 2 * x)  # without weights nothing is added
    down, up = update.set_weights(LoraSpec(2, 4.0), (torch.randn(2, 4), torch.randn(4, 2)))
    torch.testing.assert_close(layer(x), 2 * x + 2 * x @ down.T @ up.T)
    update.on = False
    assert torch.equal(layer(x), 2 * x)
    update.on = True
    update.remove()
    assert torch.equal(layer(x), 2 * x) and not layer._forward_hooks
