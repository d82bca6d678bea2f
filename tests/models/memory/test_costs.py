"""What networks take beside their weights: closed forms, small networks that really compute, and stock ones."""

from __future__ import annotations

import copy
import time

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import CLIPVisionConfig, CLIPVisionModel

from comfyui_fewshot.models.adapters.lora_layers import LoraSpec, LowRankLayer
from comfyui_fewshot.models.memory import costs
from comfyui_fewshot.models.memory.peak import peak_bytes
from comfyui_fewshot.models.memory.weightless import autocast, weightless
from comfyui_fewshot.tests.models.stable_diffusion.stock import stock_costs, stock_model
from comfyui_fewshot.trainers.auto.fit import autocast_bytes
from comfyui_fewshot.vision.memory import vision_tower_bytes

WIDTH, ROWS = 32, 1000
EACH = 4 * WIDTH * ROWS  # bytes of one activation
SMALL = dict(
    sample_size=8, block_out_channels=(64, 128), layers_per_block=1, cross_attention_dim=64, attention_head_dim=2,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
)  # fmt: skip


def linear(trained=()):
    """Four frozen layers in a row, some with low-rank updates whose rank is so small that it hardly counts."""
    network = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))).requires_grad_(False)
    parts = []
    for i in trained:
        update = LowRankLayer(network[i])
        parts += update.set_weights(LoraSpec(1, 1.0), (torch.randn(1, WIDTH), torch.randn(WIDTH, 1)))
    return network, parts


@pytest.mark.parametrize(("trained", "kept"), [((3,), 1), ((2, 3), 2), ((1, 3), 2), ((0, 1, 2, 3), 3)])
def test_layers_keep_what_their_adapters_read(trained, kept):
    """A frozen layer keeps nothing: alive at the end of the forward pass are inputs of adapters, and the output. The
    first layer's is the batch itself, which is known."""
    network, parts = linear(trained)
    given, held = torch.randn(ROWS, WIDTH), []
    found = peak_bytes(lambda: held.append(network(given)), [given, *network.parameters(), *parts])
    alive = kept + 1  # and the output
    assert alive * EACH <= found <= (alive + 3.2) * EACH  # the update, scaled, and the sum


def test_checkpoints_keep_inputs_alone():
    network, parts = linear(range(4))
    block = nn.Sequential(*(nn.Sequential(nn.GELU(), nn.GELU(), layer, nn.GELU()) for layer in network))
    given = torch.randn(ROWS, WIDTH)
    known = [given, *network.parameters(), *parts]

    def whole():
        block(given).sum().backward()

    def again():
        x = given
        for one in block:
            x = checkpoint(one, x, use_reentrant=False)
        x.sum().backward()

    plain, checkpointed = peak_bytes(whole, known), peak_bytes(again, known)
    assert plain > 14 * EACH and 4 * EACH < checkpointed < 0.8 * plain


