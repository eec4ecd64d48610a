"""The write side of the cache: shards, resume, and one finished file."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from features.datasets import SPLITS, Dataset
from features.embeddings import FORMAT, Embeddings, arrays, canonical, header_digest, slug
from features.errors import UserError
from features.progress import say

SHARDS = (1_000, 500, 250, 125, 50, 25, 10, 5)  # rows of a shard, so many that
SHARD_BYTES = 64 << 20  # its images take no more: a kill costs this shard and one that waits to be written
CHUNK = 250  # rows of an HDF5 chunk
DISK_MARGIN = 64 << 20  # bytes that are left free
ATTEMPTS = 5  # at a lock whose folder its last owner is just removing
Vectors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Shard:
    """Rows ``start`` to ``stop`` of one split."""

    split: str
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.split}-{self.start:09d}.shard"


@dataclass(frozen=True)
class Kept:
    """What a shard holds: ``{layer: (rows, d)}`` float32, and the seconds that the network took."""

    vectors: Vectors
    seconds: float


class EmbeddingStore:
    """Where the embeddings of one dataset under one spec are put together.

    Shards are written under a temporary name, synced and renamed; the finished file is assembled
    from them the same way, and only then do they go. So a file that has its name is whole, at
    any moment, and nothing is reopened for writing.

    Parameters
    ----------
    root : the folder of all caches.
    dataset : gives labels, ids, digest and limit.
    spec : the extractor's spec.
    widths : numbers in each layer's vector.
    """

    def __init__(self, root: Path, dataset: Dataset, spec: dict[str, Any], widths: dict[str, int]) -> None:
        self._dataset = dataset
        self._spec = spec
        self._widths = widths
        self.fingerprint = fingerprint(spec, dataset.digest(), dataset.limit)
        name = slug(dataset.name)
        name += f"-{spec['image_size']}px-{spec['preprocess']}-{spec['precision']}"
        name += f"{'-mirror' if spec['mirror'] else ''}-{self.fingerprint[:12]}"
        self.path = root / f"{name}.h5"
        self._parts = parts_of(self.path)

    def lock(self) -> AbstractContextManager[None]:
        """Be the only writer: see :func:`writing`."""
        return writing(self.path)

    @property
    def shards(self) -> list[Shard]:
        """All shards, in row order."""
        pixels = 3 * self._spec["image_size"] ** 2
        size = next((rows for rows in SHARDS if rows * pixels <= SHARD_BYTES), SHARDS[-1])
        return [
            Shard(split, start, min(start + size, rows))
            for split in SPLITS
            for rows in [len(self._dataset.labels(split))]
            for start in range(0, rows, size)
        ]

    @property
    def begun(self) -> bool:
        """Whether a pass is under way, or an interrupted one has left its folder."""
        return self._parts.is_dir()

    def missing(self) -> list[Shard]:
        """The shards still to do, in row order; damaged ones among them (and deleted)."""
        todo = []
        for shard in self.shards:
            if self.read(shard) is None:
                todo.append(shard)
                if (self._parts / shard.name).exists():
                    say(f"{self._parts / shard.name} is damaged; it is done again")
                    (self._parts / shard.name).unlink()
        return todo

    def check_disk(self, todo: list[Shard]) -> None:
        """Refuse to start what the disk cannot hold: the missing shards, then the finished file."""
        row = 4 * sum(self._widths.values())
        rows = sum(shard.stop - shard.start for shard in todo)
        rows += sum(len(self._dataset.labels(split)) for split in SPLITS)
        need, free = rows * row + DISK_MARGIN, shutil.disk_usage(self.path.parent).free
        if need > free:
            raise UserError(
                f"not enough disk for {self.path.name}: {need / 1e6:,.0f} MB needed (twice the "
                f"embeddings while they are put together), {free / 1e6:,.0f} MB free in "
                f"{self.path.parent}; free some, choose another OUT=, or fewer LAYERS="
            )

    def put(self, shard: Shard, vectors: Vectors, seconds: float = 0.0) -> None:
        """Keep one shard's vectors, ``{layer: (rows, d)}`` float32, whole or not at all.

        The file is the SHA-256 of all that follows, a line of JSON that says which shard it is, and
        the layers' numbers in the order of their names: proved before it is parsed.
        """
        about = {"fingerprint": self.fingerprint, "shard": shard.name, "seconds": seconds}
        parts: list[Any] = [canonical(about).encode(), b"\n"]
        parts += [np.ascontiguousarray(vectors[layer]).data.cast("B") for layer in sorted(self._widths)]
        proof = hashlib.sha256()
        for part in parts:
            proof.update(part)
        target = self._parts / shard.name
        temporary = target.with_suffix(".tmp")
        with _told(temporary):
            with open(temporary, "wb") as out:
                out.write(proof.hexdigest().encode())
                for part in parts:
                    out.write(part)
                out.flush()
                os.fsync(out.fileno())
            os.replace(temporary, target)
            _sync_folder(self._parts)

    def read(self, shard: Shard) -> Kept | None:
        """A shard as :meth:`put` wrote it, or None if there is none, or it is another or damaged."""
        try:
            content = (self._parts / shard.name).read_bytes()
        except OSError:
            return None
        proof, body = content[:64], memoryview(content)[64:]
        if hashlib.sha256(body).hexdigest().encode() != proof:
            return None
        start = content.index(b"\n") + 1
        about = json.loads(content[64:start])
        if (about["fingerprint"], about["shard"]) != (self.fingerprint, shard.name):
            return None
        vectors, rows = {}, shard.stop - shard.start
        for layer, width in sorted(self._widths.items()):
            vectors[layer] = np.frombuffer(content, np.float32, rows * width, start).reshape(rows, width)
            start += vectors[layer].nbytes
        return Kept(vectors, about["seconds"])

    @contextmanager
    def assembly(self) -> Iterator[Assembly]:
        """The finished file in the making, under a temporary name that goes if it comes to nothing."""
        temporary = self.path.with_suffix(".tmp")
        with _told(temporary), Assembly(temporary, self._dataset, self._widths) as assembly:
            yield assembly

    def commit(self, assembly: Assembly, provenance: dict[str, Any]) -> Embeddings:
        """Finish the file, read it back, give it its name; then remove the shards."""
        dataset = self._dataset
        assembly.finish(
            {
                "headroom_format": FORMAT,
                "fingerprint": self.fingerprint,
                "spec": canonical(self._spec),
                "dataset": canonical(
                    {
                        "name": dataset.name,
                        "source": dataset.source,
                        "digest": dataset.digest(),
                        "note": dataset.note,
                        "limit": dataset.limit,
                    }
                ),
                "class_names": np.array(dataset.class_names, dtype=h5py.string_dtype()),
                "provenance": canonical(provenance),
            }
        )
        for _, problem in Embeddings(assembly.path).problems():
            if problem:
                raise UserError(f"the disk did not keep what was written: {problem}")
        os.replace(assembly.path, self.path)
        _sync_folder(self.path.parent)
        shutil.rmtree(self._parts, ignore_errors=True)
        return Embeddings(self.path)


class Assembly:
    """An embeddings file being written: every shard once, in order, then :meth:`finish`.

    Digests are taken as the rows pass, so that nothing is read twice.
    """

    def __init__(self, path: Path, dataset: Dataset, widths: dict[str, int]) -> None:
        with _uninterrupted():
            self._begin(path, dataset, widths)

    def _begin(self, path: Path, dataset: Dataset, widths: dict[str, int]) -> None:
        self.path = path
        self._disk = _Disk(path, "w+b")
        self._file = h5py.File(self._disk, "w", libver=("v110", "v110"))
        self._proofs = {f"{split}/{layer}": hashlib.sha256() for split in SPLITS for layer in widths}
        for split in SPLITS:
            labels = dataset.labels(split)
            ids = [row.encode() for row in dataset.ids(split)]
            utf8 = h5py.string_dtype("utf-8", max(map(len, ids)))
            for name, array in (("labels", labels), ("ids", np.array(ids, dtype=utf8))):
                item = self._file.create_dataset(f"{split}/{name}", data=array, fletcher32=True, chunks=True)
                self._close(item, _digest(array))
            for layer, width in widths.items():
                shape, chunk = (len(labels), width), (min(CHUNK, len(labels)), width)
                self._file.create_dataset(
                    f"{split}/{layer}", shape, np.float32, chunks=chunk, fletcher32=True
                )

    def __enter__(self) -> Assembly:
        return self

    def __exit__(self, *_: object) -> None:
        with _uninterrupted():
            self._file.close()
            self._disk.close()

    def add(self, shard: Shard, vectors: Vectors) -> None:
        """Write the next shard's rows."""
        for layer, array in vectors.items():
            name = f"{shard.split}/{layer}"
            self._file[name][shard.start : shard.stop] = array
            self._proofs[name].update(array.data)
        self._disk.check()

    def finish(self, header: dict[str, Any]) -> None:
        """Write digests and header, and bring all to the disk."""
        with _uninterrupted():
            for name, proof in self._proofs.items():
                self._close(self._file[name], proof.hexdigest())
            self._file.attrs.update(header)
            self._file.attrs["sha256"] = header_digest(self._file.attrs, dict(arrays(self._file)))
            self._file.close()
        self._disk.check()
        os.fsync(self._disk.fileno())

    def _close(self, item: h5py.Dataset, digest: str) -> None:
        item.attrs["sha256"] = digest


