"""The formulas of memory against the tensors that torch holds in real networks, most of them without storage (meta)."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from comfyui_fewshot.models.stable_diffusion.memory import (
    decoding_bytes,
    encoding_bytes,
    inference_bytes,
    text_activation_bytes,
    training_activations,
    unet_blocks,
)
from comfyui_fewshot.tests.trainers.auto.test_rules import SD1, SDXL
from comfyui_fewshot.trainers.auto.fit import autocast_bytes
from comfyui_fewshot.vision.memory import vision_tower_bytes

DEEP = dict(
    block_out_channels=(64, 128, 256), layers_per_block=2, transformer_layers_per_block=(1, 2, 3),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    cross_attention_dim=64, attention_head_dim=(2, 4, 8), use_linear_projection=True,
)  # fmt: skip
WIDE = dict(
    block_out_channels=(64, 128), layers_per_block=1, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=64, attention_head_dim=2,
)  # fmt: skip
SIDE = 64
LAYERS = {
    "self": ["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"],
    "cross": ["attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"],
    "feed_forward": ["net.0.proj", "net.2"],
}


class Held(TorchDispatchMode):
    """Counts the bytes of all tensors that live at once, but those of `known` ones; `most` is their peak."""

    def __init__(self, *known):
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.live, self.most = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known and storage._cdata not in self.live:
                    self.live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.live = {key: one for key, one in self.live.items() if not one[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.live.values()))
        return result


class Fused(torch.autograd.Function):
    """What attention keeps in the fused kernels of a GPU; tensors without storage would take the plain way."""

    @staticmethod
    def forward(ctx, q, k, v):
        result = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, result)
        return result

    @staticmethod
    def backward(ctx, gradient):
        return tuple(torch.empty_like(one) for one in ctx.saved_tensors[:3])


@pytest.fixture(autouse=True)
def fused(monkeypatch):
    def attention(q, k, v, *_, **__):
        return Fused.apply(q, k, v)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)


@pytest.fixture(scope="module")
def counted():
    """The most bytes at once of a pass through a UNet, with a backward pass where adapters are trained."""

    def count(config, dtype, adapters, backward, checkpointing=False):
        with torch.device("meta"):
            unet = UNet2DConditionModel(sample_size=8, **config).to(dtype).requires_grad_(False)
            given = torch.zeros(1, 4, SIDE, SIDE, dtype=dtype)
            text = torch.zeros(1, 77, config["cross_attention_dim"], dtype=dtype)
        if adapters:
            names = [name for part in adapters for name in LAYERS[part]]
            inject_adapter_in_model(LoraConfig(target_modules=names, r=2), unet)
        for name, parameter in unet.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
                parameter.requires_grad_(True)
        if checkpointing:
            unet.enable_gradient_checkpointing()
        unet.train(checkpointing)
        held = Held(given, text, *unet.parameters())
        with held, torch.set_grad_enabled(backward):
            prediction = unet(given, torch.zeros(1, device="meta"), encoder_hidden_states=text, return_dict=False)[0]
            if backward:
                prediction.float().sum().backward()
        return held.most

    return count


@pytest.mark.parametrize("config", [DEEP, WIDE], ids=["deep", "wide"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("adapters", [("cross",), ("self", "cross"), ("self", "cross", "feed_forward")])
def test_a_step_holds_what_is_counted(counted, config, dtype, adapters):
    picture = training_activations(config, SIDE, SIDE, dtype == torch.bfloat16, adapters)
    assert picture.stored == pytest.approx(counted(config, dtype, adapters, True), rel=0.12)
    assert picture.checkpointed == pytest.approx(counted(config, dtype, adapters, True, True), rel=0.25)


@pytest.mark.parametrize("config", [DEEP, WIDE], ids=["deep", "wide"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("adapters", [(), ("self", "cross"), ("self", "cross", "feed_forward")])
def test_drawing_holds_what_is_counted(counted, config, dtype, adapters):
    found = inference_bytes(config, SIDE, SIDE, dtype == torch.bfloat16, adapters)
    assert found == pytest.approx(counted(config, dtype, adapters, False), rel=0.05)


@pytest.mark.parametrize("config", [DEEP, WIDE], ids=["deep", "wide"])
@pytest.mark.parametrize("way", ["kept", "checkpointed", "drawn"])
def test_weights_trained_in_full_hold_their_copies(config, way):
    """In half precision, under autocast: real networks, of a picture so small that their weights say most."""
    side, half = 16, torch.bfloat16
    unet = UNet2DConditionModel(sample_size=8, **config)
    trained = list(unet.parameters())
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    if way == "checkpointed":
        unet.enable_gradient_checkpointing()
    unet.train(way == "checkpointed")
    given, text = torch.zeros(1, 4, side, side, dtype=half), torch.zeros(1, 77, 64, dtype=half)
    held = Held(given, text, *trained, *(p.grad for p in trained))
    with held, torch.set_grad_enabled(way != "drawn"):
        with torch.autocast("cpu", half):
            prediction = unet(given, torch.zeros(1), encoder_hidden_states=text, return_dict=False)[0]
        if way != "drawn":
            prediction.float().sum().backward()
    step = training_activations(config, side, side, True)
    passing = {
        "kept": step.stored,
        "checkpointed": step.checkpointed,
        "drawn": inference_bytes(config, side, side, True),
    }
    copies = autocast_bytes(sum(p.numel() for p in trained), True)
    assert held.most == pytest.approx(passing[way] + copies, rel=0.2) and held.most > copies


@pytest.mark.parametrize(("widths", "side"), [((16, 32, 64, 64), 64), ((32, 64), 64), ((128, 256, 512, 512), 128)])
def test_the_autoencoder_holds_what_is_counted(widths, side):
    with torch.device("meta"):
        network = AutoencoderKL(
            block_out_channels=widths, down_block_types=("DownEncoderBlock2D",) * len(widths), layers_per_block=2,
            up_block_types=("UpDecoderBlock2D",) * len(widths), latent_channels=4, norm_num_groups=16,
        )  # fmt: skip
        picture, cells = torch.zeros(1, 3, side, side), side >> (len(widths) - 1)
        latent = torch.zeros(1, 4, cells, cells)
    with torch.no_grad(), Held(picture, *network.parameters()) as seen:
        network.encode(picture)
    with torch.no_grad(), Held(latent, *network.parameters()) as drawn:
        network.decode(latent)
    assert encoding_bytes(network.config, side * side, 4) == pytest.approx(seen.most, rel=0.01)
    assert decoding_bytes(network.config, side * side, 4) == pytest.approx(drawn.most, rel=0.01)


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("adapters", [True, False])
def test_a_prompt_holds_what_is_counted(act, dtype, adapters):
    config = CLIPTextConfig(
        vocab_size=100, hidden_size=64, intermediate_size=256, num_hidden_layers=8, num_attention_heads=4,
        max_position_embeddings=77, hidden_act=act, bos_token_id=98, eos_token_id=99,
    )  # fmt: skip
    with torch.device("meta"):
        encoder, tokens = CLIPTextModel(config).to(dtype).requires_grad_(False), torch.zeros(1, 77, dtype=torch.long)
    if adapters:
        names = ["q_proj", "k_proj", "v_proj", "out_proj"]
        inject_adapter_in_model(LoraConfig(target_modules=names, r=2), encoder)
        for name, parameter in encoder.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
                parameter.requires_grad_(True)
    else:  # as where a word is learned
        encoder.get_input_embeddings().weight.requires_grad_(True)
    with Held(tokens, *encoder.parameters()) as held:
        encoder(input_ids=tokens).last_hidden_state.float().sum().backward()
    assert text_activation_bytes(config, dtype == torch.bfloat16, adapters) == pytest.approx(held.most, rel=0.08)


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
def test_what_looks_at_pictures_holds_what_is_counted(act):
    config = CLIPVisionConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=4,
        hidden_act=act,
    )  # fmt: skip
    with torch.device("meta"):
        tower, pictures = CLIPVisionModel(config).eval(), torch.zeros(32, 3, 32, 32)
    with torch.no_grad(), Held(pictures, *tower.parameters()) as held:
        tower(pixel_values=pictures)
    assert held.most <= vision_tower_bytes(64, 256, 32, 4) * 1.03 and held.most > 0.6 * vision_tower_bytes(
        64, 256, 32, 4
    )


def test_units_are_those_of_the_networks():
    """By their residual blocks' channels, in the order in which a UNet runs through them."""
    for config in (SD1, SDXL, WIDE):
        with torch.device("meta"):
            unet = UNet2DConditionModel(**config)
        blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
        found = [(r.in_channels, r.out_channels) for block in blocks for r in block.resnets]
        depths = [len(t.transformer_blocks) for block in blocks for t in getattr(block, "attentions", [])]
        blocks = unet_blocks(unet.config, 64, 64)
        assert [(one.in_channels, one.out_channels) for one in blocks] == found
        assert [one.depth for one in blocks if one.depth] == depths


def test_stable_diffusion_takes_what_was_counted_at_full_size():
    """Once, on such networks without storage: rank 16 on attention and on feed-forward layers too, in bfloat16."""
    for config, cells, parts, kept, checkpointed in (
        (SD1, 64, ("self", "cross"), 1.07e9, 0.26e9),
        (SD1, 64, ("self", "cross", "feed_forward"), 1.33e9, 0.32e9),
        (SDXL, 128, ("self", "cross"), 7.86e9, 0.58e9),
        (SDXL, 128, ("self", "cross", "feed_forward"), 9.97e9, 0.70e9),
    ):
        picture = training_activations(config, cells, cells, True, parts)
        assert picture.stored == pytest.approx(kept, rel=0.05)
        assert picture.checkpointed == pytest.approx(checkpointed, rel=0.2)
