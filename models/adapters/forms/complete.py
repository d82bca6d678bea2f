"""Which form the tensors of a layer have, and whether they are whole."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ....core.errors import FewShotError
from ....core.values import BIAS

DORA = "dora_scale"
PAIR = ("lora_up.weight", "lora_down.weight")
LORA, LOHA, LOKR, GLORA, OFT = "LoRA", "LoHa", "LoKr", "GLoRA", "OFT"
DIFFERENCE, NORM, REPLACEMENT, BIAS_ALONE = "difference", "norm", "replacement", "bias"
# By form: its suffixes, in the order in which ComfyUI keeps the tensors where it has a class for the form.
FORMS: Mapping[str, tuple[str, ...]] = {
    LORA: (*PAIR, "alpha", "lora_mid.weight", DORA),
    LOHA: ("hada_w1_a", "hada_w1_b", "alpha", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", DORA),
    GLORA: ("a1.weight", "a2.weight", "b1.weight", "b2.weight", "alpha", DORA),
    OFT: ("oft_blocks", "rescale", "alpha", DORA),
    DIFFERENCE: ("diff",),
    NORM: ("w_norm", "b_norm"),
    REPLACEMENT: ("set_weight",),
    LOKR: ("lokr_w1", "lokr_w2", "alpha", "lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b", "lokr_t2", DORA),
}
_BESIDE = {"alpha", DORA, BIAS}
_OPTIONAL = _BESIDE | {"lora_mid.weight", "hada_t1", "hada_t2", "rescale", "b_norm"}
WITH_LENGTHS = (LORA, LOHA, LOKR, GLORA)
"""forms that a DoRA may be of"""


def is_rest(tensors: Mapping[str, Tensor]) -> bool:
    """Whether nothing is left of a layer's form but an alpha."""
    return set(tensors) == {"alpha"}


def form_of(path: str, tensors: Mapping[str, Tensor]) -> str:
    """The form of the tensors at a layer's path. Raises FewShotError where they are of none, of two, or not whole."""
    names = set(tensors) - _BESIDE
    found = [form for form, suffixes in FORMS.items() if names & set(suffixes)]
    what = ", ".join(sorted(tensors))
    if len(found) > 1:
        raise FewShotError(
            f"{path} is changed in {len(found)} ways at once ({' and '.join(found)}: {what}): save the LoRA in one form"
        )
    if not found:
        if names or DORA in tensors or BIAS not in tensors:
            raise FewShotError(f"{path} is stored as {what}, which is no form that is known here: use a LoRA")
        return BIAS_ALONE
    (form,) = found
    if not _is_whole(form, names) or names - set(FORMS[form]):
        raise FewShotError(f"{path} has only part of its {form} ({what}): the file is damaged; get it again")
    if DORA in tensors and form not in WITH_LENGTHS:
        raise FewShotError(f"{path} is a DoRA of {form} ({what}), which cannot be applied: use a DoRA of a LoRA")
    return form


def _is_whole(form: str, names: set[str]) -> bool:
    if form == LOKR:
        return all(side in names or {f"{side}_a", f"{side}_b"} <= names for side in ("lokr_w1", "lokr_w2"))
    return set(FORMS[form]) - _OPTIONAL <= names and len(names & {"hada_t1", "hada_t2"}) != 1


def check_numbers(path: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise FewShotError where an alpha is no single number, or numbers are whole, complex or not finite."""
    alpha = tensors.get("alpha")
    if alpha is not None and alpha.numel() != 1:
        raise FewShotError(f"the alpha of {path} is {tuple(alpha.shape)}, not one number: the file is damaged")
    for name, part in tensors.items():
        if name != "alpha" and not part.is_floating_point():
            raise FewShotError(
                f"the {name} of {path} is stored as {str(part.dtype).removeprefix('torch.')}: quantized numbers mean "
                "nothing without their scales; get the file in float16 or bfloat16"
            )
    if not all(torch.isfinite(part.float()).all() for part in tensors.values()):
        raise FewShotError(
            f"{path} holds numbers that are not finite (NaN): the file is damaged or its training diverged"
        )


def check_matrices(path: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise FewShotError where what is multiplied is no matrix, or an empty one (a rank of 0)."""
    for name, part in tensors.items():
        if name not in _BESIDE and (part.dim() < 2 or not part.numel()):
            raise FewShotError(f"the {name} of {path} has the shape {tuple(part.shape)}: the file is damaged")


def check_rotation(path: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise FewShotError for those rotations that ComfyUI does not apply, or applies in part."""
    kind = "BOFT" if tensors["oft_blocks"].dim() == 4 else "OFT"
    where = f"{path} holds {kind} tensors"
    if tensors["oft_blocks"].dim() not in (3, 4):
        raise FewShotError(f"{where} of the shape {tuple(tensors['oft_blocks'].shape)}, which is no form of it")
    advice = "cannot be applied, neither here nor by ComfyUI: use a LoRA, a LoHa or a LoKr"
    if kind == "BOFT" and "alpha" not in tensors:
        raise FewShotError(f"{where} without their alpha (the largest turn), which {advice}")
    if kind == "OFT" and "rescale" in tensors and not torch.all(tensors["rescale"] == 1):
        raise FewShotError(f"{where} with a scale of each row (rescale), which {advice}")
