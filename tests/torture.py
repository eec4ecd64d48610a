"""Minutes of SIGKILL at random moments on the real command with the real arithmetic.

Not collected by ``make test``; ``make torture`` runs it. Each round starts ``python -m pipeline features``
in a process of its own, kills it at a random moment between its start and past its usual end, and starts it
again until it finishes; no finished shard may be done twice, and the file must equal an uninterrupted one's,
with nothing left beside it.
``HEADROOM_ROUNDS`` sets the number of kills.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.features.cache.test_faults import ROOT, assert_equal, content

ROUNDS = int(os.environ.get("HEADROOM_ROUNDS", "20"))


@pytest.mark.parametrize("most", ["50GB", "15MB"], ids=["one file", "parts"])
def test_random_kills(make_folder: Callable[..., Path], weights_path: str, tmp_path: Path, most: str) -> None:
    images = make_folder({"train": 1500, "test": 300}, classes=("cat", "dog"))
    given = ["--dataset", str(images), "--weights", weights_path, "--layers", "block3,block4@2,block5"]
    given += ["--precision", "float32", "--max-file", most]

    def start(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "pipeline", "features", *given, "--out", str(out)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    started = time.monotonic()
    first = start(tmp_path / "whole")
    _, err = first.communicate()
    assert first.returncode == 0, err.decode()
    usual = time.monotonic() - started
    (whole,) = (tmp_path / "whole" / "embeddings").iterdir()
    dice = random.Random(0)
    kills, number = 0, 0
    while kills < ROUNDS:
        number += 1
        out = tmp_path / f"out{number}"
        finished: dict[str, tuple[int, int]] = {}
        while True:
            child = start(out)
            try:
                _, err = child.communicate(timeout=dice.uniform(0.3, 1.0) * usual)
            except subprocess.TimeoutExpired:
                os.kill(child.pid, signal.SIGKILL)
                child.communicate()
                kills += 1
                shards = {
                    path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
                    for path in out.glob("*/*/*.shard")
                }
                again = [name for name in shards if name in finished and shards[name] != finished[name]]
                assert not again, "a finished shard is done twice"
                in_parts = any(out.glob("*/*/finished/*.h5"))
                assert len(finished) <= len(shards) or not shards or in_parts, "a finished shard is lost"
                finished = shards
                continue
            assert child.returncode == 0, err.decode()
            break
        (path,) = (out / "embeddings").iterdir()
        assert path.is_dir() == (most == "15MB")
        assert_equal(content(path), content(whole))
    print(f"{kills} kills, {number} files")
