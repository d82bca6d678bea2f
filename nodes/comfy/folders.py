"""ComfyUI's folders: where models, inputs and outputs lie, and the names of new files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ...core.atomic import link_or_copy
from ...core.errors import FewShotError
from ...vision import places
from .host import TOKENIZER, folder_paths

# the small base model that comes with the project's source
POCKET = Path(__file__).parent.parent.parent / "pocket" / "weights"
# characters and bytes; leave room for a word, a counter and a suffix in any file system
NAME_LENGTH, NAME_BYTES = 80, 200
RESERVED = {"con", "prn", "aux", "nul", *(f"{device}{n}" for device in ("com", "lpt") for n in range(1, 10))}


def register_folders() -> None:
    """Makes trained embeddings selectable at once; ComfyUI lists output/loras by itself."""
    folder_paths.add_model_folder_path("embeddings", str(output_folder("embeddings")))


def output_folder(*parts: str) -> Path:
    return Path(folder_paths.get_output_directory(), *parts)


def runs_folder() -> Path:
    return output_folder("fewshot")


def priors_folder() -> Path:
    return output_folder("fewshot", "priors")


def sent_pictures_folder() -> Path:
    """Stores pictures that came over a socket, by the hash of their pixels."""
    return output_folder("fewshot", "pictures")


def answers_folder() -> Path:
    """The cache of answers of segmenters, captioners and language models, by their inputs."""
    return output_folder("fewshot", "answers")


def embedding_folders() -> list[str]:
    return folder_paths.get_folder_paths("embeddings")


def prompt_files() -> dict[str, Any]:
    """What prompts are read with, as arguments: CLIP's vocabulary, and where the embeddings lie that they name."""
    return {"tokenizer_folder": TOKENIZER, "embedding_folders": tuple(map(Path, embedding_folders()))}


def has_pocket() -> bool:
    return (POCKET / "model_index.json").is_file()


def checkpoints() -> list[str]:
    return [name for name in folder_paths.get_filename_list("checkpoints") if name.endswith((".safetensors", ".ckpt"))]


def loras() -> list[str]:
    return safe_names("loras")


def safe_names(kind: str) -> list[str]:
    """Files of ComfyUI's list `kind` in a form that no code can hide in."""
    return [name for name in folder_paths.get_filename_list(kind) if name.endswith(".safetensors")]


def embeddings() -> list[str]:
    return safe_names("embeddings")


def keep_checkpoint(file: Path, name: str) -> Path:
    """Lists a trained base among ComfyUI's checkpoints: output/checkpoints/<name>, linked where the disk can link."""
    return link_or_copy(file, output_folder("checkpoints") / name)


def diffusers_folders() -> list[str]:
    """Folders under models/diffusers with a model_index.json, by their relative names."""
    found = set()
    for root in folder_paths.get_folder_paths("diffusers"):
        for folder, _, files in os.walk(root, followlinks=True):
            if "model_index.json" in files:
                found.add(os.path.relpath(folder, root).replace(os.sep, "/"))
    return sorted(found)


def transformers_folders(kinds: Collection[str]) -> list[str]:
    """Folders of transformers under models/clip_vision whose config.json names one of `kinds`, by their names."""
    return list(places.transformers_folders(map(Path, folder_paths.get_folder_paths("clip_vision")), kinds))


def vision_files() -> list[str]:
    """Single .safetensors files under models/clip_vision, as ComfyUI lists them; those in folders of transformers are
    no such files."""
    names = [name for name in folder_paths.get_filename_list("clip_vision") if name.endswith(".safetensors")]
    return [name for name in names if not (listed_file("clip_vision", name).parent / "config.json").is_file()]


def seeing_model(name: str) -> Path:
    """The folder or the single file `name` under models/clip_vision."""
    return listed_file("clip_vision", name) if name.endswith(".safetensors") else transformers_folder(name)


def transformers_folder(name: str) -> Path:
    """The folder `name` under models/clip_vision."""
    for root in map(Path, folder_paths.get_folder_paths("clip_vision")):
        path = root / name
        if (path / "config.json").is_file() and contained(root, path):
            return path
    roots = ", ".join(folder_paths.get_folder_paths("clip_vision"))
    raise FewShotError(f"no folder {name!r} with a config.json in {roots}: put the model's files there and press R")


def picture_folders() -> list[str]:
    return folder_paths.get_input_subfolders()


def listed_file(kind: str, name: str) -> Path:
    """The file `name` of ComfyUI's list `kind` ("checkpoints", "loras"), which must lie under one of its folders."""
    for root in folder_paths.get_folder_paths(kind):
        path = Path(root, name)
        if path.is_file() and contained(Path(root), path):
            return path
    roots = ", ".join(folder_paths.get_folder_paths(kind))
    raise FewShotError(f"no file {name!r} among the {kind}: put it into one of {roots} and press R to refresh")


def diffusers_folder(name: str) -> Path:
    for root in folder_paths.get_folder_paths("diffusers"):
        path = Path(root, name)
        if (path / "model_index.json").is_file() and contained(Path(root), path):
            return path
    roots = ", ".join(folder_paths.get_folder_paths("diffusers"))
    raise FewShotError(f"no diffusers model {name!r} (a folder with model_index.json) in {roots}")


