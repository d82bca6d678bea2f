"""Whether MODEL, CLIP and VAE are parts of one Stable Diffusion, and what of a base is said by them and not by weights:
what the denoiser predicts, its noise schedule, the layer that prompts are read from."""

from __future__ import annotations

from typing import Any

from ...core.errors import FewShotError
from ...models.stable_diffusion.variants import FAMILIES, Family
from .host import comfy
from .native_models import family_of
from .read_weights import check_readable

EMPTY = {
    "MODEL": "the file that it comes from holds no diffusion model: connect the MODEL of a full checkpoint",
    "CLIP": "the checkpoint that it comes from holds no text encoder: connect the CLIP of Load CLIP or of another one",
    "VAE": "the checkpoint that it comes from holds no autoencoder: connect the VAE of Load VAE or of another one",
}
SAMPLING = "model_sampling"


def check_parts(model: Any, clip: Any, vae: Any) -> None:
    """Raise FewShotError where a part is empty, of another family, or of a model of other sizes than the MODEL."""
    for name, part in (("MODEL", model), ("CLIP", clip), ("VAE", vae)):
        if part is None or getattr(part, "first_stage_model", part) is None:  # a VAE without weights is an empty shell
            raise FewShotError(f"this {name} is empty; {EMPTY[name]}")
    check_readable(model)
    family = FAMILIES[family_of(model) or ""]
    weights = model.model.diffusion_model.state_dict()
    _check_clip(clip, family, weights)
    _check_vae(vae, weights)


def _check_clip(clip: Any, family: Family, denoiser: dict[str, Any]) -> None:
    network = clip.cond_stage_model
    weights = network.state_dict()
    encoders = {name.partition(".")[0] for name in weights}
    kind = comfy.sdxl_clip.SDXLClipModel if len(family.embeddings) > 1 else comfy.sd1_clip.SD1ClipModel
    if encoders != set(family.embeddings) or not isinstance(network, kind):
        raise FewShotError(
            f"this CLIP is a {type(network).__name__} of {', '.join(sorted(encoders))}, and this MODEL, a "
            f"{family.title}, reads prompts of {', '.join(family.embeddings)}: connect the CLIP of a {family.title}"
        )
    table = "transformer.text_model.embeddings.token_embedding.weight"
    width = sum(weights[f"{encoder}.{table}"].shape[1] for encoder in family.embeddings)
    needed = next((w.shape[1] for name, w in denoiser.items() if name.endswith("attn2.to_k.weight")), width)
    if width != needed:
        raise FewShotError(
            f"this CLIP and this MODEL are parts of two models: the CLIP's prompts are {width} numbers wide, and the "
            f"MODEL reads {needed}. Connect the CLIP that belongs to the MODEL"
        )


def _check_vae(vae: Any, denoiser: dict[str, Any]) -> None:
    network = vae.first_stage_model
    needed = denoiser["out.2.weight"].shape[0]
    if not isinstance(network, comfy.ldm.models.autoencoder.AutoencoderKL):
        raise FewShotError(
            f"this VAE is a {type(network).__name__} and not Stable Diffusion's autoencoder (AutoencoderKL), which "
            "training needs: connect the VAE of a checkpoint, or Load VAE with a file of such a one"
        )
    channels = network.state_dict()["decoder.conv_in.weight"].shape[1]
    if channels != needed:
        raise FewShotError(
            f"this VAE and this MODEL are parts of two models: the VAE's latents have {channels} channels, and the "
            f"MODEL reads {needed}. Connect the VAE that belongs to the MODEL"
        )


# ------------------------------------------------------------------------------------------- what the parts decide


def prediction_of(model: Any) -> tuple[str, bool]:
    """What a MODEL predicts ("epsilon" or "v_prediction"), and whether its schedule ends in pure noise.

    Raises FewShotError, naming the sampling, for one that training does not know.
    """
    sampling = model.get_model_object(SAMPLING)
    known = comfy.model_sampling
    rule, schedule = _definer(sampling, "calculate_denoised"), _definer(sampling, "timestep")
    scaling = _definer(sampling, "calculate_input"), _definer(sampling, "noise_scaling")
    names = {known.EPS: "epsilon", known.V_PREDICTION: "v_prediction"}
    zero_snr = bool(getattr(sampling, "zsnr", False))
    plain = rule in names and scaling == (known.EPS, known.EPS) and schedule is known.ModelSamplingDiscrete
    if plain:
        own = known.ModelSamplingDiscrete(model.model.model_config, zsnr=zero_snr).sigmas
        plain = own.shape == sampling.sigmas.shape and bool(own.allclose(sampling.sigmas.to(own), rtol=1e-4))
    if not plain:
        patched = SAMPLING in model.object_patches
        advice = "connect the MODEL from before the node that set it" if patched else "choose another base model"
        raise FewShotError(
            f"this MODEL samples by {' with '.join(kind.__name__ for kind in type(sampling).__bases__)}, or on a noise "
            "schedule of its own, which cannot be trained on. Of ModelSamplingDiscrete's kinds eps and v_prediction "
            "can, with or without zsnr: "
            f"{advice}, and use that node where pictures are drawn"
        )
    return names[rule], zero_snr


def _definer(made: Any, method: str) -> type:
    """The class that an object has a method from."""
    return next(kind for kind in type(made).__mro__ if method in vars(kind))


def clip_skip_of(clip: Any, model: Any, widget: int) -> int:
    """The layer that prompts are read from, as CLIP Set Last Layer or else the widget says; 0 is the family's own.

    Raises FewShotError where the two differ, or the CLIP has no such layer.
    """
    layer = clip.layer_idx
    if layer is None:
        return widget
    family = FAMILIES[family_of(model) or ""]
    layers = min(getattr(clip.cond_stage_model, name).num_layers for name in family.embeddings)
    lowest = 1 + family.unused_layers
    if not isinstance(layer, int) or not lowest <= -layer <= layers:
        raise FewShotError(
            f"CLIP Set Last Layer is {layer} on this CLIP, and its layers from {-lowest} to {-layers} can be used: set "
            "one of those"
        )
    if widget and widget != -layer:
        raise FewShotError(
            f"CLIP Set Last Layer on this CLIP says {layer}, which is a clip_skip of {-layer}, and the widget says "
            f"{widget}: set clip_skip to 0, or both to the same"
        )
    return -layer
