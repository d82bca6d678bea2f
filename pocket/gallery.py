"""The pictures of this folder's README: `python -m comfyui_fewshot.pocket.gallery`."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from ..models.open import base_from_path, open_base
from . import figures
from .models.weights import WEIGHTS
from .world import drawing, pictures, world

HERE = Path(__file__).parent
TILE, GAP = 96, 3
PROMPTS = (
    "a photo of a red cat wearing a hat on the beach",
    "a photo of a blue and white striped car in the snow",
    "a photo of a yellow bird holding a ball in the meadow",
    "a photo of a green and black dotted bottle in a room",
    "a photo of a purple fish under an umbrella at night",
    "a photo of a white and red patched house on the street",
    "a photo of an orange and blue two-coloured cup with a balloon in the snow",
    "a photo of a black boat on the beach",
    "a photo of a red cat on a blue car in the meadow",
    "a photo of a white bird beside a green house in the snow",
    "a photo of a yellow fish behind an orange bottle in a room",
    "a photo of a blue cup under a red boat on the beach",
)


def sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """Pictures in rows, enlarged without smoothing."""
    step = TILE + GAP
    canvas = Image.new("RGB", (max(len(row) for row in rows) * step - GAP, len(rows) * step - GAP), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            canvas.paste(picture.resize((TILE, TILE), Image.Resampling.NEAREST), (x * step, y * step))
    return canvas


def world_sheet() -> Image.Image:
    """Three rows of scenes as the base sees them, one row of hidden relations, two rows of subjects."""
    rows = [[drawing.render(world.scene_of(81, 12 * row + i, hidden=0.0))[0] for i in range(12)] for row in range(3)]
    hidden = []
    for i in range(12):
        rng = world.rng_of(82, i)
        things = (world.Thing(world.CLASSES[i % 8], ("red",)), world.Thing(world.CLASSES[(i + 3) % 8], ("blue",)))
        layout, place = list(world.HIDDEN)[i // 4], list(world.PLACES)[i % 6]
        hidden.append(drawing.render(world.arrange(rng, things, place, layout))[0])
    subjects = [drawing.render(pictures.subject_scene(s, 83, 0))[0] for s in world.SUBJECTS]
    return sheet([*rows, hidden, subjects])


def samples_sheet(weights: Path = WEIGHTS) -> Image.Image:
    """Four samples of each of the prompts."""
    prompts = [prompt for prompt in PROMPTS for _ in range(4)]
    with open_base(base_from_path(weights), torch.device("cpu")) as model:
        samples = figures.pictures_of(model, prompts)
    return sheet([[samples[4 * column + row] for column in range(len(PROMPTS))] for row in range(4)])


if __name__ == "__main__":
    world_sheet().save(HERE / "world.png", optimize=True)
    samples_sheet().save(HERE / "samples.png", optimize=True)
