"""The read side of the cache: one finished HDF5 file, trusted by its digests."""

from __future__ import annotations

import hashlib
import json
import os
import re
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


class Damaged(UserError):
    """A finished file does not hold what was written into it."""


def canonical(value: Any) -> str:
    """JSON with one spelling: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def slug(name: str) -> str:
    """A name from data as part of a file's name: letters, digits, ``_.-``, visible and short."""
    short = re.sub(r"[^\w.-]+", "_", name).lstrip(".").encode()[:80]  # bytes: file systems count those
    return short.decode(errors="ignore") or "dataset"


class Embeddings:
    """Labels, ids and vectors of one dataset under one extractor spec.

    Opening reads the header and checks it; each array is checked against its SHA-256 when it is
    read. Nothing else is loaded: one layer costs one layer.

    Attributes
    ----------
    path : the file.
    fingerprint : identifies spec, dataset, limit and format.
    spec : the extractor's spec.
    dataset : ``name``, ``source``, ``digest``, ``note`` and ``limit``.
    class_names : names by class number.
    provenance : what made the file: versions, weights source, seconds. Not part of the fingerprint.

    Raises
    ------
    Damaged
        The file cannot be read, or not as what was written.
    UserError
        A newer Headroom wrote it.

    Examples
    --------
    >>> from pathlib import Path
    >>> from features import Embeddings
    >>> path = next(Path("out/embeddings").glob("*.h5"))
    >>> embeddings = Embeddings(path)
    >>> embeddings.layers, embeddings.rows
    (('block4', 'block5'), {'train': 1442, 'test': 355})
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self._open() as file:
            version = file.attrs.get("headroom_format")
            if isinstance(version, np.integer) and version != FORMAT:
                raise UserError(
                    f"{path} has format {version}, this Headroom reads {FORMAT}: use the Headroom that "
                    "wrote it, or move the file away and compute it again"
                )
            held = dict(arrays(file))
            for name, item in held.items():
                if problem := unsafe(item):
                    raise Damaged(f"{path} holds {problem} as {name}; compute it again")
            self._digests = {name: text(item.attrs["sha256"]) for name, item in held.items()}
            if text(file.attrs["sha256"]) != header_digest(file.attrs, held):
                raise Damaged(f"{path} is damaged in its header; compute it again")
            self.fingerprint = text(file.attrs["fingerprint"])
            self.spec: dict[str, Any] = json.loads(file.attrs["spec"])
            self.dataset: dict[str, Any] = json.loads(file.attrs["dataset"])
            self.class_names = tuple(text(name) for name in file.attrs["class_names"])
            self.provenance: dict[str, Any] = json.loads(file.attrs["provenance"])
            self.rows = {split: len(file[split]["labels"]) for split in SPLITS}

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers in the file."""
        return tuple(self.spec["layers"])

    def width(self, layer: str) -> int:
        """Numbers in a layer's vector."""
        with self._open() as file:
            return int(file["test"][layer].shape[1])

    def labels(self) -> NDArray[np.int64]:
        """Class numbers of the train split.

        Returns
        -------
        ndarray of shape (n,), int64
            Each an index of ``class_names``.

        Raises
        ------
        Damaged
            The digest is not that of what was written.

        Examples
        --------
        >>> from features import VGG16, extract, open_dataset
        >>> embeddings = extract(open_dataset("digits"), VGG16(layers="block5"), "out/embeddings")
        >>> embeddings.labels().shape
        (1442,)
        """
        return self._read("train/labels")

    def test_labels(self) -> NDArray[np.int64]:
        """``(n,)`` class numbers of the test split: for the final prediction, and nothing else."""
        return self._read("test/labels")

    def digest(self, name: str) -> str:
        """SHA-256 of an array's bytes as they were written: ``test/labels``, ``train/block5``."""
        return self._digests[name]

    def ids(self, split: str) -> list[str]:
        """What names each row of a split.

        Returns
        -------
        list of str
            A file's relative path where there are files.

        Raises
        ------
        Damaged
            The digest is not that of what was written.

        Examples
        --------
        >>> from features import VGG16, extract, open_dataset
        >>> embeddings = extract(open_dataset("digits"), VGG16(layers="block5"), "out/embeddings")
        >>> embeddings.ids("test")[0]
        'digits/0004'
        """
        return [row.decode() for row in self._read(f"{split}/ids")]

    def matrix(
        self, split: str, layers: Sequence[str], order: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """The vectors of some layers side by side, one copy.

        Parameters
        ----------
        split : ``train`` or ``test``.
        layers : whose columns they are, in this order.
        order : a permutation of the rows: row ``i`` of the result is stored row ``order[i]``.

        Returns
        -------
        ndarray of shape (n, d), float32

        Raises
        ------
        UserError
            The file has no such layer.
        Damaged
            The digest is not that of what was written.

        Examples
        --------
        >>> from features import VGG16, extract, open_dataset
        >>> network = VGG16(layers=["block4", "block5"])
        >>> embeddings = extract(open_dataset("digits"), network, "out/embeddings")
        >>> embeddings.matrix("train", ["block5", "block4"]).shape
        (1442, 1024)
        """
        unknown = [layer for layer in layers if layer not in self.layers]
        if unknown:
            raise UserError(f"layers={unknown[0]}: expected some of {', '.join(self.layers)}")
        places = None if order is None else np.argsort(order)
        with self._open() as file:
            widths = [file[split][layer].shape[1] for layer in layers]
            out = np.empty((self.rows[split], sum(widths)), dtype=np.float32)
            ends = np.cumsum(widths)
            for layer, end, width in zip(layers, ends, widths, strict=True):
                self._check(file, f"{split}/{layer}", out[:, end - width : end], places)
        return out

    def rows_of(self, split: str, layer: str, rows: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """Some rows (ascending) of one layer, as stored and without the digest's proof."""
        with self._open() as file:
            return np.asarray(file[split][layer][rows])

    def problems(self) -> Iterator[tuple[str, str | None]]:
        """Check every array: yields ``(name, None)`` or ``(name, what is wrong)``."""
        for name in sorted(self._digests):
            try:
                with self._open() as file:
                    self._check(file, name, None)
            except Damaged as error:
                yield name, str(error)
            else:
                yield name, None

    def _read(self, name: str) -> NDArray[Any]:
        with self._open() as file:
            out = np.empty(file[name].shape, dtype=file[name].dtype)
            self._check(file, name, out)
        return out

    def _check(
        self,
        file: h5py.File,
        name: str,
        out: NDArray[Any] | None,
        places: NDArray[np.int64] | None = None,
    ) -> None:
        """Read an array block by block and compare its digest; row ``i`` goes to ``out[places[i]]``."""
        item = file[name]
        proof = hashlib.sha256()
        step = max(1, BLOCK_BYTES // max(1, item.dtype.itemsize * int(np.prod(item.shape[1:]))))
        for start in range(0, len(item), step):
            try:
                block = item[start : start + step]
            except OSError as error:  # fletcher32 noticed first
                raise Damaged(f"{self.path} is damaged in {name} ({error}); compute it again") from None
            proof.update(np.ascontiguousarray(block).view(np.uint8).data)
            if out is not None and places is not None:
                out[places[start : start + step]] = block
            elif out is not None:
                out[start : start + step] = block
        if proof.hexdigest() != self._digests[name]:
            raise Damaged(f"{self.path} is damaged in {name}; compute it again")

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


def text(value: Any) -> str:
    """What a header says, whether as a string of fixed or of variable length."""
    return value.decode() if isinstance(value, bytes) else str(value)


def header_digest(attributes: Any, held: dict[str, h5py.Dataset]) -> str:
    """SHA-256 over the header and each array's digest, type and shape, so that none changes unnoticed."""
    header = {
        name: list(map(text, attributes[name])) if name == "class_names" else text(attributes[name])
        for name in HEADER
    }
    shapes = {name: [text(item.attrs["sha256"]), str(item.dtype), item.shape] for name, item in held.items()}
    return hashlib.sha256(canonical([header, shapes]).encode()).hexdigest()


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


def _refuse_link(file: h5py.File, name: str) -> None:
    """Before it is opened: what it leads to may be any file."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise Damaged(f"{file.filename} holds {name}, which is not a plain dataset")
