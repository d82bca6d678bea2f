"""Checkpoints and folders: what is recognised, what is refused and how, and that weights land where they belong."""

from __future__ import annotations

import json
import shutil
import socket
import weakref
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Loaded
from comfyui_fewshot.models.open import base_from_loaded, base_from_path, compute_dtype, open_base
from comfyui_fewshot.models.stable_diffusion.encoding.prompts import denoise, encode_prompts
from comfyui_fewshot.models.stable_diffusion.files.configs import read_config
from comfyui_fewshot.models.stable_diffusion.files.identify import identify_tensors
from comfyui_fewshot.models.stable_diffusion.files.load import OriginalCheckpoint
from comfyui_fewshot.models.stable_diffusion.model import StableDiffusion
from comfyui_fewshot.models.stable_diffusion.variants import CONFIGS, FAMILIES

from . import checkpoints
from .checkpoints import TextShape, UNetShape

MAKERS = {"sd1": checkpoints.sd1, "sd2": checkpoints.sd2, "sdxl": checkpoints.sdxl}


@pytest.fixture(params=list(MAKERS))
def checkpoint(request, tmp_path: Path) -> tuple[str, dict, Path]:
    tensors = MAKERS[request.param]()
    return request.param, tensors, checkpoints.save(tensors, tmp_path / "base.safetensors")


# -------------------------------------------------------------------------------------------------------- loading


def test_a_checkpoint_of_each_family_opens_and_runs(checkpoint, small_tokenizer: Path):
    family, tensors, path = checkpoint
    ref = base_from_path(path)
    assert (ref.family, ref.prediction, ref.zero_snr, ref.name) == (family, "epsilon", False, "base")
    with torch.no_grad(), open_base(ref, "cpu", tokenizer_folder=small_tokenizer) as model:
        conditioning = encode_prompts(model, ["a cat", ""])
        latents = torch.randn(2, model.latent_channels, 8, 8)
        assert denoise(model, latents, torch.tensor([3, 900]), conditioning).shape == latents.shape
        assert model.dtype == torch.float32 and not model.unet.training
        assert not any(p.requires_grad for root in model.parts().values() for p in root.parameters())
        wanted = tensors["model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"]
        got = model.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight
        assert torch.equal(got, wanted) and got.data_ptr() != wanted.data_ptr()


def test_sizes_come_from_the_tensors(tmp_path: Path, small_tokenizer: Path):
    shape = UNetShape(channels=64, multipliers=(1, 2, 2), layers=2, depths=(0, 1, 3), middle=3, context=64, latent=6)
    tensors = checkpoints.sd1(shape, vae=checkpoints.VaeShape(32, (1, 2, 2), 1, latent=6))
    ref = base_from_path(checkpoints.save(tensors, tmp_path / "odd.safetensors"))
    with open_base(ref, "cpu", tokenizer_folder=small_tokenizer) as model:
        config = model.unet.config
        assert config.block_out_channels == [64, 128, 128] and config.layers_per_block == 2
        assert config.transformer_layers_per_block == [1, 1, 3] and config.attention_head_dim == 8
        assert config.down_block_types == ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]
        assert (model.latent_channels, model.downscale) == (6, 4)
        assert model.text_encoders[0].config.num_hidden_layers == 3


def full_size(family: str) -> checkpoints.Builder:
    to = checkpoints.Shapes(seed=0)
    checkpoints.add_vae(to, checkpoints.VaeShape())
    if family == "sdxl":
        shape = UNetShape(320, (1, 2, 4), 2, (0, 2, 10), 10, 2048, linear=True, added=2816)
        checkpoints.add_clip(to, TextShape(layers=12), "conditioner.embedders.0.transformer.")
        checkpoints.add_open_clip(to, TextShape(1280, 32, 5120), "conditioner.embedders.1.model.")
    elif family == "sd2":
        shape = UNetShape(320, (1, 2, 4, 4), 2, (1, 1, 1, 0), 1, 1024, linear=True)
        checkpoints.add_open_clip(to, TextShape(1024, 24, 4096), "cond_stage_model.model.")
    else:
        shape = UNetShape(320, (1, 2, 4, 4), 2, (1, 1, 1, 0), 1, 768)
        checkpoints.add_clip(to, TextShape(layers=12), "cond_stage_model.transformer.")
    checkpoints.add_unet(to, shape)
    return to