class _Disk(io.FileIO):
    """A file that keeps a failed write to itself until :meth:`check`.

    HDF5 crashes the process when a write fails under it (measured with HDF5 1.14.6: a segmentation
    fault at exit), so it is told that all is well, and the file is thrown away.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        total = len(rest)
        while len(rest) and self.error is None:
            try:
                rest = rest[super().write(rest) :]
            except OSError as error:
                self.error = error
        return total

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def check(self) -> None:
        """Raise the error that was kept, if any."""
        if self.error is not None:
            raise self.error


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def fingerprint(spec: dict[str, Any], dataset_digest: str, limit: int | None) -> str:
    """SHA-256 of all that decides the vectors and their order."""
    whole = {"extractor": spec, "dataset": dataset_digest, "limit": limit, "format": FORMAT}
    return hashlib.sha256(canonical(whole).encode()).hexdigest()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Be the only writer of a finished file and its shards; the lock of a process that died is free.

    What a dead writer has left half written goes; the folder of shards goes too where it holds none.

    Raises
    ------
    UserError
        Another process holds the lock, or the folder cannot be written.
    """
    parts = parts_of(path)
    lock = FileLock(parts / "lock", timeout=1)  # a reader that asks who writes holds it for a moment
    for attempt in range(1, ATTEMPTS + 1):
        try:
            parts.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            (parts / "owner").write_text(f"process {os.getpid()} since {since}")
            for left in (path.with_suffix(".tmp"), *parts.glob("*.tmp")):
                left.unlink(missing_ok=True)
            break
        except Timeout:
            raise UserError(
                f"{path.name} is being written by {owner_of(parts)}; wait for it, then run this again"
            ) from None
        except OSError as error:
            lock.release()
            if attempt == ATTEMPTS or not isinstance(error, FileNotFoundError | FileExistsError):
                raise UserError(f"cannot write {parts}: {error.strerror}; choose another OUT=") from None
    try:
        yield
    finally:
        if not any(parts.glob("*.shard")):
            shutil.rmtree(parts, ignore_errors=True)
        lock.release()


