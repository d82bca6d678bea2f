"""Measures hosted networks in a process of its own, because ComfyUI changes global state.

python -m comfyui_fewshot.tests.models.hosted.probe COMFYUI_FOLDER REPORT.json
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from comfyui_fewshot.augmentation.images.load import picture_of
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import BaseModelRef, Concept, Sample, TrainingSet
from comfyui_fewshot.models.adapters.lora_layers import LoraSpec, LowRankLayer, wrap
from comfyui_fewshot.models.conditioning import Conditioning
from comfyui_fewshot.models.hosted import host
from comfyui_fewshot.models.hosted.families import FAMILIES, family_of
from comfyui_fewshot.models.hosted.key import parts_key
from comfyui_fewshot.models.hosted.model import ROOT, HostedModel
from comfyui_fewshot.models.hosted.open import opened
from comfyui_fewshot.models.hosted.parts import HostedParts
from comfyui_fewshot.models.hosted.process import sampling_of
from comfyui_fewshot.models.open import base_from_parts, base_from_path, open_base
from comfyui_fewshot.models.sampling import SamplingOptions, sample_latents
from comfyui_fewshot.models.stable_diffusion.lora_names import flat_name
from comfyui_fewshot.pocket.assemble import random_folder
from comfyui_fewshot.tests.models.hosted.networks import NETWORKS, model_of
from comfyui_fewshot.tests.models.hosted.parts import parts_of
from comfyui_fewshot.trainers.context import TrainingContext
from comfyui_fewshot.trainers.subject.method import train_subject
from comfyui_fewshot.trainers.subject.settings import SubjectSettings

CPU = torch.device("cpu")
SIDE, LENGTHS, RANK, STEP = 64, (5, 9, 9), 2, 1e-3


def conditioning_of(name: str, dtype: torch.dtype) -> Conditioning:
    """Three captions, of which one is shorter."""
    generator = torch.Generator().manual_seed(1)
    network, rows = NETWORKS[name], []
    for length in LENGTHS:
        more = (
            {"pooled_output": torch.randn(1, network.pooled, generator=generator).to(dtype)} if network.pooled else {}
        )
        states = torch.randn(1, length, network.width, generator=generator).to(dtype)
        rows.append(Conditioning.of(cross_attn=states, **more))
    return Conditioning.cat(rows)


def updates(model: HostedModel, dtype: torch.dtype) -> dict[str, LowRankLayer]:
    """Low-rank updates with effect beside all layers of attention_ff."""
    generator, layers = torch.Generator().manual_seed(2), wrap(model, model.layers("attention_ff"))
    for update in layers.values():
        wide: Any = update.layer
        down = torch.randn(RANK, wide.in_features, generator=generator) * 0.1
        update.set_weights(
            LoraSpec(RANK, RANK), (down, torch.randn(wide.out_features, RANK, generator=generator) * 0.1)
        )
        update.down, update.up = (nn.Parameter(part.detach().to(dtype)) for part in (update.down, update.up))
    return layers


class Measured:
    """One network, its noisy latents and its updates."""

    def __init__(self, name: str, model: HostedModel, dtype: torch.dtype):
        generator = torch.Generator().manual_seed(3)
        shape = (len(LENGTHS), *model.latent_shape(SIDE, SIDE))
        self.model, self.layers = model, updates(model, dtype)
        self.latents, self.weight = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
        self.times, self.conditioning = torch.tensor([0.3, 0.7, 0.5]), conditioning_of(name, dtype)

    def remove(self) -> None:
        for update in self.layers.values():
            update.remove()

    def members(self) -> list[nn.Parameter]:
        return [part for update in self.layers.values() for part in (update.down, update.up)]

    def value(self, rows: slice = slice(None)) -> Tensor:
        given = self.model.predict(self.latents[rows], self.times[rows], self.conditioning.take(rows))
        return (given * self.weight[rows]).sum() / self.weight.numel()

    def pairs(self, gradients: list[Tensor]) -> list[list[tuple[nn.Parameter, Tensor]]]:
        """Both parts of each layer with their gradients."""
        both = list(zip(self.members(), gradients, strict=True))
        return [both[i : i + 2] for i in range(0, len(both), 2)]

    def errors(self, gradients: list[Tensor], one_by_one: bool) -> list[float]:
        """Gradients against finite differences, along themselves and a random way at once: of each layer, or of all."""
        layers = self.pairs(gradients) if one_by_one else [sum(self.pairs(gradients), [])]
        lengths = [float(torch.stack([g.norm() for _, g in layer]).norm()) for layer in layers]
        return [self.error(layer, n) / (n or 1) for layer, n in zip(layers, lengths, strict=True)]

    def error(self, layer: list[tuple[nn.Parameter, Tensor]], length: float) -> float:
        generator = torch.Generator().manual_seed(4)
        ways = [torch.randn(part.shape, generator=generator, dtype=part.dtype) for part, _ in layer]
        wide = torch.stack([way.norm() for way in ways]).norm()
        ways = [g / (length or 1) + way / wide for (_, g), way in zip(layer, ways, strict=True)]
        ends = []
        with torch.no_grad():
            for by in (STEP, -2 * STEP):
                for (part, _), way in zip(layer, ways, strict=True):
                    part.add_(by * way)
                ends.append(float(self.value()))
            for (part, _), way in zip(layer, ways, strict=True):
                part.add_(STEP * way)
        exact = sum(float((g * way).sum()) for (_, g), way in zip(layer, ways, strict=True))
        return abs(exact - (ends[0] - ends[1]) / (2 * STEP))

    def gradients(self) -> list[Tensor]:
        for part in self.members():
            part.grad = None
        with self.model.differentiable():
            self.value().backward()
        return [torch.zeros_like(part) if part.grad is None else part.grad for part in self.members()]


def relative(first: list[Tensor], second: list[Tensor]) -> float:
    """The largest difference of one tensor beside the other's norm, over all that are not zero."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(first, second, strict=True) if b.any())


