"""The command with a small text encoder and autoencoder, since of small networks ComfyUI knows a FLUX.2 alone.

python -m comfyui_fewshot.tests.models.hosted.command --cpu --comfyui FOLDER run.json
"""

from __future__ import annotations

import sys
from typing import Any

from comfyui_fewshot.models.hosted import host
from comfyui_fewshot.tests.models.hosted.parts import clip_of, vae_of
from comfyui_fewshot.trainers import __main__ as command


def start(*given: Any) -> None:
    """ComfyUI, which gives the small parts whatever file is named."""
    host.start(*given)
    import comfy.sd

    whole = comfy.sd.VAE

    def small_vae(**_: Any) -> Any:
        comfy.sd.VAE = whole
        try:
            return vae_of("flux2")
        finally:
            comfy.sd.VAE = small_vae

    comfy.sd.load_clip = lambda *_: clip_of("flux2")
    comfy.sd.VAE = small_vae


if __name__ == "__main__":
    command.start = start
    sys.exit(command.main())
