"""Assembly of one embeddings file (HDF5) from shards."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from features.backbones.extractor import STORES
from features.cache.part import JSON, Part, arrays, canonical, header_digest
from features.cache.shards import Shard, Vectors
from features.datasets.base import SPLITS, Dataset
from features.errors import UserError

CHUNK = 250  # rows of an HDF5 chunk

Labelled = dict[str, NDArray[Any]]


class Assembly:
    """An embeddings file being written: add every shard once, in order, then :meth:`finish`.

    Digests are computed while rows are written.

    Parameters
    ----------
    path : the file, under a temporary name.
    labelled : labels and ids of the file's rows, from :func:`labelled`.
    widths : number of values in each layer's vector.
    starts : the first row of each complete split in the file; None: 0.
    store : dtype of the stored vectors.
    """

    def __init__(
        self,
        path: Path,
        labelled: Labelled,
        widths: dict[str, int],
        starts: dict[str, int] | None = None,
        store: str = STORES[0],
    ) -> None:
        self._store = np.dtype(store)
        self._starts = starts or dict.fromkeys(SPLITS, 0)
        with _uninterrupted():
            self._begin(path, labelled, widths)

    def _begin(self, path: Path, labelled: Labelled, widths: dict[str, int]) -> None:
        self.path = path
        self._disk = _Disk(path, "w+b")
        self._file = h5py.File(self._disk, "w", libver=("v110", "v110"))
        splits = [split for split in SPLITS if len(labelled[f"{split}/labels"])]
        self._proofs = {f"{split}/{layer}": hashlib.sha256() for split in splits for layer in widths}
        for split in SPLITS:
            if split not in splits:
                self._file.create_group(split)
                continue
            for name in (f"{split}/labels", f"{split}/ids"):
                item = self._file.create_dataset(name, data=labelled[name], fletcher32=True, chunks=True)
                item.attrs["sha256"] = _fixed(hashlib.sha256(labelled[name].tobytes()).hexdigest())
            rows = len(labelled[f"{split}/labels"])
            for layer, width in widths.items():
                shape, chunk = (rows, width), (min(CHUNK, rows), width)
                self._file.create_dataset(
                    f"{split}/{layer}", shape, self._store, chunks=chunk, fletcher32=True
                )

    def __enter__(self) -> Assembly:
        return self

    def __exit__(self, *_: object) -> None:
        with _uninterrupted():
            self._file.close()
            self._disk.close()

    def add(self, shard: Shard, vectors: Vectors, seconds: float = 0.0) -> None:
        """Write the next shard's rows.

        ``seconds`` is not used; :class:`~features.cache.parts.PartAssembly` records it.

        Raises
        ------
        UserError
            A number is beyond the range of the stored dtype.
        """
        first = self._starts[shard.split]
        for layer, array in vectors.items():
            name, kept = f"{shard.split}/{layer}", self._narrowed(shard, layer, array)
            self._file[name][shard.start - first : shard.stop - first] = kept
            self._proofs[name].update(kept.data)
        self._disk.check()

    def _narrowed(self, shard: Shard, layer: str, array: NDArray[np.float32]) -> NDArray[Any]:
        """The vectors in the stored dtype."""
        with np.errstate(over="ignore"):
            kept = array.astype(self._store, copy=False)
        if kept is not array and not np.isfinite(kept).all():
            raise UserError(
                f"store={self._store}: expected numbers up to {np.finfo(self._store).max:,.6g}, got "
                f"{np.abs(array).max():,.6g} in {layer} of rows {shard.start:,} to {shard.stop - 1:,} of "
                f"{shard.split}; give store={STORES[0]}"
            )
        return kept

    def finish(self, header: dict[str, Any]) -> Part:
        """Write digests and header, sync the file to the disk, and verify it by reading it back.

        Returns
        -------
        Part
            The file, with every array verified.

        Raises
        ------
        UserError
            What is read is not what was written.
        """
        with _uninterrupted():
            for name, proof in self._proofs.items():
                self._file[name].attrs["sha256"] = _fixed(proof.hexdigest())
            for name, value in header.items():
                self._file.attrs[name] = _fixed(canonical(value) if name in JSON else value)
            digest = header_digest(self._file.attrs, dict(arrays(self._file)), tuple(header))
            self._file.attrs["sha256"] = _fixed(digest)
            self._file.close()
        self._disk.check()
        os.fsync(self._disk.fileno())
        part = Part(self.path, tuple(header))
        for _, problem in part.problems():
            if problem:
                raise UserError(f"the disk did not keep what was written: {problem}")
        return part


def labelled(dataset: Dataset) -> Labelled:
    """Labels and ids of both splits as arrays ``(n,)``, by their name in a file, such as ``test/ids``."""
    found: Labelled = {}
    for split in SPLITS:
        ids = [row.encode() for row in dataset.ids(split)]
        found[f"{split}/labels"] = dataset.labels(split)
        found[f"{split}/ids"] = np.array(ids, dtype=h5py.string_dtype("utf-8", max(map(len, ids))))
    return found


def _fixed(value: Any) -> Any:
    """Convert strings to a fixed-length dtype; numbers are returned unchanged.

    Variable-length strings are stored in a heap, in which HDF5 1.14.6 searches without end after certain bit
    flips, so that a damaged file could not be refused.
    """
    if isinstance(value, int):
        return value
    encoded = [value.encode()] if isinstance(value, str) else [item.encode() for item in value]
    stored = np.array(encoded, dtype=h5py.string_dtype("utf-8", max(1, *map(len, encoded))))
    return stored.reshape(()) if isinstance(value, str) else stored


class _Disk(io.FileIO):
    """A file that holds back errors of writing until :meth:`check`.

    A failed write crashes HDF5 (1.14.6: a segmentation fault at exit). So HDF5 sees a successful write, and
    the caller discards the file after :meth:`check` has raised the error.
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
        """Raise the first error held back, if any."""
        if self.error is not None:
            raise self.error


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C until the block is done: HDF5 crashes if Python raises inside one of its callbacks."""
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
