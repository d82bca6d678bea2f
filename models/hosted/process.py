"""The diffusion process of a network that ComfyUI loaded, from its own sampling object."""

from __future__ import annotations

import math
from typing import Any

from ...core.errors import FewShotError
from ..process import DiffusionProcess
from ..rectified_flow import RectifiedFlow
from ..stable_diffusion.ddpm import DDPM
from .families import HostedFamily
from .host import comfy


def sampling_of(model: Any) -> Any:
    """How a MODEL samples, as its network was made for it or a node has set it.

    Raises:
        FewShotError: the two are of different kinds: a flow, and no flow.
    """
    own, chosen = model.model.model_sampling, model.get_model_object("model_sampling")
    if isinstance(own, comfy().model_sampling.CONST) != isinstance(chosen, comfy().model_sampling.CONST):
        raise FewShotError(
            f"this MODEL is made for {_names(own)}, and a node has set {_names(chosen)}, by which it cannot learn: "
            "connect the MODEL from before that node"
        )
    return chosen


def _names(sampling: Any) -> str:
    return " with ".join(kind.__name__ for kind in type(sampling).__bases__)


def process_of(sampling: Any, family: HostedFamily) -> DiffusionProcess:
    """A flow with ComfyUI's shift, or Stable Diffusion's noise schedule.

    Raises:
        FewShotError: the network samples in a way that training does not know.
    """
    known = comfy().model_sampling
    if isinstance(sampling, known.CONST) and getattr(sampling, "noise_scale", 1.0) == 1.0:
        factor = _factor(sampling)
        if factor is not None:
            wanted = family.shift or factor
            return RectifiedFlow(factor, math.log(wanted / factor), count=len(sampling.sigmas))
    kinds = {known.EPS: "epsilon", known.V_PREDICTION: "v_prediction"}
    prediction = next((name for kind, name in kinds.items() if kind in type(sampling).__bases__), None)
    if prediction is not None and isinstance(sampling, known.ModelSamplingDiscrete):
        return DDPM((1 / (1 + sampling.sigmas.double().square())).float().cpu(), prediction)
    raise FewShotError(
        f"this MODEL samples by {_names(sampling)}, which cannot be trained on: rectified flows can, and Stable "
        "Diffusion's noise schedules. Connect the MODEL from before the node that set it, or choose another base model"
    )


def _factor(sampling: Any) -> float | None:
    """The shift s of sigma = s u / (1 + (s - 1) u); ModelSamplingFlux keeps its logarithm. None for other kinds."""
    known = comfy().model_sampling
    if isinstance(sampling, known.ModelSamplingFlux):
        return math.exp(sampling.shift)
    return float(sampling.shift) if isinstance(sampling, known.ModelSamplingDiscreteFlow) else None
