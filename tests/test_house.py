"""The rules of the house: floors, circles, sizes, names.

Where the tree is not yet as a rule asks, the places that are left stand in LEFT, each with its number: a place that is
mended leaves the list, and none may join it.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import pytest

import comfyui_fewshot.models

ROOT = Path(comfyui_fewshot.models.__file__).parent.parent
FLOORS = {
    "core": 0, "models": 1, "vision": 1, "augmentation": 2, "evaluation": 2, "trainers": 3, "nodes": 4, "pocket": 5,
    "tools": 6, "benchmarks": 6,
}  # fmt: skip
MODULES, LINES, FUNCTION, PARAMETERS = 12, 350, 60, 6
# What only a model's own room may know; names in files and keys of saved things are read there too.
FAMILY = re.compile(r"unet|attn[12]\b|CLIPText|sdxl|alphas_cumprod|time_ids|block_out_channels")
FAMILY_ROOMS = ("models/stable_diffusion/", "models/hosted/", "nodes/comfy/", "pocket/")
LEFT = {
    "modules": {"models/stable_diffusion": 14},
    "lines": {
        "core/settings.py": 475, "trainers/loop.py": 400, "trainers/run.py": 387, "trainers/subject/method.py": 355,
    },
    "parameters": {
        "core/settings.py setting": 9, "models/open.py _assemble_all": 8, "models/sampling.py _check": 7,
        "models/sampling.py sample": 11, "models/sampling.py sample_latents": 11,
        "trainers/data/encoded_set.py build_pool": 7, "trainers/loop.py train": 7,
        "trainers/plan/dry_run.py plan_training": 9, "trainers/refine/guards.py __init__": 9,
        "trainers/refine/method.py _guard": 7, "trainers/refine/method.py refine_adapter": 13,
        "trainers/refine/readings.py __init__": 9, "trainers/refine/rollout.py __init__": 10,
        "trainers/refine/step.py __init__": 8, "trainers/relation/gain.py __init__": 7,
        "trainers/relation/method.py __init__": 8, "trainers/relation/method.py train_relation": 10,
        "trainers/run.py train_with": 12, "trainers/subject/method.py train_subject": 11,
        "trainers/validation/image_metrics.py __init__": 7,
    },
    "family": {
        "augmentation/gallery/metadata.py": 1, "benchmarks/augment/captions.py": 1, "core/settings.py": 1,
        "core/values.py": 1, "models/adapters/formats.py": 4, "models/adapters/gram.py": 2,
        "models/adapters/metadata.py": 1, "models/adapters/token_files.py": 1, "models/export.py": 8,
        "models/open.py": 3, "nodes/files/adapters.py": 1,
        "trainers/auto/fit.py": 1, "trainers/auto/inputs.py": 3, "trainers/auto/rules.py": 4,
        "trainers/auto/unet_costs.py": 7, "trainers/refine/settings.py": 1,
        "trainers/relation/settings.py": 1, "trainers/save.py": 3,
    },
}  # fmt: skip


@cache
def modules() -> dict[str, ast.Module]:
    """The parsed modules of all rooms, by their path from the root."""
    paths = (path for room in FLOORS for path in sorted((ROOT / room).rglob("*.py")))
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def source(path: str) -> list[str]:
    return (ROOT / path).read_text(encoding="utf-8").splitlines()


def imports_of(path: str, tree: ast.Module) -> set[str]:
    """The modules of the package that a module imports when it is loaded, those for type checkers too."""
    inside = {
        node for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)) for node in ast.walk(f)
    }
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level or node in inside:
            continue
        folder = Path(path).parent
        for _ in range(node.level - 1):
            folder = folder.parent
        base = (folder / (node.module or "").replace(".", "/")).as_posix()
        names = [f"{base}/{alias.name}.py" for alias in node.names]
        found |= {name for name in names if name in modules()} or {f"{base}.py", f"{base}/__init__.py"} & set(modules())
    return found - {path}


@cache
def arrows() -> dict[str, set[str]]:
    return {path: imports_of(path, tree) for path, tree in modules().items()}


def test_the_imports_are_seen():
    assert sum(map(len, arrows().values())) > 500 and "core/errors.py" in arrows()["models/process.py"]


def test_no_arrow_goes_up():
    def floor(path: str) -> int:
        return FLOORS[path.split("/")[0]]

    def room(path: str) -> str:
        return path.split("/")[0]

    wrong = [
        (path, target) for path, targets in arrows().items() for target in targets
        if floor(target) > floor(path) or (floor(target) == floor(path) and room(target) != room(path))
    ]  # fmt: skip
    assert not wrong


def test_no_import_goes_round():
    done, circles = set(), []

    def visit(path: str, way: tuple[str, ...]) -> None:
        if path in way:
            circles.append((*way[way.index(path) :], path))
        elif path not in done:
            for target in arrows()[path]:
                visit(target, (*way, path))
            done.add(path)

    for path in arrows():
        visit(path, ())
    assert not circles


def functions() -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [(path, node) for path, tree in modules().items() for node in ast.walk(tree) if isinstance(node, kinds)]


def too_many_modules() -> dict[str, int]:
    tests = (path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py"))
    paths = [path for path in (*modules(), *tests) if not path.endswith("__init__.py")]
    return {folder: n for folder, n in Counter(path.rpartition("/")[0] for path in paths).items() if n > MODULES}


def too_long() -> dict[str, int]:
    return {path: n for path in modules() if (n := len(source(path))) > LINES}


def too_many_parameters() -> dict[str, int]:
    found = {}
    for path, node in functions():
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        count = len([name for name in names if name not in ("self", "cls")])
        if count > PARAMETERS and node.name not in ("execute", "define_schema"):
            found[f"{path} {node.name}"] = count
    return found


def words_of_one_family() -> dict[str, int]:
    found = {path: sum(bool(FAMILY.search(line)) for line in source(path)) for path in modules()}
    return {path: n for path, n in found.items() if n and not path.startswith(FAMILY_ROOMS)}


RULES = {
    "modules": too_many_modules, "lines": too_long, "parameters": too_many_parameters, "family": words_of_one_family,
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_nothing_is_larger_than_the_rule_but_what_is_left(rule):
    found, left = RULES[rule](), LEFT[rule]
    assert not {place: n for place, n in found.items() if n > left.get(place, 0)}, "new, or larger than before"
    assert not {place: n for place, n in left.items() if found.get(place, 0) < n}, "mended: correct LEFT"


def test_a_function_fits_a_screen():
    long = {f"{path} {f.name}": f.end_lineno - f.lineno + 1 for path, f in functions() if f.name != "define_schema"}
    assert not {name: n for name, n in long.items() if n > FUNCTION}


def test_a_class_name_stands_for_one_class():
    places = defaultdict(list)
    for path, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(path)
    assert not {name: where for name, where in places.items() if len(where) > 1}
