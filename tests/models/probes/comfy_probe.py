"""Run by test_comfy_parity.py in a process of its own, because ComfyUI changes global state.

    python comfy_probe.py COMFYUI_FOLDER JOB_FOLDER

The job folder holds checkpoint.safetensors, lora.safetensors, inputs.safetensors and job.json; outputs.safetensors and
report.json are left there. With "denoiser_only" in the job the report alone says what the checkpoint is taken for.
Everything is computed by ComfyUI's own classes, in float32 on the CPU.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from comfy_start import start


def main(comfyui: str, job: Path) -> None:
    complaints = start(comfyui)
    import comfy.sd
    import comfy.utils
    import torch

    order = json.loads((job / "job.json").read_text())
    if order.get("denoiser_only"):
        found = comfy.sd.load_checkpoint_guess_config(
            str(job / "checkpoint.safetensors"), output_vae=False, output_clip=False
        )
        model = found[0].model
        report = {"model": type(model).__name__, "prediction": model.model_type.name}
        report["zsnr"] = bool(getattr(model.model_sampling, "zsnr", False))
        (job / "report.json").write_text(json.dumps(report | {"complaints": complaints.lines}))
        return
    lora = comfy.utils.load_torch_file(str(job / "lora.safetensors"))
    with torch.inference_mode():
        found = comfy.sd.load_checkpoint_guess_config(
            str(job / "checkpoint.safetensors"),
            output_vae=order["pixels"],
            te_model_options=order.get("text_options", {}),
            embedding_directory=str(job / "embeddings"),
        )
        model, clip, vae = found[:3]
        report = {"unmatched": unmatched(model, clip, lora), "model": type(model.model).__name__}
        report["prediction"] = model.model.model_type.name
        model, clip = comfy.sd.load_lora_for_models(model, clip, lora, 1.0, 1.0)
        outputs = run(model, clip, vae, order, job)
    report["complaints"] = complaints.lines
    comfy.utils.save_torch_file(
        {key: value.contiguous() for key, value in outputs.items()}, job / "outputs.safetensors"
    )
    (job / "report.json").write_text(json.dumps(report))


def unmatched(model, clip, lora) -> list[str]:
    """The LoRA's names that ComfyUI's key maps do not have."""
    import comfy.lora

    names = comfy.lora.model_lora_keys_unet(model.model, {})
    names = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, names)
    known = {f"{name}.{end}" for name in names for end in ("lora_up.weight", "lora_down.weight", "alpha")}
    return sorted(key for key in set(lora) - known if not key.startswith("bundle_emb."))


def run(model, clip, vae, order: dict, job: Path) -> dict:
    """Text encoders, UNet, and (where asked) a whole sampling run, all with the LoRA on."""
    import comfy.model_management
    import comfy.sample
    import comfy.utils
    import torch

    inputs = comfy.utils.load_torch_file(str(job / "inputs.safetensors"))
    outputs = {}
    if order.get("clip_skip"):
        clip.clip_layer(-order["clip_skip"])
    tokens = clip.tokenize(order["prompt"])
    for name, pairs in tokens.items():
        outputs[f"tokens_{name}"] = torch.tensor([pair[0] for pair in pairs[0]])
    conditions = [
        clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (order["prompt"], order["negative"])
    ]
    hidden, extra = conditions[0][0]
    outputs["hidden"], pooled = hidden, extra.get("pooled_output")
    if pooled is not None:
        outputs["pooled"] = pooled
    for name in ("word", "lora"):  # the embedding file, and the LoRA file that bundles it
        told = clip.encode_from_tokens_scheduled(clip.tokenize(order["learned"].format(f"embedding:{name}")))
        outputs[f"{name}_hidden"] = told[0][0]
        if told[0][1].get("pooled_output") is not None:
            outputs[f"{name}_pooled"] = told[0][1]["pooled_output"]
    for number, text in enumerate(order["prompts"]):
        told = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        outputs[f"prompt{number}_hidden"] = told[0][0].clone()
        if told[0][1].get("pooled_output") is not None:
            outputs[f"prompt{number}_pooled"] = told[0][1]["pooled_output"].clone()
    comfy.model_management.load_models_gpu([model], force_patch_weights=True)
    size = inputs["latents"].shape[-2:]
    sdxl = {"pooled_output": pooled, "width": size[1] * 8, "height": size[0] * 8}
    outputs["prediction"] = model.model.diffusion_model(
        inputs["latents"],
        inputs["timesteps"],
        context=hidden.repeat(len(inputs["latents"]), 1, 1),
        y=model.model.encode_adm(**sdxl).repeat(len(inputs["latents"]), 1) if order["sdxl"] else None,
    )
    if order["steps"]:
        empty = torch.zeros_like(inputs["latents"][:1])
        latents = comfy.sample.sample(
            model,
            comfy.sample.prepare_noise(empty, order["seed"]),
            order["steps"],
            order["guidance"],
            "euler",
            "simple",
            *conditions,
            empty,
            seed=order["seed"],
            disable_pbar=True,
        )
        outputs["latents"] = model.model.process_latent_in(latents)
        drawn = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in order["drawn"]]
        noise = comfy.sample.prepare_noise(empty, order["seed"])
        how = (order["steps"], order["guidance"], "euler", "simple", *drawn, empty)
        weighted = comfy.sample.sample(model, noise, *how, seed=order["seed"], disable_pbar=True)
        outputs["weighted"] = model.model.process_latent_in(weighted)
        if order["pixels"]:
            outputs["picture"] = vae.decode(latents).movedim(-1, 1)
    return outputs


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