def gradients_report(name: str, made: Any = None) -> dict[str, Any]:
    """Gradients in float64 against finite differences, per tensor; with checkpoints; and row by row.

    Args:
        made: a MODEL of the network in float64, in place of one that is made here.
    """
    import comfy.model_management as management

    made = model_of(name, torch.float64) if made is None else made
    ref = BaseModelRef(name, HostedParts(made, None, None), name)  # type: ignore[arg-type]
    with opened(ref, CPU) as model:
        one = Measured(name, model, torch.float64)
        whole = one.gradients()
        model.checkpointing(True)
        again = one.gradients()
        model.checkpointing(False)
        management.in_training = True  # the fused kernels know no float64
        errors = one.errors(whole, name in FAMILIES)
        with torch.no_grad():
            apart = sum(float(one.value(slice(i, i + 1))) for i in range(len(LENGTHS)))
            together = float(one.value())
        management.in_training = False
    return {
        "layers": len(one.layers),
        "felt": sum(bool(g.any()) for g in whole),
        "differences": errors,
        "checkpoints": relative(again, whole),
        "rows": abs(apart - together) / abs(together),
        "paths": sorted(one.layers),
        "family": model.family.name,
        "process": [model.process.prediction, len(model.process)],
    }


def left_as_it_was(name: str) -> bool:
    """Whether weights, hooks and modes are the same after a training step."""
    import comfy.model_management as management

    made = model_of(name, torch.float32)
    network = made.model.diffusion_model
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    objects = {key: id(tensor) for key, tensor in network.named_parameters()}
    ref = BaseModelRef(name, HostedParts(made, None, None), name)  # type: ignore[arg-type]
    try:
        with opened(ref, CPU) as model:
            model.checkpointing(True)
            one = Measured(name, model, torch.float32)
            one.gradients()
            one.remove()
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    return (
        objects == {key: id(tensor) for key, tensor in network.named_parameters()}
        and all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())
        and all(p.is_inference() for p in network.parameters())
        and not any(m._forward_hooks or "forward" in m.__dict__ for m in network.modules())
        and not management.in_training
    )


