"""One HDF5 file of embeddings, verified by its digests."""

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
from features.shapes import Shape, anything, count, fits, having, mapping, none_or, parsed, some
from features.shapes import text as is_text

FORMAT = 2  # version of the layout; part of every fingerprint
BLOCK_BYTES = 16 << 20  # read and hashed at a time
HEADER = ("headroom_format", "fingerprint", "spec", "dataset", "class_names", "provenance")
PART_HEADER = ("headroom_part", "fingerprint", "about")  # of one file of several
JSON: dict[str, Shape] = {  # what is JSON in a header, and what of it is read
    "spec": having({"layers": some(is_text)}),
    "dataset": having({"source": is_text, "digest": is_text, "limit": none_or(count(1))}),
    "provenance": mapping(anything),
    "about": having({"starts": dict.fromkeys(SPLITS, count(0))}),
}


class Damaged(UserError):
    """A finished file does not have the content that was written."""


class Part:
    """Labels, ids and vectors of some or all rows of both splits, in one HDF5 file.

    Opening reads and verifies the header. Rows are numbered from the file's first row of each split.

    Parameters
    ----------
    path : the file.
    names : fields of the header: ``HEADER`` for a single file, ``PART_HEADER`` for one of several.

    Attributes
    ----------
    path : the file.
    header : the header, by field.
    digest : SHA-256 of the header and of each array's digest, dtype and shape.
    starts : the file's first row of each complete split.
    rows : number of rows of each split.
    widths : number of values in each layer's vector.
    digests : SHA-256 of each array's bytes, by name, such as ``test/labels`` and ``train/block5``.

    Raises
    ------
    Damaged
        The file cannot be read, or its header has another digest.
    UserError
        A newer version of Headroom wrote it, or the operating system refuses to read it.
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
            self.header = {name: parsed(said[name]) if name in JSON else said[name] for name in said}
            for name, value in self.header.items():
                if name in JSON and not fits(value, JSON[name]):
                    raise Damaged(f"{path} is damaged in its header ({name}); compute it again")
            about = self.header.get("about", {"starts": dict.fromkeys(SPLITS, 0)})
            self.starts: dict[str, int] = about["starts"]
            self.rows = {split: len(file[split]["labels"]) if len(file[split]) else 0 for split in SPLITS}
            self.widths = {
                name.partition("/")[2]: int(item.shape[1]) for name, item in held.items() if item.ndim == 2
            }

    def whole(self, name: str) -> NDArray[Any]:
        """Read an array and verify its digest."""
        with self._open() as file:
            out = np.empty(file[name].shape, dtype=file[name].dtype)
        self.check(name, out)
        return out

    def check(
        self, name: str, out: NDArray[Any] | None = None, places: NDArray[np.int64] | None = None
    ) -> None:
        """Read an array block by block and verify its digest.

        Parameters
        ----------
        out : receives the rows; None: verify only.
        places : row ``i`` is written to ``out[places[i]]``; None: to ``out[i]``.

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
        """Verify every array: yields its name, and what is wrong or None."""
        for name in sorted(self.digests):
            try:
                self.check(name)
            except Damaged as error:
                yield name, str(error)
            else:
                yield name, None

    def prove(self, name: str) -> None:
        """:meth:`check` an array, unless that was done since the file last changed."""
        if self._proved.get(name) != self._stamp():
            self.check(name)

    def read(self, name: str, rows: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Read some rows of an array (ascending) into ``out``; reads only the HDF5 chunks needed."""
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
        except OSError as error:  # a fletcher32 checksum failed
            raise Damaged(f"{self.path} is damaged in {name} ({error}); compute it again") from None

    def _stamp(self) -> tuple[int, ...]:
        """A stamp that changes when the file is replaced or written."""
        try:
            found = self.path.stat()
        except OSError:  # opening it reports why
            return ()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    @contextmanager
    def _open(self) -> Iterator[h5py.File]:
        """Open the file; errors of HDF5 are reported as damage, those of the operating system as such."""
        try:
            with open_hdf5(self.path) as file:
                yield file
        except UserError:
            raise
        except FileNotFoundError:
            raise UserError(f"{self.path} is gone; compute it again") from None
        except PermissionError:
            raise UserError(f"{self.path} cannot be read: permission denied; put that right") from None
        except NotRegular:
            raise UserError(f"{self.path} is not a regular file; move it away") from None
        except OSError as error:
            if error.errno is not None:  # raised by the operating system
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
    """JSON in a canonical form: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical_digest(value: Any) -> str:
    """Hex SHA-256 of a JSON value in its :func:`canonical` form."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def text(value: Any) -> str:
    """A header field as text, whether stored with fixed or variable length."""
    return value.decode() if isinstance(value, bytes) else str(value)


def header_digest(attributes: Any, held: dict[str, h5py.Dataset], names: Sequence[str] = HEADER) -> str:
    """Hex SHA-256 over the header and each array's digest, dtype and shape."""
    shapes = {name: [text(item.attrs["sha256"]), str(item.dtype), item.shape] for name, item in held.items()}
    return canonical_digest([_header(attributes, names), shapes])


def arrays(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield every array of both splits; raises Damaged for any that is not stored in this file."""
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
    """Refuse a link before it is opened, as it may point to any file."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise Damaged(f"{file.filename} holds {name}, which is not a plain dataset")


def _rows_of_a_block(item: h5py.Dataset) -> int:
    row = int(item.dtype.itemsize * np.prod(item.shape[1:]))
    return max(1, BLOCK_BYTES // max(1, row))
