"""A base from the files that ComfyUI loads it from, by ComfyUI's own functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import FewShotError
from .families import family_of
from .host import comfy
from .parts import HostedParts

AUTO = "auto"


def encoder_types() -> list[str]:
    """The kinds of text encoders that ComfyUI knows, as its own loader names them."""
    return [kind.name.lower() for kind in comfy().sd.CLIPType]


def load_parts(
    model: Path, encoders: Sequence[Path], vae: Path, kind: str = AUTO, embeddings: Sequence[Path] = ()
) -> HostedParts:
    """MODEL, CLIP and VAE of .safetensors files; `kind` is the text encoder's, and auto what the model's family reads.

    Raises:
        FewShotError: a file is missing, or the kind is not known.
    """
    for path in (model, *encoders, vae):
        if not path.is_file() or path.suffix != ".safetensors":
            raise FewShotError(f"there is no {path}: name the .safetensors files that ComfyUI loads the model from")
    host = comfy()
    made = _loaded(model, lambda: host.sd.load_diffusion_model(str(model)))
    family = family_of(made.model.model_config)
    kind = family.encoder if kind == AUTO else kind
    if kind not in encoder_types():
        raise FewShotError(
            f"which kind of text encoder a {family.title} reads prompts with is not known: choose encoder_type, as in "
            f"ComfyUI's Load CLIP ({', '.join(encoder_types())})"
        )
    known = {one.name.lower(): one for one in host.sd.CLIPType}
    words = list(map(str, encoders))
    clip = _loaded(encoders[0], lambda: host.sd.load_clip(words, list(map(str, embeddings)), known[kind]))
    return HostedParts(made, clip, _loaded(vae, lambda: _autoencoder(vae)), model.stem)


def _autoencoder(path: Path) -> Any:
    tensors, metadata = comfy().utils.load_torch_file(str(path), safe_load=True, return_metadata=True)
    opened = comfy().sd.VAE(sd=tensors, metadata=metadata)
    opened.throw_exception_if_invalid()
    return opened


def _loaded(path: Path, load: Callable[[], Any]) -> Any:
    """What ComfyUI makes of a file; whatever it says of one that it cannot read is told with the file's name."""
    try:
        return load()
    except Exception as error:  # safetensors, torch and ComfyUI each raise their own
        raise FewShotError(
            f"ComfyUI cannot load {path.name} ({str(error).splitlines()[0][:120]}): choose the file that belongs to "
            "the model, or get it again"
        ) from error
