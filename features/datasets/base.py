"""What every dataset is: labelled images in two splits, streamed in slices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from features.datasets.images import Stored
from features.datasets.splits import pick, stratified
from features.errors import UserError
from features.words import counted

SPLITS = ("train", "test")
MIN_TRAIN = 5  # images per class needs in the train split: some to fit, one to validate
MIN_TEST = 1  # and in the test split
LEAST = {"train": MIN_TRAIN, "test": MIN_TEST}
HOLD_OUT = 0.2  # share of a class that becomes the test split where there is none


Images = Callable[[int, int], NDArray[np.uint8]]  # images start to stop, (n, size, size, 3) uint8 RGB


@dataclass(frozen=True)
class Pixels:
    """Images in memory, ``(n, size, size, 3)`` uint8 RGB; called with start and stop it gives some."""

    images: NDArray[np.uint8]

    def __call__(self, start: int, stop: int) -> NDArray[np.uint8]:
        return self.images[start:stop]


@dataclass(frozen=True)
class Slice:
    """Images of a dataset, read when it is called; pickled, their pixels: elsewhere it is not."""

    dataset: Dataset
    split: str
    start: int
    stop: int
    size: int

    def __call__(self, start: int, stop: int) -> NDArray[np.uint8]:
        return self.dataset.images(self.split, self.start + start, self.start + stop, self.size)

    def __reduce__(self) -> tuple[type[Pixels], tuple[NDArray[np.uint8]]]:
        return Pixels, (self(0, self.stop - self.start),)


class Dataset(ABC):
    """Labelled RGB images in two splits, ``train`` and ``test``, streamed in slices.

    Rows keep one recorded order. A subclass sets the attributes below and has four methods:
    :meth:`digest`, :meth:`all_labels`, :meth:`read` and :meth:`name_of`. They are of whole splits, where
    rows count from 0 whatever the limit; which of the rows are in use is decided here.

    Attributes
    ----------
    name : a short label for reports.
    source : the absolute path of a folder dataset, or ``name``: what a command line asks for.
    class_names : names by class number.
    note : how the splits came about, if that needs saying.
    limit : the ``LIMIT`` the dataset was opened with, or None.
    held_out : whether the test split was held out of what came as one, by :func:`hold_out`.
    side : pixels a side as stored, where all are squares of one size; else :meth:`stored` is overridden.
    archive : the file that the images were read from, where there is one and it was read.
    """

    name: str
    source: str
    class_names: tuple[str, ...]
    note: str = ""
    limit: int | None = None
    held_out: bool = False
    archive: str | None = None
    side: int

    @abstractmethod
    def digest(self, fresh: bool = False) -> str:
        """SHA-256 over every pixel and label of the whole dataset, whatever the limit.

        ``fresh`` reads again what an earlier call may have remembered.
        """

    @abstractmethod
    def all_labels(self, split: str) -> NDArray[np.int64]:
        """``(n,)`` class numbers of the whole split, each an index of ``class_names``."""

    @abstractmethod
    def read(self, split: str, rows: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
        """The pictures of these rows of the whole split, ``(m, size, size, 3)`` uint8 RGB.

        :mod:`features.datasets.images` makes them of arrays, of Pillow images and of files.

        Raises
        ------
        UserError
            An image cannot be read; it is named.
        """

    @abstractmethod
    def name_of(self, split: str, row: int) -> str:
        """What names one row of the whole split for good: no other row of either split has this name."""

    def unreadable(self, split: str) -> NDArray[np.int64]:
        """Rows of the whole split that are left out because their pictures cannot be read, ascending."""
        return np.empty(0, np.int64)

    def left_out(self) -> list[str]:
        """The names of all pictures that are left out because they cannot be read."""
        return [self.name_of(split, int(row)) for split in SPLITS for row in self.unreadable(split)]

    def labels(self, split: str) -> NDArray[np.int64]:
        """Class numbers of the rows in use.

        Returns
        -------
        ndarray of shape (n,), int64
            Each an index of ``class_names``.

        Raises
        ------
        UserError
            ``limit`` leaves a class with too few images.

        Examples
        --------
        >>> from features import open_dataset
        >>> open_dataset("digits").labels("test").shape
        (355,)
        """
        return self.all_labels(split)[self._rows[split]]

    def ids(self, split: str) -> list[str]:
        """What names each of the rows in use.

        Returns
        -------
        list of str
            A file's relative path where there are files. No two rows of either split have the same.

        Raises
        ------
        UserError
            ``limit`` leaves a class with too few images.

        Examples
        --------
        >>> from features import open_dataset
        >>> open_dataset("digits").ids("test")[:2]
        ['digits/0004', 'digits/0006']
        """
        return [self.name_of(split, int(row)) for row in self._rows[split]]

    def images(self, split: str, start: int, stop: int, size: int) -> NDArray[np.uint8]:
        """The pictures of rows ``start`` to ``stop``, brought to squares of ``size`` pixels.

        Returns
        -------
        ndarray of shape (stop - start, size, size, 3), uint8
            RGB.

        Raises
        ------
        UserError
            An image cannot be read; it is named.

        Examples
        --------
        >>> from features import open_dataset
        >>> open_dataset("digits").images("train", 0, 10, 64).shape
        (10, 64, 64, 3)
        """
        return self.read(split, self._rows[split][start:stop], size)

    def reader(self, split: str, start: int, stop: int, size: int) -> Images:
        """What reads rows ``start`` to ``stop``, here or in another process: it is picklable.

        Rows count from its first. Asked for in ascending order, they may be read ahead. Here the pixels are
        pickled; a dataset whose images other machines can read hands out where they lie instead.
        """
        return Slice(self, split, start, stop, size)

    def stored(self, split: str, row: int) -> Stored:
        """How the picture in a row is stored: pixels of its short side, quality of a JPEG."""
        return Stored(self.side)

    @cached_property
    def _rows(self) -> dict[str, NDArray[np.int64]]:
        """The rows of each whole split that are in use: of the readable ones all, or ``limit``."""
        rows = {}
        for split, least in LEAST.items():
            whole = self.all_labels(split)
            readable = np.setdiff1d(np.arange(len(whole)), self.unreadable(split))
            labels = whole[readable]
            count = len(labels) if self.limit is None else min(self.limit, len(labels))
            if self.limit is not None and count < least * len(self.class_names):
                raise UserError(
                    f"limit={self.limit} is too small: each of the {len(self.class_names)} classes "
                    f"of {self.name} needs {least} images in {split}; raise limit="
                )
            self._refuse_too_few(split, labels, "add images")
            picked = stratified(labels, count, f"limit {split}")
            self._refuse_too_few(split, labels[picked], "raise limit=")
            rows[split] = readable[picked]
        return rows

    def _refuse_too_few(self, split: str, labels: NDArray[np.int64], remedy: str) -> None:
        """Name the class that has too few of a split's images."""
        least = LEAST[split]
        counts = np.bincount(labels, minlength=len(self.class_names))
        if counts.min() < least:
            few = self.class_names[int(counts.argmin())]
            raise UserError(
                f"{self.name}: class {few!r} has {counted(int(counts.min()), 'image')} in {split}, expected "
                f"at least {least}; {remedy}"
            )


