"""Writes the record of the goldens anew: python -m comfyui_fewshot.tests.goldens.write"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

from . import keys, names, runs, streams
from .record import RECORD


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = {name: Path(folder) / name for name in (*runs.METHODS, *names.KINDS)}
        for path in made.values():
            path.mkdir()
        record = {
            "keys": keys.content_keys(),
            "streams": {"exact": streams.exact(), "normal": streams.normal()},
            "runs": {method: runs.learned(method, made[method]) for method in runs.METHODS},
            "names": {kind: names.KINDS[kind](made[kind]) for kind in names.KINDS},
        }
    text = json.dumps(record, indent=1, ensure_ascii=False)
    RECORD.write_text(re.sub(r"\[[-+\d.e,\s]+\]", _in_one_line, text) + "\n", encoding="utf-8")


def _in_one_line(numbers: re.Match[str]) -> str:
    return re.sub(r"\s+", " ", numbers[0]).replace("[ ", "[").replace(" ]", "]")


if __name__ == "__main__":
    main()
