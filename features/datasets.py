"""Where the images and their labels come from."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.errors import UserError
from features.pictures import Stored, array_squares
from features.splits import pick, stratified

SPLITS = ("train", "test")
MIN_TRAIN = 5  # images a class needs in the train split: some to fit, one to validate
MIN_TEST = 1  # and in the test split
HOLD_OUT = 0.2  # share of a class that becomes the test split where there is none
NAMED = ("cifar10", "digits")


class Dataset(ABC):
    """Labelled RGB images in two splits, ``train`` and ``test``, streamed in slices.

    Rows keep one recorded order. A subclass sets the attributes below and ``_labels``, the class
    numbers of the whole splits.

    Attributes
    ----------
    name : a short label for reports.
    source : the absolute path of a folder dataset, or ``name``: what a command line asks for.
    class_names : names by class number.
    note : how the splits came about, if that needs saying.
    limit : the ``LIMIT`` the dataset was opened with, or None.
    side : pixels a side as stored, where all images are squares of one size.
    archive : the file that the images were read from, where there is one and it was read.
    """

    name: str
    source: str
    class_names: tuple[str, ...]
    note: str = ""
    limit: int | None = None
    archive: str | None = None
    side: int
    _labels: dict[str, NDArray[np.int64]]

    @abstractmethod
    def digest(self, fresh: bool = False) -> str:
        """SHA-256 over every pixel and label of the whole dataset, whatever the limit.

        ``fresh`` reads again what an earlier call may have remembered.
        """

    @abstractmethod
    def _read(self, split: str, rows: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
        """The pictures of these rows of the whole split, ``(m, size, size, 3)`` uint8."""

    @abstractmethod
    def _id(self, split: str, row: int) -> str:
        """What names one row of the whole split for good."""

    def labels(self, split: str) -> NDArray[np.int64]:
        """``(n,)`` class numbers of the split, in row order."""
        return self._labels[split][self._rows[split]]

    def ids(self, split: str) -> list[str]:
        """The name of each row of the split: a file's relative path where there are files."""
        return [self._id(split, int(row)) for row in self._rows[split]]

    def images(self, split: str, start: int, stop: int, size: int) -> NDArray[np.uint8]:
        """Rows ``start`` to ``stop`` as ``(stop - start, size, size, 3)`` uint8 RGB.

        Raises
        ------
        UserError
            An image cannot be read; it is named.
        """
        return self._read(split, self._rows[split][start:stop], size)

    def stored(self, split: str, row: int) -> Stored:
        """How the picture in a row is stored: pixels of its short side, quality of a JPEG."""
        return Stored(self.side)

    @cached_property
    def _rows(self) -> dict[str, NDArray[np.int64]]:
        """The rows of each whole split that are in use: ``limit`` of them, stratified, or all."""
        rows = {}
        for split, least in (("train", MIN_TRAIN), ("test", MIN_TEST)):
            labels = self._labels[split]
            count = len(labels) if self.limit is None else min(self.limit, len(labels))
            if self.limit is not None and count < least * len(self.class_names):
                raise UserError(
                    f"LIMIT={self.limit} is too small: each of the {len(self.class_names)} classes "
                    f"of {self.name} needs {least} images in {split}; raise LIMIT"
                )
            rows[split] = stratified(labels, count, f"limit {split}")
            counts = np.bincount(labels[rows[split]], minlength=len(self.class_names))
            if counts.min() < least:
                few = self.class_names[int(counts.argmin())]
                raise UserError(
                    f"{self.name}: class {few!r} has {counts.min()} images in {split}, expected at "
                    f"least {least}; {'add images' if self.limit is None else 'raise LIMIT'}"
                )
        return rows


class Digits(Dataset):
    """The 1,797 handwritten digits that ship inside scikit-learn, 8 x 8 grey.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its
    test part). The split is ours: one in five of each class is held out.
    """

    name = source = "digits"
    class_names = tuple(str(digit) for digit in range(10))
    side = 8
    note = "one image in five of each class is held out as the test split"

    def __init__(self, limit: int | None = None) -> None:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        grey = np.round(bunch.images * (255 / 16)).astype(np.uint8)  # the scans have 17 levels
        self._pixels = np.repeat(grey[..., None], 3, axis=3)
        target = bunch.target.astype(np.int64)
        self._whole = hold_out(target)
        self._labels = {split: target[rows] for split, rows in self._whole.items()}
        self.limit = limit

    def digest(self, fresh: bool = False) -> str:
        proof = hashlib.sha256(self._pixels.tobytes())
        for split in SPLITS:
            proof.update(self._whole[split].tobytes() + self._labels[split].tobytes())
        return proof.hexdigest()

    def _read(self, split: str, rows: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
        return array_squares(self._pixels[self._whole[split][rows]], size)

    def _id(self, split: str, row: int) -> str:
        return f"digits/{self._whole[split][row]:04d}"


def hold_out(labels: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """A fixed stratified split of rows into ``train`` and ``test`` (one in five, ascending)."""
    _, sizes = np.unique(labels, return_counts=True)
    test = pick(labels, np.maximum(1, np.floor(sizes * HOLD_OUT)).astype(np.int64), "hold out")
    return {"train": np.setdiff1d(np.arange(len(labels)), test), "test": test}


def source_of(dataset: str) -> str:
    """What ``Dataset.source`` will be for this ``DATASET=``, without touching an image.

    Raises
    ------
    UserError
        It is empty, or neither a known name nor a folder that exists.
    """
    if dataset in NAMED:
        return dataset
    path = Path(dataset).expanduser()
    if dataset and path.is_dir():  # an empty path would be the current folder
        return str(path.resolve())
    raise UserError(
        f"{f'unknown dataset {dataset!r}' if dataset else 'DATASET= is empty'}: expected "
        f"{', '.join(NAMED)}, or the path of a folder with train/<class>/ and test/<class>/ "
        "(or <class>/ alone)"
    )


def open_dataset(
    dataset: str,
    archive: str | None = None,
    limit: int | None = None,
    offline: bool = False,
    remembered: Iterable[str] = (),
) -> Dataset:
    """The dataset that ``DATASET=``, ``ARCHIVE=`` and ``LIMIT=`` ask for; ``offline``: if it is here.

    ``remembered``: where its archive has been before.
    """
    source = source_of(dataset)
    if limit is not None and limit < 1:
        raise UserError(f"LIMIT={limit}: expected a positive number of images per split")
    if archive is not None and source != "cifar10":
        raise UserError(f"ARCHIVE= belongs to DATASET=cifar10, not to {dataset!r}; leave it out")
    if source == "cifar10":
        from features.cifar10 import Cifar10

        return Cifar10(archive, limit, offline=offline, remembered=remembered)
    if source == "digits":
        return Digits(limit)
    from features.folders import Folder

    return Folder(Path(source), limit)
