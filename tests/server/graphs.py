"""Graphs for the tests, small enough to run in a second or two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Graph = dict[str, dict[str, Any]]
WORDS = {"identifier": "sks", "noun": "cat", "description": ""}
SHORT = {
    "steps": 3, "learning_rate": 1e-3, "rank": 4, "batch_size": 1, "prior_weight": 1.0, "resolution": 0,
    "text_encoder": False, "seed": 0, "parameter_set": "attention_ff",
}  # fmt: skip
"""training settings of a run that takes a second on the pocket's sizes"""
BRIEF = {"steps": 3, "batch_size": 1, "seed": 0}
"""the same for a relation"""


FEW_ROUNDS = {
    "steps": 2, "prompts_per_round": 2, "group": 2, "updates": 1, "trained_steps": 1, "sampling_steps": 3,
    "guidance": 1.0, "guard_every": 1, "guard_prompts": 1, "learning_rate": 1e-2, "rank": 2,
    "warmup": 0.0, "subject_floor": 0.0, "diversity_floor": 0.0,
}  # fmt: skip
"""the same for a refinement"""


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def base() -> Graph:
    return {"base": node("FewShotLoadBase", source="pocket", clip_skip=0, dtype="auto")}


def pictures(folder: str = "subject") -> Graph:
    return {"set": node("FewShotSubjectPictures", **{"source": "folder", "source.folder": folder}, **WORDS)}


def settings(info: Mapping[str, Any], **changes: Any) -> Graph:
    """Training Settings with every widget at its default but for what makes the run short."""
    inputs = info["FewShotTrainingSettings"]["input"]["required"]
    values = {name: spec[1]["default"] for name, spec in inputs.items()}
    return {"settings": node("FewShotTrainingSettings", **(values | SHORT | changes))}


def relation_settings(info: Mapping[str, Any], **changes: Any) -> Graph:
    """The same for a relation."""
    inputs = info["FewShotRelationSettings"]["input"]["required"]
    values = {name: spec[1]["default"] for name, spec in inputs.items()}
    return {"relation_settings": node("FewShotRelationSettings", **(values | BRIEF | changes))}


def training(info: Mapping[str, Any], check: str = "off", **changes: Any) -> Graph:
    train = node("FewShotTrainSubject", base=["base", 0], set=["set", 0], settings=["settings", 0], check=check)
    return base() | pictures() | settings(info, **changes) | {"train": train}


def trains_between(first: int, last: int) -> Callable[[str, Any], bool]:
    """Whether a message is of the progress of "train" from step `first` on, before step `last`."""
    return lambda kind, data: kind == "progress" and data["node"] == "train" and first <= data["value"] < last


def saved(name: str) -> Graph:
    return {"save": node("FewShotSaveAdapter", adapter=["train", 0], name=name)}


def not_loaded(log: str) -> list[str]:
    """What ComfyUI's log says it leaves out of a LoRA, but for words bundled for A1111, which it has as rows."""
    lines = (line for line in log.splitlines() if "not loaded" in line.lower())
    return [line for line in lines if "bundle_emb." not in line]


def drawing(model: list, clip: list, seed: int = 7, prompt: str = "a photo of a sks cat") -> Graph:
    """ComfyUI's own way from MODEL and CLIP to a picture, kept exactly under the name "native"."""
    return {
        "prompt": node("CLIPTextEncode", clip=clip, text=prompt),
        "against": node("CLIPTextEncode", clip=clip, text=""),
        "empty": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "sampled": node(
            "KSampler", model=model, positive=["prompt", 0], negative=["against", 0], latent_image=["empty", 0],
            seed=seed, steps=5, cfg=7.0, sampler_name="euler", scheduler="simple", denoise=1.0,
        ),
        "decoded": node("VAEDecode", samples=["sampled", 0], vae=["base", 3]),
        "native": node("ProbeKeep", value=["decoded", 0], name="native"),
    }  # fmt: skip


