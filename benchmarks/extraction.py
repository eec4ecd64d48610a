"""Throughput of stage one compared with the network alone; rounds are interleaved, medians are reported.

    make bench                       # array, digits and large JPEGs against Keras' predict
    make bench PEERS=1               # and OpenVINO, in an environment of its own
    .venv/bin/python benchmarks/extraction.py --growth   # against the number of images and pixels
    .venv/bin/python benchmarks/extraction.py --hit out/embeddings/FILE.h5   # opening and reading a cache

``DATASET=`` is a folder of images (default: the digits), ``WEIGHTS=`` the network's weights. *End to end* is
from the dataset to the committed HDF5 file; start-up (building, tracing and the first batch) is measured
separately. *predict* is Keras' loop over a float array in memory with the same pooled outputs; on two cores
its speed differs by round, so its best round is reported too. What network and decoding allow is the sum of
both on all cores: the best round of either loop over the array, and decoding as in Headroom (*reduced*) or
of all pixels (*whole*). bfloat16 is measured if ``PRECISION=auto`` would choose it. Prints a table, then
JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from features.backbones.extractor import VGG16
from features.backbones.precision import choose
from features.backend import tensorflow
from features.cache.embeddings import Embeddings
from features.cache.store import EmbeddingStore
from features.datasets.base import SPLITS, Dataset
from features.datasets.images import square
from features.datasets.registry import open_dataset
from features.environment import processor, versions
from features.errors import UserError
from features.executors.local import Local
from features.extraction import embed_shards
from features.progress import say

ROUNDS = 3
PREDICT_BATCH = 256
DECODED = 400  # large pictures, for the core-seconds of decoding
TOTALS = (4_000, 6_000, 16_000, 60_000)  # images of both splits, for growth; 6,000 for memory against all
SIZES = (64, 96, 128)  # px, each with the first of these numbers of images
NARROW = 512  # numbers in the layer that is read alone


class Arrays(Dataset):
    """Images of another dataset, tiled to a number, in memory; their classes are made up."""

    name = source = "array"
    class_names = ("even", "odd")

    def __init__(self, base: Dataset, count: int, size: int) -> None:
        rows = min(len(base.labels("train")), 4_000)
        tiled = base.images("train", 0, rows, size)[np.arange(count) % rows]
        self.pixels = dict(zip(SPLITS, np.split(tiled, [count - count // 6]), strict=True))
        self._labels = {split: np.arange(len(pixels)) % 2 for split, pixels in self.pixels.items()}

    def digest(self, fresh: bool = False) -> str:
        return hashlib.sha256(self.pixels["train"].tobytes()).hexdigest()

    def all_labels(self, split: str) -> Any:
        return self._labels[split]

    def read(self, split: str, rows: Any, size: int) -> Any:
        return self.pixels[split][rows]

    def name_of(self, split: str, row: int) -> str:
        return f"{split}/{row}"


def end_to_end(dataset: Dataset, extractor: VGG16) -> float:
    """Images a second from the dataset to the committed file."""
    with tempfile.TemporaryDirectory(dir="out") as folder:
        store = EmbeddingStore(Path(folder), dataset, extractor.spec(), extractor.widths)
        started = time.perf_counter()
        with store.lock(), store.assembly() as assembly:
            embed_shards(Local(), dataset, extractor, store, assembly, store.missing())
            store.commit(assembly, {})
        return sum(len(dataset.labels(split)) for split in SPLITS) / (time.perf_counter() - started)


def pooled_keras(extractor: VGG16) -> Any:
    """The same outputs as a plain Keras model of preprocessed float images."""
    import keras

    keras.config.set_dtype_policy(extractor.precision)
    shape = (extractor.image_size, extractor.image_size, 3)
    base = keras.applications.VGG16(include_top=False, weights=None, input_shape=shape)
    tensors = extractor.weights.tensors
    for name in {tensor.partition("/")[0] for tensor in tensors}:
        base.get_layer(name).set_weights([tensors[f"{name}/kernel"], tensors[f"{name}/bias"]])
    outputs = []
    for layer in extractor.layers:
        block, _, grid = layer.partition("@")
        maps = base.get_layer(f"{block}_pool").output
        if grid:
            pooled = keras.layers.AveragePooling2D(maps.shape[1] // int(grid))(maps)
            outputs.append(keras.layers.Flatten()(pooled))
        else:
            outputs.append(keras.layers.GlobalAveragePooling2D()(maps))
    keras.config.set_dtype_policy("float32")
    return keras.Model(base.input, outputs)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def predict(model: Any, pixels: Any) -> float:
    return len(pixels) / seconds(lambda: model.predict(pixels, batch_size=PREDICT_BATCH, verbose=0))


class OpenVino:
    """A child process with OpenVINO that embeds the same array when told to; :meth:`close` ends it."""

    CODE = """
