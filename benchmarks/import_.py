"""What the pack adds to ComfyUI's start: its import and the building of every schema, each time in a fresh ComfyUI.

Everything that ComfyUI loads before its custom nodes is loaded first, by ComfyUI's own code, and is not counted.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from .harness.rows import BenchmarkRow
from .harness.statistics import median_interval

ROOT = Path(__file__).parent.parent
GOAL = 0.3  # seconds
START = """
import asyncio, json, sys, time
pack, comfyui = sys.argv.pop(), sys.argv.pop()
sys.path[0] = comfyui
import comfy.options
comfy.options.enable_args_parsing()
import nodes, server
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
server.PromptServer(loop)
loop.run_until_complete(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
before = set(nodes.NODE_CLASS_MAPPINGS)
began = time.perf_counter()
loaded = loop.run_until_complete(nodes.load_custom_node(pack, before, module_parent="custom_nodes"))
ours = [node for name, node in nodes.NODE_CLASS_MAPPINGS.items() if name not in before]
for node in ours:
    node.GET_NODE_INFO_V1()
seconds = time.perf_counter() - began
print("\\n" + json.dumps({"loaded": loaded, "count": len(ours), "seconds": seconds}))
"""


def one_start(comfyui: Path, base: Path) -> dict:
    """Seconds and the number of schemas of one start."""
    (base / "custom_nodes").mkdir(parents=True, exist_ok=True)
    options = ["--cpu", "--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
    command = [sys.executable, "-c", START, *options, str(comfyui), str(ROOT)]
    run = subprocess.run(command, cwd=base, capture_output=True, text=True, errors="replace")
    result = json.loads(run.stdout.strip().splitlines()[-1]) if run.returncode == 0 else {}
    if not result.get("loaded") or not result["count"]:
        raise RuntimeError(f"ComfyUI in {comfyui} could not load the pack:\n{(run.stdout + run.stderr)[-3000:]}")
    return result


def rows(quick: bool) -> list[BenchmarkRow]:
    if "COMFYUI_PATH" not in os.environ:
        raise RuntimeError("COMFYUI_PATH must name a ComfyUI; `run.py bench import` sets it")
    with tempfile.TemporaryDirectory() as base:
        # The first start warms the disk and the byte code, as any start but a machine's first finds them.
        starts = [one_start(Path(os.environ["COMFYUI_PATH"]), Path(base)) for _ in range(3 if quick else 8)][1:]
    seconds = [start["seconds"] for start in starts]
    goal = None if quick else GOAL
    return [
        BenchmarkRow(
            "import.seconds", statistics.median(seconds), "s", "lower", goal, median_interval(seconds), len(seconds)
        ),
        BenchmarkRow("schemas.count", starts[0]["count"], "nodes", "higher", None, None, len(starts)),
    ]
