"""The package as it is declared and as it would be published."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import comfyui_fewshot.models
from comfyui_fewshot import benchmarks
from comfyui_fewshot.benchmarks.harness.rows import BenchmarkRow, format_table, write_rows
from comfyui_fewshot.benchmarks.harness.statistics import median_interval

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(comfyui_fewshot.models.__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FORBIDDEN_IMPORTS = {"subprocess", "pickle", "cPickle", "dill", "marshal", "ctypes", "pty", "shlex", "socket"}
FORBIDDEN_NAMES = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_OS = {"system", "popen", "putenv", "unsetenv", "execv", "execve", "spawnv", "fork", "startfile"}


def git_files(*options: str) -> set[str]:
    command = ["git", "-c", "safe.directory=*", "ls-files", *options]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(listed.stdout.splitlines())


def published() -> list[Path]:
    """What the registry would receive: the repository's files without those of .comfyignore."""
    every = git_files("--cached", "--others", "--exclude-standard")
    left_out = git_files("--cached", "--others", "--ignored", "--exclude-from=.comfyignore")
    return sorted(ROOT / name for name in every - left_out if (ROOT / name).is_file())


def test_requirements_equal_dependencies():
    lines = [line.strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    assert [line for line in lines if line and not line.startswith("#")] == PROJECT["project"]["dependencies"]


def test_torch_is_never_required():
    names = {requirement.split(">=")[0] for requirement in PROJECT["project"]["dependencies"]}
    assert not names & {"torch", "torchvision", "torchaudio", "comfyui"}


def test_every_package_is_declared():
    found = {folder.parent for folder in ROOT.glob("*/**/__init__.py")}
    skipped = {"tests", "build", "dist", "output"}
    names = {
        ".".join(("comfyui_fewshot", *folder.relative_to(ROOT).parts))
        for folder in found
        if not folder.relative_to(ROOT).parts[0].startswith(".") and folder.relative_to(ROOT).parts[0] not in skipped
    }
    assert names | {"comfyui_fewshot"} == set(PROJECT["tool"]["setuptools"]["packages"])


def test_the_registry_finds_what_it_needs():
    comfy = PROJECT["tool"]["comfy"]
    assert comfy["PublisherId"] and comfy["DisplayName"]
    assert PROJECT["project"]["urls"]["Repository"].startswith("https://")
    assert "web" not in comfy, "WEB_DIRECTORY serves the scripts already; twice would register them twice"


def test_published_pack_is_complete_and_leaves_the_rest_out():
    names = {file.relative_to(ROOT).as_posix() for file in published()}
    assert {"pyproject.toml", "requirements.txt", "LICENSE", "CHANGELOG.md", "core/values.py"} <= names
    first = {name.split("/")[0] for name in names}
    assert not first & {"run.py", "tools", "tests", "benchmarks", "docs", ".ci"}
    assert not any(name.startswith("pocket/weights") for name in names)


@pytest.mark.parametrize("part", ["run.py", "tools/job.py", "tests/test_run.py", "benchmarks/import_.py", ".ci/run"])
def test_what_starts_programs_is_left_out(part):
    assert part in git_files("--cached", "--others", "--ignored", "--exclude-from=.comfyignore")


def complaints(tree: ast.AST) -> list[str]:
    """What the registry's scanner would refuse, and what the house forbids: programs, code from text, pickles."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.split(".")[0] in FORBIDDEN_IMPORTS]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found += [node.module] if (node.module or "").split(".")[0] in FORBIDDEN_IMPORTS else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_NAMES:
            found.append(node.func.id + "()")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            found += _forbidden_call(node, node.func)
        elif isinstance(node, (ast.Assign, ast.AugAssign, ast.Delete)):
            targets = node.targets if isinstance(node, (ast.Assign, ast.Delete)) else [node.target]
            found += ["os.environ changed" for t in targets if isinstance(t, ast.Subscript) and _is_environ(t.value)]
    return found


def _forbidden_call(node: ast.Call, function: ast.Attribute) -> list[str]:
    owner = function.value.id if isinstance(function.value, ast.Name) else ""
    if owner == "os" and function.attr in FORBIDDEN_OS:
        return [f"os.{function.attr}()"]
    if _is_environ(function.value) and function.attr in ("update", "setdefault", "pop", "clear"):
        return ["os.environ changed"]
    if owner == "torch" and function.attr == "load":
        return (
            []
            if any(ast.unparse(k) == "weights_only=True" for k in node.keywords)
            else ["torch.load() without weights_only=True"]
        )
    return []


def _is_environ(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "environ"


def test_published_pack_starts_no_programs_and_runs_no_text():
    found = {}
    for file in published():
        if file.suffix == ".py":
            wrong = complaints(ast.parse(file.read_text(encoding="utf-8"), str(file)))
            if wrong:
                found[file.relative_to(ROOT).as_posix()] = wrong
    assert not found


@pytest.mark.parametrize(
    "code",
    [
        "import subprocess",
        "from subprocess import run",
        "import pickle as p",
        "eval('1')",
        "exec(x)",
        "import os\nos.system('ls')",
        "import os\nos.environ['A'] = '1'",
        "import os\nos.environ.setdefault('A', '1')",
        "import torch\ntorch.load(f)",
        "import torch\ntorch.load(f, weights_only=False)",
    ],
)
def test_the_scan_finds_what_it_looks_for(code):
    assert complaints(ast.parse(code))


def test_the_scan_lets_ordinary_code_pass():
    code = "import os, torch\nmodel.eval()\nos.environ.get('A')\ntorch.load(f, weights_only=True)\nfrom . import socket"
    assert not complaints(ast.parse(code))


def test_package_data_is_declared_for_every_folder_of_data():
    globs = PROJECT["tool"]["setuptools"]["package-data"]["comfyui_fewshot"]
    for folder in ("models/stable_diffusion/stock", "pocket/weights", "web", "locales", "workflows"):
        assert f"{folder}/**/*" in globs


# --------------------------------------------------------------------------------------------------------- benches


def test_benches_are_found_by_their_files():
    assert "import" in benchmarks.names()
    with pytest.raises(ValueError, match="import"):
        benchmarks.measure("imports", quick=True)


def test_rows_are_written_as_the_issues_ask(tmp_path):
    row = BenchmarkRow("a.b", 0.25, "s", "lower", 0.3, (0.2, 0.3), 5)
    write_rows([row, BenchmarkRow("c", 2, "nodes", "higher", note="odd")], tmp_path / "new" / "rows.json")
    first, second = json.loads((tmp_path / "new" / "rows.json").read_text())
    assert list(first) == ["name", "value", "unit", "better", "goal", "interval", "n"]
    assert first["interval"] == [0.2, 0.3] and second["interval"] is None and second["note"] == "odd"
    assert "not met" not in format_table([row])


def test_a_goal_is_met_in_its_direction():
    assert BenchmarkRow("a", 1, "s", "lower", 2).met is True
    assert BenchmarkRow("a", 1, "%", "higher", 2).met is False
    assert BenchmarkRow("a", 1, "%", "higher").met is None


def test_a_gain_must_be_sure():
    """15 points asked: reached with an interval above zero; not lower by 8: reached by the interval's lower end."""
    sure, unsure = (5.0, 30.0), (-1.0, 40.0)
    assert BenchmarkRow("a", 16, "points", "higher", 15, sure).met is True
    assert BenchmarkRow("a", 16, "points", "higher", 15, unsure).met is False
    assert BenchmarkRow("a", 14, "points", "higher", 15, sure).met is False
    assert BenchmarkRow("a", -3, "points", "higher", -8, (-7.0, 2.0)).met is True
    assert BenchmarkRow("a", 3, "points", "higher", -8, (-9.0, 15.0)).met is False


def test_the_medians_interval_holds_the_median():
    low, high = median_interval([0.1, 0.2, 0.2, 0.3, 0.25])
    assert 0.1 <= low <= 0.2 <= high <= 0.3
