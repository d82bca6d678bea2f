"""Fusion: the closed form against its definition and a solver, limits, blocks that do not mix, and real networks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.progress import NullProgress
from comfyui_fewshot.core.values import Adapter, Dense, Kept, LowRank
from comfyui_fewshot.models.adapters.apply import applied, delta, find_module
from comfyui_fewshot.models.adapters.gram import PROMPTS, GramSampling, input_grams
from comfyui_fewshot.models.adapters.inject import LoraSpec, inject
from comfyui_fewshot.models.adapters.lora_layers import basis_block
from comfyui_fewshot.models.adapters.merge import (
    RIDGE,
    _combined,
    _mean_square,
    _system,
    fuse_adapters,
    sum_adapters,
)
from comfyui_fewshot.models.stable_diffusion.encoding.prompts import encode_prompts

from ..conftest import random_adapter

CPU = torch.device("cpu")
SHORT = GramSampling(steps=2, size=32)


def pair(seed, out=5, width=7, rank=2, alpha=3.0):
    random = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(out, rank, generator=random), torch.randn(rank, width, generator=random), alpha)


def inputs(seed, count, width=7):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def least_squares(given, grams, ridge=RIDGE):
    """The fused change of one layer."""
    return _combined(given, grams, _system(grams, ridge))


def change(factor, shape=(5, 7)):
    return delta(factor, CPU, torch.Size(shape)).double()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(2, 3), st.booleans())
def test_nothing_fits_the_inputs_better(seed, count, dense):
    """The gradient of sum_i |(D - D_i) X_i|^2 is zero at the fused D, by autograd on the definition."""
    factors = [pair(seed + i) for i in range(count)]
    if dense:
        factors[0] = Dense(change(factors[0]).float())
    seen = [inputs(seed + 50 + i, 30) for i in range(count)]
    found = change(least_squares([(f, 1.0) for f in factors], [x.T @ x for x in seen], ridge=1e-12))
    found.requires_grad_()
    loss = sum(((x @ (found - change(f)).T) ** 2).sum() for f, x in zip(factors, seen, strict=True))
    loss.backward()
    assert found.grad.abs().max() < 1e-3 * max(1.0, loss.item())


def test_it_is_what_a_solver_finds():
    factors, seen = [pair(1), pair(2)], [inputs(3, 40), inputs(4, 40)]
    rows = torch.cat(seen)
    wanted = torch.cat([x @ change(f).T for f, x in zip(factors, seen, strict=True)])
    solved = torch.linalg.lstsq(rows, wanted).solution.T
    found = change(least_squares([(f, 1.0) for f in factors], [x.T @ x for x in seen], ridge=1e-12))
    assert torch.allclose(found, solved, atol=1e-4)


def test_one_alone_stays_as_it_is_on_its_inputs():
    """Few inputs: their span is less than the space, and the ridge takes the rest back to the base."""
    factor, seen = pair(1), inputs(2, 3)
    found = change(least_squares([(factor, 1.0)], [seen.T @ seen], ridge=1e-8))
    assert torch.allclose(seen @ found.T, seen @ change(factor).T, atol=1e-4)
    away = torch.linalg.svd(seen).Vh[3:]
    assert (away @ found.T).abs().max() < 1e-4 < (away @ change(factor).T).abs().max()


def test_inputs_of_different_spaces_keep_both():
    factors = [pair(1), pair(2)]
    basis = torch.linalg.qr(inputs(5, 7)).Q
    seen = [inputs(6, 20, 3) @ basis[:3], inputs(7, 20, 4) @ basis[3:]]
    found = change(
        least_squares([(f, s) for f, s in zip(factors, (1.0, 0.5), strict=True)], [x.T @ x for x in seen], 1e-9)
    )
    for factor, x, strength in zip(factors, seen, (1.0, 0.5), strict=True):
        assert torch.allclose(x @ found.T, strength * x @ change(factor).T, atol=1e-3)


def test_a_large_ridge_goes_back_to_the_base():
    seen = inputs(3, 40)
    found = change(least_squares([(pair(1), 1.0)], [seen.T @ seen], ridge=1e6))
    assert found.abs().max() < 1e-4 * change(pair(1)).abs().max()


def test_low_rank_stays_low_rank():
    grams = [torch.eye(7), torch.eye(7)]
    found = least_squares([(pair(1, rank=2), 1.0), (pair(2, rank=3), 1.0)], grams)
    assert isinstance(found, LowRank) and found.rank == 5


@pytest.mark.parametrize("dense", [False, True])
def test_the_square_of_a_sum_is_that_of_what_it_does(dense):
    """Low-rank changes by their small factors, others by their matrices; a change less itself is nothing."""
    one, other = pair(1), Dense(change(pair(2, rank=3)).float()) if dense else pair(2, rank=3)
    x = inputs(3, 20)
    wanted = ((x @ (change(one) - 0.5 * change(other)).T) ** 2).sum()
    assert _mean_square([(one, 1.0), (other, -0.5)], x.T @ x) == pytest.approx(float(wanted), rel=1e-5)
    assert 0 <= _mean_square([(other, 1.0), (other, -1.0)], x.T @ x) < 1e-9


def adapters(model):
    sets = {"cross": LoraSpec(2, 2.0), "feed_forward": LoraSpec(2, 2.0), "text": LoraSpec(2, 2.0)}
    found = [random_adapter(model, sets, seed) for seed in (1, 2)]
    return [Adapter(a.factors, a.family, t) for a, t in zip(found, ("sks cat", "zwx car"), strict=True)]


def test_the_sum_does_what_both_do(opened_pocket):
    one, other = adapters(opened_pocket)
    both = sum_adapters([(one, 1.0), (other, 0.5)])
    assert both.trigger == "sks cat, zwx car"
    for path in one.factors:
        shape = find_module(opened_pocket.parts(), path).weight.shape
        wanted = change(one.factors[path], shape) + 0.5 * change(other.factors[path], shape)
        assert torch.allclose(change(both.factors[path], shape), wanted, atol=1e-5)


@torch.no_grad()
def test_recorded_inputs_are_those_of_the_layers(opened_pocket):
    """Cross-attention's keys see the prompts' states, all of them and nothing else, at every step."""
    one, _ = adapters(opened_pocket)
    path = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    (gram,) = input_grams(opened_pocket, one, 1.0, [path], SHORT, NullProgress()).values()
    with applied(opened_pocket, [(one, 1.0)]):
        states = encode_prompts(opened_pocket, [text.format("sks cat") for text in PROMPTS])["hidden"].flatten(0, 1)
    assert torch.allclose(gram, states.T @ states / len(states), atol=1e-4 * gram.abs().max().item())


def test_fused_adapters_lose_less_on_their_inputs_than_their_sum(opened_pocket):
    given = [(adapter, 1.0) for adapter in adapters(opened_pocket)]
    one, errors = fuse_adapters(opened_pocket, given, SHORT)
    assert one.metadata["fewshot.fusion_error"] == ", ".join(f"{error:.4f}" for error in errors)
    added = sum_adapters(given)
    paths = list(one.factors)
    lost = {id(one): 0.0, id(added): 0.0}
    for (adapter, strength), error in zip(given, errors, strict=True):
        seen = input_grams(opened_pocket, adapter, strength, paths, SHORT, NullProgress())
        mine = whole = 0.0
        for path in paths:
            shape = find_module(opened_pocket.parts(), path).weight.shape
            alone = change(adapter.factors[path], shape)
            whole += float(((alone @ seen[path].double()) * alone).sum())
            for result in (one, added):
                missed = change(result.factors[path], shape) - alone
                square = float(((missed @ seen[path].double()) * missed).sum())
                lost[id(result)] += square
                mine += square if result is one else 0.0
        assert error == pytest.approx((mine / whole) ** 0.5, rel=1e-3) and 0 < error < 1
    assert lost[id(one)] < 0.5 * lost[id(added)]


def test_what_cannot_be_fused(opened_pocket):
    one, other = adapters(opened_pocket)
    path = next(iter(other.factors))
    hadamard = Kept({name: torch.zeros(2, 2) for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")})
    with pytest.raises(FewShotError, match="holds LoHa, LoKr or another form that cannot be fused: use LoRAs"):
        fuse_adapters(
            opened_pocket, [(one, 1.0), (Adapter({**other.factors, path: hadamard}, "sd1", "zwx car"), 1.0)], SHORT
        )
    with pytest.raises(FewShotError, match="1 adapter was given to fuse"):
        sum_adapters([(one, 1.0)])
    with pytest.raises(FewShotError, match="for sd1 and sdxl"):
        sum_adapters([(one, 1.0), (Adapter({}, "sdxl", "zwx"), 1.0)])
    with pytest.raises(FewShotError, match="adapter 2 has no trigger"):
        sum_adapters([(one, 1.0), (Adapter(other.factors, "sd1"), 1.0)])
    words = [Adapter({}, "sd1", f"sks {n}", {"sks": {"clip_l": torch.randn(1, 192)}}) for n in ("cat", "car")]
    for way in (sum_adapters, lambda given: fuse_adapters(opened_pocket, given, SHORT)):
        with pytest.raises(FewShotError, match="two adapters teach the word 'sks'"):
            way([(word, 1.0) for word in words])
    broken = Adapter({**other.factors, path: pair(1, 3, 4)}, "sd1", "zwx car")
    with pytest.raises(FewShotError, match=rf"do not fit each other in {path} \(sks cat: .* x .*, zwx car: 3 x 4\)"):
        sum_adapters([(one, 1.0), (broken, 1.0)])
    shape = find_module(opened_pocket.parts(), path).weight.shape
    empty = Adapter({path: Dense(torch.full(shape, torch.nan))}, "sd1", "zwx car")
    for way in (sum_adapters, lambda given: fuse_adapters(opened_pocket, given, SHORT)):
        with pytest.raises(FewShotError, match=f"no finite numbers in {path}"):
            way([(Adapter({path: one.factors[path]}, "sd1", "sks cat"), 1.0), (empty, 1.0)])


# ------------------------------------------------------------------------------------------------ orthogonal blocks


@settings(deadline=None, max_examples=15)
@given(st.sampled_from([(32, 4), (64, 16), (48, 5)]), st.data())
def test_blocks_are_orthonormal_to_each_other(size, data):
    width, rank = size
    block = st.integers(0, width // rank - 1)
    i, j = data.draw(block), data.draw(block)
    one, other = (basis_block("unet.a", width, rank, number) for number in (i, j))
    assert torch.allclose(one @ other.T, torch.eye(rank) * (i == j), atol=1e-6)
    assert not torch.allclose(one, basis_block("unet.b", width, rank, i), atol=1e-2)


def test_sums_of_blocks_leave_each_other_alone(opened_pocket):
    """On inputs within a subject's block the sum does what its adapter does alone (E.4)."""
    made = []
    for block in (0, 3):
        injected = inject(opened_pocket, {"cross": LoraSpec(4, 2.0, block)}, seed=block)
        assert all(name.endswith("lora_up") for name in injected.parameters)
        with torch.no_grad():
            for parameter in injected.parameters.values():
                parameter.normal_(generator=torch.Generator().manual_seed(block))
        made.append(injected.extract(f"s{block} cat"))
        injected.remove()
    both = sum_adapters([(adapter, 1.0) for adapter in made])
    for adapter in made:
        for path, factor in adapter.factors.items():
            shape = find_module(opened_pocket.parts(), path).weight.shape
            x = torch.randn(3, 4) @ factor.down
            alone = x.double() @ change(factor, shape).T
            assert torch.allclose(x.double() @ change(both.factors[path], shape).T, alone, atol=1e-3)


def test_a_layer_without_room_for_the_block(opened_pocket):
    before = {name: module for name, module in opened_pocket.unet.named_modules()}
    with pytest.raises(FewShotError, match="block 50 was asked for, but .* holds .* blocks of rank 16"):
        inject(opened_pocket, {"cross": LoraSpec(16, 16.0, 50)}, 0)
    assert {name: module for name, module in opened_pocket.unet.named_modules()} == before


def test_training_on_in_a_block(opened_pocket):
    first = inject(opened_pocket, {"cross": LoraSpec(4, 4.0, 1)}, 0)
    with torch.no_grad():
        for parameter in first.parameters.values():
            parameter.fill_(0.1)
    adapter = first.extract("sks cat")
    first.remove()
    again = inject(opened_pocket, {"cross": LoraSpec(4, 2.0, 1)}, 5, start_from=adapter)
    path = next(iter(adapter.factors))
    up = again.extract().factors[path].up
    assert torch.allclose(up, torch.full_like(up, 0.2))  # alpha is half of what it was
    again.remove()
    with pytest.raises(FewShotError, match="was not trained in block 2 of rank 4"):
        inject(opened_pocket, {"cross": LoraSpec(4, 4.0, 2)}, 0, start_from=adapter)
