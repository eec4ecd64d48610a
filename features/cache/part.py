"""Rows of the embeddings in one HDF5 file, trusted by their digests."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from features.datasets.base import SPLITS
from features.errors import UserError
from features.files import NotRegular
from features.hdf5 import open_hdf5, unsafe

FORMAT = 2  # of the file's layout; part of every fingerprint
BLOCK_BYTES = 16 << 20  # how much is read and hashed at a time
HEADER = ("headroom_format", "fingerprint", "spec", "dataset", "class_names", "provenance")
PART_HEADER = ("headroom_part", "fingerprint", "about")  # of one file of several
JSON = ("spec", "dataset", "provenance", "about")


class Damaged(UserError):
    """A finished file does not hold what was written into it."""


class Part:
    """Labels, ids and vectors of some rows of both splits, or of all, in one HDF5 file.

    Opening reads the header and checks it. A row is counted from the file's first one of its split.

    Parameters
    ----------
    path : the file.
    names : what its header says: ``HEADER`` of a file that stands alone, ``PART_HEADER`` of one of several.

    Attributes
    ----------
    path : the file.
    header : what the header says, by name.
    digest : SHA-256 of the header, and of each array's digest, type and shape.
    starts : the row of the whole split that is this file's first.
    rows : how many rows of each split there are.
    widths : numbers in each layer's vector.
    digests : SHA-256 of each array's bytes as they were written: ``test/labels``, ``train/block5``.

    Raises
    ------
    Damaged
        The file cannot be read, or not as what was written.
    UserError
        A newer Headroom wrote it, or the operating system refuses to read it.
    """

    def __init__(self, path: Path, names: Sequence[str] = HEADER) -> None:
        self.path = path
        self._proved: dict[str, tuple[int, ...]] = {}
        with self._open() as file:
            version = file.attrs.get(names[0])
            if isinstance(version, np.integer) and version != FORMAT:
                raise UserError(
                    f"{path} has format {version}, this Headroom reads {FORMAT}: use the Headroom that "
                    "wrote it, or move the file away and compute it again"
                )
            if version is None and PART_HEADER[0] in file.attrs:
                raise UserError(f"{path} is one of several parts of a cache; put it back into its folder")
            held = dict(arrays(file))
            for name, item in held.items():
                if problem := unsafe(item):
                    raise Damaged(f"{path} holds {problem} as {name}; compute it again")
            self.digests = {name: text(item.attrs["sha256"]) for name, item in held.items()}
            self.digest = text(file.attrs["sha256"])
            if self.digest != header_digest(file.attrs, held, names):
                raise Damaged(f"{path} is damaged in its header; compute it again")
            said = _header(file.attrs, names)
            self.header = {name: json.loads(said[name]) if name in JSON else said[name] for name in said}
            about = self.header.get("about", {"starts": dict.fromkeys(SPLITS, 0)})
            self.starts: dict[str, int] = about["starts"]
            self.rows = {split: len(file[split]["labels"]) if len(file[split]) else 0 for split in SPLITS}
            self.widths = {
                name.partition("/")[2]: int(item.shape[1]) for name, item in held.items() if item.ndim == 2
            }

    def whole(self, name: str) -> NDArray[Any]:
        """An array, proved as it is read."""
        with self._open() as file:
            out = np.empty(file[name].shape, dtype=file[name].dtype)
        self.check(name, out)
        return out

    def check(
        self, name: str, out: NDArray[Any] | None = None, places: NDArray[np.int64] | None = None
    ) -> None:
        """Read an array block by block and compare its digest; row ``i`` goes to ``out[places[i]]``.

        Raises
        ------
        Damaged
            The digest is not that of what was written.
        """
        stamp = self._stamp()
        with self._open() as file:
            item = file[name]
            proof = hashlib.sha256()
            step = _rows_of_a_block(item)
            for start in range(0, len(item), step):
                block = self._block(item, name, start, start + step)
                proof.update(np.ascontiguousarray(block).view(np.uint8).data)
                if out is not None and places is not None:
                    out[places[start : start + step]] = block
                elif out is not None:
                    out[start : start + step] = block
        if proof.hexdigest() != self.digests[name]:
            raise Damaged(f"{self.path} is damaged in {name}; compute it again")
        self._proved[name] = stamp

    def problems(self) -> Iterator[tuple[str, str | None]]:
        """Check every array: yields ``(name, None)`` or ``(name, what is wrong)``."""
        for name in sorted(self.digests):
            try:
                self.check(name)
            except Damaged as error:
                yield name, str(error)
            else:
                yield name, None

    def prove(self, name: str) -> None:
        """:meth:`check` an array once, and again only where the file has changed since."""
        if self._proved.get(name) != self._stamp():
            self.check(name)

    def read(self, name: str, rows: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Some rows of an array, ascending, into ``out``; chunks without any of them are not read."""
        with self._open() as file:
            item = file[name]
            chunk = (item.chunks or (1,))[0]
            step = max(1, _rows_of_a_block(item) // chunk) * chunk
            cut = (np.diff(rows // chunk) > 1) | (np.diff(rows // step) > 0)
            done = 0
            for run in np.split(rows, np.flatnonzero(cut) + 1):
                block = self._block(item, name, int(run[0]), int(run[-1]) + 1)
                out[done : done + len(run)] = block if len(block) == len(run) else block[run - run[0]]
                done += len(run)

    def _block(self, item: h5py.Dataset, name: str, start: int, stop: int) -> NDArray[Any]:
        try:
            return np.asarray(item[start:stop])
        except OSError as error:  # fletcher32 noticed first
            raise Damaged(f"{self.path} is damaged in {name} ({error}); compute it again") from None

    def _stamp(self) -> tuple[int, ...]:
        """What differs once a file is another, or written to."""
        try:
            found = self.path.stat()
        except OSError:  # whoever opens it says why
            return ()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    @contextmanager
    def _open(self) -> Iterator[h5py.File]:
        """The file, with whatever HDF5 stumbles over reported as damage."""
        try:
            with open_hdf5(self.path) as file:
                yield file
        except UserError:
            raise
        except FileNotFoundError:
            raise UserError(f"{self.path} is gone; compute it again") from None
        except PermissionError:
            raise UserError(f"{self.path} may not be read: permission denied") from None
        except NotRegular:
            raise UserError(f"{self.path} is not a regular file; move it away") from None
        except OSError as error:
            if error.errno is not None:  # the operating system's word, not the file's
                raise UserError(
                    f"{self.path} cannot be read now ({os.strerror(error.errno)}): is it open elsewhere? "
                    "Close it there, then run this again"
                ) from None
            raise self._unreadable(error) from None
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> Damaged:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Damaged(f"{self.path} is damaged or cut short ({reason}); compute it again")


def canonical(value: Any) -> str:
    """JSON with one spelling: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical_digest(value: Any) -> str:
    """Hex SHA-256 of a JSON value in its :func:`canonical` spelling."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def text(value: Any) -> str:
    """What a header says, whether as a string of fixed or of variable length."""
    return value.decode() if isinstance(value, bytes) else str(value)


def header_digest(attributes: Any, held: dict[str, h5py.Dataset], names: Sequence[str] = HEADER) -> str:
    """SHA-256 over the header and each array's digest, type and shape, so that none changes unnoticed."""
    shapes = {name: [text(item.attrs["sha256"]), str(item.dtype), item.shape] for name, item in held.items()}
    return canonical_digest([_header(attributes, names), shapes])


def arrays(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """Every array of both splits, refusing any that is not stored in this very file."""
    for split in SPLITS:
        _refuse_link(file, split)
        for name in file[split]:
            _refuse_link(file, f"{split}/{name}")
            item = file[split][name]
            if not isinstance(item, h5py.Dataset) or item.is_virtual or item.external:
                raise Damaged(f"{file.filename} holds {split}/{name}, which is not a plain dataset")
            yield f"{split}/{name}", item


def _header(attributes: Any, names: Sequence[str]) -> dict[str, Any]:
    return {
        name: list(map(text, attributes[name])) if name == "class_names" else text(attributes[name])
        for name in names
    }


def _refuse_link(file: h5py.File, name: str) -> None:
    """Before it is opened: what it leads to may be any file."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise Damaged(f"{file.filename} holds {name}, which is not a plain dataset")


def _rows_of_a_block(item: h5py.Dataset) -> int:
    row = int(item.dtype.itemsize * np.prod(item.shape[1:]))
    return max(1, BLOCK_BYTES // max(1, row))
