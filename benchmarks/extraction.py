"""Stage one against the bare network: images a second, in one run, interleaved, medians.

    make bench                       # array, digits and large JPEGs against Keras' predict
    make bench PEERS=1               # and OpenVINO, in an environment of its own
    .venv/bin/python benchmarks/extraction.py --growth   # against the number of images and pixels

``DATASET=`` names a folder of images (default: the digits), ``WEIGHTS=`` the tensors. *End to end* is from
the dataset to the committed HDF5 file; the network is built before the clock starts, and its start-up told
apart.
*predict* is Keras' own loop over a float array in memory, with the same pooled outputs; on two cores it
falls into one of two speeds a round, so it is compared by its best round too. Prints a table, then JSON.
"""

from __future__ import annotations

import argparse
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
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from features.backend import tensorflow
from features.datasets import SPLITS, Dataset, open_dataset
from features.extraction import extract
from features.extractor import VGG16
from features.progress import say
from features.store import EmbeddingStore
from models.runs import processor

ROUNDS = 3
PREDICT_BATCH = 256


class Arrays(Dataset):
    """Images of another dataset, tiled to a number, in memory."""

    name = source = "array"

    def __init__(self, base: Dataset, count: int, size: int) -> None:
        self.class_names = base.class_names
        rows = min(len(base.labels("train")), 4_000)
        pixels, labels = base.images("train", 0, rows, size), base.labels("train")[:rows]
        order = np.arange(count) % rows
        ends = {"train": slice(0, count - count // 6), "test": slice(count - count // 6, count)}
        self.pixels = {split: pixels[order[ends[split]]] for split in SPLITS}
        self._labels = {split: labels[order[ends[split]]] for split in SPLITS}

    def digest(self, fresh: bool = False) -> str:
        return hashlib.sha256(self.pixels["train"][:100].tobytes()).hexdigest()

    def labels(self, split: str) -> Any:
        return self._labels[split]

    def ids(self, split: str) -> list[str]:
        return [f"{split}/{row}" for row in range(len(self._labels[split]))]

    def images(self, split: str, start: int, stop: int, size: int) -> Any:
        return self.pixels[split][start:stop]

    def _read(self, split: str, rows: Any, size: int) -> Any:
        return self.pixels[split][rows]

    def _id(self, split: str, row: int) -> str:
        return f"{split}/{row}"


def end_to_end(dataset: Dataset, extractor: VGG16) -> float:
    """Images a second from the dataset to the committed file."""
    with tempfile.TemporaryDirectory(dir="out") as folder:
        store = EmbeddingStore(Path(folder), dataset, extractor.spec(), extractor.widths)
        started = time.perf_counter()
        with store.lock(), store.assembly() as assembly:
            extract(dataset, extractor, store, assembly, store.missing())
            store.commit(assembly, {})
        return sum(len(dataset.labels(split)) for split in SPLITS) / (time.perf_counter() - started)


def pooled_keras(extractor: VGG16) -> Any:
    """The same outputs as a plain Keras model of preprocessed float images."""
    import keras

    keras.config.set_dtype_policy(extractor.precision)
    shape = (extractor.image_size, extractor.image_size, 3)
    base = keras.applications.VGG16(include_top=False, weights=None, input_shape=shape)
    for name in {tensor.partition("/")[0] for tensor in extractor.weights.tensors}:
        tensors = extractor.weights.tensors
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


def predict(model: Any, pixels: Any) -> float:
    started = time.perf_counter()
    model.predict(pixels, batch_size=PREDICT_BATCH, verbose=0)
    return len(pixels) / (time.perf_counter() - started)


class OpenVino:
    """A child process with OpenVINO that embeds the same array when told to."""

    CODE = """
import sys, time, numpy as np, openvino as ov
core = ov.Core()
pixels = np.load(sys.argv[2])
model = core.compile_model(ov.convert_model(sys.argv[1]), "CPU", {"INFERENCE_PRECISION_HINT": sys.argv[3],
    "PERFORMANCE_HINT": "THROUGHPUT"})
B = 256
for line in sys.stdin:
    started = time.perf_counter()
    queue, out = ov.AsyncInferQueue(model), []
    queue.set_callback(lambda request, _: out.append([np.array(t.data) for t in request.output_tensors]))
    for start in range(0, len(pixels), B):
        queue.start_async([pixels[start:start + B]])
    queue.wait_all()
    print(len(pixels) / (time.perf_counter() - started), flush=True)
"""

    def __init__(self, model: Any, pixels: Any, precision: str, folder: Path) -> None:
        home = Path(".venv-peers")
        python = home / "bin" / "python"
        if not python.exists():
            say("bringing up .venv-peers with OpenVINO")
            venv.create(home, with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "-q", "openvino", "numpy"], check=True)
        model.export(folder / "model", verbose=False)
        np.save(folder / "pixels.npy", pixels)
        command = [
            python,
            "-c",
            self.CODE,
            folder / "model",
            folder / "pixels.npy",
            {"float32": "f32", "bfloat16": "bf16"}[precision],
        ]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self()

    def __call__(self) -> float:
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.write("go\n")
        self._child.stdin.flush()
        return float(self._child.stdout.readline())


def jpegs(base: Dataset, folder: Path, count: int) -> Dataset:
    """A folder of real pictures enlarged to 1024 x 768 JPEG."""
    for row in np.linspace(0, len(base.labels("train")) - 1, count).astype(int).tolist():
        label = int(base.labels("train")[row])
        place = folder / base.class_names[label]
        place.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(base.images("train", row, row + 1, 32)[0])
        picture.resize((1024, 768), Image.Resampling.BICUBIC).save(place / f"{row}.jpg", quality=88)
    return open_dataset(str(folder))


def rates(base: Dataset, weights: str | None, count: int, peers: bool) -> dict[str, Any]:
    results: dict[str, Any] = {}
    array = Arrays(base, count, 32)
    plain = np.concatenate([array.pixels[split] for split in SPLITS])
    import keras

    pixels = keras.applications.vgg16.preprocess_input(plain.astype(np.float32))
    runs: dict[str, Callable[[], float]] = {}
    startup: dict[str, float] = {}
    scratch = tempfile.TemporaryDirectory()
    for precision in ("float32", "bfloat16"):
        started = time.perf_counter()
        extractor = VGG16(precision=precision, weights=weights)
        extractor.embed(plain[: extractor.batch])
        startup[precision] = round(time.perf_counter() - started, 2)
        model = pooled_keras(extractor)
        model.predict(pixels[:PREDICT_BATCH], verbose=0)
        runs[f"array {precision}"] = lambda it=extractor: end_to_end(array, it)
        runs[f"predict {precision}"] = lambda it=model: predict(it, pixels)
        if peers:
            if precision == "float32":
                exported = model
            folder = Path(scratch.name) / precision
            folder.mkdir()
            runs[f"openvino {precision}"] = OpenVino(exported, pixels, precision, folder)
    fast = extractor
    runs["digits bfloat16"] = lambda: end_to_end(open_dataset("digits"), fast)
    large = jpegs(base, Path(scratch.name) / "jpegs", 2_000)
    runs["JPEG 1024 x 768 bfloat16"] = lambda: end_to_end(large, fast)
    seen: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(ROUNDS):
        for name, run in runs.items():
            seen[name].append(run())
            say(f"round {number + 1}: {name} {seen[name][-1]:,.0f} img/s")
    medians = {name: statistics.median(values) for name, values in seen.items()}
    started = time.process_time()
    large.images("train", 0, 100, 32)
    decode = (time.process_time() - started) / 100  # core-seconds an image
    cores = os.cpu_count() or 1
    allowed = cores / (decode + cores / medians["predict bfloat16"])
    results["images"] = count
    results["startup_seconds"] = startup
    results["img_per_second"] = {name: round(value, 1) for name, value in medians.items()}
    best = {name: max(values) for name, values in seen.items()}
    results["img_per_second_best_round"] = {name: round(value, 1) for name, value in best.items()}
    results["ratios"] = {
        **{
            f"array / predict, {precision}": medians[f"array {precision}"] / medians[f"predict {precision}"]
            for precision in ("float32", "bfloat16")
        },
        **{
            f"array / best round of predict, {precision}": medians[f"array {precision}"]
            / best[f"predict {precision}"]
            for precision in ("float32", "bfloat16")
        },
        "array bfloat16 / predict float32": medians["array bfloat16"] / medians["predict float32"],
        "large JPEGs / what network plus decoding allow": medians["JPEG 1024 x 768 bfloat16"] / allowed,
    }
    if peers:
        for precision in ("float32", "bfloat16"):
            ratio = medians[f"array {precision}"] / medians[f"openvino {precision}"]
            results["ratios"][f"array / openvino, {precision}"] = ratio
    results["ratios"] = {name: round(value, 3) for name, value in results["ratios"].items()}
    scratch.cleanup()
    return results


def growth(dataset: str, weights: str | None) -> dict[str, Any]:
    """The real command in a process of its own, for numbers of images and of pixels."""
    rows = []
    plan = [(limit, 32) for limit in (1_000, 4_000, 16_000, None)] + [(1_000, size) for size in (64, 96, 128)]
    for limit, size in plan:
        with tempfile.TemporaryDirectory(dir="out") as out:
            command = [sys.executable, "-m", "pipeline", "features", "--dataset", dataset, "--out", out]
            command += [
                "--precision",
                "bfloat16",
                "--image-size",
                str(size),
                "--layers",
                "block3,block4@2,block5",
            ]
            command += ["--weights", weights] if weights else []
            command += ["--limit", str(limit)] if limit else []
            timed = ["/usr/bin/time", "-f", "%M", *command]
            done = subprocess.run(timed, capture_output=True, text=True, check=True)
            import h5py

            with h5py.File(next((Path(out) / "embeddings").glob("*.h5"))) as file:
                made = json.loads(file.attrs["provenance"])
        row = {"limit": limit, "px": size, "images": made["images_in_this_pass"], "seconds": made["seconds"]}
        row["img_per_second"] = round(row["images"] / row["seconds"], 1)
        row["peak_rss_mb"] = round(int(done.stderr.strip().splitlines()[-1]) / 1024)
        rows.append(row)
        say(json.dumps(row))
    return {"growth": rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--weights")
    parser.add_argument("--images", type=int, default=8_000)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--growth", action="store_true")
    arguments = parser.parse_args()
    Path("out").mkdir(exist_ok=True)
    if arguments.growth:
        results = growth(arguments.dataset, arguments.weights)
    else:
        tensorflow()
        base = open_dataset(arguments.dataset)
        results = rates(base, arguments.weights, arguments.images, arguments.peers)
        for kind in ("img_per_second", "ratios"):
            print(*(f"{name:<50} {value:>10,}" for name, value in results[kind].items()), "", sep="\n")
    results["machine"] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
