"""For any bytes and any words: the right result or one clear refusal, within a stated time and memory.

Not collected by ``make test``; ``make fuzz`` runs it for ``HEADROOM_MINUTES`` (else 5) of processor time at
each boundary. Files are changed by a few edits, or are made of anything; where a digest would end every
attempt at once, they are changed once more with the digest made anew (``sealed``), as an attacker could.
With ``HEADROOM_ENGINE=atheris`` libFuzzer changes bytes instead, and keeps those that reach new lines
(``tests/guided.py``). What is found becomes a test of its own.
"""

from __future__ import annotations

import faulthandler
import gzip
import hashlib
import io
import json
import os
import pickle
import resource
import sys
import tarfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from features.backbones import vgg16
from features.backbones.extractor import parse_layers
from features.backbones.keras_applications import Application
from features.backbones.registry import BACKBONES
from features.cache.embeddings import Embeddings, canonical
from features.cache.part import JSON as JSON_IN_HEADER
from features.cache.part import arrays, header_digest
from features.cache.shards import Shard, ShardFolder
from features.datasets.cifar import CIFAR10, read_archive
from features.datasets.images import read_square
from features.datasets.webdataset import web_dataset
from features.errors import UserError
from models import curve
from models.heads.parameters import parse, parse_grid
from models.runs import looks
from models.runs.collection import load_all
from models.runs.saving import load
from pipeline.__main__ import main
from tests.conftest import Make, Project, picture

MINUTES = float(os.environ.get("HEADROOM_MINUTES", "5"))
ENGINE = os.environ.get("HEADROOM_ENGINE", "hypothesis")
FORGES = ENGINE == "atheris"  # it sees what a digest is compared with, and puts that in its place
ROUND = 200  # examples of Hypothesis' between two beginnings
LONGEST = 10.0  # seconds of processor time that one example may take
STUCK = 300  # seconds after which one that does not return ends all, with its traceback
MEMORY = 2 << 30  # bytes of addresses that all examples may take beyond what there is before the first
Try = Callable[[Any], None]


def spent() -> float:
    """Seconds of processor time that this process and its children have taken."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def most_memory() -> int:
    """The most bytes that this process has had in memory."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@contextmanager
