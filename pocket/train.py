"""Train the pocket's models: `python -m comfyui_fewshot.pocket.train --part all`.

Each part trains for a number of minutes of its own, on a CPU or a GPU, and resumes where it was stopped. Where no
state of an earlier run is found but weights are, training goes on from them with a fresh optimizer. At the end the
table of figures is measured, printed and written to `weights/figures.json`.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPSegForImageSegmentation, CLIPTextModel, CLIPTokenizer

from . import assemble
from .fit_loop import FitSettings, fit
from .models import autoencoder, diffusion, likeness, reader
from .models.weights import SHARD, WEIGHTS, remove_origin
from .world import words, world
from .world.scene_batches import stream, to_signed

log = logging.getLogger(__name__)
PARTS = ("autoencoder", "readers", "diffusion", "clip", "clipseg")
MINUTES = {"autoencoder": 30.0, "readers": 8.0, "diffusion": 120.0, "clip": 10.0, "clipseg": 6.0}
CHUNK = 2000  # scenes in a file of latents


@dataclass(frozen=True)
class TrainingPaths:
    """Where weights and training states lie, and the device."""

    weights: Path
    cache: Path
    device: torch.device
    scenes: int  # pictures whose latents the denoiser is trained on

    def state(self, part: str) -> Path:
        return self.cache / f"{part}.safetensors"

    def steps_done(self, part: str) -> int:
        """Steps of an interrupted run, so that its data stream goes on where it stopped."""
        if not self.state(part).exists():
            return 0
        with safe_open(self.state(part), "pt") as file:
            return int(file.metadata()["step"])

    def tokenizer(self):
        """The vocabulary is made once: models are trained on its token numbers."""
        folder = self.weights / "tokenizer"
        if (folder / "tokenizer.json").exists():
            return CLIPTokenizer.from_pretrained(folder)
        return words.build(folder)

    def vae(self) -> AutoencoderKL:
        return AutoencoderKL.from_pretrained(self.weights / "vae", torch_dtype=torch.float32).to(self.device).eval()


def _save(model, folder: Path):
    """Write fp16 shards; the live model stays fp32."""
    copy.deepcopy(model).half().save_pretrained(folder, max_shard_size=SHARD)
    remove_origin(folder)


def _load_or_build(kind, folder: Path, build):
    """The model in `folder` where there is one, else a new one."""
    if (folder / "config.json").exists():
        return kind.from_pretrained(folder, torch_dtype=torch.float32)
    torch.manual_seed(0)
    return build()


def train_autoencoder(paths: TrainingPaths, minutes: float):
    """Encoder and decoder; where a denoiser was already trained on the latents, only the decoder."""
    denoiser_exists = (paths.weights / "unet" / "config.json").exists()
    vae = _load_or_build(AutoencoderKL, paths.weights / "vae", autoencoder.build).to(paths.device)
    if denoiser_exists:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    part = "decoder" if denoiser_exists else "autoencoder"
    loss = autoencoder.loss_of(vae, paths.steps_done(part), paths.device)
    state = paths.state(part)
    fit(vae, loss, FitSettings(1.5e-3, decay=0.998, weight_decay=1e-4), state, minutes)
    if not denoiser_exists:
        vae.register_to_config(scaling_factor=autoencoder.latent_scale(vae, paths.device))
    _save(vae, paths.weights / "vae")


def train_readers(paths: TrainingPaths, minutes: float):
    """Two readers that differ in their seeds only: initial weights and scenes."""
    for number, name in enumerate(("reader_a", "reader_b")):
        torch.manual_seed(number)
        config = reader.SceneReaderConfig()
        model = _load_or_build(reader.SceneReader, paths.weights / name, lambda c=config: reader.SceneReader(c)).to(
            paths.device
        )
        batches = stream(reader.SEED + number, 64, paths.steps_done(name), badged=0.15)
        loss = reader.loss_of(model, paths.vae(), batches, paths.device)
        fit(model, loss, FitSettings(2e-3, decay=0.995), paths.state(name), minutes / 2)
        refresh_statistics(model, batches, paths.device)
        _save(model, paths.weights / name)


@torch.no_grad()
def refresh_statistics(model: reader.SceneReader, batches, device, count: int = 20):
    """Batch statistics of the averaged weights."""
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    for _ in range(count):
        pictures = to_signed(next(batches)[1]).to(device)
        half = len(pictures) // 2
        model(torch.cat([pictures[:half], reader.blurred(pictures[half:], torch.rand(half, device=device))]))
    for norm in norms:
        norm.momentum = 0.1
    model.eval()


def encoder_key(folder: Path) -> str:
    """Hash of what latents depend on: the encoder, in the half precision that is shipped, and the scale."""
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    digest = hashlib.sha256(str(AutoencoderKL.load_config(folder)["scaling_factor"]).encode())
    for name in sorted(name for name in tensors if not name.startswith(("decoder.", "post_quant_conv."))):
        digest.update((tensors[name].half() + 0.0).numpy().tobytes())  # + 0.0: -0.0 and 0.0 are one number
    return digest.hexdigest()[:12]


@torch.no_grad()
def latents_of(paths: TrainingPaths, count: int) -> tuple[torch.Tensor, list]:
    """Scaled latents (N, 8, 8, 8) fp16 of the first `count` scenes of the denoiser's stream, and the scenes.

    They are cached in files of CHUNK scenes; a count that is no multiple of CHUNK is rounded down.
    """
    key = encoder_key(paths.weights / "vae")
    files = [paths.cache / f"latents_{key}_{chunk:03d}.safetensors" for chunk in range(max(1, count // CHUNK))]
    for chunk, file in enumerate(files):
        if not file.exists():
            _encode_chunk(paths, chunk, file)
    scenes = [world.scene_of(diffusion.SEED, i) for i in range(len(files) * CHUNK)]
    return torch.cat([load_file(file)["latents"] for file in files]), scenes


def _encode_chunk(paths: TrainingPaths, chunk: int, file: Path):
    log.info("encoding scenes %d to %d", chunk * CHUNK, (chunk + 1) * CHUNK - 1)
    vae, size, rows = paths.vae(), 50, []
    batches = stream(diffusion.SEED, size, first=chunk * CHUNK // size)
    for _ in range(CHUNK // size):
        pictures = to_signed(next(batches)[1]).to(paths.device)
        with torch.autocast(paths.device.type, torch.bfloat16):
            mean = vae.encode(pictures).latent_dist.mean
        rows.append((mean.float() * vae.config.scaling_factor).half().cpu().contiguous())
    draft = file.with_suffix(".part")
    save_file({"latents": torch.cat(rows).contiguous()}, draft)
    draft.replace(file)


def train_diffusion(paths: TrainingPaths, minutes: float):
    latents, scenes = latents_of(paths, paths.scenes)
    tokenizer = paths.tokenizer()
    text = _load_or_build(CLIPTextModel, paths.weights / "text_encoder", lambda: diffusion.build_text(tokenizer))
    unet = _load_or_build(UNet2DConditionModel, paths.weights / "unet", diffusion.build_unet)
    model = diffusion.TextConditionedDenoiser(text, unet).to(paths.device)
    loss = diffusion.loss_of(model, tokenizer, latents, scenes, paths.device)
    settings = FitSettings(1e-3, warmup=300, decay=0.9985, weight_decay=1e-3)
    fit(model, loss, settings, paths.state("diffusion"), minutes)
    words.rescale_untrained_tokens(model.text, tokenizer)
    assemble.write_base(paths.weights, model.unet, paths.vae(), model.text, tokenizer)


def train_clip(paths: TrainingPaths, minutes: float):
    tokenizer = paths.tokenizer()
    clip = _load_or_build(CLIPModel, paths.weights / "clip", lambda: likeness.build_clip(tokenizer))
    model = likeness.ClipWithReadingHead(clip).to(paths.device)
    batches = stream(likeness.SEED, 128, paths.steps_done("clip"))
    loss = likeness.clip_loss(model, tokenizer, batches, paths.device)
    fit(model, loss, FitSettings(1.5e-3, decay=0.995), paths.state("clip"), minutes)
    _save(model.clip, paths.weights / "clip")
    words.save(tokenizer, paths.weights / "clip")
    likeness.processor().save_pretrained(paths.weights / "clip")


def train_clipseg(paths: TrainingPaths, minutes: float):
    tokenizer = paths.tokenizer()
    clip = CLIPModel.from_pretrained(paths.weights / "clip", torch_dtype=torch.float32)
    folder = paths.weights / "clipseg"
    model = _load_or_build(CLIPSegForImageSegmentation, folder, lambda: likeness.build_clipseg(clip)).to(paths.device)
    batches = stream(likeness.SEED + 1, 48, paths.steps_done("clipseg"), masked=True)
    loss = likeness.clipseg_loss(model, tokenizer, batches, paths.device)
    fit(model, loss, FitSettings(1e-3, decay=0.995), paths.state("clipseg"), minutes)
    _save(model, folder)
    words.save(tokenizer, folder)
    likeness.processor().save_pretrained(folder)


TRAINERS = {
    "autoencoder": train_autoencoder,
    "readers": train_readers,
    "diffusion": train_diffusion,
    "clip": train_clip,
    "clipseg": train_clipseg,
}


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(prog="comfyui_fewshot.pocket.train", description=__doc__)
    parser.add_argument("--part", choices=(*PARTS, "all"), required=True)
    parser.add_argument("--minutes", type=float, help="training time of the part (of each part, with all)")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--cache", type=Path, default=WEIGHTS.parent / "cache")
    parser.add_argument("--scenes", type=int, default=40_000, help="scenes that the denoiser is trained on")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-figures", action="store_true", help="do not measure at the end")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    paths = TrainingPaths(chosen.weights, chosen.cache, torch.device(chosen.device), chosen.scenes)
    paths.cache.mkdir(parents=True, exist_ok=True)
    started = time.time()
    for part in PARTS if chosen.part == "all" else (chosen.part,):
        log.info("training %s", part)
        TRAINERS[part](paths, chosen.minutes or MINUTES[part])
    if chosen.no_figures:
        return
    from .figures import measure

    rows = measure(paths.weights)
    command = f"python -m comfyui_fewshot.pocket.train --part {chosen.part} --minutes {chosen.minutes}"
    record = {"command": command, "minutes": round((time.time() - started) / 60, 1), "rows": rows}
    (paths.weights / "figures.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
