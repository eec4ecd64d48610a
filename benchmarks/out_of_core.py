"""Heads in memory and out of core: accuracy, seconds, and peak memory beyond the imports.

    .venv/bin/python benchmarks/out_of_core.py --embeddings FILE.h5 --layers block3@4,block4@4,block5@2 \\
        --memory 700MB --memory ridge=2.7GB --memory lda=2.7GB
    .venv/bin/python benchmarks/out_of_core.py --make 5000000x512 --out /data/synthetic
    .venv/bin/python benchmarks/out_of_core.py --embeddings FILE.h5 --memory 2GB --no-whole \\
        --heads prior,centroid,ridge,lda,logistic,dense

``--make`` writes a synthetic cache of ROWS x WIDTH values in ten overlapping classes, sorted by class as in a
folder. Otherwise each head is trained as by ``make train``, in its own process: in memory (unless
``--no-whole``), and with each ``--memory`` given for it. Accuracies are on validation. Peak memory is beyond
that after imports and a small fit. CPU seconds are summed over threads, and depend less than elapsed time on
other work on the machine. First prints the rates at which the cache's file and its embeddings are read, then
a table in Markdown.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))
from features.backbones.extractor import VGG16
from features.cache.embeddings import Embeddings
from features.cache.store import EmbeddingStore
from features.datasets.base import Dataset
from features.environment import processor, versions
from models.heads.registry import HEADS

HOME = Path(__file__).resolve().parents[1]
CLASSES = 10
TEST = 0.01  # rows of the test split of a synthetic cache, for each of train
LAYER = "block5"

# The peak is VmHWM, reset to the resident memory after the imports.
CHILD = """
import json, sys, time
from pathlib import Path
import numpy as np
from features.cache.embeddings import Embeddings
from models.heads.registry import HEADS
from models.selection import train
from models.trainsplit import TrainSplit

def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))

path, layers, head, memory = sys.argv[1:]
X = np.random.default_rng(0).standard_normal((300, 8), dtype=np.float32)
HEADS[head].make(0).fit(X, np.arange(300) % 10).predict_proba(X)  # loads what it imports late
Path("/proc/self/clear_refs").write_text("5")
imports, started, spent = resident("VmRSS"), time.perf_counter(), time.process_time()
run = train(TrainSplit(Embeddings(path), layers.split(","), memory or None), head, 0)
print(json.dumps({
    "seconds": time.perf_counter() - started, "spent": time.process_time() - spent,
    "peak": resident("VmHWM") - imports,
    "accuracy": run.val_accuracy, "chosen": run.chosen,
    "said": [said for said in run.warnings if said.startswith("fitted out of core")],
}))
"""


class Synthetic(Dataset):
    """Labels of ten classes, sorted by class; there are no images."""

    def __init__(self, rows: int, width: int) -> None:
        self.name = self.source = f"synthetic-{rows}x{width}"
        self.class_names = tuple(f"class{code}" for code in range(CLASSES))
        self.note, self._counts = "", {"train": rows, "test": max(int(TEST * rows), CLASSES)}

    def digest(self, fresh: bool = False) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()

    def all_labels(self, split: str) -> NDArray[np.int64]:
        return np.arange(self._counts[split]) * CLASSES // self._counts[split]

    def read(self, split: str, rows: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
        raise NotImplementedError("there are no images")

    def name_of(self, split: str, row: int) -> str:
        return f"{split}/{row}"


def make(rows: int, width: int, out: Path) -> Path:
    """Write the cache of a synthetic dataset; returns its path."""
    dataset = Synthetic(rows, width)
    spec = VGG16(LAYER, precision="float32").spec()
    store = EmbeddingStore(out / "embeddings", dataset, spec, {LAYER: width})
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((64, width), dtype=np.float32)
    centres = rng.standard_normal((CLASSES, 64), dtype=np.float32)
    with store.lock(), store.assembly() as assembly:
        for shard in store.shards:
            codes = dataset.labels(shard.split)[shard.start : shard.stop]
            hidden = centres[codes] + 2 * rng.standard_normal((len(codes), 64), dtype=np.float32)
            noise = rng.standard_normal((len(codes), width), dtype=np.float32)
            assembly.add(shard, {LAYER: np.maximum(hidden @ mixing + 8 * noise, 0)})
        return store.commit(assembly, {"weights_source": "none: synthetic"}).path


def trained(path: Path, layers: str, head: str, memory: str) -> dict[str, Any]:
    """The results of training a head in a separate process, or ``error``."""
    command = [sys.executable, "-c", CHILD, str(path.resolve()), layers, head, memory]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HOME)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def rates(path: Path, layers: list[str]) -> Iterator[str]:
    """The rates at which the file and blocks of the train split are read, from disk or page cache."""
    started, size = time.perf_counter(), 0
    for file in [path] if path.is_file() else sorted(path.glob("*.h5")):
        with file.open("rb", buffering=0) as content:
            while block := content.read(1 << 24):
                size += len(block)
    yield f"bytes of the file: {size / (time.perf_counter() - started) / 1e6:,.0f} MB/s"
    embeddings = Embeddings(path)
    started = time.perf_counter()
    embeddings.prove("train", layers)
    proved = time.perf_counter()
    size = sum(block.nbytes for _, block in embeddings.blocks("train", layers, 1_000))
    yield f"verified by digest: {size / (proved - started) / 1e6:,.0f} MB/s"
    yield f"blocks of 1,000 rows: {size / (time.perf_counter() - proved) / 1e6:,.0f} MB/s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--make", metavar="ROWSxWIDTH")
    parser.add_argument("--out", type=Path, default=Path("out/synthetic"))
    parser.add_argument("--embeddings", type=Path)
    parser.add_argument("--layers", default=LAYER)
    parser.add_argument("--heads", default=",".join(HEADS))
    parser.add_argument("--memory", action="append", default=[], metavar="[HEAD=]SIZE")
    parser.add_argument("--no-whole", action="store_true")
    args = parser.parse_args()
    if args.make:
        rows, width = map(int, args.make.split("x"))
        print(make(rows, width, args.out))
        return
    if args.embeddings is None:
        parser.error("--embeddings names the cache, or --make makes one")
    own = dict(said.split("=") for said in args.memory if "=" in said)
    common = [said for said in args.memory if "=" not in said]
    print(processor(), *(f"{name} {version}" for name, version in versions().items()), sep=", ")
    for line in rates(args.embeddings, args.layers.split(",")):
        print(line)
    print("\n| head | memory | accuracy | seconds | CPU s | peak (MB) | chosen | |")
    print("|---|---|---|---|---|---|---|---|")
    for head in args.heads.split(","):
        for memory in ([] if args.no_whole else [""]) + ([own[head]] if head in own else common):
            found = trained(args.embeddings, args.layers, head, memory)
            cells = (
                [found["error"]]
                if "error" in found
                else [
                    f"{found['accuracy']:.4f}",
                    f"{found['seconds']:.0f}",
                    f"{found['spent']:.0f}",
                    f"{found['peak'] / 1e6:,.0f}",
                    " ".join(f"{name}={value}" for name, value in found["chosen"].items()),
                    " ".join(found["said"]),
                ]
            )
            print(f"| {' | '.join([head, memory or 'all', *cells])} |", flush=True)


if __name__ == "__main__":
    main()