def bounded() -> Iterator[None]:
    """Within, what takes more than ``MEMORY`` bytes of addresses is a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    least, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (least, hard))


@dataclass
class Executions:
    """What is tried at one boundary until its minutes are over, each attempt held to its limits."""

    name: str
    attempt: Try
    count: int = 0
    slowest: float = 0.0
    failed: bool = False
    began: float = field(default_factory=spent)
    on_the_wall: float = field(default_factory=time.monotonic)
    memory: int = field(default_factory=most_memory)

    def over(self) -> bool:
        """By processor time; or, on a machine that is busy, by three times as long on the wall."""
        waited = time.monotonic() - self.on_the_wall
        return max(spent() - self.began, waited / 3) >= 60 * MINUTES

    def __call__(self, example: Any) -> None:
        if (
            self.over() and not self.failed
        ):  # what failed is tried again, and made small, for as long as it takes
            return
        started = spent()
        faulthandler.dump_traceback_later(STUCK, exit=True, file=sys.__stderr__)
        try:
            self.attempt(example)
            taken = spent() - started
            assert taken < LONGEST, f"{taken:.1f} s"
        except Exception:
            self.failed = True
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()
        self.count, self.slowest = self.count + 1, max(self.slowest, taken)

    def __str__(self) -> str:
        return (
            f"{self.name} ({ENGINE}): {self.count:,} executions in {(spent() - self.began) / 60:.2f} min of "
            f"processor, {(time.monotonic() - self.on_the_wall) / 60:.2f} on the wall; the slowest "
            f"{self.slowest:.2f} s; memory grew by {(most_memory() - self.memory) / 1e6:,.0f} MB"
        )


def fuzz(strategy: st.SearchStrategy[Any], attempt: Try, name: str) -> None:
    """Try examples until the minutes are over."""
    executions = Executions(name, attempt)
    checks = settings(
        max_examples=ROUND,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    with bounded():
        while not executions.over():
            checks(given(strategy)(lambda example: executions(example)))()
    print(f"\n{executions}", flush=True)


def guided(whole: bytes, attempt: Callable[[bytes], None], name: str) -> None:
    """The same with libFuzzer, from these bytes on; in a process of its own, as it never comes back."""
    child = os.fork()
    if not child:
        executions = Executions(name, attempt)
        seeds = Path(os.environ["HEADROOM_CACHE"]) / "seeds"
        seeds.mkdir(parents=True)
        (seeds / "whole").write_bytes(whole)

        def one(content: bytes) -> None:
            executions(content)
            if executions.over():
                print(f"\n{executions}", file=sys.__stdout__, flush=True)
                os._exit(0)

        options = [
            "-verbosity=0",
            "-rss_limit_mb=0",
            f"-timeout={STUCK}",
            f"-artifact_prefix={seeds.parent}/",
        ]
        try:
            import atheris

            with bounded():
                atheris.Setup(["fuzz", *options, str(seeds)], one)
                atheris.Fuzz()
        except BaseException:  # which must not reach pytest here, or it would go on
            traceback.print_exc(file=sys.__stderr__)
        finally:
            for stream in (sys.stdout, sys.__stdout__, sys.__stderr__):
                stream.flush()
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


EDITS = st.lists(
    st.tuples(st.integers(0, 2**24), st.binary(max_size=8), st.booleans()), min_size=1, max_size=4
)


def edited(content: bytes, edits: list[tuple[int, bytes, bool]]) -> bytes:
    """Bytes exchanged at some places; an edit without bytes cuts the rest off, some insert."""
    for place, data, inserts in edits:
        place %= len(content) + 1
        content = (
            content[:place] + data + content[place + (0 if inserts else len(data)) :]
            if data
            else content[:place]
        )
    return content


def fuzz_bytes(whole: bytes, attempt: Callable[[bytes], None], name: str) -> None:
    """Change some bytes, or exchange them; what reads them must hold for each."""
    if ENGINE == "atheris":
        return guided(whole, attempt, name)
    return fuzz(
        st.one_of(EDITS.map(lambda edits: edited(whole, edits)), st.binary(max_size=2_000)), attempt, name
    )


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just(2**70)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=4,
)


def fuzz_json(document: dict[str, Any], attempt: Callable[[dict[str, Any]], None], name: str) -> None:
    """Exchange some values, wherever they stand."""

    def places(value: Any) -> Iterator[tuple[Any, Any]]:
        if isinstance(value, dict | list):
            for key in list(value) if isinstance(value, dict) else range(len(value)):
                yield value, key
                yield from places(value[key])

    def exchanged(exchanges: list[tuple[int, Any]]) -> dict[str, Any]:
        changed: dict[str, Any] = json.loads(json.dumps(document))
        for place, value in exchanges:
            there = list(places(changed))
            inside, key = there[place % len(there)]
            inside[key] = value
        return changed

    def tried(content: bytes) -> None:
        try:
            said = json.loads(content)
        except (ValueError, RecursionError):
            return
        if isinstance(said, dict):
            attempt(said)

    if ENGINE == "atheris":
        guided(canonical(document).encode(), tried, name)
    else:
        exchanges = st.lists(st.tuples(st.integers(0, 2**16), JSON), min_size=1, max_size=3)
        fuzz(exchanges.map(exchanged), attempt, name)


def fuzz_file(
    path: Path, attempt: Callable[[], None], name: str, seal: Callable[[], None] | None = None
) -> None:
    """Change a file, or exchange it; ``seal`` makes the digests anew after each change."""

    def tried(changed: bytes) -> None:
        path.write_bytes(changed)
        if seal is not None:
            seal()
        attempt()

    fuzz_bytes(path.read_bytes(), tried, name + ", sealed" * (seal is not None))


@pytest.fixture
def weights_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A network of two convolutions in the place of VGG16's thirteen."""
    monkeypatch.setattr(vgg16, "CONVOLUTIONS", {"block1_conv1": (3, 4), "block1_conv2": (4, 4)})
    tensors = {
        f"{name}/{part}": np.full(shape, 0.1, np.float32)
        for name, (inputs, outputs) in vgg16.CONVOLUTIONS.items()
        for part, shape in (("kernel", (3, 3, inputs, outputs)), ("bias", (outputs,)))
    }
    vgg16.save(tensors, tmp_path / "small.h5")
    return str(tmp_path / "small.h5")


