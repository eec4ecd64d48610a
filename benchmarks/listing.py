"""Time and peak memory to list and hash a folder of many small images, before the first is embedded.

    .venv/bin/python benchmarks/listing.py --files 100000 1000000

Makes a folder of JPEGs and PNGs in ten classes below ``--scratch`` (hard links to few files, to take little
space), and removes it. A separate process opens it, computes its digest, draws the validation split,
and collects labels and ids as for a cache. A second process repeats this with remembered digests; a third
uses a CSV list of the same files. Prints a table (seconds, CPU seconds, peak of resident memory so far), then
JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from features.environment import processor
from features.progress import say

BAR = 1_000.0  # MB of resident memory, at most
CLASSES = 10
LINKS = 50_000  # to one file; ext4 allows 65,000
SIDE = 32  # px
VALIDATION = 0.1


def make(root: Path, count: int) -> None:
    """Make ``count`` images in ``CLASSES`` folders, a third of them PNG."""
    rng = np.random.default_rng(0)
    for number in range(CLASSES):
        (root / f"class{number}").mkdir()
    for start in range(0, count, LINKS):
        suffix = "png" if start // LINKS % 3 == 0 else "jpg"
        name = "class{}/n{:08d}_{:06d}." + suffix  # as long as ImageNet's
        first = root / name.format(start % CLASSES, start % CLASSES, start)
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(first)
        for place in range(start + 1, min(start + LINKS, count)):
            os.link(first, root / name.format(place % CLASSES, place % CLASSES, place))


def write_list(root: Path) -> Path:
    """Write a CSV list of all images."""
    path = root / "list.csv"
    with open(path, "w", encoding="utf-8") as out:
        out.write("path,label\n")
        for folder in sorted(root.glob("class*")):
            names = sorted(entry.name for entry in folder.iterdir())
            out.writelines(f"{folder.name}/{name},{folder.name}\n" for name in names)
    return path


def measure(path: Path) -> None:
    """Run all steps before the network; prints seconds and peak resident MB so far as JSON."""
    found: dict[str, Any] = {}

    def timed(name: str, step: Callable[[], Any]) -> Any:
        started, busy = time.perf_counter(), time.process_time()
        result = step()
        found[name] = {
            "seconds": round(time.perf_counter() - started, 2),
            "processor_seconds": round(time.process_time() - busy, 2),
            "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        }
        return result

    from features.datasets.base import SPLITS
    from features.datasets.registry import open_dataset
    from features.datasets.splits import stratified

    timed("imports", lambda: None)
    dataset = timed("list and hold out", lambda: open_dataset(str(path)))
    sha = timed("digest", dataset.digest)
    labels = dataset.labels("train")
    timed("validation split", lambda: stratified(labels, int(VALIDATION * len(labels)), "validation"))

    def columns(split: str) -> tuple[Any, Any]:
        return dataset.labels(split), np.array([name.encode() for name in dataset.ids(split)])

    timed("labels and ids", lambda: [columns(split) for split in SPLITS])
    print(json.dumps({"steps": found, "digest": sha}))


def in_a_process(path: Path, store: Path) -> dict[str, Any]:
    """The output of :func:`measure` in a separate process."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure", str(path)],
        env=os.environ | {"HEADROOM_CACHE": str(store)},
        stdout=subprocess.PIPE,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, nargs="+", default=[100_000])
    parser.add_argument("--scratch", type=Path, default=None)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        measure(given.measure)
        return
    results: dict[str, Any] = {}
    for count in given.files:
        with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
            root, store = Path(scratch) / "images", Path(scratch) / "store"
            root.mkdir()
            make(root, count)
            runs = {name: in_a_process(root, store) for name in ("first", "again")}
            runs["as a list"] = in_a_process(write_list(root), store)
            kept = (store / "file-digests.sqlite").stat().st_size / 1e6
        assert runs["first"]["digest"] == runs["again"]["digest"]
        say(
            f"{count:,} files; remembered digests take {kept:,.0f} MB\n{'':<18}"
            + "".join(f"{n:>24}" for n in runs)
        )
        for step in runs["first"]["steps"]:
            line = f"{step:<18}"
            for run in runs.values():
                wall, busy, peak = run["steps"][step].values()
                line += f"{wall:>9.1f} s{busy:>8.1f} s{peak:>7.0f} MB"
            say(line)
        most = max(run["steps"]["labels and ids"]["peak_rss_mb"] for run in runs.values())
        results[str(count)] = {**runs, "store_mb": round(kept), "met": most <= BAR}
    machine = {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()}
    print(json.dumps(results | {"machine": machine}, indent=1))


if __name__ == "__main__":
    main()