@pytest.mark.parametrize("backward", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_without_weights_as_much_is_counted_as_when_it_is_computed(backward, checkpointing):
    """A real UNet on the CPU, beside its copy that has no storage."""
    unet = UNet2DConditionModel(**SMALL).requires_grad_(False)
    if checkpointing:
        unet.enable_gradient_checkpointing()
    unet.train(checkpointing)
    found = []
    for network, device in ((unet, "cpu"), (weightless(unet), "meta")):
        update = LowRankLayer(network.mid_block.attentions[0].transformer_blocks[0].attn1.to_q)
        parts = update.set_weights(LoraSpec(2, 2.0), (torch.randn(2, 128), torch.randn(128, 2)))
        given, text = torch.zeros(1, 4, 32, 32, device=device), torch.zeros(1, 77, 64, device=device)

        def compute(network=network, given=given, text=text, device=device):
            with torch.set_grad_enabled(backward):
                made = network(given, torch.zeros(1, device=device), encoder_hidden_states=text, return_dict=False)[0]
                if backward:
                    costs._backward([made.square().mean()])

        known = [given, text, *network.parameters(), *network.buffers(), *parts]
        found.append(peak_bytes(compute, known))
        update.remove()
    assert found[1] == pytest.approx(found[0], rel=0.01) and found[0] > 1e6


def test_copies_hold_nothing_and_leave_their_model_alone():
    unet = UNet2DConditionModel(**SMALL)
    before = copy.deepcopy(unet.state_dict())
    made = weightless(unet)
    assert all(p.is_meta and not p.requires_grad for p in made.parameters())
    assert {n: p.shape for n, p in made.named_parameters()} == {n: p.shape for n, p in unet.named_parameters()}
    assert all(torch.equal(before[name], tensor) for name, tensor in unet.state_dict().items())


def test_autocast_casts_as_on_a_card():
    """Linear layers in half precision, norms in float32, which torch does on no device without kernels."""
    x = torch.empty(2, 8, device="meta", dtype=torch.bfloat16)
    with torch.device("meta"):
        layer, norm = nn.Linear(8, 8), nn.LayerNorm(8, dtype=torch.bfloat16)
    with autocast(torch.bfloat16):
        assert layer(x.float()).dtype == torch.bfloat16 and norm(x).dtype == torch.float32
    with autocast(torch.float32):
        assert layer(x.float()).dtype == torch.float32


def test_weights_trained_in_full_hold_their_copies():
    """In half precision, under autocast: real networks, of a picture so small that their weights say most."""
    side, half = 16, torch.bfloat16
    unet = UNet2DConditionModel(**SMALL)
    trained = list(unet.parameters())
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    given, text = torch.zeros(1, 4, side, side, dtype=half), torch.zeros(1, 77, 64, dtype=half)

    def compute():
        with torch.autocast("cpu", half):
            made = unet(given, torch.zeros(1), encoder_hidden_states=text, return_dict=False)[0]
        made.float().sum().backward()

    found = peak_bytes(compute, [given, text, *trained, *(p.grad for p in trained)])
    copies = autocast_bytes(sum(p.numel() for p in trained), True)
    assert copies < found < 2 * copies


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
def test_what_looks_at_pictures_holds_what_is_counted(act):
    config = CLIPVisionConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=4,
        hidden_act=act,
    )  # fmt: skip
    with torch.device("meta"):
        tower, pictures = CLIPVisionModel(config).eval(), torch.zeros(32, 3, 32, 32)
    with torch.no_grad():
        found = peak_bytes(lambda: tower(pixel_values=pictures), [pictures, *tower.parameters()])
    counted = vision_tower_bytes(64, 256, 32, 4)
    assert 0.6 * counted < found <= 1.03 * counted


@pytest.mark.parametrize(
    ("name", "side", "stored", "checkpointed"), [("sd1", 512, 1.30e9, 0.31e9), ("sdxl", 1024, 8.74e9, 0.72e9)]
)
def test_stock_models_take_what_is_known_of_them(name, side, stored, checkpointed):
    """Rank-16 adapters on attention and feed-forward layers, in bfloat16; a step of SDXL is measured in under ten
    seconds, and here are two."""
    measured, begun = stock_costs(name), time.process_time()
    picture = measured.training(side, True, ("self", "cross", "feed_forward"))
    spent = time.process_time() - begun
    assert (picture.stored, picture.checkpointed) == pytest.approx((stored, checkpointed), rel=0.02)
    assert spent < 2 * 10
    if name == "sd1":
        fewer = measured.training(side, True, ("cross",))
        assert fewer.stored < picture.stored and measured.training(side, False, ("cross",)).stored > fewer.stored
    # the autoencoder's last block, of 128 channels: input and four more to encode, twice as wide an input to decode
    assert measured.encoding(side, 2) == pytest.approx(5 * 128 * 2 * side**2, rel=0.01)
    assert measured.decoding(side, 2) == pytest.approx(6 * 128 * 2 * side**2, rel=0.01)
    assert measured.sampling(side, True, ()) < 0.1 * picture.stored
    assert 0 < measured.prompt(True, True) < 0.5e9


def test_a_result_is_kept():
    first = stock_costs("sd1").training(256, True, ("cross",))
    begun = time.process_time()
    assert stock_model("sd1").activation_costs().training(256, True, ("cross",)) == first
    assert time.process_time() - begun < 2
