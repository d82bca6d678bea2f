"""Models in transformers' layout on disk. Nothing here imports torch: menus are built with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# Levels below a models folder at which config.json is searched for.
MAX_DEPTH = 3
# A ViT trained to predict labels: DINO's network, but features of classes rather than of instances.
CLASSIFIER = "vit classifier"
# Vision-language models that follow chat messages.
VISION_LANGUAGE_KINDS = ("qwen3_vl", "qwen2_5_vl", "qwen2_vl", "smolvlm", "llava_onevision", "gemma3", "idefics3")
# Captioners, best first.
CAPTIONERS = (*VISION_LANGUAGE_KINDS, "florence2", "blip")
# Language models that follow instructions, best first.
WRITERS = (
    "qwen3", "qwen2", "llama", "smollm3", "gemma3_text", "gemma2", "gemma", "mistral", "phi3", "granite", "olmo2",
)  # fmt: skip
# Models that find phrases in pictures, best first.
FINDERS = ("grounding-dino", "owlv2", "florence2", "clipseg")
# Models that turn boxes into masks, best first; `segment-anything` files come after them.
MASKERS = ("sam2", "sam2_video", "sam")
# Parts of names of .pth files that are other networks than SAM 1.0.
NOT_PLAIN_SAM = ("hq", "mobile", "fast", "edge")


def kind_of(folder: Path) -> str:
    """The `model_type` that config.json in `folder` names; "" without a readable one."""
    try:
        return str(json.loads((folder / "config.json").read_text("utf-8")).get("model_type", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def vision_kind(config: Mapping[str, Any], name: str) -> str | None:
    """The kind of vision model in the folder `name` by its config.json: the `model_type`, None where there is none.

    The ViT of DINO (2021) has no `model_type` of its own, so a ViT with a classification head is a `CLASSIFIER` unless
    its name or its config mentions DINO.
    """
    kind = config.get("model_type")
    if kind != "vit":
        return kind
    architectures = " ".join(map(str, config.get("architectures") or ()))
    labels = "ForImageClassification" in architectures or "id2label" in config or "num_labels" in config
    names = f"{name} {config.get('_name_or_path', '')} {architectures}".lower()
    return CLASSIFIER if labels and "dino" not in names else kind


def find(roots: Iterable[Path], kinds: Iterable[str]) -> dict[str, Path]:
    """The models of `kinds` below `roots`, as {name: folder}, best kind first; the name is the path below its root.

    Of two with one name the first root's counts. Folders deeper than `MAX_DEPTH` and hidden ones are not looked into.
    """
    order, matches = list(kinds), {}
    for root in roots:
        for folder in _folders(Path(root), MAX_DEPTH):
            kind = kind_of(folder)
            if kind in order:
                matches.setdefault(folder.relative_to(root).as_posix(), (order.index(kind), folder))
    return {name: matches[name][1] for name in sorted(matches, key=lambda name: (matches[name][0], name))}


def _folders(root: Path, depth: int) -> Iterable[Path]:
    try:
        children = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError:
        return
    for child in children:
        if (child / "config.json").is_file():
            yield child
        elif depth > 1:
            yield from _folders(child, depth - 1)


def finders(roots: Iterable[Path]) -> dict[str, Path]:
    """Models that find phrases below `roots`, best kind first."""
    return find(roots, FINDERS)


def maskers(roots: Iterable[Path]) -> dict[str, Path]:
    """Models that turn boxes into masks below `roots`: folders best kind first, then SAM 1.0 files, largest first."""
    roots = list(roots)
    files = {
        file.relative_to(root).as_posix(): file
        for root in roots
        if root.is_dir()
        for file in sorted(root.glob("*.pth"), key=lambda file: -file.stat().st_size)
        if "sam" in file.stem.lower() and not any(word in file.stem.lower() for word in NOT_PLAIN_SAM)
    }
    return find(roots, MASKERS) | files
