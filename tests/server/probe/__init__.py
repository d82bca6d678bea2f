"""A node pack for the tests: keeps what flows through a wire exactly as it is, which pictures of 8 bits do not."""

import copy
import hashlib
import json
from pathlib import Path
from types import MethodType

import folder_paths
import numpy
import torch
from comfy.hooks import WeightHook
from comfy.patcher_extension import PatcherInjection
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


def other_forward(self, x, *_):
    return x


CHANGES = {
    "unet function": lambda m, c, v: m.set_model_unet_function_wrapper(Copies.execute),
    "calc cond batch": lambda m, c, v: m.set_model_sampler_calc_cond_batch_function(Copies.execute),
    "post cfg": lambda m, c, v: m.set_model_sampler_post_cfg_function(Copies.execute, disable_cfg1_optimization=True),
    "old cfg": lambda m, c, v: m.set_model_sampler_cfg_function(lambda cond, uncond, scale: cond),
    "attention patch": lambda m, c, v: m.set_model_attn2_patch(Copies.execute),
    "attention replaced": lambda m, c, v: m.set_model_attn1_replace(Copies(), "input", 1, 0),
    "latent format": lambda m, c, v: m.add_object_patch("latent_format", object()),
    "layer replaced": lambda m, c, v: m.add_object_patch("diffusion_model.out.2", torch.nn.Identity()),
    "weight wrapper": lambda m, c, v: m.add_weight_wrapper("diffusion_model.out.2.weight", Copies.execute),
    "wrapper": lambda m, c, v: m.add_wrapper_with_key("diffusion_model", "speed", Copies.execute),
    "callback": lambda m, c, v: m.add_callback("on_pre_run", Copies.execute),
    "injection": lambda m, c, v: m.set_injections("motion", [PatcherInjection(Copies.execute, Copies.execute)]),
    "second model": lambda m, c, v: m.set_additional_models("ReferenceNet", [m.clone()]),
    "option": lambda m, c, v: m.model_options["transformer_options"].update(ipadapter={"weight": 1.0}),
    "model hook": lambda m, c, v: m.add_hook_patches(WeightHook(), {"diffusion_model.out.2.bias": (torch.ones(8),)}),
    "clip wrapper": lambda m, c, v: c.patcher.add_wrapper("any", Copies.execute),
    "clip hook": lambda m, c, v: c.patcher.add_hook_patches(WeightHook(), {}),
    "tokenizer": lambda m, c, v: c.set_tokenizer_option("clip_l_min_length", 20),
    "vae object": lambda m, c, v: v.patcher.add_object_patch("decoder.conv_out", torch.nn.Identity()),
    "vae tiling": lambda m, c, v: setattr(
        v.first_stage_model.decoder.conv_out, "_conv_forward", MethodType(other_forward, v.first_stage_model)
    ),
    "vae weights": lambda m, c, v: v.patcher.add_patches({"decoder.conv_out.bias": (torch.ones(3),)}),
}


class Change(io.ComfyNode):
    """Changes clones of the parts by ComfyUI's own methods, in a way that some pack's nodes use."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeChange",
            inputs=[*Copies.define_schema().inputs, io.Combo.Input("how", options=list(CHANGES))],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls, model, clip, vae, how):
        _, _, own = Copies.execute(model, clip, vae).result
        model, clip = model.clone(), clip.clone()
        CHANGES[how](model, clip, own)
        return io.NodeOutput(model, clip, own)


FAMILIES = ["z_image", "flux2", "comfy_lumina2", "comfy_qwenimage", "comfy_auraflow"]


class Loader(io.ComfyNode):
    """Small networks of the families that people train, as a loader gives them."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeLoader",
            inputs=[
                io.Combo.Input("family", options=FAMILIES),
                io.Combo.Input("dtype", options=["float32", "float64"], default="float32", optional=True),
            ],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls, family, dtype="float32"):
        from comfyui_fewshot.tests.models.hosted.parts import parts_of

        return io.NodeOutput(*parts_of(family, getattr(torch, dtype)))


class Gradients(io.ComfyNode):
    """Gradients through a MODEL of the graph beside finite differences, as JSON."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeGradients",
            inputs=[io.Model.Input("model"), io.Combo.Input("family", options=FAMILIES)],
            outputs=[io.String.Output()],
        )

    @classmethod
    def execute(cls, model, family):
        from comfyui_fewshot.tests.models.hosted.probe import gradients_report

        with torch.inference_mode(False):
            return io.NodeOutput(json.dumps(gradients_report(family, model)))


class Layer(torch.nn.Module):
    """A layer of a loader of its own: it has no sizes, and nothing can be said of what it computes."""

    def __init__(self, inner):
        super().__init__()
        self.weight, self.bias = inner.weight, inner.bias

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight, self.bias)


class WAN21:
    """The config of a model of videos, by its name."""


def with_other_layers(model):
    for module in model.model.diffusion_model.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear):
                setattr(module, name, Layer(child))


def as_video(model):
    model.model.model_config = WAN21()


class Hosted(io.ComfyNode):
    """A MODEL of its own in which something is other than ComfyUI's loaders make it."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeHosted",
            inputs=[*Copies.define_schema().inputs, io.Combo.Input("how", options=["other layers", "video"])],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, clip, vae, how):
        from comfyui_fewshot.tests.models.hosted.parts import parts_of

        made = parts_of("z_image")[0]
        {"other layers": with_other_layers, "video": as_video}[how](made)
        return io.NodeOutput(made)


class Probe(ComfyExtension):
    async def get_node_list(self):
        return [Keep, Copies, Change, Loader, Gradients, Hosted]


async def comfy_entrypoint():
    return Probe()
