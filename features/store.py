"""The write side of the cache: shards, resume, and one finished file."""

from __future__ import annotations

import hashlib
import json
import os
import re
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
from features.embeddings import FORMAT, Embeddings, canonical, header_digest
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
        name = re.sub(r"[^\w.-]+", "_", dataset.name) or "dataset"
        name += f"-{spec['image_size']}px-{spec['preprocess']}-{spec['precision']}-{self.fingerprint[:12]}"
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
            holder = owner.read_text() if owner.exists() else "another process"
            raise UserError(
                f"{self.path.name} is being written by {holder}; wait for it, then run this again"
            ) from None
        except OSError as error:
            raise UserError(f"cannot write {self._parts}: {error.strerror}; choose another OUT=") from None
        try:
            yield
        finally:
            lock.release()

    def missing(self) -> list[Shard]:
        """The shards still to do, in row order; damaged ones among them (and deleted)."""
        todo = []
        for shard in self._shards():
            if (self._parts / shard.name).exists():
                if self._read(shard) is not None:
                    continue
                say(f"{self._parts / shard.name} is damaged; it is done again")
                (self._parts / shard.name).unlink()
            todo.append(shard)
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
        """Keep one shard's vectors, ``{layer: (rows, d)}`` float32, whole or not at all."""
        with h5py.File.in_memory() as file:
            file.attrs["fingerprint"] = self.fingerprint
            for layer in self._widths:
                item = file.create_dataset(layer, data=vectors[layer], fletcher32=True, chunks=True)
                item.attrs["sha256"] = _digest(vectors[layer])
            file.flush()
            content = file.id.get_file_image()
        target = self._parts / shard.name
        temporary = target.with_suffix(".tmp")
        with _disk_errors(temporary):
            with open(temporary, "wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            os.replace(temporary, target)
            _sync_folder(self._parts)

    def commit(self, class_names: tuple[str, ...], provenance: dict[str, Any]) -> Embeddings:
        """Assemble the finished file from the shards, verify it, give it its name."""
        temporary = self.path.with_suffix(".tmp")
        with _disk_errors(temporary):
            with h5py.File(temporary, "w", libver=("v110", "v110")) as file:
                digests: dict[str, str] = {}
                for split in SPLITS:
                    self._assemble(file.create_group(split), split, digests)
                dataset = self._dataset
                file.attrs["headroom_format"] = FORMAT
                file.attrs["fingerprint"] = self.fingerprint
                file.attrs["spec"] = canonical(self._spec)
                file.attrs["dataset"] = canonical(
                    {
                        "name": dataset.name,
                        "source": dataset.source,
                        "digest": dataset.digest(),
                        "note": dataset.note,
                        "limit": dataset.limit,
                    }
                )
                file.attrs["class_names"] = np.array(class_names, dtype=h5py.string_dtype())
                file.attrs["provenance"] = canonical(provenance)
                file.attrs["sha256"] = header_digest(file.attrs, digests)
            with open(temporary, "rb") as stream:
                os.fsync(stream.fileno())
            for _, problem in Embeddings(temporary).problems():
                if problem:
                    raise UserError(f"the disk did not keep what was written: {problem}")
            os.replace(temporary, self.path)
            _sync_folder(self.path.parent)
        self.sweep()
        return Embeddings(self.path)

    def sweep(self) -> None:
        """Remove what a finished file leaves behind."""
        shutil.rmtree(self._parts, ignore_errors=True)

    def _shards(self) -> list[Shard]:
        return [
            Shard(split, start, min(start + SHARD, rows))
            for split in SPLITS
            for rows in [len(self._dataset.labels(split))]
            for start in range(0, rows, SHARD)
        ]

    def _read(self, shard: Shard) -> Vectors | None:
        """A shard's vectors, or None if the file is not what :meth:`put` wrote."""
        try:
            with h5py.File(self._parts / shard.name, "r") as file:
                if file.attrs["fingerprint"] != self.fingerprint:
                    return None
                vectors = {layer: file[layer][...] for layer in self._widths}
                good = all(
                    vectors[layer].shape == (shard.stop - shard.start, width)
                    and _digest(vectors[layer]) == file[layer].attrs["sha256"]
                    for layer, width in self._widths.items()
                )
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError):
            return None
        return vectors if good else None

    def _assemble(self, group: h5py.Group, split: str, digests: dict[str, str]) -> None:
        """Write one split: labels, ids and every layer; note their digests."""
        labels = self._dataset.labels(split)
        ids = [row.encode() for row in self._dataset.ids(split)]
        utf8 = h5py.string_dtype("utf-8", max(map(len, ids)))
        for name, array in (("labels", labels), ("ids", np.array(ids, dtype=utf8))):
            item = group.create_dataset(name, data=array, fletcher32=True, chunks=True)
            digests[f"{split}/{name}"] = item.attrs["sha256"] = _digest(array)
        proofs = {layer: hashlib.sha256() for layer in self._widths}
        for layer, width in self._widths.items():
            chunk = (min(CHUNK, len(labels)), width)
            group.create_dataset(layer, (len(labels), width), np.float32, chunks=chunk, fletcher32=True)
        for shard in self._shards():
            if shard.split != split:
                continue
            vectors = self._read(shard)
            if vectors is None:
                (self._parts / shard.name).unlink(missing_ok=True)
                raise UserError(
                    f"{self._parts / shard.name} was damaged after it was written; run this again"
                )
            for layer, array in vectors.items():
                group[layer][shard.start : shard.stop] = array
                proofs[layer].update(array.tobytes())
        for layer, proof in proofs.items():
            digests[f"{split}/{layer}"] = group[layer].attrs["sha256"] = proof.hexdigest()


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def fingerprint(spec: dict[str, Any], dataset_digest: str, limit: int | None) -> str:
    """SHA-256 of all that decides the vectors and their order."""
    whole = {"extractor": spec, "dataset": dataset_digest, "limit": limit, "format": FORMAT}
    return hashlib.sha256(canonical(whole).encode()).hexdigest()


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that nothing reads it and nothing is lost."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    os.replace(path, aside)
    return aside


