"""Heads in memory and out of core: accuracy, seconds, and peak memory beyond the imports.

    .venv/bin/python benchmarks/out_of_core.py --embeddings FILE.h5 --layers block3@4,block4@4,block5@2 \\
        --memory 700MB --memory ridge=2.7GB --memory lda=2.7GB
    .venv/bin/python benchmarks/out_of_core.py --make 5000000x512 --out /data/synthetic
    .venv/bin/python benchmarks/out_of_core.py --embeddings FILE.h5 --memory 2GB --no-whole \\
        --heads prior,centroid,ridge,lda,logistic,dense
    .venv/bin/python benchmarks/out_of_core.py --embeddings OUT/embeddings/FILE.h5 --memory 150MB \\
        --heads centroid,ridge,knn --commands report,vote,predict,curve

``--make`` writes a synthetic cache of ROWS x WIDTH values in ten overlapping classes, sorted by class as in a
folder. Otherwise each head is trained as by ``make train``, in its own process: in memory (unless
``--no-whole``), and with each ``--memory`` given for it. Accuracies are on validation. Peak memory is beyond
that after imports and a small fit. CPU seconds are summed over threads, and depend less than elapsed time on
other work on the machine. First prints the rates at which the cache's file and its embeddings are read, then
a table in Markdown.

With ``--commands`` the heads are trained with the first ``--memory`` and saved in ``OUT/runs``, and then the
commands are measured in the place of heads, each after the same on 600 rows, so that the peak is that above
what was imported: ``report`` makes neighbours and map anew; ``vote`` takes the vote; ``predict`` is given
random vectors of ``--images`` images, by the run of ``knn``; ``curve`` grows that of each head, where each
number of images is drawn once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
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
BATCH = 250  # images that predict is given at a time

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


COMMAND = """
import json, sys, time
from pathlib import Path
from tempfile import TemporaryDirectory
sys.path.insert(0, "benchmarks")
from out_of_core import LAYER, make, measured, perform, trained_and_saved

path, layers, heads, memory, command, images = sys.argv[1:]
layers, heads, path = layers.split(","), heads.split(","), Path(path)
with TemporaryDirectory() as small:
    tiny = make(600, 64, Path(small))
    if command != "train":
        trained_and_saved(tiny, [LAYER], heads, None)
    perform(command, tiny, [LAYER], heads, "20MB", 300)
print(json.dumps(measured(lambda: perform(command, path, layers, heads, memory or None, int(images)))))
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
        return store.commit(assembly, {"weights_source": "none: synthetic", "network_seconds": 0.0}).path


def trained(path: Path, layers: str, head: str, memory: str) -> dict[str, Any]:
    """The results of training a head in a separate process, or ``error``."""
    command = [sys.executable, "-c", CHILD, str(path.resolve()), layers, head, memory]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HOME)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def resident(name: str) -> int:
    """Bytes of this process that are resident: ``VmRSS`` now, ``VmHWM`` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def measured(work: Callable[[], object]) -> dict[str, float]:
    """Seconds, and the peak above what is resident before."""
    Path("/proc/self/clear_refs").write_text("5")
    before, started = resident("VmRSS"), time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - started, "peak": resident("VmHWM") - before}


def trained_and_saved(path: Path, layers: list[str], heads: list[str], memory: str | None) -> None:
    """The runs of some heads beside their cache; those that are there stay."""
    from models.runs.collection import load_all
    from models.runs.saving import save
    from models.selection import train
    from models.trainsplit import TrainSplit

    runs = path.parent.parent / "runs"
    there = {run.head for run in load_all(runs)}
    for head in heads:
        if head not in there:
            save(train(TrainSplit(Embeddings(path), layers, memory), head, 0), runs)


def perform(
    command: str, path: Path, layers: list[str], heads: list[str], memory: str | None, images: int
) -> None:
    """One command on a cache and the runs beside it."""
    from models import curve
    from models.runs.collection import load_all
    from models.runs.predictor import Predictor
    from models.trainsplit import TrainSplit
    from models.vote import eligible, vote
    from pipeline.__main__ import main as pipeline

    out, embeddings = path.parent.parent, Embeddings(path)
    runs = {run.head: run for run in load_all(out / "runs")} if (out / "runs").is_dir() else {}
    if command == "train":
        trained_and_saved(path, layers, heads, memory)
    elif command == "report":
        for kept in (*path.parent.glob("*.npz"), *out.glob("report/manifest.json")):
            kept.unlink()
        with redirect_stdout(sys.stderr):
            pipeline(["report", "--out", str(out), *(["--memory", memory] if memory else [])])
    elif command == "curve":
        curve.samples = lambda shots: 1
        for name in heads:
            curve.path_of(out / "runs", runs[name].folder).unlink(missing_ok=True)
            curve.grow(TrainSplit(embeddings, layers, memory), runs[name], out / "runs")
    elif command == "vote":
        vote(eligible(list(runs.values()), embeddings))
    else:
        predictor = Predictor(runs["knn"], out / "runs", memory=memory)
        rng, widths = np.random.default_rng(0), {layer: embeddings.width(layer) for layer in layers}
        batches = (
            (None, {layer: rng.random((BATCH, width), np.float32) for layer, width in widths.items()})
            for _ in range(0, images, BATCH)
        )
        for _ in predictor.predict_each(batches):
            pass


def performed(path: Path, layers: str, heads: str, memory: str, command: str, images: int) -> str:
    """The seconds and the peak of a command in a process of its own, as cells of a table."""
    given = [str(path.resolve()), layers, heads, memory, command, str(images)]
    done = subprocess.run([sys.executable, "-c", COMMAND, *given], capture_output=True, text=True, cwd=HOME)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    found = json.loads(done.stdout.splitlines()[-1])
    return f"{found['seconds']:.0f} | {found['peak'] / 1e6:,.0f}"


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
    parser.add_argument("--commands", help="some of report, vote, predict and curve, in the place of heads")
    parser.add_argument("--images", type=int, default=3_000, help="that predict is given")
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
    memories = ([] if args.no_whole else [""]) + common
    if args.commands:
        performed(args.embeddings, args.layers, args.heads, common[0], "train", 0)
        print("\n| command | memory | seconds | peak (MB) |\n|---|---|---|---|")
        for command in args.commands.split(","):
            for memory in memories:
                cells = performed(args.embeddings, args.layers, args.heads, memory, command, args.images)
                print(f"| {command} | {memory or 'all'} | {cells} |", flush=True)
        return
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
