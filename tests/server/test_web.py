"""The pack's little JavaScript: served, importing only what ComfyUI offers, and its arithmetic."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from comfyui_fewshot.tests.server import graphs
from comfyui_fewshot.tests.server.described import ROOT
from comfyui_fewshot.trainers.subject.presets import PRESETS

pytestmark = pytest.mark.server
WEB = ROOT / "web"


def test_the_server_offers_the_scripts(server):
    offered = server.get("/extensions")
    for name in ("monitor.js", "curve.js", "presets.js", "preset_values.js"):
        assert f"/extensions/comfyui-fewshot/{name}" in offered
        assert server.fetch(f"/extensions/comfyui-fewshot/{name}") == (WEB / name).read_bytes()


def test_the_monitor_leans_on_nothing_but_the_public_face(server):
    text = (WEB / "monitor.js").read_text(encoding="utf-8")
    assert re.findall(r'from "(.+?)"', text) == ["../../scripts/app.js", "../../scripts/api.js", "./curve.js"]
    assert "prototype" not in text and "onDraw" not in text and "beforeRegisterNodeDef" not in text
    nodes = re.findall(r'"(FewShot\w+)"', text)
    assert len(nodes) == 3 and set(nodes) <= set(server.get("/object_info"))
    event = re.search(r'addEventListener\("([\w.]+)"', text)[1]
    assert f'send_sync("{event}"' in (ROOT / "nodes" / "comfy" / "host.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60


def test_presets_lean_on_nothing_but_the_public_face(server):
    text = (WEB / "presets.js").read_text(encoding="utf-8")
    assert re.findall(r'from "(.+?)"', text) == ["../../scripts/app.js", "../../scripts/api.js", "./preset_values.js"]
    assert "prototype" not in text and "onDraw" not in text and "beforeRegisterNodeDef" not in text
    name = re.search(r'const NODE = "(\w+)"', text)[1]
    about = server.get(f"/object_info/{name}")[name]["input"]["required"]["preset"][1]
    assert about["options"] == [re.search(r'CUSTOM = "(\w+)"', (WEB / "preset_values.js").read_text())[1], *PRESETS]
    assert about["presets"] == PRESETS


PROGRAM = """
import { addPoint, placePoints, drawCurve } from "./curve.mjs";
const points = [];
for (const [step, loss] of [[1, 3], [2, null], [2, 2], [2, 1], [4, NaN], [4, 2]]) addPoint(points, { step, loss });
const first = points.map((p) => [p.step, p.loss]);
const places = placePoints(points, 4, 104, 58);
addPoint(points, { step: 1, loss: 9 });
const strokes = [];
const pen = new Proxy({}, { get: (_, name) => (...a) => strokes.push([name, ...a]), set: () => true });
drawCurve({ clientWidth: 104, clientHeight: 58, getContext: () => pen }, points, { total: 4 });
console.log(JSON.stringify({ first, places, again: points, flat: placePoints([{ step: 1, loss: 1 }], 1, 10, 10),
  none: placePoints([], 1, 10, 10), text: strokes.find((s) => s[0] === "fillText")[1] }));
"""


def run_in_node(folder, **files):
    """Run files["program"] beside the others, all ES modules; what it prints is JSON."""
    node = shutil.which("node")
    assert node, "the scripts of web/ are tested by node: install Node.js 18 or newer"
    for name, text in files.items():
        (folder / f"{name}.mjs").write_text(text, encoding="utf-8")
    run = subprocess.run([node, str(folder / "program.mjs")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_points_are_kept_and_placed(tmp_path):
    seen = run_in_node(tmp_path, curve=(WEB / "curve.js").read_text(encoding="utf-8"), program=PROGRAM)
    assert seen["first"] == [[1, 3], [2, 1], [4, 2]]
    assert seen["places"] == [[28, 4], [52, 54], [100, 29]]
    assert seen["again"] == [{"step": 1, "loss": 9}]
    assert seen["flat"] == [[6, 6]] and seen["none"] == []
    assert seen["text"] == "step 1/4  loss 9.00"


READINGS = """
import { addReading, drawReadings } from "./curve.mjs";
const readings = [];
const events = [[0, { reward: 0, subject: 0.8 }], [2, null], [4, { reward: 0.5, subject: 0.7 }],
  [4, { reward: 0.6, subject: 0.7 }]];
