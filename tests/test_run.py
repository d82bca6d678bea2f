"""run.py and what it is made of: no network, no installs."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from comfyui_fewshot import tools
from comfyui_fewshot.tools import demo, environment, publishing, testing
from comfyui_fewshot.tools.console import Stop

ROOT = Path(tools.__file__).parent.parent


@pytest.fixture
def run(monkeypatch):
    """run.py as a module, without the repository's root on sys.path."""
    monkeypatch.setitem(sys.modules, "tools", tools)
    for name in ("comfyui", "demo", "publishing", "testing", "environment", "console", "server"):
        monkeypatch.setitem(sys.modules, f"tools.{name}", importlib.import_module(f"comfyui_fewshot.tools.{name}"))
    for name in ("benchmarks", "benchmarks.dreambench", "benchmarks.dreambench.arguments"):
        monkeypatch.setitem(sys.modules, name, importlib.import_module(f"comfyui_fewshot.{name}"))
    spec = importlib.util.spec_from_file_location("fewshot_run", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -------------------------------------------------------------------------------------------------- command line


def test_help_names_every_command():
    shown = subprocess.run([sys.executable, str(ROOT / "run.py"), "--help"], capture_output=True, text=True)
    assert shown.returncode == 0
    assert all(word in shown.stdout for word in ("demo", "test", "comfy", "bench", "check-publish"))


def test_demo_takes_a_persons_own_job(run):
    chosen = run.parse("demo --base m.safetensors --pictures p --identifier zwx --noun dog --comfyui c".split())
    assert (chosen.base, chosen.pictures) == (Path("m.safetensors"), Path("p"))
    assert (chosen.identifier, chosen.noun, chosen.comfyui) == ("zwx", "dog", "c")


@pytest.mark.parametrize(
    "line",
    [
        "demo --base m.safetensors",
        "demo --pictures folder",
        "demo --base m.safetensors --pictures p",
        "demo --noun dog",
        "demo --frobnicate",
        "bench",
        "bench dreambench",
        "bench dreambench --base nowhere.safetensors --pictures .",
        "check",
        "check weights",
        "fly",
    ],
)
def test_half_a_command_is_refused(run, line, capsys):
    with pytest.raises(SystemExit) as refusal:
        run.parse(line.split())
    assert refusal.value.code == 2
    assert "run.py" in capsys.readouterr().err


def test_what_test_does_not_know_goes_to_pytest(run):
    chosen = run.parse(["test", "-k", "formats", "--co", "tests/models", "--comfyui", "c"])
    assert chosen.pytest == ["-k", "formats", "--co", "tests/models"]
    assert chosen.comfyui == "c"


def test_bench_has_a_name_and_a_file(run):
    chosen = run.parse(["bench", "import", "--json", "rows.json", "--quick"])
    assert (chosen.name, chosen.json, chosen.quick) == ("import", Path("rows.json"), True)


def test_dreambench_and_check_reach_their_modules(run, tmp_path, monkeypatch):
    """With the host's folder of models where none is named."""
    started = []
    monkeypatch.setattr(run, "prepare", lambda given: (environment.Environment(tmp_path), tmp_path / "host"))
    monkeypatch.setattr(run, "run_child", lambda words, folder, variables: started.append((words, variables)) or 3)
    monkeypatch.setattr(run, "OUTPUT", tmp_path / "output")
    base = tmp_path / "m.safetensors"
    base.write_bytes(b"")
    line = ["bench", "dreambench", "--base", str(base), "--pictures", str(tmp_path), "--quick", "--comfyui", "c"]
    assert run.main(line) == 3 and run.main(["check", "models"]) == 3
    (words, variables), (check, _) = started
    assert words[1:3] == ["-m", "comfyui_fewshot.benchmarks.dreambench"] and "--quick" in words
    assert words[words.index("--out") + 1] == str(tmp_path / "output" / "dreambench") and "--comfyui" not in words
    assert variables["COMFYUI_PATH"] == str(tmp_path / "host")
    assert check[1:] == ["-m", "comfyui_fewshot.tools.check", "--models", str(tmp_path / "host" / "models")]


def test_a_child_that_is_interrupted_may_keep_its_work(run, tmp_path, monkeypatch):
    """Ctrl-C reaches it once, and run.py waits until it has ended."""
    code = "import time\ntry:\n open('began', 'w'); time.sleep(60)\nexcept KeyboardInterrupt:\n time.sleep(1)\n"
    waiting, began = subprocess.Popen.wait, tmp_path / "began"

    def interrupted(process, timeout=None):
        if began.exists():
            return waiting(process, timeout)
        while not began.exists():
            time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as `main` does
    try:
        with pytest.raises(KeyboardInterrupt):
            run.run_child([sys.executable, "-c", code + " open('kept', 'w')\n"], tmp_path, {})
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "kept").exists()


