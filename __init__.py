"""Few-shot training for ComfyUI: teach a text-to-image model a subject from a few pictures, inside a graph."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """What ComfyUI calls once at its start. Nothing is imported before."""
    from .nodes import FewShotExtension

    return FewShotExtension()
