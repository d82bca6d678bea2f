"""Attention maps: the arithmetic against explicit softmax, the hooks against the untouched network, the layers."""

import json
from contextlib import nullcontext

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.models.attention import shares_on_grid, token_shares
from comfyui_fewshot.models.stable_diffusion.attention_maps import SMALL, captured, chosen_layers
from comfyui_fewshot.models.stable_diffusion.encoding.prompts import (
    content_tokens,
    denoise,
    encode_prompts,
    token_places,
)
from comfyui_fewshot.models.stable_diffusion.variants import CONFIGS

ATTENTION = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(*indices):
    """Indices (B, K) padded with 0, and which of them count."""
    most = max(map(len, indices))
    wanted = torch.tensor([[*row, *[0] * (most - len(row))] for row in indices])
    known = torch.tensor([[i < len(row) for i in range(most)] for row in indices])
    return wanted, known


@given(seed=st.integers(0, 50), count=st.integers(2, 9))
@settings(max_examples=20, deadline=None)
def test_shares_are_the_full_softmax_renormalised(seed, count):
    """The columns of softmax(q k^T / sqrt(d)) over all tokens, divided by their sum over the wanted ones."""
    queries, keys = numbers(2, 3, 5, 4, seed=seed), numbers(2, 3, 10, 4, seed=seed + 1)
    wanted, known = rows(range(1, count + 1), range(1, 3))
    member = torch.zeros(2, 1, wanted.shape[1])
    member[:, 0, :2] = torch.tensor([1.0, 0.0])
    full = (queries @ keys.transpose(-1, -2) / 2).softmax(-1)
    expected = torch.stack([full[b, :, :, 1] / full[b][:, :, 1 : 1 + known[b].sum()].sum(-1) for b in range(2)]).mean(1)
    assert torch.allclose(token_shares(queries, keys, wanted, known, member)[:, 0].double(), expected, atol=1e-6)


def test_over_all_tokens_they_are_the_softmax():
    queries, keys = numbers(1, 2, 5, 4), numbers(1, 2, 7, 4, seed=1)
    wanted, known = rows(range(7))
    full = (queries @ keys.transpose(-1, -2) / 2).softmax(-1).mean(1).transpose(1, 2)
    assert torch.allclose(token_shares(queries, keys, wanted, known, torch.eye(7)[None]).double(), full, atol=1e-6)


@given(own=st.integers(1, 4), others=st.integers(0, 4))
def test_without_queries_every_token_has_the_same_share(own, others):
    wanted, known = rows(range(own + others))
    member = torch.tensor([[[1.0] * own + [0.0] * others]])
    found = token_shares(torch.zeros(1, 2, 3, 4), numbers(1, 2, 9, 4), wanted, known, member)
    assert torch.allclose(found, torch.full((1, 1, 3), own / (own + others)), atol=1e-6)


def test_half_precision_is_computed_in_float32():
    queries, keys = numbers(1, 2, 5, 4).bfloat16(), numbers(1, 2, 7, 4, seed=1).bfloat16()
    wanted, known = rows(range(7))
    with torch.autocast("cpu", torch.bfloat16):
        found = token_shares(queries, keys, wanted, known, torch.eye(7)[None])
    assert found.dtype == torch.float32
    assert torch.equal(found, token_shares(queries.float(), keys.float(), wanted, known, torch.eye(7)[None]))


# ------------------------------------------------------------------------------------------------------- layers


def stock(family):
    config = json.loads((CONFIGS / family / "unet" / "config.json").read_text())
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config)


@pytest.mark.parametrize(
    ("family", "side", "levels"),
    [
        ("sd1", 64, {1: 5, 2: 5}),
        ("sd1", 16, {0: 5, 1: 5}),
        ("sd2", 96, {1: 5, 2: 5}),
        ("sdxl", 128, {1: 5, 2: 5}),
    ],
)
def test_layers_by_relative_resolution(family, side, levels):
    """Of Stable Diffusion the 16 x 16 and 32 x 32 maps (10 layers); of SDXL's 60 layers one of each block."""
    layers = chosen_layers(stock(family), side, side)
    assert {level: sum(layer.level == level for layer in layers) for level in {x.level for x in layers}} == levels
    assert layers[0].level == min(levels) and not any("mid" in layer.name for layer in layers)


