"""The optional models on the disk: which there are, what each is tried with, and where those belong that lack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...evaluation.metrics.diversity import lpips_weights
from ...pocket.models.weights import WEIGHTS
from ...vision import places
from ...vision.fetch import FETCHABLE_MODELS
from ...vision.find import CAPTIONERS, CLASSIFIER, VISION_LANGUAGE_KINDS, WRITERS, find, finders, kind_of, maskers
from . import probes
from .probes import Probe

WEIGHT_ENDINGS = (".safetensors", ".bin", ".pt")


@dataclass(frozen=True)
class FoundModel:
    """A model on the disk: what it is, its name below the models folder, and what it is tried with; without a probe
    `wrong` says what is wrong with it. `pocket` was trained on drawings of the pocket's world."""

    role: str
    name: str
    location: Path
    probe: Probe | None = None
    wrong: str = ""
    pocket: bool = False


# By role what brings it: the repository that Fetch Model has, or the key of `places.INSTRUCTIONS`, or a sentence.
SOURCES = {
    "CLIP": "openai/clip-vit-large-patch14",
    "DINO": "facebook/dino-vits16",
    "DINOv2": "facebook/dinov2-small",
    "PickScore": "yuvalkirstain/PickScore_v1",
    "ImageReward": places.REWARD,
    "HPSv2": places.HPS,
    "LPIPS": "LPIPS",
    "Grounding DINO": "IDEA-Research/grounding-dino-tiny",
    "OWLv2": "google/owlv2-base-patch16-ensemble",
    "CLIPSeg": "CIDAS/clipseg-rd64-refined",
    "SAM": "facebook/sam-vit-base",
    "Florence-2": "florence-community/Florence-2-base",
    "captioner that answers": "Qwen/Qwen3-VL-2B-Instruct",
    "BLIP": "put config.json, model.safetensors, preprocessor_config.json and the tokenizer's files of "
    "Salesforce/blip-image-captioning-base into models/captioners/blip-image-captioning-base",
    "language model": "Qwen/Qwen3-1.7B",
}
FINDER_ROLES = {"grounding-dino": "Grounding DINO", "owlv2": "OWLv2", "florence2": "Florence-2", "clipseg": "CLIPSeg"}


def found_models(folders: Sequence[Path]) -> list[FoundModel]:
    """All optional models below the models folders, each once for each of its roles, and the pocket's own two."""

    def below(*kinds: str) -> list[Path]:
        return [root for folder in folders for kind in kinds if (root := folder / kind).is_dir()]

    found = [FoundModel("CLIP", "pocket's own", WEIGHTS / "clip", probes.clip, pocket=True)]
    found.append(FoundModel("CLIPSeg", "pocket's own", WEIGHTS / "clipseg", probes.finder, pocket=True))
    found += _preferences(below(*places.PREFERENCE_PLACES))
    special = {model.location for model in found}
    for name, path in find(below(*places.CLIP_PLACES), places.CLIPS).items():
        if path not in special:
            found.append(FoundModel("CLIP", name, path, probes.clip))
    found += _embedders(below("clip_vision"))
    for name, path in finders(below(*places.SEGMENTER_PLACES)).items():
        found.append(FoundModel(FINDER_ROLES[kind_of(path)], name, path, probes.finder))
    found += [FoundModel("SAM", n, p, probes.masker) for n, p in maskers(below(*places.SEGMENTER_PLACES)).items()]
    for name, path in find(below(*places.CAPTIONER_PLACES), CAPTIONERS).items():
        answers = kind_of(path) in VISION_LANGUAGE_KINDS
        role = "captioner that answers" if answers else "BLIP" if kind_of(path) == "blip" else "Florence-2 captions"
        found.append(FoundModel(role, name, path, probes.captioner))
    for name, path in find(below(*places.WRITER_PLACES), WRITERS).items():
        found.append(FoundModel("language model", name, path, probes.writer))
    file = lpips_weights(below("lpips"))
    found += [FoundModel("LPIPS", file.name, file, probes.lpips)] if file is not None else []
    searched = {*places.CLIP_PLACES, *places.SEGMENTER_PLACES, *places.CAPTIONER_PLACES, *places.WRITER_PLACES}
    known = {model.location for model in found} | {model.location.parent for model in found}
    found += [*_unreadable(below(*searched), known)]
    return list({(model.role, model.location.resolve()): model for model in reversed(found)}.values())[::-1]


def _preferences(roots: Sequence[Path]) -> Iterator[FoundModel]:
    kinds = {
        places.PICK: ("PickScore", probes.pickscore),
        places.HPS: ("HPSv2", probes.hpsv2),
        places.REWARD: ("ImageReward", probes.image_reward),
    }
    for kind, folder in places.preference_folders(roots).items():
        role, probe = kinds[kind]
        yield FoundModel(role, folder.name, folder, probe)


def _embedders(roots: Sequence[Path]) -> Iterator[FoundModel]:
    """DINOs, single files of a CLIP's vision tower, and classifiers that people take for DINOs."""
    for name, folder in places.transformers_folders(roots, places.DINOS).items():
        kind = places.kind_of_model(folder) or ""
        role = "DINO" if kind == "vit" else "DINOv3" if kind.startswith("dinov3") else "DINOv2"
        yield FoundModel(role, name, folder, probes.embedder)
    for name, folder in places.transformers_folders(roots, (CLASSIFIER,)).items():
        yield FoundModel("DINO", name, folder, wrong="this ViT was trained to predict labels and is no DINO: not used")
    for root in roots:
        for file in sorted(root.rglob("*.safetensors")):
            if not (file.parent / "config.json").is_file():
                yield FoundModel("CLIP vision tower", file.relative_to(root).as_posix(), file, probes.embedder)


def _unreadable(roots: Sequence[Path], known: set[Path]) -> Iterator[FoundModel]:
    """Folders that hold weights in transformers' layout whose config.json is missing or damaged."""
    for root in roots:
        for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
            weights = [file.name for file in folder.iterdir() if file.suffix in WEIGHT_ENDINGS and file.is_file()]
            named = [name for name in weights if name.startswith(("model", "pytorch_model"))]
            if named and folder not in known and not kind_of(folder):
                text = f"holds {named[0]}, but no config.json that can be read: fetch its files again"
                yield FoundModel("unknown", f"{root.name}/{folder.name}", folder, wrong=text)


def missing_models(found: Sequence[FoundModel]) -> list[tuple[str, str]]:
    """The roles that no model of a person has, each with what brings it."""
    there = {model.role for model in found if not model.pocket}
    there |= {"Florence-2"} if "Florence-2 captions" in there else set()
    return [(role, brings(source)) for role, source in SOURCES.items() if role not in there]


def brings(source: str) -> str:
    """What a person does to have a model."""
    if source in FETCHABLE_MODELS:
        about = FETCHABLE_MODELS[source]
        return f"run the node Fetch Model with {source}, which puts it into models/{about.kind} ({about.use})"
    return places.INSTRUCTIONS.get(source, source).format(name="1 - cosine of another model")