def fields(embeddings: Embeddings) -> dict[str, Any]:
    """What a command line can ask of a cache, by name."""
    return {
        **embeddings.spec,
        "dataset": embeddings.dataset["source"],
        "dataset_sha256": embeddings.dataset["digest"],
        "limit": embeddings.dataset["limit"],
        "weights_source": embeddings.provenance.get("weights_source"),
    }


def differences(embeddings: Embeddings, asked: dict[str, Any]) -> list[str]:
    """How a cache misses what is asked, a phrase for each field; empty if it fits.

    A cache fits if it has the asked layers, perhaps among others.
    """
    have = fields(embeddings)
    phrases = []
    for name, value in asked.items():
        fits = set(value) <= set(have[name]) if name == "layers" else have[name] == value
        if not fits:
            phrases.append(f"cached: {name}={_show(have[name])}, asked: {_show(value)}")
    return phrases


def find(root: Path, asked: dict[str, Any]) -> tuple[list[Embeddings], list[tuple[Path, list[str]]]]:
    """The caches below ``root`` that fit, and the others with their differences, nearest first.

    A file that cannot be read is among the others, with the reason.
    """
    fitting: list[Embeddings] = []
    others: list[tuple[Path, list[str]]] = []
    for path in sorted(root.glob("*.h5")):
        try:
            embeddings = Embeddings(path)
        except UserError as error:
            others.append((path, [str(error)]))
            continue
        phrases = differences(embeddings, asked)
        if phrases:
            others.append((path, phrases))
        else:
            fitting.append(embeddings)
    exact = [item for item in fitting if set(item.layers) == set(asked.get("layers", item.layers))]
    others.sort(key=lambda other: len(other[1]))
    return (exact if len(exact) == 1 else fitting), others


def _show(value: Any) -> str:
    return ",".join(value) if isinstance(value, list | tuple) else json.dumps(value).strip('"')


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _disk_errors(temporary: Path) -> Iterator[None]:
    """Leave no temporary file, and tell in words what the operating system refused."""
    try:
        yield
    except OSError as error:
        if error.errno is None and "errno = " not in str(error):
            raise
        raise UserError(
            f"cannot write {temporary}: {error}; what is finished is kept: free some disk or "
            "choose another OUT=, then run this again"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