def test_the_pockets_small_latents_are_seen_in_full(opened_pocket):
    layers = chosen_layers(opened_pocket.unet, 8, 8)
    assert [layer.grid(8, 8) for layer in layers] == [(8, 8)] * 3 + [(4, 4)] * 3
    assert {layer.level for layer in chosen_layers(opened_pocket.unet, SMALL, SMALL)} == {1}


def test_a_grid_of_odd_sides_is_rounded_up_as_the_network_does(opened_pocket):
    layers = chosen_layers(opened_pocket.unet, 6, 10)
    with captured(opened_pocket.unet, layers) as kept:
        denoise(opened_pocket, torch.zeros(1, 8, 6, 10), torch.tensor([5]), encode_prompts(opened_pocket, ["a cat"]))
    wanted, known = rows([1, 2])
    found = shares_on_grid(kept, slice(1), (6, 10), wanted, known, torch.eye(2)[None])
    assert found.shape == (1, 2, 6, 10) and torch.allclose(found.sum(1), torch.ones(1, 6, 10), atol=1e-5)
    with pytest.raises(FewShotError, match=r"has 60 places for latents of \(8, 8\)"):
        shares_on_grid(kept, slice(1), (8, 8), wanted, known, torch.eye(2)[None])


def test_a_denoiser_without_cross_attention_is_told():
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 8), down_block_types=("DownBlock2D",) * 2, norm_num_groups=4,
        up_block_types=("UpBlock2D",) * 2, layers_per_block=1, cross_attention_dim=8, attention_head_dim=2,
    )  # fmt: skip
    with pytest.raises(FewShotError, match="no cross-attention whose maps could be supervised: set local_weight to 0"):
        chosen_layers(unet, 8, 8)


# --------------------------------------------------------------------------------------------------------- hooks


def predict(model, prompts=("a red cat", "a boat at night")):
    latents = numbers(len(prompts), model.latent_channels, 8, 8).float()
    return denoise(model, latents, torch.tensor([700, 40]), encode_prompts(model, prompts))


def test_hooks_change_nothing_and_leave_nothing(opened_pocket):
    hooks = [len(m._forward_hooks) for m in opened_pocket.unet.modules()]
    plain = predict(opened_pocket)
    with captured(opened_pocket.unet, chosen_layers(opened_pocket.unet, 8, 8)) as kept:
        watched = predict(opened_pocket)
    assert torch.equal(plain, watched) and len(kept.queries) == len(kept.keys) == 6
    assert [len(m._forward_hooks) for m in opened_pocket.unet.modules()] == hooks
    before = dict(kept.queries)
    predict(opened_pocket, ("a fish", "a car"))
    assert all(kept.queries[name] is query for name, query in before.items())