def test_a_reason_to_stop_is_one_sentence_and_exit_code_one(run, tmp_path, capsys):
    line = ["demo", "--base", str(tmp_path / "no.safetensors"), "--pictures", str(tmp_path), "--noun", "x"]
    assert run.main(line) == 1
    said = capsys.readouterr().err
    assert "no.safetensors" in said and "Traceback" not in said


# -------------------------------------------------------------------------------------------------------- stamps


def test_a_step_is_done_once_for_each_key(tmp_path):
    done = []
    for key in ("a", "a", "b", "b"):
        environment.once(tmp_path, "step", key, lambda key=key: done.append(key), "doing it")
    assert done == ["a", "b"]


def test_a_step_that_fails_is_done_again(tmp_path):
    def fail():
        raise Stop("no network")

    environment.once(tmp_path, "step", "a", lambda: None, "doing it")
    with pytest.raises(Stop):
        environment.once(tmp_path, "step", "b", fail, "doing it")
    done = []
    environment.once(tmp_path, "step", "a", lambda: done.append(1), "doing it")
    assert done, "the stamp of the first success must not outlive the failed second step"


def test_lower_bounds_are_the_declared_ones():
    pins = environment.lower_bounds((ROOT / "requirements.txt").read_text().splitlines())
    assert "transformers==4.56.0" in pins
    with pytest.raises(Stop, match="numpy"):
        environment.lower_bounds(["numpy"])


# ------------------------------------------------------------------------------------- demo, tests, publishing


def test_a_persons_paths_are_looked_at_first(run, tmp_path):
    base = tmp_path / "m.safetensors"
    base.write_bytes(b"")
    arguments = ["demo", "--base", str(base), "--pictures", str(tmp_path), "--noun", "dog"]
    with pytest.raises(Stop, match="holds no picture"):
        demo.user_job_from(run.parse(arguments))
    (tmp_path / "a.JPG").write_bytes(b"")
    (tmp_path / "a_mask.png").write_bytes(b"")
    assert demo.user_job_from(run.parse(arguments)).base == base
    with pytest.raises(Stop, match="there is no such file"):
        demo.user_job_from(run.parse([*arguments[:2], str(tmp_path), *arguments[3:]]))
    with pytest.raises(Stop, match="no checkpoint file"):
        demo.user_job_from(run.parse([*arguments[:2], str(tmp_path / "a.JPG"), *arguments[3:]]))


@pytest.mark.parametrize("port", ["0", "65536", "abc", "-1"])
def test_a_port_that_cannot_be_is_refused(run, port, capsys):
    with pytest.raises(SystemExit):
        run.parse(["comfy", "--port", port])
    assert "is no port; choose a number from 1 to 65535" in capsys.readouterr().err


def test_what_was_kept_is_told(tmp_path, capsys):
    before = demo.files_in(tmp_path)
    demo.report_saved(tmp_path, before)
    assert "nothing was kept" in capsys.readouterr().out
    (tmp_path / "partial.safetensors").write_bytes(b"")
    demo.report_saved(tmp_path, before)
    assert "partial.safetensors" in capsys.readouterr().out


def test_tests_go_on_after_a_failed_leg(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(testing, "leg", lambda name, *_: asked.append(name) or int(name == "types"))
    env = environment.Environment(Path("v"))
    assert testing.run_all(env, env, Path("c"), ROOT) == 1
    assert asked[-1] == "tests" and "types" in capsys.readouterr().out


def test_blanks_are_refused(tmp_path):
    blank = (ROOT / "pyproject.toml").read_text()
    filled = blank.replace('PublisherId = "FILL-IN"', 'PublisherId = "someone"')
    filled = filled.replace("example.invalid/FILL-IN", "github.com/someone")
    assert publishing.blanks(filled) == []
    assert publishing.blanks('PublisherId = ""\n') == ["PublisherId", "Repository"]
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    (tmp_path / "pyproject.toml").write_text(blank.replace('PublisherId = "someone"', 'PublisherId = "FILL-IN"'))
    if publishing.blanks(blank):
        with pytest.raises(Stop, match="cannot be published yet"):
            publishing.check(tmp_path)
    (tmp_path / "pyproject.toml").write_text(filled)
    publishing.check(tmp_path)


def test_requirements_that_differ_are_refused(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    needed = publishing.dependencies((ROOT / "pyproject.toml").read_text())
    assert any(one.startswith("transformers>=") for one in needed)
    for lines, said in ((needed[1:], needed[0]), ([*needed, "torch"], "torch"), (needed[::-1], "their order")):
        (tmp_path / "requirements.txt").write_text("\n".join(lines) + "\n")
        with pytest.raises(Stop, match=f"not equal to the dependencies in pyproject.toml: {said}"):
            publishing.check(tmp_path)
