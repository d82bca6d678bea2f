"""`run.py demo`: the workflow "subject LoRA" through a real ComfyUI, and what came of it."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import job
from .console import Stop, say
from .server import ComfyServer, Installation, has_accelerator

WORKFLOW, USER_WORKFLOW = "workflows/api/subject_lora.json", "workflows/api/subject_lora_from_photos.json"
SUBJECT, NOUN, IDENTIFIER = "cat_striped", "cat", "sks"
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
BASES = (".safetensors", ".ckpt")
JUDGED, JUDGED_SEED = 5, 1000  # pictures of each of the judge's prompts, and the first one's seed


@dataclass(frozen=True)
class UserJob:
    """A person's own checkpoint and pictures."""

    base: Path
    pictures: Path
    identifier: str
    noun: str


def user_job_from(chosen: argparse.Namespace) -> UserJob:
    """The job of the command line; its paths are checked before anything is downloaded."""
    base, folder = chosen.base.expanduser().resolve(), chosen.pictures.expanduser().resolve()
    if not base.is_file():
        raise Stop(f"--base is {base}, and there is no such file")
    if base.suffix.lower() not in BASES:
        raise Stop(f"--base is {base}, which is no checkpoint file; give a {' or '.join(BASES)} file")
    if not folder.is_dir():
        raise Stop(f"--pictures is {folder}, which is no folder; give the folder that holds your pictures")
    count = len(pictures_in(folder))
    if count == 0:
        raise Stop(f"--pictures is {folder}, which holds no picture ({', '.join(PICTURES)}); put two to ten there")
    say(f"{count} picture(s) in {folder}")
    return UserJob(base, folder, chosen.identifier, chosen.noun)


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder, masks left out."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURES and file.is_file())
    return [file for file in files if not file.stem.endswith("_mask")]


def run(python: Path, host: Path, root: Path, output: Path, user_job: UserJob | None) -> None:
    """Train, compare, judge and report. Raises Stop unless every result lies in `output`."""
    models = {"checkpoints": [user_job.base.parent]} if user_job else {}
    installation = Installation(python, host, root)
    server = ComfyServer(installation, output=output, models=models, cpu=not has_accelerator(python))
    work = server.base / "demo"
    for old in (work, output / "fewshot" / "judged"):
        shutil.rmtree(old, ignore_errors=True)
    work.mkdir(parents=True)
    name, facts = place_pictures(python, server.base / "input", work, user_job)
    workflow = json.loads((root / (USER_WORKFLOW if user_job else WORKFLOW)).read_text(encoding="utf-8"))
    fill(workflow, name, user_job)
    if user_job is None:
        add_judged(workflow, facts["prompts"])
    before, began = files_in(output), time.monotonic()
    say("Starting ComfyUI" + (" on the CPU" if server.cpu else ""))
    try:
        with server:
            say(f"ComfyUI answers after {time.monotonic() - began:.0f} s; its log is {server.log}")
            outputs = job.run(server, workflow).get("outputs", {})
    except KeyboardInterrupt:
        report_saved(output, before)
        raise
    facts |= results(workflow, outputs, output)
    summarise(python, work, output, facts)


def place_examples(python: Path, base: Path) -> None:
    """The pictures that the workflows of the pocket name, where they are not there yet."""
    work, inputs = base / "demo", base / "input"
    if not (inputs / f"demo_{SUBJECT}").is_dir():
        work.mkdir(parents=True, exist_ok=True)
        place_pictures(python, inputs, work, None)


def place_pictures(python: Path, inputs: Path, work: Path, user_job: UserJob | None) -> tuple[str, dict[str, Any]]:
    """Write the pictures, captions and masks into a folder of ComfyUI's input; gives its name and facts about it."""
    name = f"demo_{user_job.pictures.name}" if user_job else f"demo_{SUBJECT}"
    folder = inputs / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if user_job is None:
        request = {"folder": str(folder), "subject": SUBJECT, "identifier": IDENTIFIER}
        return name, json.loads(run_in_env(python, work, "subject", request))
    for file in sorted(user_job.pictures.iterdir()):
        if file.suffix.lower() in (*PICTURES, ".txt") and file.is_file():
            shutil.copy2(file, folder / file.name)
    return name, {"base": user_job.base.name, "pictures": str(folder)}


def run_in_env(python: Path, work: Path, command: str, request: dict[str, Any]) -> str:
    """Run a command of `in_env.py` in the environment; gives the last line that it prints."""
    call = [str(python), "-m", "comfyui_fewshot.tools.in_env", command]
    run = subprocess.run(call, cwd=work, input=json.dumps(request), capture_output=True, text=True, errors="replace")
    if run.returncode:
        raise Stop(f"{' '.join(call[1:])} failed:\n{run.stderr.strip()[-3000:]}")
    return run.stdout.strip().splitlines()[-1]