import sys, time, numpy as np, openvino as ov
pixels = np.load(sys.argv[2])
hints = {"INFERENCE_PRECISION_HINT": sys.argv[3], "PERFORMANCE_HINT": "THROUGHPUT"}
model = ov.Core().compile_model(ov.convert_model(sys.argv[1]), "CPU", hints)
for line in sys.stdin:
    started = time.perf_counter()
    queue, out = ov.AsyncInferQueue(model), []
    queue.set_callback(lambda request, _: out.append([np.array(t.data) for t in request.output_tensors]))
    for start in range(0, len(pixels), 256):
        queue.start_async([pixels[start:start + 256]])
    queue.wait_all()
    print(len(pixels) / (time.perf_counter() - started), flush=True)
"""

    def __init__(self, model: Any, pixels: Any, precision: str, folder: Path) -> None:
        home = Path(".venv-peers")
        python, ready = home / "bin" / "python", home / "ready"
        if not ready.exists():
            say("bringing up .venv-peers with OpenVINO")
            venv.create(home, with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "-q", "-r", "requirements-peers.txt"], check=True)
            ready.touch()
        model.export(folder / "model", verbose=False)
        np.save(folder / "pixels.npy", pixels)
        hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
        command = [str(python), "-c", self.CODE, str(folder / "model"), str(folder / "pixels.npy"), hint]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self) -> float:
        assert self._child.stdin is not None and self._child.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # the empty answer below tells
            print("go", file=self._child.stdin, flush=True)
        if answer := self._child.stdout.readline():
            return float(answer)
        sys.exit("error: OpenVINO's process ended early; what it says is above")

    def close(self) -> None:
        self._child.kill()
        self._child.communicate()


def jpegs(base: Dataset, folder: Path, count: int) -> Dataset:
    """A folder of real pictures enlarged to 1024 x 768 JPEG."""
    labels = base.labels("train")
    for name in base.class_names:
        (folder / name).mkdir(parents=True)

    def enlarge(number: int) -> None:
        row = number * len(labels) // count
        picture = Image.fromarray(base.images("train", row, row + 1, 32)[0])
        large = picture.resize((1024, 768), Image.Resampling.BICUBIC)
        large.save(folder / base.class_names[labels[row]] / f"{number}.jpg", quality=88)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(enlarge, range(count)))
    return open_dataset(str(folder))


def decoding(large: Dataset, size: int) -> dict[str, float]:
    """Core-seconds an image: *reduced* as Headroom reads a large JPEG, *whole* with every pixel decoded."""
    names = large.ids("train")[:DECODED]
    reduced = partial(large.images, "train", 0, len(names), size)

    def whole() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda name: square(Image.open(Path(large.source) / name), size), names))

    cost = {}
    for kind, read in (("reduced", reduced), ("whole", whole)):
        read()  # once to warm up
        started = time.process_time()
        read()
        cost[kind] = (time.process_time() - started) / len(names)
    return cost


def networks(weights: str | None, images: Any) -> tuple[dict[str, VGG16], dict[str, float]]:
    """The network at float32 and, where auto would take it, at bfloat16; seconds each took to start."""
    given = VGG16(weights=weights)
    say(f"weights: {given.weights.label}")  # read now, and not on the clock
    built = {"float32": given.at("float32")}
    startup = {"float32": seconds(built["float32"].prepare)}
    settled, reason = choose(given, images[: given.batch])
    if settled.precision == "bfloat16":
        built["bfloat16"] = given.at("bfloat16")
        startup["bfloat16"] = seconds(built["bfloat16"].prepare)
    else:
        say(f"the rows of bfloat16 are left out, as auto takes {reason}")
    return built, startup


def rates(base: Dataset, weights: str | None, count: int, peers: bool) -> dict[str, Any]:
    """Every row of the table: end to end, predict and, if asked for, OpenVINO."""
    array = Arrays(base, count, 32)
    plain = np.concatenate([array.pixels[split] for split in SPLITS])
    import keras

    pixels = keras.applications.vgg16.preprocess_input(plain.astype(np.float32))
    built, startup = networks(weights, plain)
    fast = list(built.values())[-1]
    runs: dict[str, Callable[[], float]] = {}
    exact: Any = None
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for precision, extractor in built.items():
            model = pooled_keras(extractor)
            model.predict(pixels[:PREDICT_BATCH], verbose=0)
            runs[f"array {precision}"] = partial(end_to_end, array, extractor)
            runs[f"predict {precision}"] = partial(predict, model, pixels)
            if peers:
                exact = model if exact is None else exact  # OpenVINO rounds it itself
                (folder := scratch / precision).mkdir()
                peer = stack.enter_context(contextlib.closing(OpenVino(exact, pixels, precision, folder)))
                peer()  # the first call compiles
                runs[f"openvino {precision}"] = peer
        large = jpegs(base, scratch / "jpegs", count)
        runs[f"digits {fast.precision}"] = partial(end_to_end, open_dataset("digits"), fast)
        runs[f"JPEG 1024 x 768 {fast.precision}"] = partial(end_to_end, large, fast)
        seen: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(ROUNDS):
            for name, run in runs.items():
                seen[name].append(run())
                say(f"round {number + 1}: {name} {seen[name][-1]:,.0f} img/s")
        decode = decoding(large, fast.image_size)
    median = {name: statistics.median(values) for name, values in seen.items()}
    best = {name: max(values) for name, values in seen.items()}
    ratios: dict[str, float] = {}
    for precision in built:
        ours = median[f"array {precision}"]
        ratios[f"array / predict, {precision}"] = ours / median[f"predict {precision}"]
        ratios[f"array / best round of predict, {precision}"] = ours / best[f"predict {precision}"]
        if peers:
            ratios[f"array / openvino, {precision}"] = ours / median[f"openvino {precision}"]
    if "bfloat16" in built:
        ratios["array bfloat16 / predict float32"] = median["array bfloat16"] / median["predict float32"]
    cores = os.cpu_count() or 1
    for kind, cost in decode.items():
        network = max(best[f"{loop} {fast.precision}"] for loop in ("predict", "array"))
        allowed = cores / (cost + cores / network)
        large_rate = median[f"JPEG 1024 x 768 {fast.precision}"]
        ratios[f"large JPEGs / what network and {kind} decoding allow"] = large_rate / allowed
    return {
        "images": count,
        "startup_seconds": {name: round(value, 2) for name, value in startup.items()},
        "img_per_second": {name: round(value, 1) for name, value in median.items()},
        "img_per_second_best_round": {name: round(value, 1) for name, value in best.items()},
        "decoding_core_ms_an_image": {kind: round(1e3 * value, 2) for kind, value in decode.items()},
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
    }


def features(dataset: str, weights: str | None, limit: int | None, px: int, precision: str) -> dict[str, Any]:
    """The numbers of the real command, in a process of its own."""
    with tempfile.TemporaryDirectory(dir="out") as out:
        options = {"dataset": dataset, "weights": weights, "limit": limit, "image-size": px, "out": out}
        options |= {"precision": precision, "layers": "block3,block4@2,block5"}
        command = [sys.executable, "-m", "pipeline", "features"]
        command += [f"--{name}={value}" for name, value in options.items() if value is not None]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, child.returncode, usage = os.wait4(child.pid, 0)
        if child.returncode:
            sys.exit(f"error: this failed; what it says is above: {' '.join(command)}")
        cache = Embeddings(next((Path(out) / "embeddings").glob("*.h5")))
    made = cache.provenance
    row = {"images": made["images_in_this_pass"], "px": px, "precision": cache.spec["precision"]}
    row |= {name: made[name] for name in ("startup_seconds", "seconds")}
    row["img_per_second"] = round(row["images"] / row["seconds"], 1)
    row["peak_rss_mb"] = round(usage.ru_maxrss / 1024)
    return row


def growth(dataset: str, weights: str | None) -> dict[str, Any]:
    """Rate, start-up and memory against the number of images (as near to TOTALS as there are) and pixels."""
    opened = open_dataset(dataset)
    sizes = [len(opened.labels(split)) for split in SPLITS]
    halves = [max(total // 2, total - min(sizes)) for total in TOTALS]  # LIMIT= is of each split
    limits = [half if half < max(sizes) else None for half in halves]
    plan = [(limit, 32) for limit in dict.fromkeys(limits)] + [(limits[0], px) for px in SIZES]
    warm = features(dataset, weights, limits[0], 32, "auto")  # which brings files into the page cache, too
    rows: list[dict[str, Any]] = []
    for limit, px in plan:
        row = features(dataset, weights, limit, px, warm["precision"])
        rows.append(row)
        if row["images"] == rows[0]["images"]:
            row["cost_vs_32px"] = round(rows[0]["img_per_second"] / row["img_per_second"], 2)
            row["macs_vs_32px"] = (px / 32) ** 2  # exactly: every map is so many times as large
    print(*(f"{name:>16}" for name in rows[0]), sep="")
    for row in rows:
        print(*(f"{row.get(name, ''):>16}" for name in rows[0]), sep="")
    return {"growth": rows}


def read_cache(path: Path, layer: str | None) -> tuple[float, int]:
    """Open a cache and verify all of it, or read one layer of its train split: seconds, and bytes read."""
    io = Path("/proc/self/io")
    before, started = io.read_text(), time.perf_counter()
    embeddings = Embeddings(path)
    if layer is None:
        problem = next((problem for _, problem in embeddings.problems() if problem), None)
        if problem:
            raise UserError(problem)
    else:
        embeddings.matrix("train", [layer])
    took = time.perf_counter() - started
    first, last = (int(text.split()[1]) for text in (before, io.read_text()))  # rchar
    return took, last - first


def hit(path: Path) -> dict[str, Any]:
    """What a finished cache costs: to verify it all, and to read one layer; fresh processes, warm pages."""
    embeddings = Embeddings(path)
    narrow = [layer for layer in embeddings.layers if embeddings.width(layer) == NARROW]
    if not narrow:
        sys.exit(f"error: no layer of {path} has {NARROW} numbers; it has {', '.join(embeddings.layers)}")
    with h5py.File(path) as file:
        stored = file[f"train/{narrow[0]}"].id.get_storage_size()  # whole chunks: the last one is padded
    rows: dict[str, dict[str, float]] = {}
    for name, layer, size in (
        ("open and verify all", None, path.stat().st_size),
        (f"read train/{narrow[0]}", narrow[0], stored),
    ):
        runs = []
        for _ in range(1 + ROUNDS):  # the first brings the file into the page cache
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                runs.append(pool.submit(read_cache, path, layer).result())
        took, read = (statistics.median(values) for values in zip(*runs[1:], strict=True))
        rows[name] = {"seconds": round(took, 4), "bytes_read": read, "bytes_stored": size}
        rows[name]["read_against_stored"] = round(read / size, 4)
    for name, row in rows.items():
        print(f"{name:<24}", *(f"{key} {value:,}" for key, value in row.items()), sep="  ")
    return {"cache": path.name, "rows": embeddings.rows, "layers": embeddings.layers, "hit": rows}


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--weights")
    parser.add_argument("--images", type=int, default=8_000)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--growth", action="store_true", help="images and pixels, and nothing else")
    parser.add_argument("--hit", type=Path, help="what this cache costs to read, and nothing else")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    Path("out").mkdir(exist_ok=True)
    if arguments.hit:
        results = hit(arguments.hit)
    elif arguments.growth:
        results = growth(arguments.dataset, arguments.weights)
    else:
        tensorflow()
        base = open_dataset(arguments.dataset)
        results = rates(base, arguments.weights, arguments.images, arguments.peers)
        for kind in (kind for kind, value in results.items() if isinstance(value, dict)):
            print(kind.replace("_", " "))
            print(*(f"  {name:<60} {value:>10,}" for name, value in results[kind].items()), "", sep="\n")
    machine = {"processor": processor(), "cores": os.cpu_count(), "load_at_start": round(load, 2)}
    results["machine"] = machine | {"python": platform.python_version(), "versions": versions()}
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
