"""For any bytes and any words: the right result or one clear refusal, within a stated time.

Not collected by ``make test``; ``make fuzz`` runs it for ``HEADROOM_MINUTES`` (else 5) at each
boundary. Files are changed by a few edits, or are made of anything. What is found becomes a test of its own.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from features.backbones.extractor import parse_layers
from features.cache.embeddings import Embeddings
from features.cache.shards import Shard, ShardFolder
from features.datasets.images import read_square
from features.errors import UserError
from models import curve
from models.heads.parameters import parse, parse_grid
from models.runs import looks
from models.runs.collection import load_all
from models.runs.saving import load
from pipeline.__main__ import main
from tests.conftest import Project

MINUTES = float(os.environ.get("HEADROOM_MINUTES", "5"))
ROUND = 200  # examples between two looks at the clock
LONGEST = 10.0  # seconds that one example may take
Try = Callable[[Any], None]

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


def fuzz(strategy: st.SearchStrategy[Any], attempt: Try, name: str) -> None:
    """Try examples until the minutes are over."""
    end, count, slowest = time.monotonic() + 60 * MINUTES, 0, 0.0

    def one(example: Any) -> None:
        nonlocal count, slowest
        started = time.monotonic()
        attempt(example)
        taken = time.monotonic() - started
        count, slowest = count + 1, max(slowest, taken)
        assert taken < LONGEST, f"{taken:.1f} s"

    checks = settings(
        max_examples=ROUND,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    number = 0
    while time.monotonic() < end:
        seed(number)(checks(given(strategy)(one)))()
        number += 1
    print(f"{name}: {count:,} executions in {MINUTES:g} min, the slowest {slowest:.2f} s")


def fuzz_file(path: Path, attempt: Callable[[], None], name: str) -> None:
    """Change a file, or exchange it; what reads it must hold for each."""
    content = path.read_bytes()

    def tried(changed: bytes) -> None:
        path.write_bytes(changed)
        attempt()

    fuzz(st.one_of(EDITS.map(lambda edits: edited(content, edits)), st.binary(max_size=2_000)), tried, name)
    path.write_bytes(content)


@pytest.fixture
def done(project: Project) -> Project:
    """A small job, done."""
    for stage, *more in (["features"], ["train", "--head", "ridge"], ["curve", "--head", "ridge"]):
        code, _, err = project(stage, "--layers", "block1", *more)
        assert code == 0, err
    return project


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

    whole = stream.getvalue()
    fuzz(st.one_of(EDITS.map(lambda edits: edited(whole, edits)), st.binary(max_size=500)), read, form)


def test_an_embeddings_file(done: Project) -> None:
    path = done.cache
    whole = Embeddings(path).matrix("train", ["block1"])

    def read() -> None:
        try:
            held = Embeddings(path)
            found = held.matrix("train", ["block1"])
        except UserError:
            return
        assert np.array_equal(found, whole)

    fuzz_file(path, read, "cache header")


def test_a_shard(tmp_path: Path) -> None:
    folder, shard = ShardFolder(tmp_path, "f" * 64, {"block1": 8}), Shard("train", 0, 5)
    vectors = {"block1": np.random.default_rng(0).random((5, 8), dtype=np.float32)}
    folder.put(shard, vectors)

    def read() -> None:
        kept = folder.read(shard)
        assert kept is None or np.array_equal(kept.vectors["block1"], vectors["block1"])

    fuzz_file(tmp_path / shard.name, read, "shard")


@pytest.mark.parametrize("file", ["run.json", "predictions.npz", "head.npz"])
def test_a_run(done: Project, file: str) -> None:
    (run,) = load_all(done.out / "runs")

    def read() -> None:
        try:
            found = load(done.out / "runs" / run.folder, with_head=True)
        except UserError:
            return
        assert np.array_equal(found.test_proba, run.test_proba)

    fuzz_file(done.out / "runs" / run.folder / file, read, file)


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
        assert found.points == whole.points

    fuzz_file(curve.path_of(done.out / "runs", run.folder), read, "curve")


def test_looks(done: Project) -> None:
    (run,) = load_all(done.out / "runs")

    def read() -> None:
        found = looks.read(done.out / "runs")
        assert found.doubt([run.look], {}) or found.counts[run.test_digest] == 1

    fuzz_file(done.out / "runs" / looks.FILE, read, "looks")


WORDS = st.text(
    st.one_of(st.sampled_from("abcC=,.()[]{}'\"-+0123456789e_@ blockNoneTrue\n\\"), st.characters()),
    max_size=60,
)


@pytest.mark.parametrize(
    ("name", "reader"),
    [("SET", parse), ("GRID", parse_grid), ("LAYERS", lambda words: parse_layers(words, 32))],
    ids=["SET", "GRID", "LAYERS"],
)
def test_grammar(name: str, reader: Callable[[str], Any]) -> None:
    def read(words: str) -> None:
        try:
            reader(words)
        except UserError as error:
            assert str(error).strip()

    fuzz(WORDS, read, name)


def test_the_command_line(done: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stages = st.sampled_from(
        ["features", "train", "curve", "predict", "evaluate", "export", "verify", "x", ""]
    )
    names = [
        "layers",
        "image-size",
        "preprocess",
        "precision",
        "mirror",
        "batch",
        "limit",
        "head",
        "set",
        "grid",
    ]
    names += ["scale", "trust", "seed", "seeds", "run", "image", "format", "backbone"]
    options = st.sampled_from(names)
    given_ = st.lists(st.tuples(options, WORDS), min_size=1, max_size=3)

    def run(example: tuple[str, list[tuple[str, str]]]) -> None:
        stage, said = example
        arguments = [
            f"--{name}={value}" for name, value in said if value.strip("0123456789 ") or name != "image-size"
        ]
        try:
            code = main([stage, *done.common, "--weights", done.weights, *arguments])
        except SystemExit as error:  # what argparse refuses
            assert error.code == 2
        else:
            assert code in (0, 1, 2)

    fuzz(st.tuples(stages, given_), run, "command line")
