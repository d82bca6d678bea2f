"""The parts of the demo that need the environment's libraries: `python -m comfyui_fewshot.tools.in_env COMMAND`.

The request comes as JSON on standard input, the answer goes as one line of JSON to standard output.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FEW = 4  # pictures that the demo learns from


def subject(request: dict[str, Any]) -> dict[str, Any]:
    """Draw a few pictures of one of the pocket's subjects, with captions and masks, and the prompts of its judge.

    Beside them those of a second subject and of a relation, for the workflows that learn them.
    """
    from ..pocket.world import pictures, world

    chosen = pictures.subject_named(request["subject"])
    folder = Path(request["folder"])
    pictures.write_subject(folder, chosen.name, FEW, identifier=request["identifier"])
    pictures.write_subject(folder.with_name("demo_car_striped"), "car_striped", FEW, identifier="zwx")
    pictures.write_relation(folder.with_name("demo_dream"), "dream", FEW)
    prompts = [f"a photo of a {{trigger}} {place}" for place in world.PLACES.values()]
    return {"subject": chosen.name, "base": "pocket", "pictures": str(folder), "prompts": prompts}


def summary(request: dict[str, Any]) -> dict[str, Any]:
    """Judge the pictures where a judge knows the subject, and write report.html."""
    from ..core.images import open_picture
    from ..evaluation.report.html import Figure, Table, Text, settings_table, write_report
    from ..evaluation.report.plots import loss_curve

    answer: dict[str, Any] = {"trigger": trigger_of(Path(request["lora"]))}
    rows: list[tuple[str, object]] = [("base", request["base"]), ("trigger", answer["trigger"])]
    rows += [("LoRA", request["lora"]), ("run", request["run"])]
    if request["before"]:
        answer |= judged(request)
        rows += [(f"subject fidelity {side}", f"{answer[side]:.0%}") for side in ("before", "after")]
        rows.append(("pictures judged on each side", answer["count"]))
    run = Path(request["run"])
    result = read(run / "result.json")
    rows.append(("returned step", f"{result['chosen']} of {len(result['losses'])}"))
    how = f"Put {answer['trigger']!r} into a prompt and load {Path(request['lora']).name} with ComfyUI's Load LoRA."
    sections = [
        Table("Result", rows),
        Text("How to use it", how),
        Figure("Before and after", open_picture(Path(request["grid"])), "The same noise without and with the LoRA."),
        Figure("What it learned from", learned_from(Path(request["pictures"]))),
    ]
    sections.append(Figure("Loss", loss_curve(result["losses"]), "Each step and a moving average."))
    settings = read(run / "settings.json")
    sections.append(settings_table(settings["inputs"]["chosen"]))
    sections += [settings_table(settings[part], part.capitalize()) for part in ("versions", "machine")]
    write_report(Path(request["output"]), f"Subject LoRA: {answer['trigger']}", sections)
    return answer


def judged(request: dict[str, Any]) -> dict[str, Any]:
    """The share of pictures on each side in which the pocket's judge sees the subject."""
    from ..core.images import open_picture
    from ..pocket.models.judge import SubjectJudge

    judge = SubjectJudge()
    shares: dict[str, Any] = {"count": len(request["after"])}
    for side in ("before", "after"):
        images = [open_picture(Path(file)) for file in request[side]]
        shares[side] = judge.subject_fidelity(images, request["subject"])
    return shares


def trigger_of(lora: Path) -> str:
    from ..models.adapters.formats import read_lora

    return read_lora(lora).trigger


def learned_from(folder: Path):
    """The training pictures as one sheet."""
    from ..augmentation.images.load import load_picture, subject_from_folder
    from ..evaluation.report.grids import contact_sheet

    samples = subject_from_folder(folder, "sks", "thing").samples
    return contact_sheet([load_picture(sample.image) for sample in samples], [sample.caption for sample in samples])


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def main(command: str) -> None:
    answer = {"subject": subject, "summary": summary}[command](json.loads(sys.stdin.read()))
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