for (const [step, reading] of events) addReading(readings, { step, reading });
const kept = readings.map((one) => ({ ...one }));
const texts = [];
const pen = new Proxy({}, { get: (_, name) => (...a) => name === "fillText" && texts.push(a[0]), set: () => true });
drawReadings({ clientWidth: 104, clientHeight: 58, getContext: () => pen }, readings, { total: 4 });
addReading(readings, { step: 0, reading: { reward: 0 } });
console.log(JSON.stringify({ kept, texts, again: readings }));
"""


def test_readings_of_a_refinement_are_kept_and_drawn(tmp_path):
    seen = run_in_node(tmp_path, curve=(WEB / "curve.js").read_text(encoding="utf-8"), program=READINGS)
    assert seen["kept"] == [{"step": 0, "reward": 0, "subject": 0.8}, {"step": 4, "reward": 0.6, "subject": 0.7}]
    assert seen["texts"] == ["reward 0.600", "subject 0.700"] and seen["again"] == [{"step": 0, "reward": 0}]


BROWSER = """
export const extensions = [], asked = [];
export const app = { registerExtension: (extension) => extensions.push(extension) };
export const api = { fetchApi: async (path) => (asked.push(path), { json: async () => (SCHEMA) }) };
"""

PERSON = """
import { extensions, asked } from "./browser.mjs";
import "./presets.mjs";
const heard = [];
const widgets = START.map(([name, value]) => ({ name, value, callback: (now) => heard.push([name, now]) }));
const node = { comfyClass: "FewShotTrainingSettings", widgets };
extensions[0].nodeCreated({ comfyClass: "KSampler" });  // leaves others alone
extensions[0].nodeCreated(node);
const widget = (name) => widgets.find((one) => one.name === name);
const shown = () => Object.fromEntries(widgets.map(({ name, value }) => [name, value]));
async function choose(name, value) {  // as a person does in either renderer
  widget(name).value = value;
  await widget(name).callback(value);
  await new Promise((done) => setTimeout(done));
  return shown();
}
const seen = [];
for (const [name, value] of STEPS) seen.push(await choose(name, value));
console.log(JSON.stringify({ seen, heard, asked }));
"""


def in_browser(tmp_path, info, *steps):
    """What the widgets show after each step (widget, value) of a person."""
    schema = {"FewShotTrainingSettings": info}
    start = [(name, spec[1]["default"]) for name, spec in info["input"]["required"].items()]
    script = (WEB / "presets.js").read_text(encoding="utf-8").replace("./preset_values.js", "./preset_values.mjs")
    return run_in_node(
        tmp_path,
        preset_values=(WEB / "preset_values.js").read_text(encoding="utf-8"),
        presets=re.sub(r"\.\./\.\./scripts/\w+\.js", "./browser.mjs", script),
        browser=BROWSER.replace("SCHEMA", json.dumps(schema)),
        program=PERSON.replace("START", json.dumps(start)).replace("STEPS", json.dumps(steps)),
    )


@pytest.fixture(scope="module")
def settings_node(server):
    return server.get("/object_info/FewShotTrainingSettings")["FewShotTrainingSettings"]


def test_each_preset_sets_what_is_shown(settings_node, tmp_path):
    steps = [("preset", name) for name in PRESETS]
    seen = in_browser(tmp_path, settings_node, ("steps", 321), *steps)
    assert seen["asked"] == ["/object_info/FewShotTrainingSettings"]  # once
    for name, shown in zip(PRESETS, seen["seen"][1:], strict=True):
        assert shown["preset"] == name and shown["steps"] == 321
        assert {setting: shown[setting] for setting in PRESETS[name]} == PRESETS[name]


def test_a_changed_value_makes_it_custom_and_others_do_not(settings_node, tmp_path):
    name = "Style"
    steps = ("preset", name), ("seed", 7), ("rank", PRESETS[name]["rank"]), ("rank", 8), ("preset", name)
    seen = in_browser(tmp_path, settings_node, *steps)
    shown = [(now["preset"], now["rank"], now["seed"]) for now in seen["seen"]]
    rank = PRESETS[name]["rank"]
    assert shown == [(name, rank, 0), (name, rank, 7), (name, rank, 7), ("custom", 8, 7), (name, rank, 7)]
    assert seen["heard"] == [list(step) for step in steps]  # what listened before still hears


def test_custom_leaves_the_values(settings_node, tmp_path):
    first, second = in_browser(tmp_path, settings_node, ("preset", "Style"), ("preset", "custom"))["seen"]
    assert second == first | {"preset": "custom"}


def test_what_is_shown_runs(server, settings_node):
    """Also without a browser: a preset's name alone is enough, and values that say something else are refused."""
    graph = graphs.training({"FewShotTrainingSettings": settings_node}, seed=11, preset="Style")
    del graph["settings"]["inputs"]["preset"]
    values = graph["settings"]["inputs"] | {name: settings_node["input"]["required"][name][1]["default"]
                                            for name in PRESETS["Style"]}  # fmt: skip
    graph["settings"]["inputs"] = values | {"preset": "Style"}
    outcome = server.succeed(graph)
    folder = Path(outcome.outputs("train")["text"][0].splitlines()[-1])
    ran = json.loads((folder / "settings.json").read_text(encoding="utf-8"))["inputs"]["settings"]
    assert {name: ran[name] for name in PRESETS["Style"]} == PRESETS["Style"]
    graph["settings"]["inputs"] = values | {"preset": "Style", "rank": 5}
    assert "sets rank to 32, but rank is 5" in server.run(graph).error["exception_message"]
