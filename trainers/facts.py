"""What `auto` looks at: pictures, networks, and the memory of their device."""

from __future__ import annotations

import torch

from ..models.adapters import paths_of_set
from ..models.loading import Networks
from ..models.merging import find
from ..models.values import TrainingSet
from .auto import Facts
from .memory import free_memory
from .settings import SubjectSettings


def gather_facts(networks: Networks, pictures: TrainingSet, settings: SubjectSettings) -> Facts:
    """What `auto` choices depend on."""
    return Facts(
        references=sum(1 for sample in pictures.references if not sample.others and not sample.pasted),
        concepts=len({sample.concept for sample in pictures.references}),
        priors=len(pictures.priors),
        parameters=sum(p.numel() for p in networks.unet.parameters()),
        config=networks.unet.config,
        pixels=networks.downscale,
        native_resolution=networks.resolution,
        text_encoders=len(networks.text_encoders),
        half=networks.dtype != torch.float32,
        free=free_memory(networks.device),
        trained=trained_numbers(networks, settings),
        denoiser=weight_bytes(networks.unet),
        encoders=sum(map(weight_bytes, waiting_parts(networks, settings.text_encoder))),
    )


def trained_numbers(networks: Networks, settings: SubjectSettings) -> int:
    """How many numbers the adapter of `settings` has: rank * (in + out) for each layer."""
    sets = [settings.parameter_set, *(["text"] if settings.text_encoder else [])]
    roots = networks.roots()
    layers = {path: find(roots, path) for name in sets for path in paths_of_set(networks, name)}
    return settings.rank * sum(sum(layer.get_parameter("weight").shape) for layer in layers.values())


def weight_bytes(network: torch.nn.Module) -> int:
    """What the parameters of a network take."""
    return sum(p.numel() * p.element_size() for p in network.parameters())


def waiting_parts(networks: Networks, reads_text: bool) -> list[torch.nn.Module]:
    """What a training step does not need once pictures and prompts are encoded."""
    return [networks.vae, *(() if reads_text else networks.text_encoders)]
