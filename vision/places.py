"""Where optional models lie below a folder of models, and what is said of one that is not there.

Nothing here imports torch: menus are built with it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path

from .find import vision_kind

# Folders of models/ where people and other packs keep models of a kind.
SEGMENTER_PLACES = ("sams", "sam2", "grounding-dino", "owlv2", "clipseg", "florence2", "segmenters", "LLM")
CAPTIONER_PLACES = ("captioners", "blip", "florence2", "LLM", "VLM", "vlm")
WRITER_PLACES = ("LLM", "llm", "text_generation")
CLIP_PLACES = ("clip", "clip_vision", "clip_interrogator", "rewards")
PREFERENCE_PLACES = ("clip_vision", "rewards")

CLIPS = ("clip",)
DINOS = ("vit", "dinov2", "dinov2_with_registers", "dinov3_vit")
PICK, HPS = "pickscore", "hps"  # in the folder names of CLIPs trained on human preferences
REWARD = "imagereward"
HPS_FILES = "HPS*.pt"
REWARD_FILES = ("ImageReward.pt", "ImageReward.safetensors")

OR_FETCH = "or run Fetch Model"
FILES = "config.json, model.safetensors, preprocessor_config.json"
# by model, which files go where; nothing is fetched unasked
INSTRUCTIONS = {
    "CLIP": f"put {FILES} and the tokenizer's files of a CLIPModel, such as openai/clip-vit-large-patch14, into a "
    f"folder in models/clip_vision, {OR_FETCH}",
    "DINO": f"put {FILES} of facebook/dino-vits16 into a folder in models/clip_vision, {OR_FETCH}",
    "DINOv2": f"put {FILES} of facebook/dinov2-small into a folder in models/clip_vision, {OR_FETCH}",
    PICK: f"put {FILES} and the tokenizer's files of yuvalkirstain/PickScore_v1 into models/rewards/PickScore_v1, "
    f"{OR_FETCH}",
    HPS: "put HPS_v2.1_compressed.pt of xswu/HPSv2 and a CLIP's vocab.json and merges.txt into models/rewards/HPSv2",
    REWARD: "put ImageReward.pt of zai-org/ImageReward and the tokenizer's files of bert-base-uncased into "
    "models/rewards/ImageReward",
    "LPIPS": "diversity is {name} instead; install the package lpips and put torchvision's alexnet-owt-7be5be79.pth "
    "into models/lpips",
}


def plain(name: str) -> str:
    """Letters and digits of a folder's name, by which preference models are recognized."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def kind_of_model(folder: Path) -> str | None:
    """The model_type of a folder of transformers ("clip", "dinov2"); None where it has none."""
    try:
        return vision_kind(json.loads((folder / "config.json").read_text(encoding="utf-8")), folder.name)
    except (OSError, ValueError, AttributeError):
        return None


def transformers_folders(roots: Iterable[Path], kinds: Collection[str]) -> dict[str, Path]:
    """The folders of transformers directly in `roots` whose config.json names one of `kinds`, by their names."""
    found: dict[str, Path] = {}
    for root in roots:
        for config in root.glob("*/config.json"):
            if kind_of_model(config.parent) in kinds:
                found.setdefault(config.parent.name, config.parent)
    return dict(sorted(found.items()))


def is_preference(name: str) -> bool:
    """Whether a CLIP's folder is named as one that was trained on human preferences."""
    return PICK in plain(name) or HPS in plain(name)


def preference_folders(roots: Iterable[Path]) -> dict[str, Path]:
    """The preference models in `roots`: `PICK`, `HPS` and `REWARD`, each with its folder."""
    found: dict[str, Path] = {}
    for root in roots:
        for folder in sorted(path for path in root.glob("*") if path.is_dir()):
            name, kind = plain(folder.name), kind_of_model(folder)
            if any((folder / file).is_file() for file in REWARD_FILES):
                found.setdefault(REWARD, folder)
            elif kind in CLIPS and PICK in name:
                found.setdefault(PICK, folder)
            elif any(folder.glob(HPS_FILES)) or (kind in CLIPS and HPS in name):
                found.setdefault(HPS, folder)
    return found