def grid(adapter: list | None = None, base: list | None = None, prompt: str = "a photo of a sks cat") -> Graph:
    """Sample Grid with the same seed, steps and guidance as `drawing`; its columns are kept."""
    inputs: dict[str, Any] = {
        "base": base or ["base", 0], "prompts": prompt, "count": 1, "seed": 7, "steps": 5, "guidance": 7.0,
        "strength": 1.0, "negative": "", "width": 0, "height": 0, "batch": 4,
    }  # fmt: skip
    if adapter is not None:
        inputs["adapter"] = adapter
    return {
        "grid": node("FewShotSampleGrid", **inputs),
        "kept_before": node("ProbeKeep", value=["grid", 1], name="before"),
        "kept_after": node("ProbeKeep", value=["grid", 2], name="after"),
    }


# ComfyUI's loaders of parts, with what each gives in `ProbeLoader`.
LOADERS = {"UNETLoader": 0, "CLIPLoader": 1, "VAELoader": 2}
SMALL = {"z_image": "z_image", "flux-2": "flux2"}


def _with_small_parts(graph: Graph) -> str:
    """Small networks in place of those that ComfyUI's loaders would load; the family, or "" where there is none."""
    loaders = {key: entry for key, entry in graph.items() if entry["class_type"] in LOADERS}
    files = " ".join(str(value) for entry in loaders.values() for value in entry["inputs"].values())
    family = next((small for part, small in SMALL.items() if part in files), "")
    places = {key: LOADERS[entry["class_type"]] for key, entry in loaders.items()}
    for key in loaders:
        graph[key] = node("ProbeLoader", family=family)
    for entry in graph.values():
        for name, value in entry["inputs"].items():
            if isinstance(value, list) and value[0] in places:
                entry["inputs"][name] = [value[0], places[value[0]]]
    return family


def shortened(graph: Graph, info: Mapping[str, Any]) -> Graph:
    """A workflow of this project with few steps and pictures, the test's folder, and a base that is there."""
    short = {key: {**entry, "inputs": dict(entry["inputs"])} for key, entry in graph.items()}
    few = {
        "FewShotGeneratePriors": {"count": 2, "steps": 2},
        "FewShotTrainingSettings": {**SHORT, "preset": "custom", "preview_every": 0},
        "FewShotTrainSubject": {"check": "off"},
        "FewShotTrainRelation": {"check": "off"},
        "FewShotRefineLora": {"check": "off"},
        "FewShotSampleGrid": {"steps": 2},
        "FewShotFuseAdapters": {"method.steps": 2},
        "FewShotPromptSet": {"most": 4},  # some to learn from and one held out, where it is for refinement
        "FewShotEvaluateLora": {"steps": 2, "count": 1},
        "FewShotStrengthSweep": {"steps": 2, "count": 1, "strengths": "0.5, 1"},
        "KSampler": {"steps": 2},
        "EmptyLatentImage": {"batch_size": 1},
        "FewShotSubjectPictures": {"source.folder": "subject"},
        "FewShotRelationPictures": {"source.folder": "relation"},
        "FewShotLoadAdapter": {"source.name": "stand_in.safetensors"},
        "FewShotRefinementSettings": FEW_ROUNDS,
        "CreateHookLora": {"lora_name": "stand_in.safetensors"},
        "FewShotPromptInspiration": {"folder": "input/gallery"},
        "EmptySD3LatentImage": {"width": 64, "height": 64},
        "EmptyFlux2LatentImage": {"width": 64, "height": 64},
    }
    if _with_small_parts(short):
        few["FewShotTrainingSettings"] |= {"resolution": 64}
    for entry in short.values():
        entry["inputs"].update(few.get(entry["class_type"], {}))
        if entry["class_type"] == "FewShotLoadBase" and entry["inputs"]["source"] == "checkpoint":
            entry["inputs"].update({"source": "diffusers folder", "source.name": "pocket"})
        if entry["class_type"] == "FewShotTrainSubject" and "settings" not in entry["inputs"]:
            entry["inputs"]["settings"] = ["settings", 0]
            short = short | settings(info)
        if entry["class_type"] == "FewShotTrainRelation" and "settings" not in entry["inputs"]:
            entry["inputs"]["settings"] = ["relation_settings", 0]
            short = short | relation_settings(info)
    return short
