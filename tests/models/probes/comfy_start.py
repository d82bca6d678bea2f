"""ComfyUI inside a probe's process: its folder is put on the path, and what it warns of is kept.

Probes are run as scripts, so that this is found in the folder beside them.
"""

from __future__ import annotations

import logging
import sys


class Complaints(logging.Handler):
    """Keeps what ComfyUI warns of."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def start(folder: str) -> Complaints:
    """Make ComfyUI's modules ready to import, in float32 on the CPU; what they warn of from now on."""
    sys.argv = sys.argv[:1]
    sys.path.insert(0, folder)
    from comfy.cli_args import args

    args.cpu = args.fp32_unet = args.fp32_vae = args.fp32_text_enc = True
    complaints = Complaints()
    logging.getLogger().addHandler(complaints)
    return complaints
