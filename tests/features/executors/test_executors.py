"""Whoever embeds the shards: each is kept whole, and all are assembled in row order."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.backbones.extractor import VGG16
from features.cache import store as store_module
from features.cache.shards import Shard, ShardFolder
from features.cache.store import EmbeddingStore
from features.datasets.base import SPLITS, Dataset
from features.datasets.folder import Folder
from features.datasets.registry import open_dataset
from features.errors import UserError
from features.executors.base import STAGES, Executor, Worker
from features.executors.local import Local
from features.executors.ray import READY, STALLED_SECONDS, START_SECONDS, _WorkerHandle, _WorkerPool
from features.executors.registry import executor
from features.extraction import embed_shards
from tests.stand_in import embed

NETWORK = VGG16("block4,block5", precision="float32")
SHARD = Shard("train", 0, 8)


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VGG16, "embed", embed)
    monkeypatch.setattr(store_module, "SHARDS", (10,))


@pytest.fixture
def dataset(make_folder: Callable[..., Path]) -> Folder:
    return Folder(make_folder({"train": 20, "test": 5}))


@pytest.fixture
def store(dataset: Folder, tmp_path: Path) -> EmbeddingStore:
    return EmbeddingStore(tmp_path / "embeddings", dataset, NETWORK.spec(), NETWORK.widths)


@pytest.fixture
def folder(tmp_path: Path) -> ShardFolder:
    return ShardFolder(tmp_path, "f", NETWORK.widths)


def black(start: int, stop: int) -> Any:
    return np.zeros((stop - start, 32, 32, 3), np.uint8)


class Backwards:
    """Keeps the last shard first."""

    def embed(
        self, dataset: Dataset, extractor: VGG16, folder: ShardFolder, todo: list[Shard], advance: Any
    ) -> Iterator[Shard]:
        yield from Local().embed(dataset, extractor, folder, todo[::-1], advance)


@pytest.mark.parametrize("executor", [Local(), Backwards()], ids=["local", "backwards"])
@pytest.mark.parametrize("there", [(), (0,), (1, 4), tuple(range(8))], ids=str)
def test_every_row_stands_in_its_place(
    executor: Executor, there: tuple[int, ...], store: EmbeddingStore, dataset: Folder
) -> None:
    with store.lock(), store.assembly() as assembly:
        kept = [store.shards[place] for place in there]
        list(Local().embed(dataset, NETWORK, store.folder, kept, lambda _: None))
        todo = store.missing()
        assert len(todo) == 8 - len(there)
        embed_shards(executor, dataset, NETWORK, store, assembly, todo)
        embeddings = store.commit(assembly, {})
    for split in SPLITS:
        rows = len(dataset.labels(split))
        expected = embed(NETWORK, dataset.images(split, 0, rows, 32))
        for layer in NETWORK.layers:
            assert np.array_equal(embeddings.matrix(split, [layer]), expected[layer])


def test_a_shard_that_is_damaged_before_it_is_assembled_is_told(
    store: EmbeddingStore, dataset: Folder
) -> None:
    class Damaging(Backwards):
        def embed(self, *arguments: Any) -> Iterator[Shard]:
            for shard in super().embed(*arguments):
                (store.folder.path / shard.name).write_bytes(b"damaged")
                yield shard

    with (
        store.lock(),
        store.assembly() as assembly,
        pytest.raises(UserError, match="damaged during"),
    ):
        embed_shards(Damaging(), dataset, NETWORK, store, assembly, store.missing())


def test_a_pass_that_ends_early_keeps_what_is_done_and_leaves_nothing_at_work(
    store: EmbeddingStore, dataset: Folder
) -> None:
    threads = threading.active_count()
    with store.lock():
        passing = Local().embed(dataset, NETWORK, store.folder, store.shards, lambda _: None)
        first = next(passing)
        passing.close()
        assert threading.active_count() == threads
        assert first not in store.missing()
        assert not list(store.folder.path.glob("*.tmp"))


class TestWorker:
    def test_stages_overlap_and_each_takes_one_shard_at_a_time(
        self, folder: ShardFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Three stages of 0.1 s: twelve shards take 1.4 s, one after the other 3.6 s."""
        at_work = dict.fromkeys(("read", "embed", "put"), 0)
        most = dict(at_work)

        def slow(stage: str, result: Callable[..., Any]) -> Callable[..., Any]:
            def run(*arguments: Any) -> Any:
                at_work[stage] += 1
                most[stage] = max(most[stage], at_work[stage])
                time.sleep(0.1)
                at_work[stage] -= 1
                return result(*arguments)

            return run

        monkeypatch.setattr(VGG16, "embed", slow("embed", embed))
        monkeypatch.setattr(ShardFolder, "put", slow("put", lambda *_: None))
        worker, started = Worker(NETWORK, folder), time.monotonic()
        with ThreadPoolExecutor(STAGES) as pool:
            shards = [Shard("train", start, start + 8) for start in range(0, 96, 8)]
            list(pool.map(lambda shard: worker.embed(shard, slow("read", black)), shards))
        assert time.monotonic() - started < 2.5
        assert most == {"read": 1, "embed": 1, "put": 1}

    def test_a_failure_leaves_every_stage_free(
        self, folder: ShardFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        worker = Worker(NETWORK, folder)

        def refuse(*_: Any) -> Any:
            raise UserError("refused")

        for owner, name in ((VGG16, "embed"), (ShardFolder, "put")):
            with monkeypatch.context() as patch, pytest.raises(UserError, match="refused"):
                patch.setattr(owner, name, refuse)
                worker.embed(SHARD, black)
        with pytest.raises(UserError, match="refused"):
            worker.embed(SHARD, refuse)
        worker.embed(SHARD, black)
        assert folder.read(SHARD) is not None

    @pytest.mark.parametrize("number", [np.nan, np.inf])
    def test_what_is_no_number_is_not_kept(
        self, folder: ShardFolder, number: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            VGG16,
            "embed",
            lambda *arguments: {layer: array * number for layer, array in embed(*arguments).items()},
        )
        with pytest.raises(UserError, match="beyond the range of float32"):
            Worker(NETWORK, folder).embed(SHARD, lambda start, stop: black(start, stop) + 1)
        assert folder.read(SHARD) is None

    def test_stopped_it_reads_no_further(self, folder: ShardFolder) -> None:
        worker, read = Worker(NETWORK, folder), []

        def images(start: int, stop: int) -> Any:
            read.append(start)
            worker.stop()
            return black(start, stop)

        with pytest.raises(CancelledError):
            worker.embed(Shard("train", 0, 1000), images)
        assert read == [0]


class TestTwoWritersOfOneShard:
    def test_the_slower_one_does_no_harm(self, folder: ShardFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        """It stands still with half its file written, while another writes the same shard."""
        whole = embed(NETWORK, black(0, 8) + 1)
        half_written, go_on = threading.Event(), threading.Event()

        class Standing:
            def __init__(self, path: Path, mode: str) -> None:
                self._file = path.open(mode)

            def __enter__(self) -> Standing:
                return self

            def __exit__(self, *_: object) -> None:
                self._file.close()

            def write(self, part: Any) -> None:
                self._file.write(part)
                half_written.set()
                go_on.wait(30)

            def __getattr__(self, name: str) -> Any:
                return getattr(self._file, name)

        with ThreadPoolExecutor(1) as pool:
            with monkeypatch.context() as patch:
                patch.setattr("features.cache.shards.open", Standing, raising=False)
                slower = pool.submit(folder.put, SHARD, whole)
                assert half_written.wait(30)
            folder.put(SHARD, whole)
            content = (folder.path / SHARD.name).read_bytes()
            go_on.set()
            slower.result()
        assert (folder.path / SHARD.name).read_bytes() == content
        assert folder.read(SHARD) is not None
        assert not list(folder.path.glob("*.tmp"))

    def test_the_slower_one_fails_alone_where_its_folder_is_gone(self, folder: ShardFolder) -> None:
        gone = ShardFolder(folder.path / "gone", "f", NETWORK.widths)
        with pytest.raises(UserError, match="cannot write"):
            gone.put(SHARD, embed(NETWORK, black(0, 8)))
        assert not gone.path.exists()


class TestByName:
    def test_local_is_the_default(self) -> None:
        assert isinstance(executor(), Local)

    def test_an_unknown_one_is_refused(self) -> None:
        with pytest.raises(UserError, match=r"^executor=spark: expected one of local, ray$"):
            executor("spark")

    def test_an_address_belongs_to_ray(self) -> None:
        with pytest.raises(UserError, match=r"address=a:1 belongs to executor=ray"):
            executor("local", "a:1")

    def test_where_ray_is_missing_the_command_that_installs_it_is_named(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("features.executors.ray.find_spec", lambda _: None)
        with pytest.raises(UserError, match=r"run: .venv/bin/python -m pip install -r requirements-ray.txt$"):
            executor("ray")

    @pytest.mark.parametrize("address", ["", "head", "ray://head:10001", "head:port", "auto"])
    def test_an_address_is_host_and_port(self, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("features.executors.ray.find_spec", lambda _: True)
        with pytest.raises(UserError, match=f"^address={address}: expected host:port"):
            executor("ray", address)


class TestWorkersThatTakeLong:
    """What the driver makes of a Ray worker that keeps no shard; Ray itself is not needed."""

    @staticmethod
    def pool(*waited: float) -> _WorkerPool:
        """Workers that each have had one shard for so many seconds."""
        pool, now = _WorkerPool(None), time.monotonic()
        for number, seconds in enumerate(waited):
            shards = {Shard("train", 10 * number, 10 * number + 10): (None, now - seconds)}
            pool.workers.append(
                _WorkerHandle(
                    None, f"node {number}", "", None, READY, 70 + number, now - seconds, shards=shards
                )
            )
        return pool

    def test_one_that_stalls_is_told_once_and_again_after_it_went_on(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pool = self.pool(STALLED_SECONDS - 1, STALLED_SECONDS + 1)
        pool.report_stalled(20)
        pool.report_stalled(20)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("note: the worker on node 1 has been at train-000000010.shard for 301 s")
        assert "the median is 20 s; if it hangs, kill process 71 there" in line
        pool.workers[1].progressed()
        pool.report_stalled(20)
        assert not capsys.readouterr().err
        pool.workers[1].since -= STALLED_SECONDS + 1
        pool.report_stalled(20)
        assert "node 1" in capsys.readouterr().err

    def test_a_shard_that_always_takes_long_is_no_stall(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.pool(STALLED_SECONDS + 1).report_stalled(STALLED_SECONDS / 5)
        assert not capsys.readouterr().err

    def test_one_that_does_not_start_is_told(self, capsys: pytest.CaptureFixture[str]) -> None:
        pool, now = _WorkerPool(None), time.monotonic()
        pool.workers = [_WorkerHandle(None, "node a", "", None, since=now - START_SECONDS - 1)]
        pool.report_stalled(0)
        assert "the worker on node a has not started for 61 s" in capsys.readouterr().err

    def test_late_shards_that_one_worker_alone_has_are_for_the_others(self) -> None:
        pool = self.pool(3, 30, 20, 40, 50)
        first, second, third, fourth, _ = (next(iter(worker.shards)) for worker in pool.workers)
        pool.workers[0].shards[fourth] = pool.workers[3].shards[fourth]
        assert pool.stragglers({first, second, third, fourth}, 10) == [second, third]


class TestReader:
    """What travels to another process reads what the dataset reads."""

    @pytest.mark.parametrize("kind", ["folder", "digits"])
    def test_it_reads_the_same_rows_elsewhere(self, kind: str, dataset: Folder) -> None:
        opened = dataset if kind == "folder" else open_dataset("digits", limit=60)
        opened.digest()
        reader = pickle.loads(pickle.dumps(opened.reader("train", 10, 30, 32)))
        assert np.array_equal(reader(0, 20), opened.images("train", 10, 30, 32))
        assert np.array_equal(reader(5, 9), opened.images("train", 15, 19, 32))

    def test_of_a_folder_only_its_own_paths_travel(self, dataset: Folder) -> None:
        dataset.digest()
        few, all_ = (len(pickle.dumps(dataset.reader("train", 0, stop, 224))) for stop in (2, 60))
        assert few < 1_000
        assert all_ < 60 * 200

    def test_a_file_that_has_changed_is_refused_there_too(self, dataset: Folder) -> None:
        dataset.digest()
        reader = dataset.reader("train", 0, 5, 32)
        os.utime(reader.files[3], ns=(1, 1))
        with pytest.raises(UserError, match=r"cat/003.png has changed since its digest was taken"):
            reader(0, 5)
