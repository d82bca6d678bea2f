"""What the server lists, and that everything said of the nodes elsewhere agrees with it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import fields

import pytest

from comfyui_fewshot.tests.server import described, forms
from comfyui_fewshot.tests.server.described import ROOT, all_inputs
from comfyui_fewshot.tests.server.harness import link_pack

pytestmark = pytest.mark.server
MOST_VISIBLE = 12
REGENERATE = "python -m comfyui_fewshot.tests.server.described COMFYUI writes it anew"


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info")


def test_every_node_is_listed_as_the_golden_schemas_say(info):
    golden = json.loads(described.GOLDEN.read_text(encoding="utf-8"))
    assert described.golden(info) == golden, REGENERATE
    assert len(golden) == 32


def test_node_ids_are_literals_that_static_readers_find():
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "nodes").rglob("*.py"))
    golden = json.loads(described.GOLDEN.read_text(encoding="utf-8"))
    assert set(re.findall(r'node_id="(\w+)"', sources)) == set(golden)
    assert "NODE_CLASS_MAPPINGS" not in sources


def test_the_pack_says_what_it_is_for(info):
    for name, schema in described.ours(info).items():
        assert schema["category"].startswith("few-shot/"), name
        assert schema["description"] and schema["search_aliases"], name
        assert all(schema["output_tooltips"]), name
        for full, _, _, about in all_inputs(schema["input"]):
            assert about.get("tooltip"), f"{name}.{full} has no tooltip"


def test_no_node_shows_more_than_twelve_widgets(info):
    """At once: of each choice's branches only one is shown."""
    for name, schema in described.ours(info).items():
        branches = Counter(
            (full.rpartition(".")[0], with_)
            for full, kind, with_, about in all_inputs(schema["input"])
            if forms.is_widget(kind, about) and not about.get("advanced")
        )
        choices = {choice for choice, _ in branches}
        shown = sum(max(n for (of, _), n in branches.items() if of == choice) for choice in choices)
        assert shown <= MOST_VISIBLE, (name, branches)


def test_locale_agrees_with_the_schemas(info):
    assert json.loads(described.LOCALE.read_text(encoding="utf-8")) == described.locale(info), REGENERATE


def test_the_server_serves_the_locale(server):
    assert server.get("/i18n")["en"]["nodeDefs"]["FewShotTrainSubject"]["display_name"] == "Train Subject"


def test_every_node_has_a_help_page_that_agrees(info, server):
    for name, schema in described.ours(info).items():
        path = described.DOCS / f"{name}.md"
        assert path.read_text(encoding="utf-8") == described.page(name, schema), f"{name}: {REGENERATE}"
        words = path.read_text(encoding="utf-8").split("## Inputs")[0]
        assert len(words.split()) > 25, f"{name} has a help page without words of its own"
        assert server.fetch(f"/extensions/comfyui-fewshot/docs/{name}.md").decode() == path.read_text(encoding="utf-8")


def test_prior_widgets_agree_with_the_settings_class(info):
    from comfyui_fewshot.augmentation.priors.generate import PriorSettings

    widgets = info["FewShotGeneratePriors"]["input"]["required"]
    for about in fields(PriorSettings):
        if about.name == "prompts":
            continue
        widget, says = widgets[about.name][1], about.metadata
        assert (widget["default"], widget["min"], widget["max"]) == (about.default, says["min"], says["max"])
        assert bool(widget.get("advanced")) == says["advanced"], about.name


def test_settings_widgets_are_the_settings_class(info):
    from comfyui_fewshot.trainers.subject.settings import SubjectSettings

    widgets = dict(info["FewShotTrainingSettings"]["input"]["required"])
    assert widgets.pop("preset")
    assert list(widgets) == list(SubjectSettings.named_fields())
    SubjectSettings.from_mapping({name: spec[1]["default"] for name, spec in widgets.items()})


def test_loading_the_pack_costs_nothing(server, comfyui_path, tmp_path):
    """0.3 s of a processor at most, and every library that ComfyUI does not import itself stays out until a node runs.

    Processor time, which other work on the machine does not lengthen; `server` has compiled the files before.
    """
    assert "comfyui-fewshot" in server.log
    program = """
import sys, time
sys.argv = ["main.py", "--cpu", "--base-directory", sys.argv[2]]
sys.path.insert(0, COMFYUI)
import comfy.options
comfy.options.enable_args_parsing()
import utils.extra_config  # as main.py does, before another "utils" is on the path
import asyncio, server, nodes
before, began = set(sys.modules), time.process_time()
assert asyncio.run(nodes.load_custom_node(PACK, module_parent="custom_nodes"))
seconds = time.process_time() - began
added = {name.split(".")[0] for name in set(sys.modules) - before}
print(seconds)
print(sorted(added & {"diffusers", "transformers", "peft", "accelerate", "matplotlib", "skimage"}))
print(sorted(name for name in nodes.NODE_CLASS_MAPPINGS if name.startswith("FewShot")))
"""
    pack = link_pack(tmp_path / "custom_nodes", tmp_path / "nowhere")
    program = program.replace("COMFYUI", repr(str(comfyui_path))).replace("PACK", repr(str(pack)))
    run = subprocess.run(
        [sys.executable, "-c", program, "x", str(tmp_path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr[-3000:]
    seconds, heavy, listed = run.stdout.strip().splitlines()[-3:]
    assert float(seconds) <= 0.3
    assert heavy == "[]"
    assert len(json.loads(listed.replace("'", '"'))) == 32
