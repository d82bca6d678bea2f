"""What `auto` settings depend on: counts of the data, shapes of the networks, and the memory of the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ...core.errors import FewShotError
from ...core.values import TrainingSet
from ...models.adapters.apply import find_module
from ...models.adapters.inject import Full, paths_of_set
from ...models.adapters.learned_tokens import TokenSpec
from ...models.contract import ActivationCosts, DiffusionModel
from ..data.caption_check import with_identifiers
from ..settings.training import TrainingSettings
from ..subject.attention_supervision import usable
from ..targets import sets_of, token_specs
from .fit import free_memory


@dataclass(frozen=True)
class AutoInputs:
    """What `auto` settings are resolved from.

    Args:
        references: different pictures of all subjects: no composites, and each once however many captions it has.
        parameters: of the denoiser.
        costs: what the networks take beside their weights.
        vae_scale_factor: pixels along the side of a latent cell.
        is_half: the frozen networks are in half precision.
        free_bytes: on the device with all networks there; None where it is not known.
        size_multiple: what the sides of images are multiples of.
        vae_itemsize: bytes of one of the autoencoder's parameters.
        concepts: how many subjects the references show.
        trainable_parameters: how many, each layer once.
        denoiser_bytes: of its frozen weights.
        offloadable_bytes: of the encoders that may be moved to the host during a training step.
        text_encoder_bytes: of these without the autoencoder.
        text_activation_bytes: what text encoders store for the backward pass of one prompt, if they run in a step.
        validator_bytes: of the models that validate, on the device.
        samples_images: images are sampled during training.
        embedding_rms: of the vocabulary's vectors; None where only their shape was read.
        all_masked: every reference can count in the attention loss, and the denoiser has such attention.
        owns_weights: frozen weights may be converted.
        family_rate: the learning rate that is usual for the family; None where the denoiser's size says it.
    """

    references: int
    priors: int
    parameters: int
    costs: ActivationCosts = field(compare=False)
    vae_scale_factor: int
    native_resolution: int
    text_encoders: int
    is_half: bool
    free_bytes: int | None
    size_multiple: int
    vae_itemsize: int
    concepts: int = 1
    trainable_parameters: int = 0
    denoiser_bytes: float = 0.0
    offloadable_bytes: float = 0.0
    text_encoder_bytes: float = 0.0
    text_activation_bytes: float = 0.0
    validator_bytes: float = 0.0
    samples_images: bool = True
    embedding_rms: float | None = 0.0
    all_masked: bool = False
    owns_weights: bool = True
    family_rate: float | None = None


def gather_auto_inputs(
    model: DiffusionModel, pictures: TrainingSet, settings: TrainingSettings, validator_bytes: float | None = None
) -> AutoInputs:
    """Count and measure everything in `AutoInputs`.

    Args:
        validator_bytes: bytes on the device of the models that validate; None where none does.

    Raises:
        FewShotError: settings of what is trained contradict each other.
    """
    settings.check()
    offloadable = model.offloadable(settings.reads_text)
    return AutoInputs(
        references=len({s.image.key for s in pictures.references if not s.others and not s.pasted}),
        concepts=len({sample.concept for sample in pictures.references}),
        priors=len(pictures.priors),
        parameters=sum(p.numel() for p in model.denoiser.parameters()),
        owns_weights=model.owns_weights,
        family_rate=model.family.learning_rate,
        costs=model.activation_costs(),
        vae_scale_factor=model.downscale,
        native_resolution=model.native_resolution,
        text_encoders=len(model.text_encoders),
        is_half=model.dtype != torch.float32,
        free_bytes=free_with_all(model),
        size_multiple=model.size_multiple,
        vae_itemsize=model.autoencoder_dtype(model.dtype).itemsize,
        trainable_parameters=trainable_parameters(model, settings, token_specs(settings, pictures)),
        denoiser_bytes=weight_bytes(model.denoiser),
        offloadable_bytes=sum(map(weight_bytes, offloadable)),
        text_encoder_bytes=sum(map(weight_bytes, offloadable[1:])),
        text_activation_bytes=text_bytes_in_step(model, settings) if settings.reads_text else 0.0,
        validator_bytes=validator_bytes or 0.0,
        samples_images=validator_bytes is not None or settings.draws,
        embedding_rms=embedding_rms(model) if settings.word and settings.word.token == "free" else 0.0,
        all_masked="local_weight" in settings.left_open and _all_masked(model, pictures),
    )


def _all_masked(model: DiffusionModel, pictures: TrainingSet) -> bool:
    side = model.native_resolution // model.downscale
    try:
        model.attention_layers(side, side)
    except FewShotError:
        return False
    samples = [with_identifiers(sample, pictures.concepts) for sample in pictures.references]
    return all(usable(model, sample, pictures.concepts) for sample in samples)


def free_with_all(model: DiffusionModel) -> int | None:
    """Bytes that are free on the networks' device once all of them are there; None where that is not known."""
    free = free_memory(model.device)
    if free is None:
        return None
    away = [part for part in model.offloadable(reads_text=False) if _device_of(part).type != model.device.type]
    return free - sum(map(weight_bytes, away))


def _device_of(network: torch.nn.Module) -> torch.device:
    return next(network.parameters()).device


def text_bytes_in_step(model: DiffusionModel, settings: TrainingSettings) -> float:
    """What the text encoders store for the backward pass of one prompt that is encoded in a step."""
    return model.activation_costs().prompt(model.dtype.itemsize == 2, "text" in sets_of(settings))


def embedding_rms(model: DiffusionModel) -> float | None:
    """The root mean square of the first text encoder's token embeddings: 0.014 for SD 1.x; None on the meta device."""
    table = model.text_encoders[0].get_input_embeddings().weight
    return None if table.is_meta else float(table.float().square().mean().sqrt())


def trainable_parameters(model: DiffusionModel, settings: TrainingSettings, words: Sequence[TokenSpec] = ()) -> int:
    """How many parameters are trained, with each layer counted once as `inject` does.

    rank * (in + out) of a low-rank layer, rank * out of one in a block, all of a layer trained in full, and the
    vectors of the learned tokens in each text encoder.
    """
    roots, counts = model.parts(), dict[str, int]()
    for name, spec in sets_of(settings).items():
        for path in paths_of_set(model, name):
            layer = find_module(roots, path)
            if isinstance(spec, Full):
                counts.setdefault(path, sum(p.numel() for p in layer.parameters(recurse=False)))
            else:
                out, width = layer.get_parameter("weight").shape
                counts.setdefault(path, min(spec.rank, out, width) * (out + (width if spec.block is None else 0)))
    widths = sum(encoder.config.hidden_size for encoder in model.text_encoders)
    return sum(counts.values()) + widths * sum(word.vectors for word in words)


def weight_bytes(network: torch.nn.Module) -> int:
    """Bytes of the parameters of a network."""
    return sum(p.numel() * p.element_size() for p in network.parameters())
