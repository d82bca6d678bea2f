"""Where the pocket's weights lie (`pocket/weights`), how their files are cut, and what their configurations omit."""

from __future__ import annotations

import json
from pathlib import Path

WEIGHTS = Path(__file__).parent.parent / "weights"
SHARD = "15MB"  # no file of the repository is larger than 16 MB


def remove_origin(folder: Path) -> None:
    """Remove from the configurations the local path that the weights were loaded from."""
    for file in folder.rglob("*config.json"):
        config = json.loads(file.read_text())
        if config.pop("_name_or_path", None) is not None:
            file.write_text(json.dumps(config, indent=2) + "\n")