def parts_of(path: Path) -> Path:
    """The folder of the shards of a finished file, and of its lock."""
    return path.with_suffix(".parts")


def owner_of(parts: Path) -> str:
    """Who holds the lock in a folder of shards."""
    try:
        return (parts / "owner").read_text() or "another process"
    except OSError:
        return "another process"


def sweep(path: Path) -> None:
    """Remove what a kill may have left beside a finished file: its shards, and a copy cut short."""
    if parts_of(path).exists() or path.with_suffix(".tmp").exists():
        with suppress(UserError), writing(path):  # it stands whole, whoever else is at work
            for shard in parts_of(path).glob("*.shard"):
                shard.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that nothing reads it and nothing is lost; the caller is its writer."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    try:
        os.replace(path, aside)
    except OSError as error:
        raise UserError(f"cannot set {path} aside: {error.strerror}; remove it yourself") from None
    return aside


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the block is done: HDF5 crashes where Python raises while it calls back."""
    came: list[Any] = []
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield
        return
    signal.signal(signal.SIGINT, lambda *signalled: came.append(signalled))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if came:
        usual(*came[0])


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _told(temporary: Path) -> Iterator[None]:
    """Leave no temporary file, and tell in words what the operating system refused."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise UserError(
            f"cannot write {temporary}: {error.strerror}; what is finished is kept: free some disk or "
            "choose another OUT=, then run this again"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