class Parted(Dataset):
    """Rows that lie in two parts, ``train`` and ``test``, or in one that a test split is held out of.

    A subclass sets ``class_names``, calls :meth:`_divide` once, and finds its rows by ``_part_of`` and
    ``_rows_of``.
    """

    _part_of: dict[str, str]  # the part that holds a split
    _rows_of: dict[str, NDArray[np.int64]]  # the rows of that part which are the split's

    def all_labels(self, split: str) -> NDArray[np.int64]:
        return self._labels[split]

    def _refuse_one_class(self) -> None:
        """Refuse images of one class only."""
        if len(self.class_names) < 2:
            raise UserError(
                f"{self.source} has one class ({', '.join(self.class_names)}), at least two are needed; add "
                "images of another"
            )

    def _divide(self, labels: dict[str, NDArray[np.int64]]) -> None:
        """Make splits of parts: ``labels`` are the ``(n,)`` class numbers of each part."""
        self.held_out = "test" not in labels
        self._part_of = {split: split if split in labels else "train" for split in SPLITS}
        if self.held_out:
            self._rows_of = hold_out(labels["train"])
            self.note = "one image in five of each class is held out as the test split"
        else:
            self._rows_of = {part: np.arange(len(numbers)) for part, numbers in labels.items()}
        self._labels = {split: labels[self._part_of[split]][self._rows_of[split]] for split in SPLITS}


def hold_out(labels: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """A fixed stratified split of rows into ``train`` and ``test`` (one in five, ascending)."""
    _, sizes = np.unique(labels, return_counts=True)
    test = pick(labels, np.maximum(1, np.floor(sizes * HOLD_OUT)).astype(np.int64), "hold out")
    return {"train": np.setdiff1d(np.arange(len(labels)), test), "test": test}


def numbered(
    labels: Sequence[str], class_names: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names and the ``(n,)`` class number of each label.

    Without ``class_names`` they are the labels in ascending order: as numbers, if all are.
    """
    names = sorted(set(labels)) if class_names is None else list(class_names)
    if class_names is None and all(name.isascii() and name.isdigit() for name in names):
        names.sort(key=lambda name: (int(name), name))
    number = {name: place for place, name in enumerate(names)}
    return tuple(names), np.fromiter((number[label] for label in labels), np.int64, len(labels))
