"""Wrong graphs and bad input: one readable error each, nothing half-written, and a server that goes on."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from comfyui_fewshot.tests.server import graphs

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info")


@pytest.fixture(scope="module")
def adapter(server, info):
    """An adapter from a file."""
    saved = server.succeed(graphs.training(info, seed=8) | graphs.saved("refusals")).outputs("save")
    name = Path(saved["text"][0]).name
    return {"adapter": graphs.node("FewShotLoadAdapter", **{"source": "file", "source.name": name})}


def files(server) -> set[Path]:
    return {path for path in Path(server.output).rglob("*") if path.is_file()}


def reasons(answer, node: str) -> list[dict]:
    return answer["node_errors"][node]["errors"]


def fails(server, graph, kind: str) -> str:
    """The message of the one error that stops `graph` in a node of this kind; the server goes on after it."""
    before = files(server)
    outcome = server.run(graph)
    assert outcome.status == "error", outcome.messages[-1]
    assert outcome.error["node_type"] == kind
    assert outcome.error["exception_type"].endswith("FewShotError"), outcome.error
    assert files(server) == before
    server.succeed(graphs.base() | {"keep": graphs.node("ProbeKeep", value="x", name="alive")})
    (Path(server.output) / "probe" / "alive.npy").unlink()
    return outcome.error["exception_message"]


# ----------------------------------------------------------------------------------------------------- wrong graphs


def test_a_missing_input_is_named(server, info):
    graph = graphs.training(info)
    del graph["train"]["inputs"]["set"]
    (reason,) = reasons(server.refused(graph), "train")
    assert (reason["type"], reason["details"]) == ("required_input_missing", "set")


def test_a_wrong_socket_is_named(server, info):
    graph = graphs.training(info)
    graph["train"]["inputs"]["set"] = ["base", 0]
    (reason,) = reasons(server.refused(graph), "train")
    assert reason["type"] == "return_type_mismatch"


def test_a_value_outside_its_range_is_named(server, info):
    graph = graphs.training(info, rank=0)
    (reason,) = reasons(server.refused(graph), "settings")
    assert reason["type"] == "value_smaller_than_min"


def test_steps_0_are_refused_before_anything_runs(server, info):
    (reason,) = reasons(server.refused(graphs.training(info, steps=0)), "settings")
    assert reason["type"] == "custom_validation_failed"
    assert "steps is 0" in reason["details"] and "between 1 and" in reason["details"]


@pytest.mark.parametrize("name", ["../evil", "a/b", "a\\b", "..", "", "con", "a:b", "x" * 200, "猫" * 70])
def test_a_name_that_leads_elsewhere_is_refused_before_anything_runs(server, adapter, name):
    graph = adapter | {"save": graphs.node("FewShotSaveAdapter", adapter=["adapter", 0], name=name)}
    (reason,) = reasons(server.refused(graph), "save")
    assert reason["type"] == "custom_validation_failed"
    assert any(said in reason["details"] for said in (repr(name), "200 characters", "210 bytes", "is empty"))


def test_a_name_from_a_link_is_refused_when_it_arrives(server, adapter):
    graph = adapter | {
        "name": graphs.node("PrimitiveString", value="../evil"),
        "save": graphs.node("FewShotSaveAdapter", adapter=["adapter", 0], name=["name", 0]),
    }
    assert "'../evil' holds a path" in fails(server, graph, "FewShotSaveAdapter")


def test_no_such_checkpoint_is_refused_before_anything_runs(server):
    graph = graphs.base() | graphs.grid()
    graph["base"]["inputs"] |= {"source": "checkpoint", "source.name": "not_there.safetensors"}
    (reason,) = reasons(server.refused(graph), "base")
    assert reason["type"] == "value_not_in_list" and "not_there.safetensors" in reason["details"]


@pytest.mark.parametrize("name", ["../../secret.safetensors", "/etc/passwd"])
def test_a_path_as_a_checkpoint_is_refused(server, name):
    graph = graphs.base() | graphs.grid()
    graph["base"]["inputs"] |= {"source": "checkpoint", "source.name": name}
    assert reasons(server.refused(graph), "base")[0]["type"] == "value_not_in_list"


def test_a_folder_outside_the_input_folder_is_refused(server, info):
    graph = graphs.training(info)
    graph["set"]["inputs"]["source.folder"] = "../models"
    assert reasons(server.refused(graph), "set")[0]["type"] == "value_not_in_list"


# -------------------------------------------------------------------------------------------------------- bad input


def test_a_source_that_is_not_there(server):
    graph = graphs.base() | graphs.grid()
    graph["base"]["inputs"]["source"] = "nowhere"
    assert "no such source" in fails(server, graph, "FewShotLoadBase")


@pytest.mark.parametrize("word", ["identifier", "noun"])
def test_an_empty_word(server, info, word):
    graph = graphs.training(info)
    graph["set"]["inputs"][word] = "  "
    assert f"{word} is empty" in fails(server, graph, "FewShotSubjectPictures")


def test_an_empty_folder(server, info):
    graph = graphs.training(info) | graphs.pictures("empty")
    message = fails(server, graph, "FewShotSubjectPictures")
    assert "empty" in message and "no pictures" in message


def test_unreadable_pictures(server, info):
    message = fails(server, graphs.training(info) | graphs.pictures("broken"), "FewShotSubjectPictures")
    assert "torn.png" in message


def test_one_unreadable_picture_among_good_ones_is_named_and_left_out(server, info):
    folder = server.base / "input" / "mixed"
    shutil.copytree(server.base / "input" / "subject", folder)
    shutil.copy(server.base / "input" / "broken" / "torn.png", folder)
    graph = graphs.pictures("mixed") | {
        "show": graphs.node("FewShotSetToImages", set=["set", 0], role="all"),
        "keep": graphs.node("PreviewImage", images=["show", 0]),
    }
    outcome = server.succeed(graph)
    said = outcome.outputs("set")["text"][0]
    assert said.startswith("2 pictures") and "torn.png" in said


def test_a_changed_folder_is_read_again(server):
    folder = server.base / "input" / "growing"
    shutil.copytree(server.base / "input" / "subject", folder)
    graph = graphs.pictures("growing") | {
        "show": graphs.node("FewShotSetToImages", set=["set", 0], role="all"),
        "keep": graphs.node("PreviewImage", images=["show", 0]),
    }
    assert server.succeed(graph).outputs("set")["text"][0].startswith("2 pictures")
    shutil.copy(next(folder.glob("*_00.png")), folder / "third.png")
    assert server.succeed(graph).outputs("set")["text"][0].startswith("3 pictures")


def test_a_checkpoint_of_another_kind(server):
    tensors = {f"double_blocks.{i}.img_attn.qkv.weight": np.zeros((4, 4), np.float16) for i in range(3)}
    save_file(tensors, server.base / "models" / "checkpoints" / "flux.safetensors")
    graph = graphs.base() | graphs.grid()
    graph["base"]["inputs"] |= {"source": "checkpoint", "source.name": "flux.safetensors"}
    assert "flux" in fails(server, graph, "FewShotLoadBase")


def test_a_checkpoint_that_is_no_checkpoint(server):
    (server.base / "models" / "checkpoints" / "torn.safetensors").write_bytes(b"not at all")
    graph = graphs.base() | graphs.grid()
    graph["base"]["inputs"] |= {"source": "checkpoint", "source.name": "torn.safetensors"}
    assert "torn" in fails(server, graph, "FewShotLoadBase")


def test_a_trigger_that_nobody_knows(server):
    message = fails(server, graphs.base() | graphs.grid(prompt="a photo of {trigger}"), "FewShotSampleGrid")
    assert "no adapter that knows its trigger" in message


class FullDisk:
    """Files of the server's process may not grow beyond `size` bytes: the write fails as on a disk without space."""

    def __init__(self, server, size: int):
        self.pid, self.size = server.process.pid, size

    def __enter__(self):
        self.old = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (self.size, self.old[1]))

    def __exit__(self, *_):
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, self.old)