def nodes_of(workflow: dict[str, dict], kind: str) -> list[str]:
    names = [name for name, node in workflow.items() if node["class_type"] == kind]
    if not names:
        raise Stop(f"the demo's workflow holds no node {kind}; restore workflows/api as it was")
    return names


def fill(workflow: dict[str, dict], pictures: str, user_job: UserJob | None) -> None:
    """Name the base, the folder of pictures and the words in the workflow."""
    base = {"source": "checkpoint", "source.name": user_job.base.name} if user_job else {"source": "pocket"}
    for name in nodes_of(workflow, "FewShotLoadBase"):
        _replace_source(workflow[name]["inputs"], base)
    identifier, noun = (user_job.identifier, user_job.noun) if user_job else (IDENTIFIER, NOUN)
    for name in nodes_of(workflow, "FewShotSubjectPictures"):
        inputs = workflow[name]["inputs"]
        _replace_source(inputs, {"source": "folder", "source.folder": pictures})
        inputs.update(identifier=identifier, noun=noun)
        inputs.pop("description", None)


def _replace_source(inputs: dict[str, Any], source: dict[str, Any]) -> None:
    for key in [key for key in inputs if key == "source" or key.startswith("source.")]:
        del inputs[key]
    inputs.update(source)


def add_judged(workflow: dict[str, dict], prompts: list[str]) -> None:
    """Add nodes that sample and save the judge's pictures: the grid once more, with the judge's prompts."""
    (grid,) = nodes_of(workflow, "FewShotSampleGrid")
    inputs = {**workflow[grid]["inputs"], "prompts": "\n".join(prompts), "count": JUDGED, "seed": JUDGED_SEED}
    title = {"title": "Pictures for the judge"}
    workflow["judged"] = {"class_type": "FewShotSampleGrid", "inputs": {**inputs, "batch": 10}, "_meta": title}
    for output, side in ((1, "before"), (2, "after")):
        save = {"images": ["judged", output], "filename_prefix": f"fewshot/judged/{side}"}
        workflow[side] = {"class_type": "SaveImage", "inputs": save}


def results(workflow: dict[str, dict], outputs: dict[str, Any], output: Path) -> dict[str, Any]:
    """Where the run, the LoRA and the pictures lie, read from the nodes' outputs."""

    def node_text(kind: str) -> list[str]:
        return [line for name in nodes_of(workflow, kind) for line in outputs[name]["text"][0].splitlines()]

    def saved(node: str) -> list[str]:
        images = outputs.get(node, {}).get("images", [])
        return [str(output / image["subfolder"] / image["filename"]) for image in images]

    (grid,) = [name for name in nodes_of(workflow, "FewShotSampleGrid") if name != "judged"]
    savers = [name for name in nodes_of(workflow, "SaveImage") if workflow[name]["inputs"]["images"] == [grid, 0]]
    sheets = [file for name in savers for file in saved(name)]
    if not sheets:
        raise Stop("the demo's workflow saves no before/after picture; restore workflows/api as it was")
    lora, run = node_text("FewShotSaveAdapter")[0], node_text("FewShotTrainSubject")[-1]
    return {"lora": lora, "run": run, "grid": sheets[0], "before": saved("before"), "after": saved("after")}


def summarise(python: Path, work: Path, output: Path, facts: dict[str, Any]) -> None:
    """Judge, write the picture and the report, and say where everything lies."""
    sheet, report = output / "before_after.png", output / "report.html"
    for old in (sheet, report):
        old.unlink(missing_ok=True)
    shutil.copyfile(facts["grid"], sheet)
    judged = json.loads(run_in_env(python, work, "summary", {**facts, "output": str(output)}))
    for file in (Path(facts["lora"]), sheet, report):
        if not file.is_file():
            raise Stop(f"{file} is missing although the workflow ended well")
    say()
    say(f"LoRA           {facts['lora']}   (trigger: {judged['trigger']})")
    say(f"before, after  {sheet}")
    say(f"report         {report}")
    say(f"run            {facts['run']}")
    if "before" in judged:
        shares = f"{judged['before']:.0%} before, {judged['after']:.0%} after"
        say(f"The judge sees the subject in {shares} (subject fidelity; {judged['count']} pictures on each side).")


def files_in(output: Path) -> set[Path]:
    return {file for file in output.rglob("*") if file.is_file()} if output.is_dir() else set()


def report_saved(output: Path, before: set[Path]) -> None:
    """List the new LoRAs; the states from which training resumes lie beside them in `checkpoints`."""
    new = [file for file in sorted(files_in(output) - before) if file.suffix == ".safetensors"]
    saved_files = [file for file in new if file.parent.name != "checkpoints"]
    if not saved_files:
        say("Nothing had been learned yet; nothing was kept.")
        return
    say("Kept as it was; the same command goes on from there:")
    for file in saved_files:
        say(f"  {file}")
