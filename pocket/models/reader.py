"""The scene reader: a small convolutional network that classifies what a pocket picture shows.

It judges every claim and is never a reward or a training signal. Things are read in the order of the layout
(upper, lower; left, right; back, front; ...), so that the layout and the order give the relation.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from ..world import world

NOUNS = (None, *world.CLASSES)
ACCESSORIES = (None, *world.ACCESSORIES)
COLOURS = tuple(world.COLOURS)
PLACES = tuple(world.PLACES)
LAYOUTS = ("one", *world.LAYOUTS, *world.HIDDEN)
# Widths of the answers about one thing, then about the scene.
THING = {"noun": len(NOUNS), "pattern": len(world.PATTERNS), "accessory": len(ACCESSORIES), "colours": len(COLOURS)}
ANSWERS = [THING, THING, {"place": len(PLACES), "layout": len(LAYOUTS)}]
SEED = 21


class SceneReaderConfig(PretrainedConfig):
    model_type = "fewshot_scene_reader"

    def __init__(self, widths=(32, 64, 128, 160), **rest):
        self.widths = list(widths)
        super().__init__(**rest)


class _DownBlock(nn.Module):
    """Halves the resolution, then one residual step."""

    def __init__(self, inside: int, outside: int):
        super().__init__()
        self.shrink = nn.Sequential(nn.Conv2d(inside, outside, 4, 2, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU())
        self.step = nn.Sequential(
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outside),
        )

    def forward(self, x):
        x = self.shrink(x)
        return torch.relu(x + self.step(x))


class SceneReader(PreTrainedModel):
    """Pictures (B, 3, 64, 64) in [-1, 1] to logits (B, n) that `split` cuts into answers."""

    config_class = SceneReaderConfig

    def __init__(self, config: SceneReaderConfig):
        super().__init__(config)
        steps = zip([3, *config.widths], config.widths, strict=False)
        self.trunk = nn.Sequential(*(_DownBlock(i, o) for i, o in steps))
        side = world.SIZE // 2 ** len(config.widths)
        total = sum(sum(group.values()) for group in ANSWERS)
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(config.widths[-1] * side * side, total))
        self.post_init()

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(pictures))


def split(logits: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """Cut (B, n) into [{answer: (B, width)} for the first thing, the second thing, the scene]."""
    answers, start = [], 0
    for group in ANSWERS:
        cut = {}
        for name, width in group.items():
            cut[name] = logits[:, start : start + width]
            start += width
        answers.append(cut)
    return answers


def truth(scenes: list[world.Scene]) -> list[dict[str, torch.Tensor]]:
    """The right answers; a missing second thing is noun 0 and its other answers are -1 (ignored)."""
    things = []
    for slot in range(2):
        present = [s.things[slot] if slot < len(s.things) else None for s in scenes]
        rows = {
            "noun": [NOUNS.index(t.noun) if t else 0 for t in present],
            "pattern": [world.PATTERNS.index(t.pattern) if t else -1 for t in present],
            "accessory": [ACCESSORIES.index(t.accessory) if t else -1 for t in present],
            "colours": [[float(c in t.colours) if t else -1.0 for c in COLOURS] for t in present],
        }
        things.append({name: torch.tensor(row) for name, row in rows.items()})
    scene = {
        "place": torch.tensor([PLACES.index(s.place) for s in scenes]),
        "layout": torch.tensor([LAYOUTS.index(s.layout) for s in scenes]),
    }
    return [*things, scene]


def reading_loss(logits: torch.Tensor, scenes: list[world.Scene]) -> torch.Tensor:
    """Cross-entropy of every answer; binary cross-entropy of the set of colours."""
    total = logits.new_zeros(())
    for given, right in zip(split(logits), truth(scenes), strict=True):
        for name, values in given.items():
            target = right[name].to(logits.device)
            if name == "colours":
                present = target[:, 0] >= 0
                if present.any():
                    total = total + 4 * nn.functional.binary_cross_entropy_with_logits(values[present], target[present])
            elif (target >= 0).any():
                total = total + nn.functional.cross_entropy(values, target, ignore_index=-1)
    return total


def blurred(pictures: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Each picture mixed with its half-resolution copy by `strength` (B,), with a little noise."""
    small = nn.functional.avg_pool2d(pictures, 2)
    soft = nn.functional.interpolate(small, scale_factor=2, mode="bilinear")
    strength = strength.view(-1, 1, 1, 1)
    return pictures + strength * (soft - pictures) + 0.08 * strength * torch.randn_like(pictures)


def loss_of(reader: SceneReader, vae, batches, device: torch.device):
    """An eighth of each batch goes through the autoencoder, a quarter is blurred, the rest is as drawn."""

    def loss(step: int):
        scenes, pictures, _ = next(batches)
        pictures = pictures.float().div_(127.5).sub_(1).to(device)
        eighth, quarter = len(scenes) // 8, len(scenes) // 4
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            latents = vae.encode(pictures[:eighth]).latent_dist.sample()
            latents = latents + 0.1 * torch.rand(eighth, 1, 1, 1, device=device) * torch.randn_like(latents)
            copies = vae.decode(latents).sample.float()
        soft = blurred(pictures[eighth : eighth + quarter], torch.rand(quarter, device=device))
        with torch.autocast(device.type, torch.bfloat16):
            logits = reader(torch.cat([copies, soft, pictures[eighth + quarter :]]))
        logits = logits.float()
        right = logits[:, : len(NOUNS)].argmax(1).cpu() == truth(scenes)[0]["noun"]
        return reading_loss(logits, scenes), {"class": round(float(right.float().mean()), 3)}

    return loss