def trained_in_half(name: str) -> dict[str, Any]:
    """A training of a network in bfloat16, whose pictures are encoded with adapters already beside its layers: whether
    losses are numbers and all layers moved; and the positions of a caption that names an embedding."""
    with tempfile.TemporaryDirectory() as place:
        parts = HostedParts(*parts_of(name, torch.bfloat16))
        path = Path(place) / "picture.png"
        Image.new("RGB", (64, 64), (200, 40, 90)).save(path)
        sample = Sample(picture_of(path), "a photo of a sks cat")
        chosen = SubjectSettings(steps=2, resolution=64, rank=2, learning_rate=1e-2, tuning="orthogonal")
        result = train_subject(
            base_from_parts(parts), TrainingSet((sample,), (Concept("sks", "cat"),)), chosen,
            TrainingContext(Path(place) / "runs", CPU),
        )  # fmt: skip
        tokenizers = [one for one in vars(parts.clip.tokenizer).values() if hasattr(one, "embedding_directory")]
        for one in tokenizers:
            one.embedding_directory = place
        with open_base(base_from_parts(parts), CPU) as model:
            words = [model.encode_prompts([text])["cross_attn"].shape[1] for text in ("a  cat", "a embedding:gone cat")]
    return {
        "finite": bool(torch.tensor(result.losses).isfinite().all()),
        "moved": sum(bool(factor.up.any()) for factor in result.adapter.factors.values()),
        "literal": words[1] >= words[0],
    }


def refusals() -> dict[str, str]:
    """What is said of a flow that a node made another kind of, and which networks of ComfyUI's draw no pictures."""
    import comfy.model_sampling
    import comfy.supported_models

    class Sampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
        pass

    patched = model_of("z_image", torch.float32).clone()
    patched.add_object_patch("model_sampling", Sampling(patched.model.model_config))
    found = {}
    try:
        sampling_of(patched)
    except FewShotError as error:
        found["sampling"] = str(error)
    refused = []
    for kind in comfy.supported_models.models:
        try:
            family_of(kind.__new__(kind))
        except FewShotError:
            refused.append(kind.__name__)
    return found | {"no pictures": " ".join(refused)}


def keys_report() -> dict[str, str]:
    """Keys of the same weights made twice, patched, patched while that is applied, and changed."""
    import comfy.model_management as management
    import comfy.model_patcher

    first, second = model_of("z_image", torch.float32), model_of("z_image", torch.float32)
    part = comfy.model_patcher.ModelPatcher(nn.Linear(2, 2), CPU, CPU)
    shell = SimpleNamespace(patcher=part, layer_idx=None)

    def key(model: Any) -> str:
        return parts_key(HostedParts(model, shell, shell))

    name = next(name for name in first.model.state_dict() if name.endswith("qkv.weight"))
    patch = {name: ("diff", (torch.ones_like(first.model.state_dict()[name]),))}
    patched, stronger = first.clone(), first.clone()
    patched.add_patches(patch, 0.5)
    stronger.add_patches(patch, 0.6)
    found = {"first": key(first), "second": key(second), "patched": key(patched), "stronger": key(stronger)}
    with torch.inference_mode():
        management.load_models_gpu([patched])
        applied = not torch.equal(first.model.state_dict()[name], second.model.state_dict()[name])
        found |= {"applied": str(applied), "patched while applied": key(patched), "first while applied": key(first)}
        management.unload_all_models()
        found["first afterwards"] = key(first)
        second.model.state_dict()[name].view(-1)[0] += 1
    merged, other = first.clone(), model_of("z_image", torch.float32)
    patches = other.get_key_patches("diffusion_model.")
    merged.add_patches(patches, 0.5, 0.5)
    found["merged"] = key(merged)
    with torch.inference_mode():
        other.model.state_dict()[name].view(-1)[100:200] += 1
    again = first.clone()
    again.add_patches(other.get_key_patches("diffusion_model."), 0.5, 0.5)
    found["merged with another"] = key(again)
    return found | {"changed": key(second)}


def sampled(name: str) -> tuple[float, bool]:
    """Latents that we draw beside KSampler's at the same seed; whether KSampler's are the same after a training."""
    import comfy.sample

    made, side, steps, seed, guidance = model_of(name, torch.float32), 64, 6, 11, 3.0
    ref = BaseModelRef(name, HostedParts(made, None, None), name)  # type: ignore[arg-type]
    rows = conditioning_of(name, torch.float32)
    conds = [
        [[row["cross_attn"], {key: row[key] for key, _ in row.blocks[0].shape if key != "cross_attn"}]]
        for row in (rows.take([i]) for i in (1, 0))
    ]
    with opened(ref, CPU) as model:
        model.encode_weighted = lambda prompts, _=None: rows.take([int(prompt) for prompt in prompts])
        shape = (1, *model.latent_shape(side, side))
        ours = sample_latents(model, ["1"], [seed], SamplingOptions(side, side, steps, guidance, "0", batch=1))

    def theirs() -> Tensor:
        with torch.inference_mode():
            noise = comfy.sample.prepare_noise(torch.zeros(shape), seed)
            how = (made, noise, steps, guidance, "euler", "simple", *conds, torch.zeros(shape))
            found = comfy.sample.sample(*how, disable_pbar=True, seed=seed)
            return made.model.process_latent_in(found)

    before = theirs()
    with opened(ref, CPU) as model:
        trained = Measured(name, model, torch.float32)
        trained.gradients()
        trained.remove()
    return relative([ours], [before.clone()]), torch.equal(before, theirs())


