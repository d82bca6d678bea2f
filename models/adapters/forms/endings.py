"""The endings of tensors' names in LoRA files: those of the namings in use, of refused forms, and leftovers."""

from __future__ import annotations

import re

# In order: endings of the namings in use, and kohya's for the same tensor.
_ENDINGS: tuple[tuple[str, str], ...] = (
    (r"\.lora_up\.weight", "lora_up.weight"),
    (r"\.lora_down\.weight", "lora_down.weight"),
    (r"\.lora_mid\.weight", "lora_mid.weight"),
    (r"[._]lora\.up\.weight|\.lora_linear_layer\.up\.weight|\.lora_B(\.\w+)?\.weight|\.lora_B", "lora_up.weight"),
    (r"[._]lora\.down\.weight|\.lora_linear_layer\.down\.weight|\.lora_A(\.\w+)?\.weight|\.lora_A", "lora_down.weight"),
    (r"\.alpha", "alpha"),
    (r"\.diff", "diff"),
    (r"\.diff_b", "diff_b"),
)
_ENDING = re.compile("|".join(f"(?P<e{i}>{pattern})$" for i, (pattern, _) in enumerate(_ENDINGS)))
_KEPT = re.compile(
    r"\.(hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)|oft_blocks|rescale|dora_scale|w_norm|b_norm|set_weight"
    r"|reshape_weight|[ab][12]\.weight)$"
)
# Forms that ComfyUI does not apply either, by what tells them; the first that is found names the file.
_REFUSED = (
    (r"\.on_input$|\.ia3_l(\.\w+)*$", "IA3"),
    (r"^oft_[a-z]+\d?_", "kohya's OFT"),
    (r"\.oft_[rR](\.\w+)*$", "PEFT's OFT"),
    (r"\.boft_(R|P|s)(\.\w+)*$", "PEFT's BOFT"),
    (r"\.lora_magnitude_vector(\.\w+)*$", "PEFT's DoRA"),
    (r"\.lora_embedding_[AB](\.\w+)*$", "PEFT's embedding LoRA"),
    (r"\.(lora_up|lora_B(\.\w+)?|lora\.up)\.bias$", "LoRA bias"),
    (r"[._]vera_(lambda_[bd]|[AB])(\.\w+)*$", "VeRA"),
    (r"\.bm\.weight$|\.glora_\w+$", "Tucker GLoRA"),
    (r"\.scalar$", "LyCORIS scalar"),
    (
        r"\.(hra_u|fourierft_spectrum|bone_\w+|shira_weight|randlora_\w+|ln_tuning_layers)(\.\w+)*$",
        "PEFT's",
    ),
)
_LEFTOVER = re.compile(
    r".*(position_ids|logit_scale|num_batches_tracked|scaled_fp8)|(optimizer|lr_scheduler|exp_avg|ema|scaler)[._].*"
    r"|[a-z_\d]*(step|steps|epoch|iteration|seed|version|v_pred|ztsnr)"
)


def split_key(key: str) -> tuple[str, str]:
    """A key's module name and kohya's ending of it; the ending is empty for what is no part of a known form."""
    if refused_form(key):
        return key, ""
    found = _ENDING.search(key)
    if found:
        return key[: found.start()], _ENDINGS[int(str(found.lastgroup)[1:])][1]
    kept = _KEPT.search(key)
    return (key[: kept.start()], kept[1]) if kept else (key, "")


def peft_adapter(key: str) -> tuple[str, str] | None:
    """The module's name and the adapter's ("" for none) in PEFT's name of one of a pair; None for another name."""
    found = re.search(r"\.lora_[AB](?:\.(\w+))?\.weight$", key)
    return (key[: found.start()], found[1] or "") if found else None


def refused_form(key: str) -> str | None:
    """The name of the form that a key is of, where that is one that nothing applies."""
    return next((form for pattern, form in _REFUSED if re.search(pattern, key)), None)


def is_leftover(key: str) -> bool:
    """Whether a key names what trainings leave in files and no LoRA needs: counters, markers, optimisers' states."""
    return _LEFTOVER.fullmatch(key) is not None
