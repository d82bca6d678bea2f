"""What `auto` looks at: pictures, networks, and the memory of their device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...core.settings import SubjectSettings
from ...core.values import TrainingSet
from ...models.adapters.apply import find
from ...models.adapters.inject import Full, paths_of_set
from ...models.adapters.learned_tokens import WordSpec
from ...models.contract import DiffusionModel
from ..targets import check_tuning, sets_of, words_of
from .fit import free_memory
from .rules import Facts
from .unet_costs import prompt_bytes


def gather_facts(
    networks: DiffusionModel, pictures: TrainingSet, settings: SubjectSettings, judges: float | None = None
) -> Facts:
    """What `auto` choices depend on.

    Args:
        judges: bytes on the device of the models that validate; None where none does.

    Raises:
        FewShotError: settings of what is trained contradict each other.
    """
    check_tuning(settings)
    waiting = waiting_parts(networks, settings.reads_text)
    return Facts(
        references=len({s.image.key for s in pictures.references if not s.others and not s.pasted}),
        concepts=len({sample.concept for sample in pictures.references}),
        priors=len(pictures.priors),
        parameters=sum(p.numel() for p in networks.denoiser.parameters()),
        config=networks.denoiser.config,
        pixels=networks.downscale,
        native_resolution=networks.resolution,
        text_encoders=len(networks.text_encoders),
        half=networks.dtype != torch.float32,
        free=free_with_all(networks),
        autoencoder=networks.autoencoder.config,
        wide=networks.autoencoder.dtype.itemsize,
        trained=trained_numbers(networks, settings, words_of(settings, pictures)),
        denoiser=weight_bytes(networks.denoiser),
        encoders=sum(map(weight_bytes, waiting)),
        text=sum(map(weight_bytes, waiting[1:])),
        reading=reading_bytes(networks, settings) if settings.reads_text else 0.0,
        judges=judges or 0.0,
        draws=judges is not None or settings.draws,
        token_scale=usual_number(networks) if settings.token == "free" else 0.0,
    )


def free_with_all(networks: DiffusionModel) -> int | None:
    """Bytes that are free on the networks' device once all of them are there; None where that is not known."""
    free = free_memory(networks.device)
    if free is None:
        return None
    away = (
        part for part in (networks.autoencoder, *networks.text_encoders) if part.device.type != networks.device.type
    )
    return free - sum(map(weight_bytes, away))


def reading_bytes(networks: DiffusionModel, settings: SubjectSettings) -> float:
    """What the text encoders keep of a prompt that is encoded in a step."""
    half = networks.dtype.itemsize == 2
    return sum(prompt_bytes(encoder.config, half, settings.text_encoder) for encoder in networks.text_encoders)


def usual_number(networks: DiffusionModel) -> float | None:
    """The root mean square of the numbers in the first text encoder's table: 0.014 for SD 1.x; None where only its
    shape was read."""
    table = networks.text_encoders[0].get_input_embeddings().weight
    return None if table.is_meta else float(table.float().square().mean().sqrt())


def trained_numbers(networks: DiffusionModel, settings: SubjectSettings, words: Sequence[WordSpec] = ()) -> int:
    """How many numbers are trained, with each layer counted once as `inject` does.

    They are rank * (in + out) of a low-rank layer, rank * out of one in a block, all of those trained in full, and the
    vectors of the learned words in each text encoder.
    """
    roots, counts = networks.parts(), dict[str, int]()
    for name, spec in sets_of(settings).items():
        for path in paths_of_set(networks, name):
            layer = find(roots, path)
            if isinstance(spec, Full):
                counts.setdefault(path, sum(p.numel() for p in layer.parameters(recurse=False)))
            else:
                out, width = layer.get_parameter("weight").shape
                counts.setdefault(path, min(spec.rank, out, width) * (out + (width if spec.block is None else 0)))
    widths = sum(encoder.config.hidden_size for encoder in networks.text_encoders)
    return sum(counts.values()) + widths * sum(word.vectors for word in words)


def weight_bytes(network: torch.nn.Module) -> int:
    """What the parameters of a network take."""
    return sum(p.numel() * p.element_size() for p in network.parameters())


def waiting_parts(networks: DiffusionModel, reads_text: bool) -> list[torch.nn.Module]:
    """What a training step does not need once pictures and prompts are encoded."""
    return [networks.autoencoder, *(() if reads_text else networks.text_encoders)]
