"""Run by test_process.py in a process of its own, because ComfyUI changes global state.

    python flow_probe.py COMFYUI_FOLDER JOB_FOLDER

The job folder holds inputs.safetensors: clean, noise, prediction (B, ...) and sigmas (B,). outputs.safetensors is left
there: the sigma tables of ComfyUI's flow models, what its "simple" scheduler chooses of them, and what it makes of the
inputs.
"""

from __future__ import annotations

import sys
from pathlib import Path

from comfy_start import start


class Config:
    """What ComfyUI's samplings read of a model."""

    def __init__(self, **settings: float):
        self.sampling_settings = settings


def main(comfyui: str, job: Path) -> None:
    start(comfyui)
    import comfy.model_sampling
    import comfy.samplers
    import comfy.utils

    class Discrete(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
        pass

    outputs = {}
    for multiplier in (1, 1000):
        for shift in (1.0, 3.0):
            model = Discrete(Config(shift=shift, multiplier=multiplier))
            outputs[f"table/{multiplier}/{shift}"] = model.sigmas
            for steps in (1, 8, 25, 38, 1000):
                simple = comfy.samplers.simple_scheduler(model, steps)
                outputs[f"simple/{multiplier}/{shift}/{steps}"] = simple
    flux = comfy.model_sampling.ModelSamplingFlux(Config(shift=1.15))
    outputs["table/flux"] = flux.sigmas
    outputs["simple/flux"] = comfy.samplers.simple_scheduler(flux, 20)
    inputs = comfy.utils.load_torch_file(str(job / "inputs.safetensors"))
    sigmas = inputs["sigmas"]
    outputs["noisy"] = model.noise_scaling(sigmas, inputs["noise"], inputs["clean"])
    outputs["denoised"] = model.calculate_denoised(sigmas, inputs["prediction"], outputs["noisy"])
    comfy.utils.save_torch_file(
        {key: value.contiguous() for key, value in outputs.items()}, job / "outputs.safetensors"
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
