#!/usr/bin/env python3
"""ComfyUI-FewShot from the command line: try it, test it, open it, measure it. Needs Python 3.10 to 3.14, no more.

    python3 run.py demo             train a LoRA of a subject on the small models that come with the project
    python3 run.py demo --base FILE --pictures FOLDER --identifier sks --noun dog      the same job on your own
    python3 run.py comfy            ComfyUI in the browser, with this pack
    python3 run.py test             all tests
    python3 run.py bench NAME       measure, print a table, write JSON
    python3 run.py bench dreambench --base FILE --pictures FOLDER      the published benchmark on your own checkpoint
    python3 run.py check models     each optional model on your disk, opened and tried on a known picture
    python3 run.py check-publish    what is still missing before the pack can be published

Everything that is fetched goes into `.venv` and `.comfyui` beside this file, and results into `output`.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

if sys.version_info < (3, 10):  # noqa: UP036 - an older Python shall hear the reason
    sys.exit("run.py needs Python 3.10 or newer; this is " + sys.version.split()[0])

from benchmarks.dreambench import arguments as dreambench
from tools import comfyui, demo, publishing, testing
from tools.console import Stop, say
from tools.environment import Environment, lower_environment
from tools.server import MODEL_FOLDERS, ComfyServer, Installation, has_accelerator

ROOT = Path(__file__).absolute().parent
OUTPUT = ROOT / "output"
DREAMBENCH = "dreambench"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    host = host_option()

    one = commands.add_parser("demo", parents=[host], help="train a LoRA and show before and after")
    one.add_argument("--base", type=Path, metavar="FILE", help="your own SD 1.x, SD 2.x or SDXL checkpoint")
    one.add_argument("--pictures", type=Path, metavar="FOLDER", help="two to ten pictures of your subject")
    one.add_argument("--identifier", default="sks", metavar="WORD", help="the rare word that will call the subject")
    one.add_argument("--noun", metavar="WORD", help="what kind of thing it is: dog, cup, backpack, ...")
    one.set_defaults(action=run_demo)

    two = commands.add_parser("comfy", parents=[host], help="ComfyUI in the browser, with this pack")
    two.add_argument("--port", type=port, default=8188)
    two.set_defaults(action=run_comfy)

    three = commands.add_parser("test", parents=[host], allow_abbrev=False, help="all tests, or pytest as you ask")
    three.set_defaults(action=run_test)

    four = commands.add_parser("bench", parents=[host], help="run one bench")
    four.add_argument("name", metavar="NAME", help=f"{DREAMBENCH} has options of its own: bench {DREAMBENCH} --help")
    four.add_argument("--json", type=Path, metavar="FILE", help="where the rows go (output/benchmarks/NAME.json)")
    four.add_argument("--only", metavar="PART,PART", help="some parts of it; an unknown name lists them")
    four.add_argument("--quick", action="store_true", help="show the signs only; sets no goals")
    four.set_defaults(action=run_bench)

    six = commands.add_parser("check", parents=[host], help="try each optional model on your disk")
    six.add_argument("what", choices=["models"])
    six.add_argument(
        "--models", type=dreambench.absolute, action="append", metavar="FOLDER",
        help="a models folder (that of the ComfyUI which is used); may be given several times",
    )  # fmt: skip
    six.set_defaults(action=run_check)

    five = commands.add_parser("check-publish", help="refuses to publish while blanks are left")
    five.set_defaults(action=lambda _: publishing.check(ROOT))
    return top


def host_option() -> argparse.ArgumentParser:
    """The option that all commands with a ComfyUI share."""
    host = argparse.ArgumentParser(add_help=False)
    host.add_argument("--comfyui", metavar="PATH", help="a ComfyUI that is there already (or COMFYUI_PATH)")
    return host


def port(text: str) -> int:
    """A number that a port may have, for argparse."""
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port; choose a number from 1 to 65535")
    return int(text)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command; whatever `test` does not know goes to pytest, and anything else unknown is refused."""
    if arguments[:2] == ["bench", DREAMBENCH]:
        chosen = dreambench.parse(dreambench.parser(f"run.py bench {DREAMBENCH}", [host_option()]), arguments[2:])
        chosen.command, chosen.action = "bench", run_dreambench
        return chosen
    top = parser()
    chosen, rest = top.parse_known_args(arguments)
    if rest and chosen.command != "test":
        top.error(f"unknown arguments: {' '.join(rest)}")
    chosen.pytest = [argument for argument in rest if argument != "--"]
    if chosen.command == "demo":
        if (chosen.base is None) != (chosen.pictures is None):
            top.error("--base and --pictures go together: your own checkpoint is taught your own pictures")
        if chosen.pictures is not None and not chosen.noun:
            top.error("--noun says what kind of thing your pictures show, for instance --noun dog")
        if chosen.pictures is None and (chosen.noun or chosen.identifier != "sks"):
            top.error("--identifier and --noun belong to --base and --pictures; the demo's own subject has both")
    return chosen