PROMPTS = ("a photo of a red cat", "a photo of a blue dog on the beach (with a ball)")


def pocket_report(folder: Path) -> dict[str, float]:
    """A Stable Diffusion in ComfyUI's classes beside the same in diffusers': relative differences of what they give."""
    from comfyui_fewshot.nodes.comfy import native_models

    with torch.inference_mode():
        made = HostedParts(*native_models.from_folder(folder, "sd1"))
    generator = torch.Generator().manual_seed(5)
    latents, noise = (torch.randn(2, 8, 8, 8, generator=generator) for _ in range(2))
    pixels, times = torch.rand(2, 3, 64, 64, generator=generator), torch.tensor([100, 700])

    def measured(model: Any, layers: dict[str, LowRankLayer]) -> dict[str, list[Tensor]]:
        parts = [part for name in sorted(layers) for part in (layers[name].down, layers[name].up)]
        conditioning = model.encode_prompts(PROMPTS)
        x = model.process.add_noise(latents, noise, times)
        with model.differentiable():
            prediction = model.predict(x, times, conditioning)
            loss = (prediction - model.process.target(latents, noise, times)).square().mean()
            gradients = list(torch.autograd.grad(loss, parts))
        with torch.no_grad():
            mean, spread = model.encode_images(pixels)
            pictures = model.decode(mean)
        return {"prediction": [prediction], "loss": [loss], "gradient": gradients, "mean": [mean], "pixels": [pictures]}

    with open_base(base_from_path(folder), CPU) as model:
        paths = {flat_name(path, model.family): path for path in model.layers("attention_ff")}
        own = wrap(model, paths.values())
        weighted(own)
        found = {"diffusers": measured(model, {name: own[path] for name, path in paths.items()})}
        times_there = model.process.sampling_times(10, (64, 64))
    with opened(BaseModelRef("sd1", made, "pocket"), CPU) as model:
        names = comfy_names(made.model.model)
        hosted = wrap(model, (f"{ROOT}.{names[name]}" for name in paths))
        weighted({paths[name]: hosted[f"{ROOT}.{names[name]}"] for name in paths})
        found["comfy"] = measured(model, {name: hosted[f"{ROOT}.{names[name]}"] for name in paths})
        same_times = torch.equal(times_there, model.process.sampling_times(10, (64, 64)))
    differences = {name: relative(found["comfy"][name], ours) for name, ours in found["diffusers"].items()}
    return differences | {"layers": len(paths), "times": float(same_times)}


def weighted(layers: dict[str, LowRankLayer]) -> None:
    """Weights by the layers' order of names."""
    generator = torch.Generator().manual_seed(6)
    for _, update in sorted(layers.items()):
        wide: Any = update.layer
        shapes = ((RANK, wide.in_features), (wide.out_features, RANK))
        down, up = (torch.randn(shape, generator=generator) * 0.1 for shape in shapes)
        update.set_weights(LoraSpec(RANK, RANK), (down, up))


def comfy_names(model: Any) -> dict[str, str]:
    """ComfyUI's path of a layer by kohya's name of it, as ComfyUI reads LoRA files."""
    import comfy.lora

    known = comfy.lora.model_lora_keys_unet(model, {})
    return {name: key.removeprefix(f"{ROOT}.").removesuffix(".weight") for name, key in known.items()}


def main(folder: str, report: str) -> None:
    host.start(Path(folder), cpu=True)
    found: dict[str, Any] = {
        name: gradients_report(name) | {"left": left_as_it_was(name), "sampled": sampled(name)} for name in NETWORKS
    }
    with tempfile.TemporaryDirectory() as place:
        found["pocket"] = pocket_report(random_folder(Path(place) / "base"))
    found["half"] = {name: trained_in_half(name) for name in ("z_image", "flux2")}
    found["refusals"] = refusals()
    Path(report).write_text(json.dumps(found | {"keys": keys_report()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
