"""Graphs as ComfyUI writes them into pictures, wired by hand: {"3": {"class_type": ..., "inputs": {...}}}."""

from __future__ import annotations

import json
from pathlib import PurePath

from comfyui_fewshot.augmentation.gallery.graphs.read import read_comfy

CAT, UGLY = "a cat in a castle", "blurry, ugly"
A, B = ("a cat", "in a castle"), ("blurry,", "ugly")  # the same in two parts


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def encoded(number, text):
    """A text encoder; `text` may be a link."""
    return {number: node("CLIPTextEncode", text=text, clip=["4", 1])}


def saved(positive, negative, sampler="KSampler", **settings):
    """From the base to the saved picture, with a sampler that draws these prompts."""
    settings = {"seed": 5, "steps": 20, "cfg": 7.0, "denoise": 1.0, "latent_image": ["5", 0]} | settings
    return {
        "4": node("CheckpointLoaderSimple", ckpt_name="dream.safetensors"),
        "5": node("EmptyLatentImage", width=512, height=512, batch_size=1),
        "3": node(sampler, model=["4", 0], positive=positive, negative=negative, **settings),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="ComfyUI"),
    }


def both():
    """Encoders of the two prompts, "6" and "7"."""
    return encoded("6", CAT) | encoded("7", UGLY)


def read(graph, file="ComfyUI_00001_.png", workflow=""):
    return read_comfy(json.dumps(graph) if graph else "", json.dumps(workflow) if workflow else "", PurePath(file))


def prompts(graph, **more):
    found = read(graph, **more)
    return found.positive, found.negative