def prepare(given: str | None, extra: str = "") -> tuple[Environment, Path]:
    """The environment with everything in it, and the ComfyUI that is used. Quick when nothing has changed."""
    choice = comfyui.choose(given, os.environ, ROOT)
    env = Environment(ROOT / ".venv")
    env.make()
    env.install_torch()
    choice = choice or comfyui.bring(ROOT, env.python)
    say(f"ComfyUI {comfyui.version_of(choice.folder)} in {choice.folder} ({choice.reason})")
    env.install_comfyui(choice.folder)
    env.install_pack(ROOT, extra)
    return env, choice.folder


def run_demo(chosen: argparse.Namespace) -> int:
    began = time.monotonic()
    user_job = demo.user_job_from(chosen) if chosen.base else None  # refuses wrong paths before any download
    env, host = prepare(chosen.comfyui)
    demo.run(env.python, host, ROOT, OUTPUT, user_job)
    say(f"Done in {time.monotonic() - began:.0f} s.")
    return 0


def run_comfy(chosen: argparse.Namespace) -> int:
    env, host = prepare(chosen.comfyui)
    user_folders = {kind: host / "models" / kind for kind in MODEL_FOLDERS}  # a person's models; only read
    models = {kind: [folder] for kind, folder in user_folders.items() if folder.is_dir()}
    cpu = not has_accelerator(env.python)
    installation = Installation(env.python, host, ROOT)
    server = ComfyServer(installation, output=OUTPUT, models=models, port=chosen.port, cpu=cpu)
    if server.port != chosen.port:
        say(f"Port {chosen.port} is taken.")
    if (ROOT / "pocket" / "weights" / "model_index.json").is_file():
        demo.place_examples(env.python, server.base)
    with server:
        say(f"ComfyUI with this pack: {server.url}   (log: {server.log}; pictures go into {server.base / 'input'})")
        say("Workflow > Browse templates holds the pack's workflows. Ctrl-C ends it.")
        while server.alive:
            time.sleep(0.5)
        raise Stop(f"ComfyUI ended. Its last words:\n{server.last_words()}")


def run_test(chosen: argparse.Namespace) -> int:
    env, host = prepare(chosen.comfyui, "test")
    if chosen.pytest:
        return testing.run_some(env, host, ROOT, chosen.pytest)
    return testing.run_all(env, lower_environment(ROOT / ".venv-lower", env, ROOT), host, ROOT)


def run_bench(chosen: argparse.Namespace) -> int:
    env, host = prepare(chosen.comfyui)
    folder = OUTPUT / "benchmarks"  # not the repository's root, whose `nodes` would shadow ComfyUI's
    folder.mkdir(parents=True, exist_ok=True)
    file = (chosen.json or folder / f"{chosen.name}.json").absolute()
    command = [str(env.python), "-m", "comfyui_fewshot.benchmarks", chosen.name, "--json", str(file)]
    command += ["--quick"] if chosen.quick else []
    command += ["--only", chosen.only] if chosen.only else []
    return run_child(command, folder, {**os.environ, "COMFYUI_PATH": str(host)})


def run_dreambench(chosen: argparse.Namespace) -> int:
    chosen.out = chosen.out or OUTPUT / DREAMBENCH
    env, host = prepare(chosen.comfyui)
    return in_pack(env, host, f"benchmarks.{DREAMBENCH}", dreambench.command_line(chosen))


def run_check(chosen: argparse.Namespace) -> int:
    env, host = prepare(chosen.comfyui)
    folders = chosen.models or [host / "models"]
    return in_pack(env, host, "tools.check", [word for folder in folders for word in ("--models", str(folder))])


def in_pack(env: Environment, host: Path, module: str, words: list[str]) -> int:
    """Run a module of the pack in the environment; gives its exit status."""
    OUTPUT.mkdir(parents=True, exist_ok=True)  # not the repository's root, whose `nodes` would shadow ComfyUI's
    command = [str(env.python), "-m", f"comfyui_fewshot.{module}", *words]
    return run_child(command, OUTPUT, {**os.environ, "COMFYUI_PATH": str(host)})


def run_child(command: list[str], folder: Path, variables: dict[str, str]) -> int:
    """The exit status of a process that may take its time to keep its work when it is interrupted.

    It is in a session of its own, so that Ctrl-C reaches it once, from here; a second one ends it at once.
    """
    process = subprocess.Popen(command, cwd=folder, env=variables, start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        try:
            if os.name != "nt":  # where the console itself tells all its processes
                process.send_signal(signal.SIGINT)
            process.wait()
        except KeyboardInterrupt:
            process.kill()
        raise


def main(arguments: list[str]) -> int:
    chosen = parse(arguments)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # SIGINT too, which the shell has a job in the background ignore
        if hasattr(signal, name):  # the same as Ctrl-C: work is kept and servers are stopped on the way out
            signal.signal(getattr(signal, name), signal.default_int_handler)
    try:
        return chosen.action(chosen) or 0
    except Stop as reason:
        print(f"\nrun.py {chosen.command}: {reason}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print(f"\nrun.py {chosen.command}: stopped", file=sys.stderr, flush=True)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