def test_no_space_while_saving(server, info):
    graph = graphs.training(info, seed=9)
    server.succeed(graph)
    graph |= graphs.saved("nospace")
    before = files(server)
    with FullDisk(server, 4096):
        outcome = server.run(graph)
    assert outcome.status == "error" and outcome.error["node_type"] == "FewShotSaveAdapter"
    assert outcome.error["exception_type"].endswith("FewShotError"), outcome.error
    assert "nospace_00001" in outcome.error["exception_message"]
    assert files(server) == before
    assert server.succeed(graph).outputs("save")["text"][0].endswith("nospace_00001.safetensors")


def test_no_space_while_training(server, info):
    graph = graphs.training(info, seed=10)
    before = files(server)
    with FullDisk(server, 64 * 1024):
        outcome = server.run(graph)
    assert outcome.status == "error" and outcome.error["node_type"] == "FewShotTrainSubject"
    assert outcome.error["exception_type"].endswith("FewShotError"), outcome.error
    torn = [path for path in files(server) - before if path.suffix in (".safetensors", ".draft", ".png")]
    assert torn == []
    server.succeed(graph)


def test_names_are_counted_and_never_written_over(server, info):
    graph = graphs.training(info, seed=9) | graphs.saved("counted")
    first = Path(server.succeed(graph).outputs("save")["text"][0].splitlines()[0])
    content = first.read_bytes()
    server.post("/free", {"free_memory": True})
    second = Path(server.succeed(graph).outputs("save")["text"][0].splitlines()[0])
    assert (first.name, second.name) == ("counted_00001.safetensors", "counted_00002.safetensors")
    assert first.read_bytes() == content
    assert {first.name, second.name} <= set(server.get("/models/loras"))


# -------------------------------------------------------------------------------------------------- several subjects


def test_two_things_of_one_name_are_told_apart(server):
    other = {"other": graphs.node("FewShotSubjectPictures", **{"source": "folder", "source.folder": "subject"},
                                  **graphs.WORDS | {"noun": "dog"})}  # fmt: skip
    both = {"both": graphs.node("FewShotCombineSets", set_1=["set", 0], set_2=["other", 0])}
    seen = {"seen": graphs.node("ProbeKeep", value=["both", 0], name="never")}
    message = fails(server, graphs.pictures() | other | both | seen, "FewShotCombineSets")
    assert 'two sets call different things "sks": "sks cat" and "sks dog"' in message


def test_attention_without_masks_is_refused(server, info):
    graph = graphs.training(info, local_weight=0.05)
    graph["lists"] = graphs.node("FewShotSetToImages", set=["set", 0], role="reference")
    graph["bare"] = graphs.node(
        "FewShotSubjectPictures",
        **{"source": "images", "source.images": ["lists", 0], "source.captions": ""},
        **graphs.WORDS,
    )
    graph["train"]["inputs"]["set"] = ["bare", 0]
    server.succeed(graphs.pictures() | {key: graph[key] for key in ("lists", "bare")} | {
        "kept": graphs.node("FewShotSetToImages", set=["bare", 0], role="all"),
        "alive": graphs.node("PreviewImage", images=["kept", 0]),
    })  # fmt: skip
    message = fails(server, graph, "FewShotTrainSubject")
    assert "local_weight needs masks" in message and "0 have a mask, and none can be used" in message
