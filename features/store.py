"""The write side of the cache: shards, resume, and one finished file."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from features.datasets import SPLITS, Dataset
from features.embeddings import FORMAT, Embeddings, canonical, header_digest, slug
from features.errors import UserError
from features.progress import say

SHARD = 1_000  # rows: about a second or two of work, and all that a kill can cost
CHUNK = 250  # rows of an HDF5 chunk; divides a shard
DISK_MARGIN = 64 << 20  # bytes that are left free
Vectors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Shard:
    """Rows ``start`` to ``stop`` of one split."""

    split: str
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.split}-{self.start:09d}.h5"


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
        self._parts = root / f"{name}.parts"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer; the lock of a process that died is free.

        Raises
        ------
        UserError
            Another process holds it, or the folder cannot be written.
        """
        owner = self._parts / "owner"
        lock = FileLock(self._parts / "lock", timeout=0)
        try:
            self._parts.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            owner.write_text(f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        except Timeout:
            raise UserError(
                f"{self.path.name} is being written by {owner_of(self._parts)}; wait for "
                "it, then run this again"
            ) from None
        except OSError as error:
            raise UserError(f"cannot write {self._parts}: {error.strerror}; choose another OUT=") from None
        try:
            yield
        finally:
            lock.release()

    @property
    def shards(self) -> list[Shard]:
        """All shards, in row order."""
        return [
            Shard(split, start, min(start + SHARD, rows))
            for split in SPLITS
            for rows in [len(self._dataset.labels(split))]
            for start in range(0, rows, SHARD)
        ]

    @property
    def begun(self) -> bool:
        """Whether an interrupted pass has left shards."""
        return any((self._parts / shard.name).exists() for shard in self.shards)

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

    def put(self, shard: Shard, vectors: Vectors) -> None:
        """Keep one shard's vectors, ``{layer: (rows, d)}`` float32, whole or not at all.

        The shard is built in memory, so that HDF5 never meets a full disk.
        """
        with h5py.File.in_memory() as file:
            file.attrs["fingerprint"] = self.fingerprint
            for layer in self._widths:
                item = file.create_dataset(layer, data=vectors[layer])
                item.attrs["sha256"] = hashlib.sha256(vectors[layer].data).hexdigest()
            file.flush()
            content = file.id.get_file_image()
        target = self._parts / shard.name
        temporary = target.with_suffix(".tmp")
        with _told(temporary):
            with open(temporary, "wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            os.replace(temporary, target)
            _sync_folder(self._parts)

    def read(self, shard: Shard) -> Vectors | None:
        """A shard's vectors, or None if there is none, or not as :meth:`put` wrote it."""
        try:
            with h5py.File(self._parts / shard.name, "r") as file:
                if file.attrs["fingerprint"] != self.fingerprint:
                    return None
                vectors = {layer: file[layer][...] for layer in self._widths}
                good = all(
                    vectors[layer].shape == (shard.stop - shard.start, width)
                    and hashlib.sha256(vectors[layer].data).hexdigest() == file[layer].attrs["sha256"]
                    for layer, width in self._widths.items()
                )
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError):
            return None
        return vectors if good else None

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
        sweep(self.path)
        return Embeddings(self.path)


class Assembly:
    """An embeddings file being written: every shard once, in order, then :meth:`finish`.

    Digests are taken as the rows pass, so that nothing is read twice.
    """

    def __init__(self, path: Path, dataset: Dataset, widths: dict[str, int]) -> None:
        self.path = path
        self._disk = _Disk(path, "w+b")
        self._file = h5py.File(self._disk, "w", libver=("v110", "v110"))
        self._digests: dict[str, str] = {}
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
        for name, proof in self._proofs.items():
            self._close(self._file[name], proof.hexdigest())
        self._file.attrs.update(header)
        self._file.attrs["sha256"] = header_digest(self._file.attrs, self._digests)
        self._file.close()
        self._disk.check()
        os.fsync(self._disk.fileno())

    def _close(self, item: h5py.Dataset, digest: str) -> None:
        item.attrs["sha256"] = self._digests[item.name.removeprefix("/")] = digest


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


def owner_of(parts: Path) -> str:
    """Who holds the lock in a folder of shards."""
    owner = parts / "owner"
    return owner.read_text() if owner.exists() else "another process"


def sweep(path: Path) -> None:
    """Remove what a finished file leaves beside it: its shards, and a copy that was cut short."""
    path.with_suffix(".tmp").unlink(missing_ok=True)
    shutil.rmtree(path.with_suffix(".parts"), ignore_errors=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that nothing reads it and nothing is lost."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    os.replace(path, aside)
    return aside


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
