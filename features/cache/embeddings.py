"""Reading a finished cache, verified by its digests."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.ahead import read_ahead
from features.cache.index import open_parts
from features.cache.part import FORMAT, Damaged, Part, canonical, canonical_digest
from features.datasets.base import SPLITS
from features.errors import UserError

__all__ = ["FORMAT", "Damaged", "Embeddings", "canonical", "canonical_digest", "slug"]

Rows = slice | NDArray[np.int64]


def slug(name: str) -> str:
    """A safe part of a file name: letters, digits and ``_.-``, no leading dot, at most 80 bytes."""
    short = re.sub(r"[^\w.-]+", "_", name).lstrip(".").encode()[:80]  # bytes, as file systems count
    return short.decode(errors="ignore") or "dataset"


class Embeddings:
    """The embeddings of one dataset by one extractor: labels, ids and vectors.

    Opening reads and verifies the header. Arrays are loaded on demand, layer by layer, and verified against
    their SHA-256. A cache in several files is read as one.

    Parameters
    ----------
    path : the HDF5 file, or the folder of a cache in several files.

    Attributes
    ----------
    path : the file or folder.
    fingerprint : identifies spec, dataset, limit and format.
    spec : the extractor's spec.
    dataset : ``name``, ``source``, ``digest``, ``note`` and ``limit``.
    class_names : names by class number.
    provenance : versions, source of the weights, seconds and so on; not part of the fingerprint.
    rows : number of rows of each split.

    Raises
    ------
    Damaged
        The file cannot be read, or its header has another digest.
    UserError
        A newer version of Headroom wrote it.

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
        if self.path.is_dir():
            header, self._parts = open_parts(self.path)
            self._digests: dict[str, str] = header["digests"]
        else:
            part = Part(self.path)
            header, self._parts, self._digests = part.header, [part], part.digests
        self.fingerprint: str = header["fingerprint"]
        self.spec: dict[str, Any] = header["spec"]
        self.dataset: dict[str, Any] = header["dataset"]
        self.class_names: tuple[str, ...] = tuple(header["class_names"])
        self.provenance: dict[str, Any] = header["provenance"]
        self.rows = {split: sum(part.rows[split] for part in self._parts) for split in SPLITS}

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers in the cache."""
        return tuple(self.spec["layers"])

    def width(self, layer: str) -> int:
        """Number of values in a layer's vector."""
        return self._parts[0].widths[layer]

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(part.path.stat().st_size for part in self._parts)

    def labels(self) -> NDArray[np.int64]:
        """Class numbers of the train split.

        Returns
        -------
        ndarray of shape (n,), int64
            Indices of ``class_names``.

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
        return self._whole("train/labels")

    def test_labels(self) -> NDArray[np.int64]:
        """Class numbers of the test split, ``(n,)``: for the final prediction, and nothing else."""
        return self._whole("test/labels")

    def digest(self, name: str) -> str:
        """Hex SHA-256 of labels or ids by name, such as ``test/labels``."""
        return self._digests[name]

    def ids(self, split: str, rows: Rows | Sequence[int] | None = None) -> list[str]:
        """The ids of the rows of a split, or of some of them.

        Parameters
        ----------
        split : ``train`` or ``test``.
        rows : a slice, or (m,) numbers of stored rows, ascending; None: all.

        Returns
        -------
        list of str
            Relative paths for images in files.

        Raises
        ------
        UserError
            The rows do not ascend within the split.
        Damaged
            The digest is not that of what was written.

        Examples
        --------
        >>> from features import VGG16, extract, open_dataset
        >>> embeddings = extract(open_dataset("digits"), VGG16(layers="block5"), "out/embeddings")
        >>> embeddings.ids("test")[0]
        'digits/0004'
        >>> embeddings.ids("test", [0])
        ['digits/0004']
        """
        name = f"{split}/ids"
        if rows is None:
            return [row.decode() for row in self._whole(name)]
        for part in self._parts_of(split):
            part.prove(name)
        wanted = self._numbers(split, rows)
        out = np.empty(len(wanted), object)
        for part, inside, places in self._within(split, wanted):
            part.read(name, inside, out[places])
        return [row.decode() for row in out]

    def matrix(
        self, split: str, layers: Sequence[str], order: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """The vectors of these layers, concatenated by columns.

        Parameters
        ----------
        split : ``train`` or ``test``.
        layers : the layers, in the order of their columns.
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
        places = None if order is None else np.argsort(order)
        out = self._empty(layers, self.rows[split])
        for layer, columns in self._columns(layers):
            for part in self._parts_of(split):
                rows = slice(part.starts[split], part.starts[split] + part.rows[split])
                name, whole = f"{split}/{layer}", out[:, columns]
                if places is None:
                    part.check(name, whole[rows])
                else:
                    part.check(name, whole, places[rows])
        return out

    def take(self, split: str, layers: Sequence[str], rows: Rows) -> NDArray[np.float32]:
        """The vectors of some rows, layers concatenated by columns; reads only the HDF5 chunks needed.

        The first call reads the layers completely to verify their digests; later calls do so only if the
        file has changed.

        Parameters
        ----------
        split : ``train`` or ``test``.
        layers : the layers, in the order of their columns.
        rows : a slice, or (m,) numbers of stored rows, ascending.

        Returns
        -------
        ndarray of shape (m, d), float32

        Raises
        ------
        UserError
            The cache has no such layer, or the rows are not ascending numbers of the split.
        Damaged
            The digest is not that of what was written.

        Examples
        --------
        >>> import numpy as np
        >>> from features import VGG16, extract, open_dataset
        >>> embeddings = extract(open_dataset("digits"), VGG16(layers="block5"), "out/embeddings")
        >>> embeddings.take("train", ["block5"], np.array([3, 5, 1000])).shape
        (3, 512)
        """
        self.prove(split, layers)
        return self._take(split, layers, rows)

    def take_each(
        self, split: str, layers: Sequence[str], sets: Iterable[Rows]
    ) -> Generator[NDArray[np.float32]]:
        """:meth:`take` for several sets of rows, with read-ahead: at most three sets are in memory.

        Parameters
        ----------
        split, layers : as in :meth:`take`.
        sets : the rows of each set, as in :meth:`take`.

        Returns
        -------
        iterator of ndarrays of shape (m, d), float32

        Raises
        ------
        UserError, Damaged
            As :meth:`take`.

        Examples
        --------
        >>> import numpy as np
        >>> from features import VGG16, extract, open_dataset
        >>> embeddings = extract(open_dataset("digits"), VGG16(layers="block5"), "out/embeddings")
        >>> sets = np.split(np.sort(np.random.default_rng(0).permutation(1442)[:300]), 3)
        >>> [X.shape for X in embeddings.take_each("train", ["block5"], sets)]
        [(100, 512), (100, 512), (100, 512)]
        """
        self.prove(split, layers)
        with ThreadPoolExecutor(1) as reader:
            yield from read_ahead(reader, lambda rows: self._take(split, layers, rows), sets)

    def blocks(
        self, split: str, layers: Sequence[str], rows: int
    ) -> Generator[tuple[int, NDArray[np.float32]]]:
        """All vectors of a split in blocks of ``rows`` rows, with read-ahead as in :meth:`take_each`.

        Parameters
        ----------
        split : ``train`` or ``test``.
        layers : the layers, in the order of their columns.
        rows : rows per block; the last block may have fewer.

        Returns
        -------
        iterator of (int, ndarray of shape (rows, d), float32)
            The number of a block's first row, and its vectors.

        Raises
        ------
        UserError, Damaged
            As :meth:`take`.

        Examples
        --------
        >>> from features import VGG16, extract, open_dataset
        >>> embeddings = extract(open_dataset("digits"), VGG16(layers="block5"), "out/embeddings")
        >>> [(start, X.shape) for start, X in embeddings.blocks("train", ["block5"], 1000)]
        [(0, (1000, 512)), (1000, (442, 512))]
        """
        starts = range(0, self.rows[split], rows)
        with closing(self.take_each(split, layers, (slice(at, at + rows) for at in starts))) as each:
            for start in starts:
                yield start, next(each)

    def prove(self, split: str, layers: Sequence[str]) -> None:
        """Verify the digests of these layers, unless that was done since the file last changed.

        Raises
        ------
        UserError, Damaged
            As :meth:`take`.
        """
        self._refuse_unknown(layers)
        for layer in layers:
            for part in self._parts_of(split):
                part.prove(f"{split}/{layer}")

    def rows_of(self, split: str, layer: str, rows: Rows) -> NDArray[np.float32]:
        """Some rows (ascending) of one layer, without verifying its digest."""
        return self._take(split, [layer], rows)

    def problems(self) -> Iterator[tuple[str, str | None]]:
        """Verify every array: yields its name, and what is wrong or None."""
        for part in self._parts:
            for name, problem in part.problems():
                yield name if len(self._parts) == 1 else f"{name} in {part.path.name}", problem

    def _parts_of(self, split: str) -> list[Part]:
        return [part for part in self._parts if part.rows[split]]

    def _whole(self, name: str) -> NDArray[Any]:
        """Labels or ids of a complete split, verified."""
        arrays = [part.whole(name) for part in self._parts_of(name.partition("/")[0])]
        if len(arrays) == 1:
            return arrays[0]
        whole = np.concatenate(arrays)
        if hashlib.sha256(whole.tobytes()).hexdigest() != self._digests[name]:
            raise Damaged(f"{self.path} is damaged in {name}; compute it again")
        return whole

    def _take(self, split: str, layers: Sequence[str], rows: Rows) -> NDArray[np.float32]:
        wanted = self._numbers(split, rows)
        out = self._empty(layers, len(wanted))
        for part, inside, places in self._within(split, wanted):
            for layer, columns in self._columns(layers):
                part.read(f"{split}/{layer}", inside, out[places, columns])
        return out

    def _numbers(self, split: str, rows: Rows | Sequence[int]) -> NDArray[np.int64]:
        """Rows of a split by number, ascending."""
        count = self.rows[split]
        wanted = np.arange(*rows.indices(count)) if isinstance(rows, slice) else np.asarray(rows, np.int64)
        if len(wanted) and (wanted[0] < 0 or wanted[-1] >= count or (np.diff(wanted) <= 0).any()):
            raise UserError(f"rows: expected distinct ascending numbers from 0 to {count - 1}")
        return wanted

    def _within(
        self, split: str, wanted: NDArray[np.int64]
    ) -> Iterator[tuple[Part, NDArray[np.int64], slice]]:
        """Each part that has some of the rows: their numbers there, and their places among all."""
        for part in self._parts_of(split):
            inside = wanted - part.starts[split]
            first, end = np.searchsorted(inside, [0, part.rows[split]])
            if first < end:
                yield part, inside[first:end], slice(first, end)

    def _empty(self, layers: Sequence[str], rows: int) -> NDArray[np.float32]:
        """An uninitialised array for so many rows of these layers."""
        self._refuse_unknown(layers)
        return np.empty((rows, sum(map(self.width, layers))), np.float32)

    def _columns(self, layers: Sequence[str]) -> Iterator[tuple[str, slice]]:
        """Each layer with its columns."""
        end = 0
        for layer in layers:
            start, end = end, end + self.width(layer)
            yield layer, slice(start, end)

    def _refuse_unknown(self, layers: Sequence[str]) -> None:
        unknown = [layer for layer in layers if layer not in self.layers]
        if unknown:
            raise UserError(f"layers={unknown[0]}: expected some of {', '.join(self.layers)}")
