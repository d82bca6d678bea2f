"""Refinement in a running ComfyUI: a LoRA from the loras combo, refined, saved, loaded natively; what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

from comfyui_fewshot.tests.server import graphs
from comfyui_fewshot.tests.server.harness import random_clip

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info")


@pytest.fixture(scope="module")
def clip(server):
    with random_clip(server.base, "reward-clip") as name:
        yield name


ACTIVITIES = "on the beach\nin the snow\nat night"


def refinement(info, clip, **changes):
    """A LoRA of the loras combo on the way through Refine LoRA."""
    inputs = info["FewShotRefinementSettings"]["input"]["required"]
    values = {name: spec[1]["default"] for name, spec in inputs.items()}
    prompts = {
        "source": "refinement", "source.kind": "own", "source.activities": changes.pop("activities", ACTIVITIES),
        "source.share": 0.5, "source.held_out": 0.3, "most": 50, **graphs.WORDS,
    }  # fmt: skip
    reward = {"clip_text": 1.0, "likeness": 0.5, "image_reward": 0.0, "pickscore": 0.0, "hpsv2": 0.0, "dino": "none"}
    wires = {"base": ["base", 0], "prompts": ["prompts", 0], "reward": ["reward", 0], "adapter": ["lora", 0]}
    wires |= {"set": ["set", 0], "settings": ["settings", 0]}
    check = changes.pop("check", "off")
    return graphs.base() | graphs.pictures() | {
        "lora": graphs.node("FewShotLoadAdapter", **{"source": "file", "source.name": "stand_in.safetensors"}),
        "prompts": graphs.node("FewShotPromptSet", **prompts),
        "reward": graphs.node("FewShotReward", **(reward | changes.pop("reward", {})), clip=clip, set=["set", 0]),
        "settings": graphs.node("FewShotRefinementSettings", **(values | graphs.FEW_ROUNDS | changes)),
        "refine": graphs.node("FewShotRefineLora", **wires, validation=clip, check=check),
    }  # fmt: skip


def test_a_lora_is_refined_and_loads_natively(server, info, clip):
    graph = refinement(info, clip, steps=6) | {
        "save": graphs.node("FewShotSaveAdapter", adapter=["refine", 0], name="refined"),
        "alone": graphs.node("FewShotSaveAdapter", adapter=["refine", 1], name="refining"),
    }
    start = len(server.log)  # other tests' files may hold keys of no layer
    outcome = server.succeed(graph)
    said = outcome.outputs("refine")["text"][0]
    assert "step 0: reward +0.00 deviations, subject" in said and "(returned)" in said
    told = [event["reading"] for event in outcome.events("fewshot.progress") if "reading" in event]
    assert len(told) > 1 and set(told[0]) >= {"reward", "subject", "diversity"} and told[0]["reward"] == 0
    listed = server.get("/object_info/LoraLoaderModelOnly")["LoraLoaderModelOnly"]["input"]["required"]["lora_name"]
    (alone,) = (server.output / "loras").glob("refining*.safetensors")
    assert any(np.abs(value).max() > 1e-4 for name, value in load_file(alone).items() if "lora_up" in name), said
    drawn = []
    for names in (["stand_in", "refining"], ["refined"]):
        chain, model = graphs.base(), ["base", 1]
        for number, name in enumerate(names):
            real = next(one for one in _options(listed) if one.startswith(name))
            chain[f"lora{number}"] = graphs.node("LoraLoaderModelOnly", model=model, lora_name=real, strength_model=1.0)
            model = [f"lora{number}", 0]
        server.succeed(chain | graphs.drawing(model, ["base", 2]))
        drawn.append(server.kept("native"))
    assert float(np.abs(drawn[0] - drawn[1]).max()) <= 2e-2  # saved in half precision, apart and as one
    assert not graphs.not_loaded(server.log[start:])


def _options(spec):
    return spec[0] if isinstance(spec[0], list) else spec[1]["options"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": {"image_reward": 1.0}}, "there is no ImageReward on the disk: put ImageReward.pt of zai-org/"),
        ({"reward": {"clip_text": 0.0, "likeness": 0.0}}, "there is no reward"),
        ({"updates": 3}, "equal updates"),
    ],
)
def test_what_cannot_be_refined_is_said(server, info, clip, changes, message):
    outcome = server.run(refinement(info, clip, **changes))
    assert outcome.error["exception_type"].endswith("FewShotError") and message in outcome.error["exception_message"]