def test_maps_are_those_of_the_networks_own_attention(opened_pocket):
    """The main path's softmax, recomputed from the layer's own inputs."""
    layer = chosen_layers(opened_pocket.unet, 8, 8)[0]
    module = opened_pocket.unet.get_submodule(layer.name)
    seen = {}
    handle = module.register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(hidden=args[0], text=kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    with captured(opened_pocket.unet, [layer]) as kept:
        predict(opened_pocket)
    handle.remove()
    query, key = (
        module.head_to_batch_dim(module.to_q(seen["hidden"])),
        module.head_to_batch_dim(module.to_k(seen["text"])),
    )
    expected = module.get_attention_scores(query, key).unflatten(0, (2, -1)).mean(1)[1:].transpose(1, 2)
    length = expected.shape[1]
    found = shares_on_grid(kept, slice(1, 2), (8, 8), *rows(range(length)), torch.eye(length)[None])
    assert torch.allclose(found.flatten(2), expected, atol=1e-6)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_right_with_and_without_checkpointing(opened_pocket, checkpointing):
    """A finite difference in a key projection; recomputed layers are not recorded again."""
    unet, layers = opened_pocket.unet, chosen_layers(opened_pocket.unet, 8, 8)
    weight = unet.get_submodule(layers[-1].name).to_k.weight
    picture = numbers(1, 1, 8, 8, seed=4).float()

    def loss():
        with captured(unet, layers) as kept:
            predict(opened_pocket)
        shares = shares_on_grid(kept, slice(1), (8, 8), *rows(range(1, 5)), torch.eye(4)[None, 1:2])
        return (shares * picture).sum()

    if checkpointing:
        unet.enable_gradient_checkpointing()
        unet.train()
    try:
        weight.requires_grad_(True)
        loss().backward()
        direction = weight.grad / weight.grad.norm()
        slope = weight.grad.norm().item()
        with torch.no_grad():
            ends = []
            for sign in (1, -1):
                weight.add_(direction, alpha=sign * 1e-2)
                ends.append(loss().item())
                weight.add_(direction, alpha=-sign * 1e-2)
    finally:
        weight.requires_grad_(False)
        weight.grad = None
        unet.disable_gradient_checkpointing()
        unet.eval()
    assert (ends[0] - ends[1]) / 2e-2 == pytest.approx(slope, rel=0.02)


def test_little_is_kept_for_the_backward_pass(monkeypatch):
    """Bytes that autograd keeps in Stable Diffusion 1.x at 512 px, counted without computing: less than 5 % more."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none without a device
    unet = stock("sd1")

    def kept_bytes(watch):
        held = {}

        def pack(tensor):
            held[id(tensor.untyped_storage())] = (tensor.untyped_storage().nbytes(), tensor)
            return tensor

        inputs = (torch.empty(1, 4, 64, 64, device="meta"), torch.tensor([5], device="meta"))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            with captured(unet, chosen_layers(unet, 64, 64)) as kept:
                output = unet(*inputs, torch.empty(1, 77, 768, device="meta")).sample
            total = output.sum()
            if watch:
                tokens = [t.to("meta") for t in (*rows(range(1, 13)), torch.zeros(1, 1, 12))]
                total = total + shares_on_grid(kept, slice(1), (64, 64), *tokens).sum()
        assert total.requires_grad
        return sum(size for size, _ in held.values())

    plain = kept_bytes(False)
    assert plain < kept_bytes(True) < 1.05 * plain


# ---------------------------------------------------------------------------------------------------- positions


def tokens_at(model, prompt, places):
    ids = model.tokenizers[0](prompt).input_ids
    return [model.tokenizers[0].decode([ids[place]]).strip() for place in places]


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("a photo of a sks cat on the beach", "sks"),
        ("sks, cat", "cat"),
        ("a (red) cat", "red"),
        ("two-coloured", "coloured"),
    ],
)
def test_places_hold_the_words(opened_pocket, prompt, word):
    start = prompt.index(word)
    places = token_places(opened_pocket, prompt, [(start, start + len(word))])
    assert tokens_at(opened_pocket, prompt, places) == [word]


def test_a_word_of_several_tokens_has_several_places(opened_pocket):
    places = token_places(opened_pocket, "a zebra cat", [(2, 7)])
    assert len(places) > 1 and "".join(tokens_at(opened_pocket, "a zebra cat", places)) == "zebra"
    assert content_tokens(opened_pocket, "a zebra cat") == len(places) + 2


def test_words_beyond_the_window_have_no_place(opened_pocket):
    long = "a cat " * 15 + "sks"
    assert token_places(opened_pocket, long, [(len(long) - 3, len(long))]) == ()
    assert content_tokens(opened_pocket, long) == 30


def test_learned_words_count_as_their_vectors(opened_pocket):
    learned = {"thing": {"clip_l": torch.zeros(3, 192)}}
    assert token_places(opened_pocket, "a thing cat", [(2, 7), (8, 11)], learned) == (2, 3, 4, 5)
    assert content_tokens(opened_pocket, "a thing cat", learned) == 5
