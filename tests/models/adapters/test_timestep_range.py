"""A LoRA of noisy timesteps around ComfyUI's calls of a denoiser, as it is and compiled."""

from __future__ import annotations

import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import LowRank
from comfyui_fewshot.models.adapters.timestep_range import timestep_gated

WIDTH = 8


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_k = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.to_k(x).sin()


class Denoiser(nn.Module):
    """Calls its wrappers within its own forward, as ComfyUI's UNet does."""

    def __init__(self):
        super().__init__()
        self.a, self.b = Block(), Block()

    def forward(self, x, timesteps, wrappers=()):
        call = self.plain
        for wrapper in wrappers:
            call = partial(wrapper, Executor(call, class_obj=self))
        return call(x, timesteps)

    def plain(self, x, timesteps):
        return self.b(self.a(x)) + timesteps.view(-1, 1, 1) / 1000


class Executor(SimpleNamespace):
    def __init__(self, call, class_obj):
        super().__init__(call=call, class_obj=class_obj)

    def __call__(self, *args):
        return self.call(*args)


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    return Denoiser()


def pair():
    return LowRank(torch.randn(WIDTH, 2), torch.randn(2, WIDTH), 2.0)


def test_each_row_by_its_own_timestep_and_two_add_up(denoiser):
    one, two = {"a.to_k": pair()}, {"a.to_k": pair(), "b.to_k": pair()}
    x, times = torch.randn(3, 4, WIDTH), torch.tensor([499.0, 500.0, 999.0])
    base = denoiser(x, times)
    for wrappers in ([timestep_gated(one, 0.0, 500)], [timestep_gated(one, 1.0, 500), timestep_gated(one, -1.0, 500)]):
        assert torch.allclose(denoiser(x, times, wrappers), base, atol=1e-6)
    both = denoiser(x, times, [timestep_gated(one, 1.0, 500), timestep_gated(two, 0.5, 700)])
    merged = copy.deepcopy(denoiser)
    with torch.no_grad():
        for pairs, strength in ((one, 1.0), (two, 0.5)):
            for name, factor in pairs.items():
                merged.get_submodule(name).weight += strength * factor.up @ factor.down
    assert torch.equal(both[0], base[0]) and torch.allclose(both[2], merged(x, times)[2], atol=1e-5)
    assert torch.equal(both[1], denoiser(x, times, [timestep_gated(one, 1.0, 500)])[1]) and not torch.equal(
        both[1], base[1]
    )
    assert torch.equal(denoiser(x, times), base)  # nothing stays


def test_regional_prompts_have_more_rows_than_timesteps(denoiser):
    """All of them count where all timesteps do; where some do, nobody knows which."""
    pairs = {"a.to_k": pair()}
    region = copy.deepcopy(denoiser)
    region.a.register_forward_pre_hook(lambda _, given: given[0].repeat(3, 1, 1))
    region.a.register_forward_hook(lambda _, __, output: output[:2])
    x = torch.randn(2, 4, WIDTH)
    for times in ([900.0, 600.0], [100.0, 499.0]):
        wrappers, told = [timestep_gated(pairs, 1.0, 500)], torch.tensor(times)
        assert torch.allclose(region(x, told, wrappers), denoiser(x, told, wrappers), atol=1e-5)
    with pytest.raises(FewShotError, match="6 rows of prompts stand beside 2 timesteps"):
        region(x, torch.tensor([900.0, 100.0]), [timestep_gated(pairs, 1.0, 500)])


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "blocks"])
def test_a_compiled_denoiser_does_not_keep_the_hooks_of_a_call(denoiser, whole):
    torch.compiler.reset()
    compiled = copy.deepcopy(denoiser)
    if whole:
        compiled = torch.compile(compiled, backend="eager")
    else:
        compiled.a, compiled.b = (torch.compile(block, backend="eager") for block in (compiled.a, compiled.b))
    wrappers = [timestep_gated({"a.to_k": pair(), "b.to_k": pair()}, 1.0, 500)]
    x = torch.randn(2, 3, WIDTH)
    with torch.inference_mode():
        for times in ([900.0, 900.0], [100.0, 100.0], [900.0, 100.0], [600.0, 700.0], [10.0, 20.0]):
            told = torch.tensor(times)
            assert torch.allclose(compiled(x, told, wrappers), denoiser(x, told, wrappers), atol=1e-5), times
            assert torch.allclose(compiled(x, told), denoiser(x, told), atol=1e-5), times
