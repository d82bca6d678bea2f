"""The pack's little JavaScript: served, importing only what ComfyUI offers, and its arithmetic."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from comfyui_fewshot.tests.server.described import ROOT

pytestmark = pytest.mark.server
WEB = ROOT / "web"


def test_the_server_offers_both_scripts(server):
    offered = server.get("/extensions")
    for name in ("monitor.js", "curve.js"):
        assert f"/extensions/comfyui-fewshot/{name}" in offered
        assert server.fetch(f"/extensions/comfyui-fewshot/{name}") == (WEB / name).read_bytes()


def test_the_monitor_leans_on_nothing_but_the_public_face(server):
    text = (WEB / "monitor.js").read_text(encoding="utf-8")
    assert re.findall(r'from "(.+?)"', text) == ["../../scripts/app.js", "../../scripts/api.js", "./curve.js"]
    assert "prototype" not in text and "onDraw" not in text and "beforeRegisterNodeDef" not in text
    assert re.search(r'const NODE = "(\w+)"', text)[1] in server.get("/object_info")
    event = re.search(r'addEventListener\("([\w.]+)"', text)[1]
    assert f'send_sync("{event}"' in (ROOT / "nodes" / "host.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60


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


def test_points_are_kept_and_placed(tmp_path):
    node = shutil.which("node")
    assert node, "the arithmetic of web/curve.js is tested by node: install Node.js 18 or newer"
    (tmp_path / "curve.mjs").write_text((WEB / "curve.js").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "program.mjs").write_text(PROGRAM, encoding="utf-8")
    run = subprocess.run([node, str(tmp_path / "program.mjs")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout)
    assert seen["first"] == [[1, 3], [2, 1], [4, 2]]
    assert seen["places"] == [[28, 4], [52, 54], [100, 29]]
    assert seen["again"] == [{"step": 1, "loss": 9}]
    assert seen["flat"] == [[6, 6]] and seen["none"] == []
    assert seen["text"] == "step 1/4  loss 9.00"