@pytest.fixture
def done(project: Project) -> Project:
    """A small job, done."""
    for stage, *more in (["features"], ["train", "--head", "ridge"], ["curve", "--head", "ridge"]):
        code, _, err = project(stage, "--layers", "block1", *more)
        assert code == 0, err
    return project


sealed = pytest.mark.parametrize("sealed", [False, True], ids=["as it is", "sealed"])


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_pictures(form: str) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(stream, form)

    def read(content: bytes) -> None:
        try:
            square = read_square("x", 32, content)
        except UserError:
            return
        assert square.shape == (32, 32, 3)
        assert square.dtype == np.uint8

    fuzz_bytes(stream.getvalue(), read, form)


def test_weights_of_vgg16(weights_path: str) -> None:
    def read() -> None:
        try:
            found = vgg16.load(weights_path)
        except UserError:
            return
        for name, (inputs, outputs) in vgg16.CONVOLUTIONS.items():
            assert found.tensors[f"{name}/kernel"].shape == (3, 3, inputs, outputs)
            assert found.tensors[f"{name}/bias"].shape == (outputs,)
        assert all(np.isfinite(tensor).all() for tensor in found.tensors.values())

    fuzz_file(Path(weights_path), read, "weights, VGG16")


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5"])
def test_weights_that_keras_reads(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network that is small enough to try many."""
    import keras

    layers = [keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    shapes = [value.shape for value in model.get_weights()]
    monkeypatch.setattr(Application, "build", lambda *_: model)
    path = tmp_path / f"small{suffix}"
    (model.save if suffix == ".h5" else model.save_weights)(path)

    def read() -> None:
        try:
            found = BACKBONES["mobilenetv2"].load(str(path))
        except UserError:
            return
        assert [tensor.shape for tensor in found.tensors.values()] == shapes
        assert all(np.isfinite(tensor).all() for tensor in found.tensors.values())

    fuzz_file(path, read, f"weights, {suffix}")


@pytest.mark.parametrize("layer", ["archive", "tar", "batch"])
def test_an_archive(layer: str, make_archive: Make, tmp_path: Path) -> None:
    """Behind the pinned digest, which only the published bytes have: below it anything must hold, too."""
    official = replace(CIFAR10, batches={"train": ["a"], "test": ["b"]})
    whole = make_archive(rows=2, official=official).read_bytes()
    path = tmp_path / "archive"
    batch = pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2]}, protocol=2)

    def read(content: bytes) -> None:
        if layer == "batch":
            content = make_archive(poison=content, official=official).read_bytes()
        path.write_bytes(gzip.compress(content, 1) if layer == "tar" else content)
        try:
            pixels, labels = read_archive(path, official)
        except UserError:
            return
        for split in ("train", "test"):
            assert pixels[split].shape == (len(labels[split]), 32, 32, 3)
            assert pixels[split].dtype == np.uint8
            assert set(labels[split]) <= set(range(10))

    inside = {"archive": whole, "tar": gzip.decompress(whole), "batch": batch}
    fuzz_bytes(inside[layer], read, f"archive, {layer}")


def test_a_tar_of_pictures(tmp_path: Path) -> None:
    path = tmp_path / "pictures.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(8):
            stream = io.BytesIO()
            picture(np.random.default_rng(number), number % 2, 8).save(stream, "PNG")
            for suffix, content in (("png", stream.getvalue()), ("cls", b"ab"[number % 2 :][:1])):
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))

    def read() -> None:
        try:
            images = web_dataset(path)
            labels = images.labels("train")
            squares = images.images("train", 0, len(labels), 32)
        except UserError:
            return
        assert squares.shape == (len(labels), 32, 32, 3)

    fuzz_file(path, read, "tar of pictures")


def test_an_embeddings_file(done: Project) -> None:
    path = done.cache
    whole = Embeddings(path).matrix("train", ["block1"])

    def read() -> None:
        try:
            held = Embeddings(path)
            found = held.matrix("train", ["block1"])
        except UserError:
            return
        assert FORGES or np.array_equal(found, whole)

    fuzz_file(path, read, "cache header")


def test_what_a_header_says(done: Project) -> None:
    """Anything at all, under a digest that was made anew."""
    path = done.cache
    with h5py.File(path) as file:
        whole = {name: json.loads(file.attrs[name]) for name in JSON_IN_HEADER if name in file.attrs}
    content = path.read_bytes()

    def read(said: dict[str, Any]) -> None:
        path.write_bytes(content)
        try:
            with h5py.File(path, "a") as file:
                for name in whole.keys() & said.keys():
                    file.attrs[name] = canonical(said[name])
                file.attrs["sha256"] = header_digest(file.attrs, dict(arrays(file)))
        except UnicodeEncodeError:
            return
        try:
            held = Embeddings(path)
            held.matrix("train", ["block1"])
        except UserError:
            return
        assert all(isinstance(layer, str) for layer in held.layers)

    fuzz_json(whole, read, "cache header, sealed")


@sealed
def test_a_shard(sealed: bool, tmp_path: Path) -> None:
    folder, shard = ShardFolder(tmp_path, "f" * 64, {"block1": 8}), Shard("train", 0, 5)
    vectors = {"block1": np.random.default_rng(0).random((5, 8), dtype=np.float32)}
    folder.put(shard, vectors)
    path = tmp_path / shard.name

    def read() -> None:
        kept = folder.read(shard)
        if sealed and kept is not None:
            assert kept.vectors["block1"].shape == (5, 8)
        else:
            assert kept is None or np.array_equal(kept.vectors["block1"], vectors["block1"])

    def seal() -> None:
        body = path.read_bytes()[64:]
        path.write_bytes(hashlib.sha256(body).hexdigest().encode() + body)

    fuzz_file(path, read, "shard", seal if sealed else None)


@sealed
@pytest.mark.parametrize("file", ["run.json", "predictions.npz", "head.npz"])
def test_a_run(file: str, sealed: bool, done: Project) -> None:
    (run,) = load_all(done.out / "runs")
    folder, rows = done.out / "runs" / run.folder, run.test_proba.tolist()
    document = json.loads((folder / "run.json").read_bytes())

    def read() -> None:
        try:
            found = load(folder, with_head=True)
        except UserError:
            return
        assert sealed or FORGES or found.test_proba.tolist() == rows

    def say(said: dict[str, Any]) -> None:
        about = {name: value for name, value in said.items() if name != "sha256"}
        if isinstance(said.get("sha256"), dict):
            proof = hashlib.sha256(canonical(about).encode(errors="replace")).hexdigest()
            about["sha256"] = {**said["sha256"], "run.json": proof}
        (folder / "run.json").write_text(json.dumps(about))

    def seal() -> None:
        proof = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        say({**document, "sha256": {**document["sha256"], file: proof}})

    if sealed and file == "run.json":
        fuzz_json(document, lambda said: (say(said), read())[1], "run.json, sealed")
    else:
        fuzz_file(folder / file, read, file, seal if sealed else None)


def test_a_curve(done: Project) -> None:
    (run,) = load_all(done.out / "runs")
    whole = curve.load(done.out / "runs", run)
    assert whole is not None

    def read() -> None:
        try:
            found = curve.load(done.out / "runs", run)
        except UserError:
            return
        assert found is not None
        assert FORGES or found.points == whole.points

    fuzz_file(curve.path_of(done.out / "runs", run.folder), read, "curve")


def test_what_a_curve_says(done: Project) -> None:
    """Anything at all, under a digest that was made anew."""
    (run,) = load_all(done.out / "runs")
    path = curve.path_of(done.out / "runs", run.folder)
    with np.load(path) as held:
        named = dict(held)
    whole = json.loads(str(named.pop("about")))

    def read(said: dict[str, Any]) -> None:
        about = canonical({name: value for name, value in said.items() if name != "whole"})
        proof = hashlib.sha256(about.encode(errors="replace")).hexdigest()
        np.savez(path, about=np.array(json.dumps({**said, "whole": proof})), **named)
        try:
            curve.load(done.out / "runs", run)
        except UserError:
            return

    fuzz_json(whole, read, "curve, sealed")


def test_looks(done: Project) -> None:
    (run,) = load_all(done.out / "runs")

    def read() -> None:
        found = looks.read(done.out / "runs")
        assert FORGES or found.doubt([run.look], {}) or found.counts[run.test_digest] == 1

    fuzz_file(done.out / "runs" / looks.FILE, read, "looks")


WORDS = st.text(
    st.one_of(st.sampled_from("abcC=,.()[]{}'\"-+0123456789e_@ blockNoneTrue\n\\"), st.characters()),
    max_size=60,
)
GRAMMARS: dict[str, tuple[Callable[[str], Any], str]] = {
    "SET": (parse, "learning_rate=0.1,hidden=(256,128),name='a',x=None"),
    "GRID": (parse_grid, "C=0.001,1e3,(1,2),None"),
    "LAYERS": (lambda words: parse_layers(words, 32), "block3,block4@2,block5"),
}


@pytest.mark.parametrize("name", GRAMMARS)
def test_grammar(name: str) -> None:
    reader, example = GRAMMARS[name]

    def read(words: str) -> None:
        try:
            reader(words)
        except UserError as error:
            assert str(error).strip()

    if ENGINE == "atheris":
        guided(example.encode(), lambda content: read(content.decode(errors="replace")), name)
    else:
        fuzz(WORDS, read, name)


STAGES = ["features", "train", "curve", "report", "predict", "evaluate", "export", "verify", "x", ""]
NAMES = (
    "layers image-size preprocess precision mirror batch limit head set grid scale trust seed seeds run image"
)
NAMES += " format backbone store max-file memory skip-unreadable executor dataset weights to"
VALUES = (
    "0 1 2 -1 5 32 48 block1 block1@2 float32 auto ridge prior centroid all alpha=1 standard json csv . -"
)
WORK = {
    "image-size": 3,
    "seeds": 1,
}  # of how many characters a value may be: more is more work, and no more is tried


@pytest.mark.skipif(ENGINE == "atheris", reason="words are no bytes")
def test_the_command_line(done: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With heads that follow at once, and a stand-in for the network."""
    monkeypatch.chdir(tmp_path)
    values = st.one_of(st.sampled_from(VALUES.split()), WORDS)
    options = st.tuples(st.sampled_from(NAMES.split()), values)

    def run(example: tuple[str, list[tuple[str, str]]]) -> None:
        stage, said = example
        arguments = [f"--{name}={value}" for name, value in said if len(value) <= WORK.get(name, 99)]
        common = [*done.common, "--weights", done.weights, "--layers", "block1", "--head", "ridge"]
        out, err = io.StringIO(), io.StringIO()
        try:
            with redirect_stdout(out), redirect_stderr(err):
                code: Any = main([stage, *common, *arguments])
        except SystemExit as error:  # what argparse refuses
            code = error.code
            assert code == 2
        assert code in (0, 1, 2)
        refused = [line.startswith("error: ") for line in err.getvalue().splitlines()]
        assert sum(refused) == (code == 2), err.getvalue()
        assert code != 2 or refused[-1], err.getvalue()

    fuzz(st.tuples(st.sampled_from(STAGES), st.lists(options, min_size=1, max_size=3)), run, "command line")
