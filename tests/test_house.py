"""The rules of the house: floors, circles, sizes, names."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
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
# What only a model's own room may know.
FAMILY = re.compile(
    r"unet|attn_?[12](?!\d)|(?-i:CLIPText)|AutoencoderKL|sdxl|(?<![a-z\d])sd_?(1|1_?5|2|2_?1|20)(?!\d)|alphas_cumprod"
    r"|time_ids|block_out_channels|addition_embed|text_time|cross_attention_dim|(?P<text>max_position_embeddings)",
    re.IGNORECASE,
)
FAMILY_ROOMS = ("models/stable_diffusion/", "models/hosted/", "nodes/comfy/", "pocket/")
PUBLIC_NAMES = "models/public_names.py"  # keys and names of saved things, which must stay


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


@cache
def bound_names(path: str) -> set[str]:
    """What stands in a module under a name of its own."""
    tree = modules()[path]
    found = {node.name for node in ast.walk(tree) if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    found |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    imports = (node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom)))
    return found | {alias.asname or alias.name.split(".")[0] for node in imports for alias in node.names}


def test_what_is_imported_is_there():
    """Within functions too, which no type checker sees where a module needs ComfyUI."""
    wrong = []
    for path, tree in modules().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            base = Path(path).parents[node.level - 1] / (node.module or "").replace(".", "/")
            file = next((f for f in (f"{base}.py", f"{base}/__init__.py") if (ROOT / f).is_file()), None)
            names = bound_names(file) if file in modules() else set()
            for name in (alias.name for alias in node.names):
                if (
                    name not in names
                    and not (ROOT / base / f"{name}.py").is_file()
                    and not (ROOT / base / name).is_dir()
                ):
                    wrong.append(f"{path}:{node.lineno} {name}")
    assert not wrong


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


def code_words(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The line and text of each name in a module's code, and of each string that is no prose.

    Prose is what people read: docstrings, and strings with a space in them, such as help and errors. It may name a
    model for its readers' sake ("1e-4 for SD 1.x and SDXL").
    """
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        for name in ("id", "attr", "name", "asname", "arg", "module"):
            if isinstance(word := getattr(node, name, None), str):
                yield line, word
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            if " " not in node.value:
                yield line, node.value


def test_code_is_told_from_prose():
    code = 'def f(unet, size=1):\n    """A UNet."""\n    g(unet.time_ids, "attn2.to_k", help="for SDXL and others")\n'
    found = [(line, word) for line, word in code_words(ast.parse(code)) if FAMILY.search(word)]
    assert sorted(found) == [(1, "unet"), (3, "attn2.to_k"), (3, "time_ids"), (3, "unet")]


def words_of_one_family() -> dict[str, int]:
    """Lines of code with a word of one family, by module, outside of the rooms that know one."""

    def is_one(path: str, word: str) -> bool:
        found = FAMILY.search(word)  # the helper models of vision/ are of transformers, whose configs have this field
        return bool(found) and not (path.startswith("vision/") and found["text"])

    found = {
        path: len({line for line, word in code_words(tree) if is_one(path, word)})
        for path, tree in modules().items()
        if not path.startswith(FAMILY_ROOMS) and path != PUBLIC_NAMES
    }
    return {path: n for path, n in found.items() if n}


RULES = {
    "modules": too_many_modules, "lines": too_long, "parameters": too_many_parameters, "family": words_of_one_family,
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_nothing_is_larger_than_the_rule(rule):
    assert not RULES[rule]()


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


READERS = {
    "search", "match", "fullmatch", "findall", "finditer", "split", "partition", "rpartition", "startswith", "endswith",
    "removeprefix", "removesuffix", "index", "find",
}  # fmt: skip


def progress_classes() -> list[tuple[str, ast.ClassDef]]:
    """Classes that are told of progress."""
    return [
        (path, node) for path, tree in modules().items() for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and {"check", "report"} <= {f.name for f in node.body if isinstance(f, ast.FunctionDef)}
    ]  # fmt: skip


def test_no_code_reads_what_people_are_told():
    """Progress carries numbers as metrics: who is told of it shows its text, and takes nothing out of it."""
    assert len(progress_classes()) >= 5
    reading = [
        f"{path}:{call.lineno}" for path, node in progress_classes() for call in ast.walk(node)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in READERS
        and any(isinstance(part, ast.Name) and part.id == "text" for part in (call.func.value, *call.args))
    ]  # fmt: skip
    assert not reading


# Words that once stood for many things; the field's are in docs/glossary.md.
DIALECT = {
    "told", "picks", "grounds", "halves", "asked", "said", "eyes", "seer", "looks", "awake", "furthest", "watcher",
    "networks",
}  # fmt: skip


def identifiers(tree: ast.Module) -> set[tuple[str, int]]:
    """Names that a module gives to variables, parameters, attributes, functions and fields, with their lines."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add((node.id, node.lineno))
        elif isinstance(node, ast.arg):
            found.add((node.arg, node.lineno))
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add((node.attr, node.lineno))
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.add((node.name, node.lineno))
    return found


def test_no_word_of_the_old_dialect_is_a_name():
    assert ("told", 1) in identifiers(ast.parse("self.told = 1"))
    assert not [
        f"{path}:{line} {n}" for path, tree in modules().items() for n, line in identifiers(tree) if n in DIALECT
    ]