@pytest.mark.parametrize("name", list(MAKERS))
def test_full_size_shapes_give_the_stock_configs_and_every_parameter(name: str):
    family, tensors = FAMILIES[name], full_size(name).tensors
    assert identify_tensors(tensors, {"modelspec.prediction_type": "v"}, "x").family == name
    source = OriginalCheckpoint(tensors, family, prediction="v_prediction")
    parts = {"unet": source.unet(), "vae": source.vae()} | {e.component: source.text(e) for e in family.text_encoders}
    classes = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    for component, (config, given) in parts.items():
        stock = read_config(CONFIGS / name, component)
        if component == "unet" and isinstance(stock["transformer_layers_per_block"], int):
            stock["transformer_layers_per_block"] = [stock["transformer_layers_per_block"]] * 4
        assert config == stock
        with init_empty_weights():
            if component in classes:
                network = classes[component].from_config(config)
            else:
                network = CLIPTextModelWithProjection(CLIPTextConfig.from_dict(config))
        wanted = {key: parameter.shape for key, parameter in network.named_parameters()}
        if component not in classes and "text_projection.weight" not in given:
            del wanted["text_projection.weight"]
        assert {key: given[key].shape for key in wanted} == wanted
        assert component not in classes or set(given) == set(wanted)


def test_pocket_folder_is_an_ordinary_sd1(pocket_folder: Path):
    ref = base_from_path(pocket_folder)
    assert (ref.family, ref.prediction, ref.dtype) == ("sd1", "epsilon", "auto")
    with open_base(ref, "cpu") as model:
        assert model.latent_channels == 8 and model.downscale == 8 and model.native_resolution == 64
        encoder, tokenizer = model.text_encoders[0], model.tokenizers[0]
        assert encoder.config.eos_token_id == tokenizer.eos_token_id
        assert encode_prompts(model, ["a cat"])["hidden"].shape == (1, 32, 192)


def test_folder_and_checkpoint_of_the_same_weights_agree(tmp_path: Path, small_tokenizer: Path):
    """Save an opened checkpoint with diffusers' and transformers' own writers and open the folder."""
    path = checkpoints.save(checkpoints.sdxl(), tmp_path / "base.safetensors")
    folder, latents = tmp_path / "folder", torch.randn(1, 4, 8, 8)
    with torch.no_grad(), open_base(base_from_path(path), "cpu", tokenizer_folder=small_tokenizer) as model:
        before = denoise(model, latents, torch.tensor([500]), encode_prompts(model, ["a red cat"]))
        checkpoints.save_folder(model, folder)
    ref = base_from_path(folder)
    assert ref.family == "sdxl"
    with torch.no_grad(), open_base(ref, "cpu") as model:
        after = denoise(model, latents, torch.tensor([500]), encode_prompts(model, ["a red cat"]))
    assert torch.equal(before, after)


def test_weights_that_the_host_holds(small_tokenizer: Path, pocket_folder: Path):
    tensors = checkpoints.sd1()
    ref = base_from_loaded(Loaded(lambda: tensors, "my graph"), "abc")
    assert ref.family == "sd1" and ref.name == "my graph"
    assert ref.key != base_from_loaded(Loaded(lambda: tensors), "abd").key
    with open_base(ref, "cpu", tokenizer_folder=small_tokenizer) as model:
        assert model.text_encoders[0].config.hidden_size == 64
    with torch.inference_mode():
        inferred = {key: value.clone() for key, value in tensors.items()}
        ref = base_from_loaded(Loaded(lambda: inferred), "abc")
        with open_base(ref, "cpu", tokenizer_folder=small_tokenizer) as model:
            assert not model.unet.conv_in.weight.is_inference()


