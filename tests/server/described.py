"""What is said of the nodes outside their code, made from the schemas: golden schemas, locales, tables of the docs.

`python -m comfyui_fewshot.tests.server.described COMFYUI` writes all of it again after a schema was changed on purpose.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from comfyui_fewshot.tests.server import forms
from comfyui_fewshot.tests.server.harness import ROOT, Server, prepare

GOLDEN = ROOT / "tests" / "server" / "schemas.json"
LOCALE = ROOT / "locales" / "en" / "nodeDefs.json"
DOCS = ROOT / "web" / "docs"
WORKFLOWS = ROOT / "workflows"
PREFIX = "FewShot"
FILES = {
    "models/checkpoints", "models/diffusers", "ComfyUI's input folder", "models/loras", "models/sams", "models/LLM",
    "models/clip_vision", "models/embeddings", "models/diffusion_models", "models/text_encoders", "models/vae",
}  # fmt: skip
"""Named in the tooltips of the combos whose options are files, which differ from machine to machine."""


def ours(info: Mapping[str, Any]) -> dict[str, Any]:
    return {name: schema for name, schema in info.items() if name.startswith(PREFIX)}


def golden(info: Mapping[str, Any]) -> dict[str, Any]:
    """Our schemas without what differs between machines."""
    kept = json.loads(json.dumps(ours(info)))
    for schema in kept.values():
        del schema["python_module"]
        _forget_files(schema["input"])
    return kept


def _forget_files(inputs: dict[str, Any]) -> None:
    for kind in ("required", "optional"):
        for spec in inputs.get(kind, {}).values():
            about = spec[1] if len(spec) > 1 else {}
            if spec[0] == forms.DYNAMIC:
                for option in about["options"]:
                    _forget_files(option["inputs"])
            elif "options" in about and any(place in about["tooltip"] for place in FILES):
                about["options"] = []


def all_inputs(inputs: Mapping[str, Any], prefix: str = "", with_: str = "") -> Iterator[tuple[str, str, str, dict]]:
    """(full name, type, what reveals it, options) of every input of every branch."""
    for kind in ("required", "optional"):
        for name, spec in inputs.get(kind, {}).items():
            about = (spec[1] if len(spec) > 1 else {}) | {"optional": kind == "optional"}
            yield prefix + name, spec[0], with_, about
            if spec[0] == forms.DYNAMIC:
                for option in about["options"]:
                    yield from all_inputs(option["inputs"], f"{prefix}{name}.", option["key"])


def locale(info: Mapping[str, Any]) -> dict[str, Any]:
    """nodeDefs.json: the frontend looks a name up with "_" in the place of "."."""
    said = {}
    for name, schema in ours(info).items():
        outputs = zip(schema["output_name"], schema["output_tooltips"], strict=True)
        said[name] = {
            "display_name": schema["display_name"],
            "description": schema["description"],
            "inputs": {
                full.replace(".", "_"): {"name": full.split(".")[-1], "tooltip": about["tooltip"]}
                for full, _, _, about in all_inputs(schema["input"])
            },
            "outputs": {str(n): {"name": title, "tooltip": tooltip} for n, (title, tooltip) in enumerate(outputs)},
        }
    return said


def tables(schema: Mapping[str, Any]) -> str:
    """The part of a node's help page that follows from its schema."""
    lines = ["## Inputs", "", "| name | type | | |", "|---|---|---|---|"]
    for full, kind, with_, about in all_inputs(schema["input"]):
        shown = "choice" if kind in (forms.DYNAMIC, "COMBO") else kind
        notes = [f"with {with_}"] if with_ else []
        notes += [word for word in ("optional", "advanced") if about.get(word)]
        if about.get("default") not in (None, ""):
            default = about["default"]
            notes.append(f"default {str(default).lower() if isinstance(default, bool) else default}")
        told = literal(f"{', '.join(notes)} | {about['tooltip']}")
        lines.append(f"| **{full.split('.')[-1]}** | {shown} | {told} |")
    lines += ["", "## Outputs", "", "| name | type | |", "|---|---|---|"]
    for title, kind, tooltip in zip(schema["output_name"], schema["output"], schema["output_tooltips"], strict=True):
        lines.append(f"| **{title}** | {kind} | {literal(tooltip)} |")
    return "\n".join(lines) + "\n"


def literal(text: str) -> str:
    """`text` as Markdown shows it: a word such as <R> would be taken for HTML and vanish."""
    return text.replace("<", "\\<")


def page(name: str, schema: Mapping[str, Any]) -> str:
    """A help page: its own words as they stand, and the tables anew."""
    path = DOCS / f"{name}.md"
    old = (
        path.read_text(encoding="utf-8")
        if path.is_file()
        else f"# {schema['display_name']}\n\n{schema['description']}\n\n"
    )
    return old.split("## Inputs")[0] + tables(schema)


def as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_all(info: Mapping[str, Any]) -> None:
    GOLDEN.write_text(as_json(golden(info)), encoding="utf-8")
    LOCALE.write_text(as_json(locale(info)), encoding="utf-8")
    for name, schema in ours(info).items():
        (DOCS / f"{name}.md").write_text(page(name, schema), encoding="utf-8")
    for path in WORKFLOWS.glob("*.json"):
        workflow = json.loads(path.read_text(encoding="utf-8"))
        if is_old(workflow, info):  # values are taken by their names, what is new by its default
            workflow = renewed(workflow, json.loads((WORKFLOWS / "api" / path.name).read_text(encoding="utf-8")), info)
            path.write_text(as_json(workflow), encoding="utf-8")
        graph = forms.to_api(workflow, info)
        (WORKFLOWS / "api" / path.name).write_text(as_json(graph), encoding="utf-8")


def is_old(workflow: Mapping[str, Any], info: Mapping[str, Any]) -> bool:
    """Whether widgets, or outputs of this project's nodes, came or went since the workflow was saved."""
    for node in workflow["nodes"]:
        if node["type"].startswith(PREFIX):
            if [output["name"] for output in node["outputs"]] != list(info[node["type"]]["output_name"]):
                return True
    try:
        forms.to_api(workflow, info)
    except forms.Unfit:
        return True
    return False


def renewed(workflow: Mapping[str, Any], graph: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    """The editor's form for changed schemas: the values of the API form, everything else as it was."""
    old = {str(node["id"]): node for node in workflow["nodes"]}
    fresh = forms.to_ui(graph, info, {key: tuple(old[key]["pos"]) for key in graph})
    notes = [node for node in workflow["nodes"] if node["type"] in forms.NOTES]
    return fresh | {name: workflow[name] for name in ("groups", "extra")} | {"nodes": [*fresh["nodes"], *notes]}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(scratch))
        with Server(Path(sys.argv[1]), Path(scratch)) as running:
            write_all(running.get("/object_info"))
