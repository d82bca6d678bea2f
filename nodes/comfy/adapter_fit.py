"""Which of ComfyUI's weights an adapter changes, and whether it fits them; ComfyUI itself tells of a misfit in its log
alone and draws as if nothing had been put on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.errors import FewShotError
from ...core.values import Dense, Factor, Kept, LowRank
from ...models.adapters.apply import fits
from ...models.adapters.families import family_named, name_in_file
from ...models.adapters.forms.complete import FORMS, GLORA, LOHA, LOKR, LORA, OFT
from .host import comfy


def weight_names(adapter: Any, model: Any, clip: Any) -> dict[str, str]:
    """ComfyUI's names of the weights that an adapter changes, by the adapter's paths.

    Raises:
        FewShotError: it changes a part that is not connected, or does not fit one: it is for another base model.
    """
    names = _names(adapter, model)
    shapes = _shapes(model, clip)
    parts = {path: "CLIP" if _in_text(path) else "MODEL" for path in adapter.factors}
    for part, given in (("MODEL", model), ("CLIP", clip)):
        changed = [path for path in parts if parts[path] == part]
        if given is None and changed:
            raise FewShotError(
                f"the adapter changes {len(changed)} layers of the {part} (first {changed[0]}), and the {part} that is "
                f"connected is empty: connect one, such as CheckpointLoaderSimple's {part}"
            )
    reasons = {}
    for path, factor in adapter.factors.items():
        if reason := _misfit(factor, names.get(path), shapes):
            reasons[path] = reason
    if reasons:
        path = next(iter(reasons))
        raise FewShotError(
            f"the adapter is for another base model: {len(reasons)} of the {len(adapter.factors)} layers that it "
            f"changes do not fit. Of {path} {reasons[path].format(part=parts[path])}. Put it on the model that it was "
            "trained on"
        )
    return names


def with_adapter(adapter: Any, names: Mapping[str, str], given: tuple[Any, Any], strengths: tuple[float, float]) -> Any:
    """Clones of (MODEL, CLIP) with an adapter on its weights `names` at the strengths of the two; None stays None."""
    import torch

    from ...models.adapters.formats import to_kohya

    tensors, shapes = to_kohya(adapter, torch.float32), _shapes(*given)
    for path in adapter.factors:
        for suffix in ("diff", "set_weight"):  # ComfyUI takes only what has exactly the weight's shape
            name = f"{name_in_file(path, adapter.family)}.{suffix}"
            if name in tensors:
                tensors[name] = tensors[name].reshape(shapes[names[path]])
    targets = {name_in_file(path, adapter.family): names[path] for path in adapter.factors}
    patches = comfy.lora.load_lora(tensors, targets, log_missing=False)
    biases = {names[path] for path, factor in adapter.factors.items() if isinstance(factor, Kept) and factor.only_bias}
    if unread := sorted(set(targets.values()) - biases - set(patches)):
        raise FewShotError(
            f"ComfyUI reads no LoRA for {len(unread)} of the weights that the adapter changes (first {unread[0]}): the "
            "form in which it is stored is unknown or incomplete"
        )
    clones = tuple(None if part is None else part.clone() for part in given)
    for clone, strength in zip(clones, strengths, strict=True):
        if clone is not None:
            clone.add_patches(patches, strength)
    return clones


# Forms by ComfyUI's names for them
COMFY_FORMS = {"lora": LORA, "loha": LOHA, "lokr": LOKR, "glora": GLORA, "oft": OFT, "boft": OFT}


def check_loras_fit(model: Any, clip: Any) -> None:
    """Raise FewShotError where ComfyUI leaves out what a LoRA or a merge changes, with a line in its log alone."""
    for part, patcher in (("MODEL", model), ("CLIP", clip.patcher)):
        shapes = {name: shape for name, shape in _weight_shapes(patcher.model).items() if name in patcher.patches}
        wrong = [
            name for name, shape in shapes.items()
            if not all(_patch_fits(patch, shape) for patch in patcher.patches[name])
        ]  # fmt: skip
        if wrong:
            raise FewShotError(
                f"a LoRA or a model that was merged into this {part} is for another base model: {len(wrong)} of "
                f"{len(shapes)} weights do not fit it (first {wrong[0]}, of the shape {_size(shapes[wrong[0]])}), and "
                "ComfyUI leaves it out there. Take it off, or load one that fits this model"
            )


def _patch_fits(patch: tuple, shape: Any) -> bool:
    """Whether a patch (strength, value, strength of the model, part of the weight, function) fits its weight."""
    strength, value, _, part, *_ = patch
    if not strength or part is not None:
        return True
    if isinstance(value, list):  # of a merge: another model's weight, and that one's patches
        return getattr(value[0][0], "shape", shape) == shape
    if form := COMFY_FORMS.get(getattr(value, "name", "")):
        pairs = zip(FORMS[form], value.weights, strict=False)
        tensors = {name: tensor for name, tensor in pairs if hasattr(tensor, "shape")}
        return fits(Kept(tensors), shape)
    change = value[-1] if isinstance(value, tuple) else None
    first = change[0] if isinstance(change, tuple) else change
    padded = isinstance(change, tuple) and len(change) > 1
    return padded or getattr(first, "shape", shape) == shape


def _in_text(path: str) -> bool:
    return path.startswith("text_encoder")


def _names(adapter: Any, model: Any) -> dict[str, str]:
    denoiser = {} if model is None else comfy.lora.model_lora_keys_unet(model.model, {})
    encoders = {
        encoder.component: f"{encoder.embedding}.transformer" for encoder in family_named(adapter.family).text_encoders
    }
    found = {}
    for path in adapter.factors:
        root, _, name = path.partition(".")
        weight = (
            f"{encoders[root]}.{name}.weight" if root in encoders else denoiser.get(name_in_file(path, adapter.family))
        )
        if isinstance(weight, str):
            found[path] = weight
    return found


def _shapes(model: Any, clip: Any) -> dict[str, Any]:
    modules = [*([] if model is None else [model.model]), *([] if clip is None else [clip.cond_stage_model])]
    return {name: shape for module in modules for name, shape in _weight_shapes(module).items()}


def _weight_shapes(module: Any) -> dict[str, Any]:
    """By its parameters, which say their own shapes also where a file packs them."""
    return {name: parameter.shape for name, parameter in module.named_parameters()}


def _misfit(factor: Factor, weight: str | None, shapes: Mapping[str, Any]) -> str:
    """Why a factor cannot change a weight; "" where it can."""
    if weight not in shapes:
        return "this {part} has nothing"
    shape = shapes[weight]
    if not fits(factor, shape):
        return f"this {{part}} has the shape {_size(shape)}, and the adapter needs {_needed(factor)}"
    if factor.bias is not None:
        bias = shapes.get(f"{weight.removesuffix('weight')}bias")
        if bias is None or bias != factor.bias.shape:
            return "this {part} has no bias that fits the adapter's"
    return ""


def _needed(factor: Factor) -> str:
    """The shape of the weight that a factor was made for, as far as its form says it."""
    if isinstance(factor, LowRank):
        kernel = factor.down.shape[2:] if factor.mid is None else factor.mid.shape[2:]
        return _size((factor.up.shape[0], factor.down.shape[1], *kernel))
    return _size(factor.weight.shape) if isinstance(factor, Dense) else "another one"


def _size(shape: Any) -> str:
    return " x ".join(map(str, shape))
