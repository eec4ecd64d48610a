"""How often a test split has been looked at: a line for every final prediction, kept for good."""

from __future__ import annotations

import json
import os
from pathlib import Path

FILE = "looks.jsonl"


def record(root: Path, test_digest: str, run_id: str) -> None:
    """Note below ``root`` that a run has predicted this test split. Removing the run removes nothing."""
    line = json.dumps({"test": test_digest, "run": run_id}) + "\n"
    handle = os.open(root / FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


def count(root: Path, test_digest: str) -> int:
    """How many final predictions of this test split were noted below ``root``."""
    path = root / FILE
    if not path.exists():
        return 0
    return sum(f'"{test_digest}"' in line for line in path.read_text().splitlines())
