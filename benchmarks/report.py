"""The report's own cost: seconds and peak memory, the first time, from kept neighbours, and with nothing new.

    .venv/bin/python benchmarks/report.py --out out

Works on a copy of ``OUT`` whose embeddings are hard links, so that neighbours and map are made anew. Prints a
table, then JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from features.environment import processor
from features.progress import say

BARS = {"seconds": 20.0, "peak_rss_mb": 1500.0}  # of ten heads on 10,000 test images, neighbours kept


def measured(out: Path) -> dict[str, float]:
    """One ``report`` in a process of its own."""
    started = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "report", "--out", str(out)], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"error: the report failed with status {status}")
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "peak_rss_mb": round(usage.ru_maxrss / 1024, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("out"))
    source = parser.parse_args().out
    runs = [folder for folder in (source / "runs").iterdir() if folder.is_dir()]
    with tempfile.TemporaryDirectory(dir=source) as scratch:
        copy = Path(scratch)
        for name in ("runs", "curves"):
            if (source / name).is_dir():
                shutil.copytree(source / name, copy / name, ignore=shutil.ignore_patterns("head.npz"))
        (copy / "embeddings").mkdir()
        for path in (source / "embeddings").glob("*.h5"):
            os.link(path, copy / "embeddings" / path.name)
        results = {"first": measured(copy)}
        shutil.rmtree(copy / "report")
        results["neighbours and map kept"] = measured(copy)
        results["nothing new"] = measured(copy)
    for name, found in results.items():
        say(f"{name:<26} {found['seconds']:>8.2f} s {found['peak_rss_mb']:>8.0f} MB")
    kept = results["neighbours and map kept"]
    about = {
        "runs": len(runs),
        "met": {name: kept[name] <= bar for name, bar in BARS.items()},
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
    }
    print(json.dumps(results | about, indent=1))


if __name__ == "__main__":
    main()