def test_components_say_what_shapes_do_not(tmp_path: Path, pocket_folder: Path):
    folder = tmp_path / "components"
    shutil.copytree(pocket_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "unet/config.json").read_text())
    shape = UNetShape(
        channels=config["block_out_channels"][0], multipliers=(1, 2), depths=(1, 1), context=192, latent=8
    )
    text = TextShape(width=192, layers=4, inner=768, vocabulary=2048, length=32)
    tensors = checkpoints.sd1(shape, text, checkpoints.VaeShape(32, (1, 1, 2, 4), 1, latent=8))
    with open_base(base_from_loaded(Loaded(lambda: tensors, components=folder), "k"), "cpu") as model:
        assert model.unet.config.attention_head_dim == 4
        assert model.text_encoders[0].config.num_attention_heads == 4
        assert model.tokenizers[0].model_max_length == 32


def test_no_socket_is_opened(tmp_path: Path, small_tokenizer: Path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    path = checkpoints.save(checkpoints.sd2(), tmp_path / "base.safetensors")
    with open_base(base_from_path(path), "cpu", tokenizer_folder=small_tokenizer):
        pass


def test_networks_are_let_go(pocket_folder: Path):
    with open_base(base_from_path(pocket_folder), "cpu") as model:
        unet = weakref.ref(model.unet)
        assert unet() is not None
    assert unet() is None and model.text_encoders == ()


def test_ckpt_and_old_text_names(tmp_path: Path, small_tokenizer: Path):
    tensors = checkpoints.sd1()
    renamed = {key.replace("transformer.text_model.", "transformer."): value for key, value in tensors.items()}
    path = tmp_path / "old.ckpt"
    torch.save({"state_dict": renamed, "global_step": 3}, path)
    ref = base_from_path(path)
    with open_base(ref, "cpu", tokenizer_folder=small_tokenizer) as model:
        got = model.text_encoders[0].get_input_embeddings().weight
        assert torch.equal(got, tensors["cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"])


def test_older_autoencoder_names_and_pickled_weights(
    tmp_path: Path, pocket_folder: Path, opened_pocket: StableDiffusion
):
    folder = tmp_path / "old"
    shutil.copytree(pocket_folder, folder)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for key, tensor in opened_pocket.vae.state_dict().items():
        for new, name in old.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{name}.")
        tensors[key] = tensor
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in tensors
    (folder / "vae/diffusion_pytorch_model.safetensors").unlink()
    torch.save(tensors, folder / "vae/diffusion_pytorch_model.bin")
    with open_base(base_from_path(folder), "cpu") as model:
        for key, tensor in model.vae.state_dict().items():
            assert torch.equal(tensor, opened_pocket.vae.state_dict()[key])


def test_sd2_drops_the_last_layer_and_pads_with_zero(tmp_path: Path, comfyui_path: Path):
    path = checkpoints.save(checkpoints.sd2(text=TextShape(64, 3, 128)), tmp_path / "base.safetensors")
    with open_base(base_from_path(path), "cpu", tokenizer_folder=comfyui_path / "comfy/sd1_tokenizer") as model:
        assert model.text_encoders[0].config.num_hidden_layers == 2
        assert model.tokenizers[0].pad_token_id == 0


def test_sdxl_tokenizers(tmp_path: Path, comfyui_path: Path):
    text = TextShape(64, 2, 128)
    path = checkpoints.save(checkpoints.sdxl(texts=(text, text)), tmp_path / "base.safetensors")
    with open_base(base_from_path(path), "cpu", tokenizer_folder=comfyui_path / "comfy/sd1_tokenizer") as model:
        first, second = model.tokenizers
        assert (first.pad_token_id, second.pad_token, second.pad_token_id) == (49407, "!", 0)
        assert first.eos_token_id == second.eos_token_id == 49407
        assert [e.config.eos_token_id for e in model.text_encoders] == [49407, 49407]
        assert [e.config.max_position_embeddings for e in model.text_encoders] == [77, 77]


# ------------------------------------------------------------------------------------------------- identification


def test_markers_of_velocity_and_zero_snr(tmp_path: Path):
    tensors = checkpoints.sdxl()
    marked = tensors | {"v_pred": torch.empty(0), "ztsnr": torch.empty(0)}
    ref = base_from_path(checkpoints.save(marked, tmp_path / "a.safetensors"))
    assert ref.prediction == "v_prediction" and ref.zero_snr
    stated = checkpoints.save(tensors, tmp_path / "b.safetensors", {"modelspec.prediction_type": "v"})
    ref = base_from_path(stated)
    assert ref.prediction == "v_prediction" and not ref.zero_snr
    ref = base_from_path(checkpoints.save(tensors | {"ztsnr": torch.empty(0)}, tmp_path / "c.safetensors"))
    assert ref.prediction == "epsilon" and not ref.zero_snr


def test_velocity_in_a_folder_and_in_sd2(tmp_path: Path, pocket_folder: Path):
    folder = tmp_path / "v"
    shutil.copytree(pocket_folder, folder)
    path = folder / "scheduler/scheduler_config.json"
    config = json.loads(path.read_text()) | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    path.write_text(json.dumps(config))
    ref = base_from_path(folder)
    assert ref.prediction == "v_prediction" and ref.zero_snr
    tensors = checkpoints.sd2()
    tensors["model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"] = torch.randn(64)
    assert base_from_path(checkpoints.save(tensors, tmp_path / "a.safetensors")).prediction == "v_prediction"


def test_keys_follow_contents_and_settings(tmp_path: Path):
    tensors = checkpoints.sd1()
    first = base_from_path(checkpoints.save(tensors, tmp_path / "a.safetensors"))
    same = base_from_path(checkpoints.save(tensors, tmp_path / "b.safetensors"))
    assert first.key == same.key == base_from_path(tmp_path / "a.safetensors").key
    assert len({first.key, *(base_from_path(tmp_path / "a.safetensors", d, s).key for d, s in SETTINGS)}) == 4
    tensors["model.diffusion_model.out.2.bias"][0] += 1
    assert base_from_path(checkpoints.save(tensors, tmp_path / "c.safetensors")).key != first.key


SETTINGS = (("float32", 0), ("auto", 2), ("bfloat16", 2))


def test_keys_of_folders(tmp_path: Path, pocket_folder: Path):
    folder = tmp_path / "copy"
    shutil.copytree(pocket_folder, folder)
    assert base_from_path(folder).key == base_from_path(pocket_folder).key
    (folder / "scheduler/scheduler_config.json").write_text("{}")
    assert base_from_path(folder).key != base_from_path(pocket_folder).key


OTHERS = {
    "a Flux model": ["model.diffusion_model.double_blocks.0.img_attn.qkv.weight"],
    "a Stable Diffusion 3 model": ["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"],
    "a LoRA": ["lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight"],
    "a ControlNet": ["control_model.input_blocks.0.0.weight"],
    "a textual-inversion embedding": ["clip_l", "clip_g"],
    "only a UNet": ["input_blocks.0.0.weight"],
    "only an autoencoder": ["decoder.conv_in.weight"],
    "only a text encoder": ["text_model.encoder.layers.0.mlp.fc1.weight"],
    "no diffusion model that is known here": ["wte.weight"],
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_of_file_are_named(tmp_path: Path, kind: str):
    path = checkpoints.save({key: torch.zeros(2, 2) for key in OTHERS[kind]}, tmp_path / "other.safetensors")
    with pytest.raises(FewShotError, match=f"other.safetensors is {kind}.*Stable Diffusion 1.x"):
        base_from_path(path)


def test_relatives_that_are_refused(tmp_path: Path):
    inpainting = checkpoints.sd1()
    weight = inpainting["model.diffusion_model.input_blocks.0.0.weight"]
    inpainting["model.diffusion_model.input_blocks.0.0.weight"] = torch.cat([weight, weight, weight[:, :1]], 1)
    refiner = {k: v for k, v in checkpoints.sdxl().items() if not k.startswith("conditioner.embedders.1")}
    edm = checkpoints.sdxl() | {"edm_mean": torch.zeros(4)}
    for tensors, words in ((inpainting, "inpainting"), (refiner, "refiner"), (edm, "EDM")):
        with pytest.raises(FewShotError, match=words):
            base_from_path(checkpoints.save(tensors, tmp_path / "x.safetensors"))


def test_damaged_files(tmp_path: Path):
    whole = checkpoints.save(checkpoints.sd1(), tmp_path / "base.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:100_000])
    for name, data, words in (
        ("cut.safetensors", cut.read_bytes(), "cut short"),
        ("empty.safetensors", b"", "cut short"),
        ("pointer.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        ("page.safetensors", b"<!DOCTYPE html><html></html>", "web page"),
        ("cut.ckpt", b"PK\x03\x04garbage", "cut short"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FewShotError, match=words):
            base_from_path(tmp_path / name)


class Payload:
    def __reduce__(self):
        return print, ("this must never run",)


def test_pickles_run_no_code(tmp_path: Path, capsys):
    torch.save({"state_dict": Payload()}, tmp_path / "evil.ckpt")
    with pytest.raises(FewShotError, match="more than weights"):
        base_from_path(tmp_path / "evil.ckpt")
    assert "never run" not in capsys.readouterr().out


def test_other_paths_and_settings(tmp_path: Path, pocket_folder: Path):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "flux").mkdir()
    (tmp_path / "flux/model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    for path, words in (
        (tmp_path / "nothing.safetensors", "no file"),
        (tmp_path / "nothing", "no base model at"),
        (tmp_path / "notes.txt", "no kind of file"),
        (tmp_path / "empty", "no model folder"),
        (tmp_path / "flux", "FluxPipeline"),
    ):
        with pytest.raises(FewShotError, match=words):
            base_from_path(path)
    with pytest.raises(FewShotError, match="float8"):
        base_from_path(pocket_folder, dtype="float8")
    with pytest.raises(FewShotError, match="clip skip is -1"):
        base_from_path(pocket_folder, clip_skip=-1)


def test_incomplete_models(tmp_path: Path, pocket_folder: Path, small_tokenizer: Path):
    folder = tmp_path / "broken"
    shutil.copytree(pocket_folder, folder)
    (folder / "text_encoder/model.safetensors").unlink()
    with pytest.raises(FewShotError, match="holds no weights"), open_base(base_from_path(folder), "cpu"):
        pass
    (folder / "text_encoder/config.json").unlink()
    with pytest.raises(FewShotError, match="no text_encoder"):
        base_from_path(folder)
    for left_out, words in (
        ("cond_stage", "text encoder"),
        ("first_stage", "autoencoder"),
        ("model.diffusion_model.middle_block.0", "mid_block"),
    ):
        tensors = {key: value for key, value in checkpoints.sd1().items() if not key.startswith(left_out)}
        path = checkpoints.save(tensors, tmp_path / f"{left_out}.safetensors")
        with pytest.raises(FewShotError, match=words), open_base(base_from_path(path), "cpu", None, small_tokenizer):
            pass
    path = checkpoints.save(checkpoints.sd1(), tmp_path / "whole.safetensors")
    with pytest.raises(FewShotError, match="vocab.json"), open_base(base_from_path(path), "cpu"):
        pass
    few = checkpoints.sd1(text=TextShape(64, 2, 128, vocabulary=99, length=32))
    path = checkpoints.save(few, tmp_path / "few.safetensors")
    with (
        pytest.raises(FewShotError, match="knows 99 tokens"),
        open_base(base_from_path(path), "cpu", None, small_tokenizer),
    ):
        pass
    odd = checkpoints.sd1() | {"model.diffusion_model.extra.weight": torch.zeros(2)}
    path = checkpoints.save(odd, tmp_path / "extra.safetensors")
    with (
        pytest.raises(FewShotError, match="extra.weight"),
        open_base(base_from_path(path), "cpu", None, small_tokenizer),
    ):
        pass


def test_compute_types(pocket_folder: Path):
    assert compute_dtype("auto", torch.device("cpu")) == torch.float32
    ref = base_from_path(pocket_folder, dtype="bfloat16")
    with torch.no_grad(), open_base(ref, "cpu") as model:
        assert model.unet.dtype == model.text_encoders[0].dtype == torch.bfloat16
        prediction = denoise(model, torch.randn(1, 8, 8, 8), torch.tensor([5]), encode_prompts(model, ["a cat"]))
        assert prediction.dtype == torch.float32
