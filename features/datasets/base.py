"""The dataset contract: labelled images in two splits, read in slices."""

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
MIN_TRAIN = 5  # images per class in the train split, at least: some to fit, one to validate
MIN_TEST = 1  # images per class in the test split, at least
LEAST = {"train": MIN_TRAIN, "test": MIN_TEST}
HOLD_OUT = 0.2  # share of each class held out as the test split if there is none


Images = Callable[[int, int], NDArray[np.uint8]]  # images start to stop, (n, size, size, 3) uint8 RGB


@dataclass(frozen=True)
class Pixels:
    """Images in memory, ``(n, size, size, 3)`` uint8 RGB; a call returns those from start to stop."""

    images: NDArray[np.uint8]

    def __call__(self, start: int, stop: int) -> NDArray[np.uint8]:
        return self.images[start:stop]


@dataclass(frozen=True)
class Slice:
    """Rows of a dataset, read at each call. Pickling reads the pixels, as the dataset may be local."""

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
    """Labelled RGB images in two splits, ``train`` and ``test``, read in slices.

    The order of the rows is fixed. A subclass sets the attributes below and implements :meth:`digest`,
    :meth:`all_labels`, :meth:`read` and :meth:`name_of`. These refer to complete splits, with rows numbered
    from 0 regardless of ``limit``; this class selects the rows in use.

    Attributes
    ----------
    name : a short label for reports.
    source : the absolute path or URL of a dataset in files, else ``name``; how a command refers to it.
    class_names : names by class number.
    note : remarks on how the splits were made, or empty.
    limit : images per split the dataset was opened with, or None.
    held_out : whether the test split was held out of the training images by :func:`hold_out`.
    side : pixels per side as stored, if all images are squares of one size; else override :meth:`stored`.
    archive : the archive that the images were read from, or None.
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
        """Hex SHA-256 over every pixel and label of the dataset, regardless of ``limit``.

        ``fresh`` ignores digests remembered from earlier calls.
        """

    @abstractmethod
    def all_labels(self, split: str) -> NDArray[np.int64]:
        """Class numbers of the complete split, ``(n,)``, as indices of ``class_names``."""

    @abstractmethod
    def read(self, split: str, rows: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
        """The images in these rows of the complete split, ``(m, size, size, 3)`` uint8 RGB.

        :mod:`features.datasets.images` resizes arrays, Pillow images and files.

        Raises
        ------
        UserError
            An image cannot be read; the message names it.
        """

    @abstractmethod
    def name_of(self, split: str, row: int) -> str:
        """The id of one row of the complete split: permanent, and unique in both splits."""

    def unreadable(self, split: str) -> NDArray[np.int64]:
        """Rows of the complete split left out because their images cannot be read, ``(m,)`` ascending."""
        return np.empty(0, np.int64)

    def left_out(self) -> list[str]:
        """The ids of all images left out because they cannot be read."""
        return [self.name_of(split, int(row)) for split in SPLITS for row in self.unreadable(split)]

    def labels(self, split: str) -> NDArray[np.int64]:
        """Class numbers of the rows in use.

        Returns
        -------
        ndarray of shape (n,), int64
            Indices of ``class_names``.

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
        """The ids of the rows in use.

        Returns
        -------
        list of str
            Relative paths for images in files. Unique in both splits.

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
        """The images in rows ``start`` to ``stop``, as squares of ``size`` pixels.

        Returns
        -------
        ndarray of shape (stop - start, size, size, 3), uint8
            RGB.

        Raises
        ------
        UserError
            An image cannot be read; the message names it.

        Examples
        --------
        >>> from features import open_dataset
        >>> open_dataset("digits").images("train", 0, 10, 64).shape
        (10, 64, 64, 3)
        """
        return self.read(split, self._rows[split][start:stop], size)

    def reader(self, split: str, start: int, stop: int, size: int) -> Images:
        """A picklable function that reads rows ``start`` to ``stop``, numbered from 0.

        If called in ascending order it may read ahead. By default pickling includes the pixels; a dataset
        whose files other machines can read pickles their paths instead.
        """
        return Slice(self, split, start, stop, size)

    def stored(self, split: str, row: int) -> Stored:
        """Length of the short side in pixels, and JPEG quality, of the image in a row as it is stored."""
        return Stored(self.side)

    @cached_property
    def _rows(self) -> dict[str, NDArray[np.int64]]:
        """The rows in use of each complete split: all readable ones, or a sample of ``limit``."""
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
        """Refuse a split in which a class has too few images."""
        least = LEAST[split]
        counts = np.bincount(labels, minlength=len(self.class_names))
        if counts.min() < least:
            few = self.class_names[int(counts.argmin())]
            raise UserError(
                f"{self.name}: class {few!r} has {counted(int(counts.min()), 'image')} in {split}, expected "
                f"at least {least}; {remedy}"
            )


class Parted(Dataset):
    """A dataset stored in two parts, ``train`` and ``test``, or in one from which a test split is held out.

    A subclass sets ``class_names``, calls :meth:`_divide` once, and maps rows of splits to rows of parts with
    ``_part_of`` and ``_rows_of``.
    """

    _part_of: dict[str, str]  # the part that contains each split
    _rows_of: dict[str, NDArray[np.int64]]  # the rows of that part in each split

    def all_labels(self, split: str) -> NDArray[np.int64]:
        return self._labels[split]

    def _refuse_one_class(self) -> None:
        """Refuse a dataset of one class."""
        if len(self.class_names) < 2:
            raise UserError(
                f"{self.source} has one class ({', '.join(self.class_names)}), at least two are needed; add "
                "images of another"
            )

    def _divide(self, labels: dict[str, NDArray[np.int64]]) -> None:
        """Map parts to splits; ``labels`` has the ``(n,)`` class numbers of each part."""
        self.held_out = "test" not in labels
        self._part_of = {split: split if split in labels else "train" for split in SPLITS}
        if self.held_out:
            self._rows_of = hold_out(labels["train"])
            self.note = "one image in five of each class is held out as the test split"
        else:
            self._rows_of = {part: np.arange(len(numbers)) for part, numbers in labels.items()}
        self._labels = {split: labels[self._part_of[split]][self._rows_of[split]] for split in SPLITS}


def hold_out(labels: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """A reproducible stratified split into ``train`` and ``test`` rows (one in five), both ascending."""
    _, sizes = np.unique(labels, return_counts=True)
    test = pick(labels, np.maximum(1, np.floor(sizes * HOLD_OUT)).astype(np.int64), "hold out")
    return {"train": np.setdiff1d(np.arange(len(labels)), test), "test": test}


def numbered(
    labels: Sequence[str], class_names: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names, and the class number of each label, ``(n,)``.

    Without ``class_names`` the classes are the distinct labels, sorted (as numbers if all are).
    """
    names = sorted(set(labels)) if class_names is None else list(class_names)
    if class_names is None and all(name.isascii() and name.isdigit() for name in names):
        names.sort(key=lambda name: (int(name), name))
    number = {name: place for place, name in enumerate(names)}
    return tuple(names), np.fromiter((number[label] for label in labels), np.int64, len(labels))
