"""The names that saved files and other programs hold, letter by letter."""

from comfyui_fewshot.models import public_names as names


def test_they_stay():
    assert (names.DENOISER_ROOT, names.TEXT_ENCODER_ROOT) == ("unet", "text_encoder")
    assert (names.DENOISER_RATE, names.TEXT_ENCODER_RATE, names.IS_V2) == ("ss_unet_lr", "ss_text_encoder_lr", "ss_v2")
    assert (names.BASE_WIDGETS, names.PROMPT_NODE) == (("ckpt_name", "unet_name"), "CLIPTextEncode")


def test_the_denoisers_paths_are_known():
    assert names.in_denoiser("unet.conv_in") and names.in_denoiser("diffusion_model.layers.0")
    assert not names.in_denoiser("text_encoder.text_model.encoder.layers.0.mlp.fc1")
