"""What other nodes put on a MODEL, CLIP or VAE beside its weights.

ComfyUI's nodes change a model by many ways, of which only patches of weights can be read back as weights. What the
others do would be lost without a word, so they are refused by the names of the nodes that did them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...core.errors import FewShotError
from .timestep_range import GATED, is_gated

# What nothing depends on but speed and memory: torch.compile, several GPUs, the type that ComfyUI computes in
SPEED = {"torch.compile", "torch_compile_kwargs", "multigpu", "multigpu_options", "manual_cast_dtype"}
SAMPLING = "model_sampling"  # is read, see parts.prediction_of
BYPASS = "bypass_lora"
BYPASSED = "a LoRA in bypass mode (turn bypass off in the node that loads it, and it is baked in)"
HOOKED = "LoRAs or other changes by hooks (Set CLIP Hooks; use Load LoRA, and it is baked in)"
LEARNED = "the learned word {word} of Apply Adapter (connect the adapter where it is used)"
MOST_NAMED = 6
FORWARDS = ("forward", "_conv_forward")


def check_only_weights(model: Any, clip: Any, vae: Any) -> None:
    """Raise FewShotError, naming nodes and what they did, where more than weights and sampling was changed."""
    found = {
        "MODEL": [*_on_patcher(model), *_replaced_layers(model.model)],
        "CLIP": [*_on_patcher(clip.patcher), *_on_clip(clip), *_replaced_layers(clip.cond_stage_model)],
        "VAE": [*_on_patcher(vae.patcher), *_replaced_layers(vae.first_stage_model)],
    }
    if not any(found.values()):
        return
    lines = []
    for part, changes in found.items():
        if changes:
            named = list(dict.fromkeys(changes))
            more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
            lines.append(f"on this {part}: {'; '.join(named[:MOST_NAMED])}{more}")
    raise FewShotError(
        f"what other nodes put on a model beside its weights is not in the weights and cannot be baked in: "
        f"{'. '.join(lines)}. Connect the {', '.join(part for part in found if found[part])} from before these nodes, "
        "and use them where pictures are drawn"
    )


def _on_patcher(patcher: Any) -> list[str]:
    """What is on a ModelPatcher beside patches of weights, each by its node's name."""
    options = dict(patcher.model_options)
    inner = options.pop("transformer_options", {})
    objects = {name: made for name, made in patcher.object_patches.items() if name != SAMPLING}
    injections = {name: made for name, made in patcher.injections.items() if name != BYPASS}
    found = [BYPASSED] if patcher.injections.get(BYPASS) else []
    if patcher.hook_patches or patcher.forced_hooks:
        found.append(HOOKED)
    for changes in (
        options, inner, objects, injections, patcher.weight_wrapper_patches, patcher.wrappers, patcher.callbacks,
        patcher.additional_models,
    ):  # fmt: skip
        for path, made in _leaves(changes, ()):
            found.append(GATED if is_gated(path) else _named(path, made))
    return found


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What nested dicts and lists hold, each with the names that lead to it."""
    if SPEED & set(path):
        return
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, (*path, str(name)))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _leaves(inner, path)
    elif value is not None:
        yield path, value


def _named(path: tuple[str, ...], made: Any) -> str:
    """The node that made a change, and what kind of change it is: "FreeU (output_block_patch)"."""
    what = ".".join(name for name in path if name not in ("None", "patches", "patches_replace"))
    made = getattr(made, "func", made)
    defined = made if hasattr(made, "__qualname__") else type(made)
    maker, _, inner = defined.__qualname__.partition(".")
    is_function = defined is made and not isinstance(made, type)
    if (is_function and not inner) or defined.__module__ in ("builtins", "comfy.model_patcher"):
        return what
    return f"{maker} ({what})"


def _on_clip(clip: Any) -> list[str]:
    """What is on a CLIP beside its patcher: hooks, words, options of its tokenizers."""
    found = [HOOKED] if clip.apply_hooks_to_conds or clip.use_clip_schedule else []
    tokenizers = {name: made for name, made in vars(clip.tokenizer).items() if hasattr(made, "tokenize_with_weights")}
    for tokenizer in tokenizers.values():
        lookup = vars(tokenizer).get("_try_get_embedding")  # a method of the class, where nothing replaced it
        while lookup is not None and hasattr(lookup, "word"):
            found.append(LEARNED.format(word=lookup.word))
            lookup = vars(lookup).get("files")
    # an option that begins with the name of another model's tokenizer does nothing here
    own = [name for name in clip.tokenizer_options if name.rpartition("_min_")[0] in ("", *tokenizers)]
    return found + [f"an option of the tokenizer ({name})" for name in own]


def _replaced_layers(network: Any) -> list[str]:
    """Whether another node replaced what a layer computes, or hooked into it."""
    for name, layer in network.named_modules():
        if layer._forward_hooks or layer._forward_pre_hooks or any(_is_replaced(layer, m) for m in FORWARDS):
            return [f"its layers compute something else (first {name or type(layer).__name__})"]
    return []


def _is_replaced(layer: Any, method: str) -> bool:
    """Whether a layer has a method of its own in the place of its class's."""
    own = vars(layer).get(method)
    if own is None or getattr(own, "__func__", None) is getattr(type(layer), method):
        return False
    # A LoRA in bypass mode stays in layers that are shared while its own MODEL is loaded: it is on that one.
    return type(getattr(own, "__self__", None)).__name__ != "BypassForwardHook"
