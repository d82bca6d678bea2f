"""Weights in 8 bits: their error is bounded, gradients are those of the layer that they stand for, and LoRA fits on."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from comfyui_fewshot.core.values import LowRank
from comfyui_fewshot.models.adapters.apply import delta
from comfyui_fewshot.models.adapters.lora_layers import LoraSpec, LowRankLayer
from comfyui_fewshot.models.quantization import (
    Float8Conv2d,
    Float8Linear,
    add_unmerged_pairs,
    dequantize,
    quantize_to_float8,
)


def layers():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(32, 5))
    return network.requires_grad_(False)


@given(st.integers(0, 1000), st.floats(1e-6, 1e3))
def test_a_weight_is_off_by_a_sixteenth_of_itself_at_most(seed, size):
    """But for the smallest of a row, which are off by less than 1/100 000 of its largest."""
    torch.manual_seed(seed)
    layer = nn.Linear(7, 5).requires_grad_(False)
    with torch.no_grad():
        layer.weight.mul_(size)
    before = layer.weight.clone()
    quantize_to_float8(nn.Sequential(layer))
    after = dequantize(layer.weight, layer.scale, torch.float32)
    smallest = before.abs().amax(1, keepdim=True) * 1e-5
    assert ((after - before).abs() <= before.abs() / 16 + smallest).all()


def test_values_and_gradients_are_those_of_the_widened_layers():
    small, wide = layers(), layers()
    assert quantize_to_float8(small) == 2
    assert isinstance(small[0], Float8Conv2d) and isinstance(small[3], Float8Linear)
    for i in (0, 3):
        wide[i].weight.copy_(dequantize(small[i].weight, small[i].scale, torch.float32))
    x = torch.randn(4, 3, 4, 4)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [network(given) for network, given in zip((small, wide), inputs, strict=True)]
    for output in outputs:
        output.square().sum().backward()
    assert torch.allclose(*outputs, atol=1e-6) and torch.allclose(inputs[0].grad, inputs[1].grad, atol=1e-5)


def test_memory_is_a_quarter_of_float32():
    network = nn.Sequential(nn.Linear(64, 64, bias=False)).requires_grad_(False)
    quantize_to_float8(network)
    assert network[0].weight.element_size() == 1


def test_a_lora_trains_on_top():
    network = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)).requires_grad_(False)
    x = torch.randn(2, 6)
    quantize_to_float8(network)
    plain = network(x)
    layer = LowRankLayer(network[1])
    _, up = layer.set_weights(LoraSpec(2, 2.0), (torch.randn(2, 6), torch.zeros(6, 2)))
    assert torch.equal(network(x), plain)
    network(x).sum().backward()
    assert up.grad is not None and up.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_it_computes_in_autocast_s_type(dtype):
    network = layers()
    quantize_to_float8(network)
    with torch.autocast("cpu", dtype):
        assert network[3](torch.randn(2, 32)).dtype == dtype


@pytest.mark.parametrize("shaped", [True, False])
def test_pairs_beside_8_bits_add_what_they_would_to_wide_weights(shaped):
    """Two at their strengths, around a linear layer and a convolution; afterwards all is as before."""
    small, wide = layers(), layers()
    quantize_to_float8(small)
    x = torch.randn(4, 3, 4, 4)
    before, handles = small(x), []
    for i, (out, inside, kernel) in {0: (8, 3, (3, 3)), 3: (5, 32, ())}.items():
        one = [1] * len(kernel)
        parts = [
            (LowRank(torch.randn(out, 2, *one), torch.randn(2, inside, *kernel), 3.0), 0.5),
            (LowRank(torch.randn(out, 1, *one), torch.randn(1, inside, *kernel), 1.0), -1.0),
        ]
        if not shaped:  # as some files store them
            parts = [(LowRank(f.up.flatten(1), f.down.flatten(1), f.alpha), strength) for f, strength in parts]
        wide[i].weight.copy_(dequantize(small[i].weight, small[i].scale, torch.float32))
        for factor, strength in parts:
            wide[i].weight.add_(strength * delta(factor, torch.device("cpu"), wide[i].weight.shape))
        handles.append(add_unmerged_pairs(small[i], parts))
    assert torch.allclose(small(x), wide(x), atol=1e-4) and not torch.allclose(small(x), before, atol=0.1)
    for handle in handles:
        handle.remove()
    assert torch.equal(small(x), before)


def test_trained_layers_stay_wide():
    layer = nn.Linear(3, 3)
    assert quantize_to_float8(nn.Sequential(layer)) == 0 and type(layer) is nn.Linear
