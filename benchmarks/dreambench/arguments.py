"""The command line. It needs no library, so that a wrong path is refused before anything is installed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

PROMPTS, COUNT = 25, 4  # of each subject, and pictures of each prompt (Ruiz et al. 2023)
# What --quick changes where nothing else is given: a small share, to see the signs.
QUICK = {"subjects": 3, "prompts": 5, "count": 2, "priors": 50, "refine": "steps=20"}
OPTIONS = {"subjects": 0, "prompts": PROMPTS, "count": COUNT, "priors": 100, "refine": ""}
NOT_FORWARDED = ("comfyui", "command", "action")


def absolute(text: str) -> Path:
    return Path(text).expanduser().absolute()


def whole(least: int):
    """The type of a whole number that is not below `least`."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is too few; choose {least} or more")
        return value

    number.__name__ = "number"
    return number


def guidance(text: str) -> float:
    """A strength of classifier-free guidance."""
    value = float(text)
    if not 1 <= value <= 30:
        raise argparse.ArgumentTypeError(f"{text} is no guidance; choose 1 (none) to 30")
    return value


def seed_list(text: str) -> tuple[int, ...]:
    """Seeds separated by commas, each once."""
    try:
        seeds = tuple(dict.fromkeys(int(part) for part in text.split(",") if part.strip()))
    except ValueError:
        seeds = ()
    if not seeds or min(seeds) < 0 or max(seeds) >= 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} are no seeds; write whole numbers separated by commas, such as 0,1")
    return seeds


def parser(prog: str, parents: Sequence[argparse.ArgumentParser] = ()) -> argparse.ArgumentParser:
    """All options; those of `OPTIONS` are None until `parse` fills them in."""
    found = argparse.ArgumentParser(
        prog=prog,
        parents=list(parents),
        allow_abbrev=False,
        description="DreamBench on your own checkpoint: plain LoRA DreamBooth, Train Subject without settings, and "
        "Refine LoRA over that, on the same prompts and seeds; ends with a page to share and its numbers as JSON. "
        "Nothing is downloaded. It can be cut anywhere: the same command goes on.",
    )
    need = found.add_argument_group("needed")
    need.add_argument("--base", type=absolute, required=True, metavar="FILE", help="a checkpoint or diffusers folder")
    need.add_argument(
        "--pictures", type=absolute, required=True, metavar="FOLDER",
        help="a folder that holds a folder of pictures for each subject, and what each is: DreamBench's "
        "prompts_and_classes.txt, a .csv with the header subject_name,class, or beside the folder rex a rex.txt: dog",
    )  # fmt: skip
    _add_shares(found.add_argument_group("how much of it"))
    _add_models(found.add_argument_group("which models measure (default: those in ComfyUI's models folder)"))
    return found


def _add_shares(group) -> None:
    group.add_argument("--quick", action="store_true", help="a small share, for the signs: 3 subjects, 5 prompts, ...")
    group.add_argument("--subjects", type=whole(1), metavar="N", help="N of the subjects, evenly spread (all)")
    group.add_argument("--prompts", type=whole(1), metavar="N", help=f"N of the prompts, evenly spread ({PROMPTS})")
    group.add_argument("--count", type=whole(1), metavar="N", help=f"pictures of each prompt ({COUNT})")
    group.add_argument("--seeds", type=seed_list, default=(0,), metavar="N,N", help="seeds of the trainings (0)")
    group.add_argument("--priors", type=whole(1), metavar="N", help="prior pictures of each class (100)")
    group.add_argument(
        "--steps", type=whole(1), default=0, metavar="N", help="steps of both trainings (800 plain; ours chooses)"
    )
    group.add_argument(
        "--refine", metavar="NAME=VALUE,...", help="other Refinement Settings than the defaults, such as steps=20"
    )
    group.add_argument("--sampling-steps", type=whole(2), default=50, metavar="N", help="of each picture (50)")
    group.add_argument("--guidance", type=guidance, default=7.5, metavar="NUMBER", help="of each picture (7.5)")
    group.add_argument("--size", type=whole(0), default=0, metavar="N", help="pixels of a side (the base's own)")
    group.add_argument("--identifier", default="sks", metavar="WORD", help="the rare word (sks)")
    group.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"))
    group.add_argument("--out", type=absolute, metavar="FOLDER", help="where all of it is kept (output/dreambench)")


def _add_models(group) -> None:
    group.add_argument(
        "--models", type=absolute, action="append", metavar="FOLDER", help="a models folder; may be given several times"
    )
    group.add_argument("--clip", type=absolute, metavar="FOLDER", help="the CLIP of CLIP-T and CLIP-I")
    group.add_argument(
        "--training-clip", type=absolute, metavar="FOLDER",
        help="the CLIP that chooses Train Subject's step and rewards Refine LoRA; another than the one that measures, "
        "where there are two",
    )  # fmt: skip
    group.add_argument("--dino", type=absolute, metavar="FOLDER", help="the DINO; papers' is facebook/dino-vits16")


def parse(found: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """The options, with `--quick` filled in where nothing else was given. Paths that are not there are refused."""
    chosen = found.parse_args(arguments)
    for name, usual in OPTIONS.items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, QUICK[name] if chosen.quick else usual)
    if not chosen.base.exists():
        found.error(f"--base is {chosen.base}, and there is no such file")
    for name in ("pictures", "clip", "training_clip", "dino"):
        folder = getattr(chosen, name)
        if folder is not None and not folder.is_dir():
            found.error(f"--{name.replace('_', '-')} is {folder}, which is no folder")
    for folder in chosen.models or ():
        if not folder.is_dir():
            found.error(f"--models is {folder}, which is no folder; give the one that holds clip_vision and rewards")
    if chosen.prompts > PROMPTS:
        found.error(f"--prompts is {chosen.prompts}; DreamBench has {PROMPTS} for each subject")
    return chosen


def command_line(chosen: argparse.Namespace) -> list[str]:
    """The same options as words for another process; what is left out is what that takes by itself."""
    words: list[str] = []
    for name, value in vars(chosen).items():
        if name in NOT_FORWARDED or not value:
            continue
        option = f"--{name.replace('_', '-')}"
        if name == "seeds":
            value = ",".join(map(str, value))
        for one in value if isinstance(value, list) else [value]:
            words += [option] if one is True else [option, str(one)]
    return words
