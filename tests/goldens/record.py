"""Where the record of the goldens lies."""

from __future__ import annotations

from pathlib import Path

RECORD = Path(__file__).parent / "record.json"
