"""An adapter that counts at noisy timesteps only, on ComfyUI's MODEL: each call's timesteps switch its pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.errors import FewShotError
from .host import comfy

WRAPPER = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
WRAPPER_KEY = "fewshot "
GATED = "an adapter that counts at noisy timesteps only (connect it where it is used)"
USAGE = (
    "The LoRA counts from timestep {first} of {count} on. Apply Adapter and this pack's other nodes keep to that; "
    "ComfyUI's Load LoRA would use it at all timesteps. With native nodes: Create Hook LoRA, Set Hook Keyframes with "
    "strength 1 at start_percent 0 and strength 0 at start_percent {percent:g}, and Set CLIP Hooks."
)


def usage_note(adapter: Any, count: int = 1000) -> str:
    """How such an adapter is to be used, for a node's text; "" for every other one."""
    start = adapter.noisy_from
    return USAGE.format(first=round(start * count), count=count, percent=1 - start) if start else ""


def with_timestep_range(model: Any, adapter: Any, names: Mapping[str, str], strength: float) -> Any:
    """A clone of a MODEL on which the adapter counts from its share of the schedule on.

    `names` are of the weights that it changes, by its paths. Raises FewShotError where it holds what cannot be
    switched.
    """
    from ...models.adapters.timestep_range import check_gated, timestep_gated

    pairs = {}
    for path, factor in adapter.factors.items():
        layer = names[path].removeprefix("diffusion_model.").removesuffix(".weight")
        pairs[layer] = check_gated(path, factor)
    model = model.clone()
    first = adapter.noisy_from * timestep_count(model.get_model_object("model_sampling"))
    model.add_wrapper_with_key(WRAPPER, f"{WRAPPER_KEY}{adapter.key}", timestep_gated(pairs, strength, first))
    return model


def timestep_count(sampling: Any) -> int:
    """How many timesteps the denoiser is conditioned on; a distilled schedule (LCM) has fewer noise levels than those.

    Raises FewShotError for schedules whose denoiser is conditioned on something else (EDM, flows).
    """
    count = getattr(sampling, "num_timesteps", 0)
    if not count or round(float(sampling.timestep(sampling.sigma_max))) != count - 1:
        kind = type(sampling).__bases__[0].__name__
        raise FewShotError(
            f"the adapter counts at noisy timesteps only, and this MODEL's sampling ({kind}) has no numbered ones: put "
            "the adapter on a model with the sampling that it was trained with"
        )
    return count


def is_gated(path: tuple[str, ...]) -> bool:
    """Whether such an adapter is what stands under these names in a MODEL's wrappers."""
    return path[0] == WRAPPER and any(name.startswith(WRAPPER_KEY) for name in path)
