"""A node pack for the tests: keeps what flows through a wire exactly as it is, which pictures of 8 bits do not."""

import copy
import hashlib
from pathlib import Path

import folder_paths
import numpy
from comfy_api.latest import ComfyExtension, io


class Keep(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeKeep",
            is_output_node=True,
            inputs=[io.AnyType.Input("value"), io.String.Input("name")],
            outputs=[],
        )

    @classmethod
    def fingerprint_inputs(cls, **_):
        return float("nan")  # never from the cache: the file is what the tests read

    @classmethod
    def execute(cls, value, name):
        path = Path(folder_paths.get_output_directory(), "probe", f"{name}.npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(value, list) and isinstance(value[0], list):
            value = value[0][0]  # of CONDITIONING the encoded text
        if isinstance(value, dict):
            digest = hashlib.sha256()
            for key in sorted(value):
                digest.update(key.encode())
                digest.update(value[key].numpy().tobytes())
            value = numpy.frombuffer(digest.digest(), dtype=numpy.uint8)
        numpy.save(path, value.cpu().numpy() if hasattr(value, "cpu") else numpy.asarray(value))
        return io.NodeOutput()


class Copies(io.ComfyNode):
    """Copies that share no weights with what was given, by the ways of ComfyUI's own nodes."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeCopies",
            inputs=[io.Model.Input("model"), io.Clip.Input("clip"), io.Vae.Input("vae")],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls, model, clip, vae):
        clip, vae = clip.clone(), copy.copy(vae)
        patcher = clip.patcher.clone(force_deepcopy=True)
        second = vae.patcher.deepclone_multigpu(new_load_device=vae.patcher.load_device)
        assert patcher.model is not clip.patcher.model and second.model is not vae.patcher.model
        clip.patcher, clip.cond_stage_model = patcher, patcher.model
        vae.patcher, vae.first_stage_model = second, second.model
        return io.NodeOutput(model.clone(force_deepcopy=True), clip, vae)


class Probe(ComfyExtension):
    async def get_node_list(self):
        return [Keep, Copies]


async def comfy_entrypoint():
    return Probe()
