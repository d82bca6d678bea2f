"""Training as a person sees it: progress, cancel, going on, finding a finished run again."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

import aiohttp
import pytest
from safetensors.numpy import load_file

from comfyui_fewshot.tests.server import graphs
from comfyui_fewshot.tests.server.harness import Outcome

pytestmark = pytest.mark.server
TEXT = 3  # ComfyUI's binary event of text on a node
PREVIEWS = (1, 4)  # its binary events of previews, without and with their node's name
LONG = 40  # steps: enough to be cut in


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info")


def run_folder(outcome) -> Path:
    return Path(outcome.outputs("train")["text"][0].splitlines()[-1])


def written(outcome) -> Path:
    return Path(outcome.outputs("save")["text"][0].splitlines()[0])


def test_progress_text_loss_and_previews_reach_the_client(server, info):
    graph = graphs.training(info, steps=12, seed=1, log_every=2, preview_every=6)
    outcome = server.succeed(graph)
    values = [event["value"] for event in outcome.events("progress") if event["node"] == "train"]
    assert values == sorted(values) and values[-1] == 12
    losses = [event for event in outcome.events("fewshot.progress") if event["node"] == "train"]
    assert losses[-1]["total"] == losses[-1]["step"] == 12
    assert any(isinstance(event["loss"], float) for event in losses)
    binary = outcome.events("binary")
    texts = [event["data"] for event in binary if event["event"] == TEXT]
    assert any(b"loss" in text and b"left" in text for text in texts), texts
    assert any(event["event"] in PREVIEWS for event in binary)
    assert len(list((run_folder(outcome) / "samples").glob("*.png"))) == 2


def test_progress_goes_to_who_queued_and_to_no_other_page(server, info):
    """Another graph that is open may have a node of the same number."""

    async def beside() -> tuple[Outcome, list[aiohttp.WSMessage]]:
        heard = []
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{server.url}/ws?clientId=beside") as ws:
            outcome = await asyncio.to_thread(server.succeed, graphs.training(info, seed=11))
            with contextlib.suppress(asyncio.TimeoutError):
                while True:
                    heard.append(await ws.receive(timeout=0.5))
        return outcome, heard

    outcome, heard = asyncio.run(beside())
    assert outcome.events("fewshot.progress") and any(e["event"] == TEXT for e in outcome.events("binary"))
    assert heard and all(one.type == aiohttp.WSMsgType.TEXT and "fewshot" not in one.data for one in heard)


def test_the_run_s_folder_tells_everything(server, info):
    outcome = server.succeed(graphs.training(info, seed=2))
    folder = run_folder(outcome)
    assert folder.parent == server.output / "fewshot" and folder.name.startswith("sks_cat_")
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    assert settings["inputs"]["settings"]["steps"] == graphs.SHORT["steps"]
    assert len((folder / "log.jsonl").read_text(encoding="utf-8").splitlines()) >= 1


def test_outputs_fit_comfyui_s_own_nodes(server, info):
    graph = graphs.training(info, seed=2) | {
        "save": graphs.node("SaveLoRA", lora=["train", 1], prefix="loras/by_native"),
        "plot": graphs.node("LossGraphNode", loss=["train", 2], filename_prefix="loss"),
        "trigger": graphs.node("PreviewAny", source=["train", 3]),
    }
    outcome = server.succeed(graph)
    assert outcome.outputs("trigger")["text"] == ["sks cat"]
    (path,) = (server.output / "loras").glob("by_native_*.safetensors")
    word = "text_encoders.clip_l.transformer.text_model.embeddings.token_embedding."
    names = set(load_file(path))
    assert any(name.startswith(word) for name in names)
    assert all(name.startswith(("lora_unet_", word)) for name in names)


def test_a_finished_run_is_found_again_without_training(server, info):
    graph = graphs.training(info, seed=2)
    server.succeed(graph)
    server.post("/free", {"free_memory": True, "unload_models": True})
    outcome = server.succeed(graph)
    assert not [event for event in outcome.events("progress") if event["node"] == "train" and event["max"] > 1]
    assert "finished run with the same inputs" in server.log


def test_training_goes_on_from_an_adapter(server, info):
    graph = graphs.training(info, seed=2)
    graph["second"] = graphs.node(
        "FewShotTrainSubject",
        base=["base", 0],
        set=["set", 0],
        settings=["settings", 0],
        adapter=["train", 0],
        check="off",
    )
    graph |= {
        "first": graphs.node("ProbeKeep", value=["train", 1], name="first"),
        "more": graphs.node("ProbeKeep", value=["second", 1], name="more"),
    }
    server.succeed(graph)
    assert (server.kept("first") != server.kept("more")).any()


def test_pictures_from_a_socket_train_like_those_of_a_folder(server, info):
    graph = graphs.training(info, seed=2)
    graph["lists"] = graphs.node("FewShotSetToImages", set=["set", 0], role="reference")
    graph["again"] = graphs.node(
        "FewShotSubjectPictures",
        **{"source": "images", "source.images": ["lists", 0], "source.masks": ["lists", 1], "source.captions": ""},
        **graphs.WORDS,
    )
    graph["train"]["inputs"]["set"] = ["again", 0]
    outcome = server.run(graph)
    assert outcome.status == "success", outcome.messages[-1]


def test_cancel_keeps_the_work_and_going_on_ends_bit_for_bit_as_uncut(server, info):
    graph = graphs.training(info, steps=LONG, seed=3, save_every=10) | graphs.saved("cut")
    cut = server.cancelled(graph, graphs.trains_between(3, LONG))
    assert cut.messages[-1][0] == "execution_interrupted" and cut.messages[-1][1]["node_type"] == "FewShotTrainSubject"
    part, word = sorted((server.output / "fewshot").glob("*/*_step_*.safetensors"))
    assert word.name == f"{part.stem}_sks.safetensors"
    done = int(part.stem.rsplit("_", 1)[1])
    assert 3 <= done < LONG

    # The server answers the next prompt, and that prompt can use what was learned so far.
    (server.base / "models" / "loras" / "partial.safetensors").write_bytes(part.read_bytes())
    lora = {"lora": graphs.node("LoraLoader", model=["base", 1], clip=["base", 2], lora_name="partial.safetensors",
                                strength_model=1.0, strength_clip=1.0)}  # fmt: skip
    before = len(server.log)
    server.succeed(graphs.base() | lora | graphs.drawing(["lora", 0], ["lora", 1]))
    assert not graphs.not_loaded(server.log[before:])

    resumed = server.succeed(graph)
    values = [event["value"] for event in resumed.events("progress") if event["node"] == "train"]
    assert min(value for value in values if value) > done, "it began anew"
    assert not part.exists()

    (server.output / "fewshot").rename(server.output / "fewshot_cut")
    server.post("/free", {"free_memory": True, "unload_models": True})
    uncut = server.succeed(graph)
    first, second = load_file(written(resumed)), load_file(written(uncut))
    assert written(resumed) != written(uncut)
    assert first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)
