"""Parameter sets, injection, training on, and adapters switched on and off."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Adapter, BaseModelRef, Dense, Kept, LowRank
from comfyui_fewshot.models.adapters.apply import find_module
from comfyui_fewshot.models.adapters.formats import read_lora, write_lora
from comfyui_fewshot.models.adapters.inject import PARAMETER_SETS, Full, LoraSpec, applied, inject, paths_of_set
from comfyui_fewshot.models.stable_diffusion.encoding.prompts import denoise, encode_prompts
from comfyui_fewshot.models.stable_diffusion.files.configs import read_config
from comfyui_fewshot.models.stable_diffusion.model import StableDiffusion
from comfyui_fewshot.models.stable_diffusion.variants import CONFIGS, FAMILIES
from comfyui_fewshot.trainers.state.run_folder import read_adapter, write_adapter

from ..conftest import random_adapter

SETS = {"attention": LoraSpec(4, 2.0), "text": LoraSpec(2, 2.0)}
PATH = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
WHOLE_LOKR = {"lokr_w1": torch.full((4, 4), 0.1), "lokr_w2": torch.full((48, 48), 0.1)}


def predict(model: StableDiffusion) -> torch.Tensor:
    latents = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return denoise(model, latents, torch.tensor([400]), encode_prompts(model, ["a red cat"]))


def stock(family: str) -> StableDiffusion:
    """The full-size networks without weights."""
    encoders = []
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(read_config(CONFIGS / family, "unet"))
        for names in FAMILIES[family].text_encoders:
            config = CLIPTextConfig.from_dict(read_config(CONFIGS / family, names.component))
            encoders.append((CLIPTextModelWithProjection if names.projected else CLIPTextModel)(config))
    ref = BaseModelRef(family, CONFIGS / family, "")
    return StableDiffusion(
        unet, None, tuple(encoders), (), None, FAMILIES[family], torch.device("meta"), torch.float32, ref
    )


@pytest.mark.parametrize(
    ("family", "counts", "parameters"),
    [
        ("sd1", {"cross_kv": 32, "cross": 64, "self": 64, "attention": 128, "attention_ff": 160, "text": 48}, 859.52e6),
        ("sd2", {"cross_kv": 32, "attention": 128, "text": 92}, 865.91e6),
        ("sdxl", {"cross_kv": 140, "cross": 280, "self": 280, "attention": 560, "text": 176}, 2567.46e6),
    ],
)
def test_counts_in_the_full_size_families(family: str, counts: dict[str, int], parameters: float):
    model = stock(family)
    assert sum(p.numel() for p in model.unet.parameters()) == pytest.approx(parameters, rel=1e-5)
    for name, count in counts.items():
        assert len(paths_of_set(model, name)) == count, name
    assert paths_of_set(model, "text")[0].startswith("text_encoder.text_model.encoder.layers.0.self_attn.")


def test_a_fresh_injection_changes_nothing_and_leaves_no_trace(opened_pocket: StableDiffusion):
    before, modules = predict(opened_pocket), [name for name, _ in opened_pocket.unet.named_modules()]
    state = torch.random.get_rng_state()
    injected = inject(opened_pocket, SETS, seed=1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(before, predict(opened_pocket))
    assert modules == [name for name, _ in opened_pocket.unet.named_modules()]
    assert not any(p.requires_grad for root in opened_pocket.parts().values() for p in root.parameters())
    assert all(p.requires_grad and p.dtype == torch.float32 for p in injected.parameters.values())
    assert injected.parameters[f"{PATH}.lora_down"].shape == (4, 192)
    injected.remove()
    assert torch.equal(before, predict(opened_pocket))
    assert not any(module._forward_hooks for module in opened_pocket.unet.modules())


def test_first_values_depend_on_seed_and_path_alone(opened_pocket: StableDiffusion):
    drawn = []
    for sets, seed in ((SETS, 1), ({"cross": LoraSpec(4, 2.0)}, 1), (SETS, 2)):
        injected = inject(opened_pocket, sets, seed)
        drawn.append(injected.extract().factors[PATH].down)
        injected.remove()
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert drawn[0].abs().max() <= 192**-0.5 and drawn[0].std() == pytest.approx((1 / 3 / 192) ** 0.5, rel=0.1)


def test_gradients_reach_every_parameter(opened_pocket: StableDiffusion):
    injected = inject(opened_pocket, SETS, seed=1)
    try:
        latents = torch.randn(1, 8, 8, 8)
        conditioning = encode_prompts(opened_pocket, ["a red cat"])
        denoise(opened_pocket, latents, torch.tensor([400]), conditioning).square().mean().backward()
        up = [p for name, p in injected.parameters.items() if name.endswith("lora_up")]
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in up)
    finally:
        injected.remove()


def test_a_weight_that_would_not_be_finite_is_refused(opened_pocket: StableDiffusion):
    before, weight = predict(opened_pocket), find_module(opened_pocket.parts(), PATH).weight
    out, into = weight.shape
    shapes = {"1_a": (out, 1), "1_b": (1, into), "2_a": (out, 1), "2_b": (1, into)}
    huge = Kept({f"hada_w{name}": torch.full(shape, 1e10) for name, shape in shapes.items()})
    with pytest.raises(FewShotError, match=f"no finite numbers in {PATH}"):
        with applied(opened_pocket, [(Adapter({PATH: huge}, "sd1"), 1.0)]):
            pass
    assert torch.equal(before, predict(opened_pocket))


def test_extracted_applied_and_loaded_again(opened_pocket: StableDiffusion):
    base = predict(opened_pocket)
    injected = inject(opened_pocket, SETS, seed=1)
    state = {name: torch.randn_like(p) * 0.05 for name, p in injected.parameters.items()}
    injected.load(state)
    trained = predict(opened_pocket)
    with injected.disabled():
        assert torch.equal(base, predict(opened_pocket))
    assert torch.equal(trained, predict(opened_pocket))
    assert all(p.requires_grad for p in injected.parameters.values())
    adapter = injected.extract("sks cat", {"ss_steps": "3"})
    injected.remove()
    assert adapter.trigger == "sks cat" and adapter.metadata["ss_steps"] == "3" and adapter.family == "sd1"
    with applied(opened_pocket, [(adapter, 1.0)]):
        torch.testing.assert_close(predict(opened_pocket), trained, atol=2e-4, rtol=1e-3)
    assert torch.equal(base, predict(opened_pocket))
    with pytest.raises(FewShotError, match="does not fit"):
        inject_and(opened_pocket, lambda i: i.load({}))
    with pytest.raises(FewShotError, match="has the shape"):
        inject_and(opened_pocket, lambda i: i.load({k: torch.zeros(1) for k in i.parameters}))


def inject_and(model: StableDiffusion, act) -> None:
    injected = inject(model, SETS, seed=1)
    try:
        act(injected)
    finally:
        injected.remove()


def test_training_on(opened_pocket: StableDiffusion):
    """Training on from an adapter begins where it ended, at a higher rank and another alpha too."""
    adapter = random_adapter(opened_pocket, SETS)
    with applied(opened_pocket, [(adapter, 1.0)]):
        wanted = predict(opened_pocket)
    base = predict(opened_pocket)
    for sets in (SETS, {"attention": (6, 9.0), "text": (2, 1.0)}, {"cross": (4, 2.0)}):
        injected = inject(opened_pocket, sets, seed=1, start_from=adapter)
        torch.testing.assert_close(predict(opened_pocket), wanted, atol=5e-4, rtol=1e-3)
        assert set(injected.extract().factors) == set(adapter.factors)
        injected.remove()
        assert torch.equal(base, predict(opened_pocket))
    same = inject(opened_pocket, SETS, seed=1, start_from=adapter)
    assert all(torch.equal(same.extract().factors[p].up, f.up) for p, f in adapter.factors.items())
    same.remove()
    with pytest.raises(FewShotError, match="rank 4 in .*choose rank 4 or more"):
        inject(opened_pocket, {"attention": LoraSpec(2, 2.0)}, 1, adapter)
    with pytest.raises(FewShotError, match="sdxl"):
        inject(opened_pocket, SETS, 1, replace(adapter, family="sdxl"))
    with pytest.raises(FewShotError, match="a LoKr, and no plain low-rank pair.*a parameter_set without it"):
        inject(opened_pocket, SETS, 1, Adapter({PATH: Kept(WHOLE_LOKR)}, "sd1"))
    assert torch.equal(base, predict(opened_pocket))


def test_training_on_beside_other_forms(opened_pocket: StableDiffusion, tmp_path):
    """What cannot be trained stays applied and in what training gives, biases of trained layers too."""
    layers = "unet.down_blocks.0.attentions.0.transformer_blocks.0."
    size, out = opened_pocket.unet.config.block_out_channels[0], f"{layers}attn1.to_out.0"
    lokr = {"lokr_w1": torch.full((4, 4), 0.1), "lokr_w2": torch.full((size // 4, size), 0.01)}
    pair = LowRank(torch.randn(size, 4) * 0.1, torch.randn(4, size) * 0.1, 4.0, bias=torch.randn(size))
    factors = {
        f"{layers}ff.net.2": Kept(lokr), out: pair, f"{layers}norm1": Kept({"diff_b": torch.randn(size) * 0.3}),
        f"{layers}attn2.to_out.0": Kept({"diff_b": torch.randn(size)}),
    }  # fmt: skip
    adapter, base = Adapter(factors, "sd1", "sks cat"), predict(opened_pocket)
    with applied(opened_pocket, [(adapter, 1.0)]):
        wanted = predict(opened_pocket)
    for sets in ({"attention": LoraSpec(4, 4.0)}, {"cross": LoraSpec(4, 4.0)}, {"attention": Full()}):
        injected = inject(opened_pocket, sets, seed=1, start_from=adapter)
        torch.testing.assert_close(predict(opened_pocket), wanted, atol=5e-4, rtol=1e-3)
        found = injected.extract("sks cat")
        injected.remove()
        assert torch.equal(base, predict(opened_pocket))
        with applied(opened_pocket, [(found, 1.0)]):
            torch.testing.assert_close(predict(opened_pocket), wanted, atol=5e-4, rtol=1e-3)
        assert set(found.factors) >= set(factors) and found.factors[f"{layers}ff.net.2"].tensors == lokr
        assert torch.allclose(found.factors[out].bias, pair.bias, atol=1e-5)
        kept = read_adapter(write_adapter(tmp_path / "kept.safetensors", found))
        assert kept.key == found.key
        back = read_lora(write_lora(found, tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"))
        assert back.factors.keys() == found.factors.keys()
    with pytest.raises(FewShotError, match="ff.net.2 of the LoRA to train on from is a LoKr"):
        inject(opened_pocket, {"attention_ff": LoraSpec(4, 4.0)}, 1, adapter)
    assert torch.equal(base, predict(opened_pocket))


def test_strengths_add_and_the_base_comes_back(opened_pocket: StableDiffusion):
    first, second = random_adapter(opened_pocket, SETS, 1), random_adapter(opened_pocket, SETS, 2)
    weights = {name: p.clone() for name, p in opened_pocket.unet.named_parameters()}
    weight = opened_pocket.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight.clone()
    with applied(opened_pocket, [(first, 0.5), (second, -2.0)]):
        got = opened_pocket.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight
        parts = [
            0.5 * f.up @ f.down * strength for f, strength in ((first.factors[PATH], 0.5), (second.factors[PATH], -2))
        ]
        torch.testing.assert_close(got, weight + sum(parts), atol=1e-5, rtol=1e-5)
        with applied(opened_pocket, [(second, 2.0)]):
            pass
        assert opened_pocket.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight is got
    with pytest.raises(RuntimeError), applied(opened_pocket, [(first, 1.0)]):
        raise RuntimeError
    assert all(torch.equal(weights[name], p) for name, p in opened_pocket.unet.named_parameters())


def test_applied_below_a_trained_adapter(opened_pocket: StableDiffusion):
    """The order of refinement: the subject adapter stays on while the refining one is switched off."""
    subject = random_adapter(opened_pocket, SETS)
    with applied(opened_pocket, [(subject, 1.0)]):
        wanted = predict(opened_pocket)
        injected = inject(opened_pocket, SETS, 5)
        injected.load({name: torch.randn_like(p) for name, p in injected.parameters.items()})
        with injected.disabled():
            assert torch.equal(predict(opened_pocket), wanted)
        with applied(opened_pocket, [(subject, -1.0)]), injected.disabled():
            assert not torch.equal(predict(opened_pocket), wanted)
        injected.remove()
        assert torch.equal(predict(opened_pocket), wanted)


def test_other_forms(opened_pocket: StableDiffusion):
    linear = torch.randn(192, 192)
    conv = "unet.mid_block.resnets.0.conv1"
    weight = opened_pocket.unet.mid_block.resnets[0].conv1.weight.clone()
    bias = opened_pocket.unet.mid_block.resnets[0].conv1.bias.clone()
    up, mid, down = torch.randn(192, 3, 1, 1), torch.randn(3, 3, 3, 3), torch.randn(3, 192, 1, 1)
    adapter = Adapter({PATH: Dense(linear), conv: LowRank(up, down, 1.5, mid)}, "sd1")
    before = opened_pocket.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight.clone()
    with applied(opened_pocket, [(adapter, 1.0), (Adapter({conv: Dense(weight, bias)}, "sd1"), 1.0)]):
        got = opened_pocket.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight
        torch.testing.assert_close(got, before + linear)
        product = torch.einsum("or,rskl,si->oikl", up.flatten(1), mid, down.flatten(1)) / 2
        torch.testing.assert_close(opened_pocket.unet.mid_block.resnets[0].conv1.weight, 2 * weight + product)
        torch.testing.assert_close(opened_pocket.unet.mid_block.resnets[0].conv1.bias, 2 * bias)
    spread = LowRank(torch.randn(192, 2, 1, 1), torch.randn(2, 192, 3, 3), 2.0)
    with applied(opened_pocket, [(Adapter({conv: spread}, "sd1"), 1.0)]):
        product = (spread.up.flatten(1) @ spread.down.flatten(1)).view(192, 192, 3, 3)
        torch.testing.assert_close(opened_pocket.unet.mid_block.resnets[0].conv1.weight, weight + product)


@pytest.mark.parametrize(
    ("factors", "family", "words"),
    [
        ({PATH: LowRank(torch.zeros(320, 4), torch.zeros(4, 768), 4.0)}, "sd1", "does not fit"),
        ({PATH: Dense(torch.zeros(3, 3))}, "sd1", "does not fit"),
        ({PATH: Kept({"hada_w1_a": torch.zeros(1)})}, "sd1", "hada_w1_a"),
        ({PATH: Dense(torch.zeros(192, 192), torch.zeros(192))}, "sd1", "has no bias"),
        ({"unet.nowhere.to_k": Dense(torch.zeros(1))}, "sd1", "has no unet.nowhere.to_k"),
        ({"text_encoder_2.text_model.x": Dense(torch.zeros(1))}, "sd1", "has no text_encoder_2"),
        ({PATH: Dense(torch.zeros(192, 192))}, "sdxl", "one family"),
    ],
)
def test_adapters_that_do_not_fit(opened_pocket: StableDiffusion, factors: dict, family: str, words: str):
    before = predict(opened_pocket)
    with pytest.raises(FewShotError, match=words), applied(opened_pocket, [(Adapter(factors, family), 1.0)]):
        pass
    assert torch.equal(before, predict(opened_pocket))


def test_wrong_requests(opened_pocket: StableDiffusion):
    with pytest.raises(FewShotError, match=f"'everything'.*{', '.join(PARAMETER_SETS)}"):
        inject(opened_pocket, {"everything": (4, 4)}, 0)
    with pytest.raises(FewShotError, match="no parameter set"):
        inject(opened_pocket, {}, 0)
    with pytest.raises(FewShotError, match="rank 0"):
        inject(opened_pocket, {"cross": (0, 1.0)}, 0)
    with pytest.raises(FewShotError, match="alpha 0"):
        inject(opened_pocket, {"cross": (4, 0.0)}, 0)
    injected = inject(opened_pocket, {"cross": (4, 4.0)}, 0)
    with pytest.raises(FewShotError, match="trained already"):
        inject(opened_pocket, {"cross": (4, 4.0)}, 0)
    injected.remove()