def model_roots(*kinds: str) -> list[Path]:
    """The folders of ComfyUI's lists `kinds`, and models/KIND also where ComfyUI has no such list."""
    found = [Path(folder_paths.models_dir, kind) for kind in kinds]
    for kind in kinds:
        if kind in folder_paths.folder_names_and_paths:
            found += [Path(root) for root in folder_paths.get_folder_paths(kind)]
    return [root for root in dict.fromkeys(found) if root.is_dir()]


def models_folder(kind: str) -> Path:
    """Where a new model of `kind` belongs: the first folder of ComfyUI's list of that name, else models/KIND."""
    listed = folder_paths.get_folder_paths(kind) if kind in folder_paths.folder_names_and_paths else []
    return Path(listed[0]) if listed else Path(folder_paths.models_dir, kind)


def galleries() -> list[str]:
    """Folders that may hold generated pictures: ComfyUI's output and input folder, and what lies directly in them."""
    found = []
    for name, root in _gallery_roots().items():
        children = sorted(c.name for c in root.iterdir() if c.is_dir()) if root.is_dir() else []
        found += [name, *(f"{name}/{child}" for child in children if not child.startswith(".") and child != "fewshot")]
    return found


def gallery(name: str) -> Path:
    """The folder that `galleries` lists as `name`, which must lie under ComfyUI's output or input folder."""
    first, _, rest = name.partition("/")
    root = _gallery_roots().get(first)
    path = root / rest if root is not None else None
    if root is None or path is None or not path.resolve().is_relative_to(root.resolve()) or not path.is_dir():
        raise FewShotError(f"no folder {name!r} in ComfyUI's output or input folder: choose one and press R to refresh")
    return path


def _gallery_roots() -> dict[str, Path]:
    return {"output": output_folder(), "input": Path(folder_paths.get_input_directory())}


def gallery_index(folder: Path) -> Path:
    """The file of the index of the pictures in `folder`."""
    return output_folder(
        "fewshot", "galleries", hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24] + ".sqlite"
    )


def picture_folder(name: str) -> Path:
    root = Path(folder_paths.get_input_directory())
    path = root / name
    if not name or not path.resolve().is_relative_to(root.resolve()) or not path.is_dir():
        raise FewShotError(f"no folder {name!r} in {root}: make one there with your pictures and press R to refresh")
    return path


def text_files() -> list[str]:
    """The .txt files that lie directly in ComfyUI's input folder."""
    root = Path(folder_paths.get_input_directory())
    return sorted(path.name for path in root.glob("*.*") if path.suffix.lower() == ".txt" and path.is_file())


def text_file(name: str) -> Path:
    """The text file `name` in ComfyUI's input folder."""
    root = Path(folder_paths.get_input_directory())
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()) or path.suffix.lower() != ".txt" or not path.is_file():
        raise FewShotError(f"no text file {name!r} in {root}: put it there, a prompt a line, and press R to refresh")
    return path


def evaluations_folder() -> Path:
    return output_folder("fewshot", "evaluations")


def samples_folder() -> Path:
    """The cache of evaluations' samples, by content key."""
    return output_folder("fewshot", "samples")


def contained(root: Path, path: Path) -> bool:
    """Whether `path` lies under `root`: a name may not lead out of it, neither by `..` nor by being absolute.

    Links inside a folder of models are followed on purpose: people keep their models on other disks.
    """
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root))


def checked_name(name: str) -> str:
    """A file name given by a person, without folder and suffix. Raises FewShotError for anything that is not one."""
    name = name.strip()
    if not name:
        raise FewShotError("the name is empty: give the file a name, for example my_subject")
    if "/" in name or "\\" in name or ".." in name:
        raise FewShotError(f"the name {name!r} holds a path: give a plain name without '/', '\\' and '..'")
    if bad := sorted(set(re.findall(r"[\x00-\x1f<>:\"|?*%]", name))):
        raise FewShotError(
            f"the name {name!r} holds {' '.join(map(repr, bad))}, which no file name may hold: leave it out"
        )
    if name.startswith(".") or name.endswith(".") or name.split(".")[0].lower() in RESERVED:
        raise FewShotError(f"{name!r} cannot be a file name on every system: choose another")
    if len(name) > NAME_LENGTH or len(name.encode()) > NAME_BYTES:
        raise FewShotError(
            f"the name has {len(name)} characters, which take {len(name.encode())} bytes in a file system: use at most "
            f"{NAME_LENGTH} characters and {NAME_BYTES} bytes (one of Chinese or Japanese takes three)"
        )
    return name


def free_path(folder: Path, name: str, suffix: str) -> Path:
    """`folder/name_00001.suffix` with the first number that comes after all that were ever used there."""
    pattern = re.compile(re.escape(name) + r"_(\d{5,})(\D.*)?$")
    numbers = [int(found[1]) for path in folder.glob("*") if (found := pattern.match(path.name))]
    return folder / f"{name}_{max(numbers, default=0) + 1:05d}{suffix}"


def folder_print(folder: Path) -> str:
    """Changes whenever a file in `folder`, or up to two folders deeper, is added, removed or written, or a table of
    captions beside it."""
    from ...augmentation.folder.captions import ABOVE

    entries, above = [], [folder.parent / name for name in ABOVE]
    for path in sorted([*folder.glob("*"), *folder.glob("*/*"), *folder.glob("*/*/*"), *above]):
        if path.is_file():
            state = path.stat()
            entries.append(f"{path.relative_to(folder.parent).as_posix()}:{state.st_size}:{state.st_mtime_ns}")
    return "\n".join(entries)
