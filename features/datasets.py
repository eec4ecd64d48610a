"""Where the images and their labels come from."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.errors import UserError
from features.filedigests import FileDigests, stamp
from features.pictures import array_squares, read_square, short_side
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
    """

    name: str
    source: str
    class_names: tuple[str, ...]
    note: str = ""
    limit: int | None = None
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

    def short_side(self, split: str, row: int) -> int:
        """Of the picture in a row as it is stored, in pixels."""
        return self.side

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


class Folder(Dataset):
    """JPEG and PNG files in ``train/<class>/`` and ``test/<class>/``, or in ``<class>/`` alone.

    Once its digest has been taken, a file that has changed since is refused and named.

    Without a ``test`` folder, one in five of each class is held out by a fixed rule that depends
    on the sorted file names alone. Other files are left out and counted in ``note``.

    Raises
    ------
    UserError
        No classes, one class, classes that differ between the splits, or too few images in one.
    """

    SUFFIXES = (".jpg", ".jpeg", ".png")

    def __init__(self, root: Path, limit: int | None = None) -> None:
        self._root = root.resolve()
        self.source = str(self._root)
        self.name = self._root.name
        self._other = 0
        self._digest: str | None = None
        split_folders = all((self._root / split).is_dir() for split in SPLITS)
        if split_folders:
            found = {split: self._scan(self._root / split) for split in SPLITS}
        else:
            found = {"train": self._scan(self._root)}
        self.class_names = tuple(sorted(found["train"]))
        self._check_classes(found)
        self._files = {split: self._flatten(classes) for split, classes in found.items()}
        self._labels = {
            split: np.repeat(np.arange(len(classes)), [len(classes[c]) for c in self.class_names])
            for split, classes in found.items()
        }
        if not split_folders:
            self._hold_out()
        if self._other:
            self.note = f"{self.note}; " * bool(self.note) + f"{self._other} other files left out"
        self.limit = limit

    def digest(self, fresh: bool = False) -> str:
        if self._digest is not None and not fresh:
            return self._digest
        proof = hashlib.sha256()
        paths = [self._id(split, row) for split in SPLITS for row in range(len(self._files[split]))]
        stamps = np.empty((len(paths), 2), dtype=np.int64)
        with FileDigests(self._root, fresh) as known:
            for row, (digest, found) in enumerate(known.digests(paths)):
                proof.update(f"{paths[row]}\0{digest}\n".encode())
                stamps[row] = found
        for split in SPLITS:
            proof.update(self._labels[split].tobytes())
        self._digest = proof.hexdigest()
        self._stamps = dict(zip(SPLITS, np.split(stamps, [len(self._files["train"])]), strict=True))
        return self._digest

    def short_side(self, split: str, row: int) -> int:
        return short_side(self._root / self._id(split, int(self._rows[split][row])))

    def _read(self, split: str, rows: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
        paths = [self._root / self._id(split, int(row)) for row in rows]
        out = np.empty((len(rows), size, size, 3), dtype=np.uint8)

        def read(place: int) -> None:
            out[place] = read_square(paths[place], size)
            if self._digest is not None and stamp(paths[place]) != tuple(self._stamps[split][rows[place]]):
                raise UserError(f"{paths[place]} has changed since its digest was taken; run this again")

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the GIL
            for _ in pool.map(read, range(len(rows))):
                pass
        return out

    def _id(self, split: str, row: int) -> str:
        return self._files[split][row]

    def _scan(self, top: Path) -> dict[str, list[str]]:
        """Sorted file names by class, of the visible folders below ``top``."""
        classes: dict[str, list[str]] = {}
        for folder in sorted(entry for entry in top.iterdir() if entry.is_dir()):
            if folder.name.startswith("."):
                continue
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries if entry.is_file()]
            for name in (folder.name, *names):
                if not name.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in name):
                    raise UserError(f"{str(folder / name)!a}: not a UTF-8 name; rename it")
            images = sorted(name for name in names if name.lower().endswith(self.SUFFIXES))
            self._other += len(names) - len(images)
            inner = folder.relative_to(self._root).as_posix()
            classes[folder.name] = [f"{inner}/{name}" for name in images]
        return classes

    def _check_classes(self, found: dict[str, dict[str, list[str]]]) -> None:
        expected = "expected train/<class>/ and test/<class>/, or <class>/ alone, with .jpg or .png files"
        if not any(files for classes in found.values() for files in classes.values()):
            raise UserError(f"{self._root} holds no images; {expected}")
        if len(self.class_names) < 2:
            raise UserError(
                f"{self._root} holds one class ({', '.join(self.class_names)}), at least two are "
                f"needed; {expected}"
            )
        odd = set(found["train"]) ^ set(found.get("test", found["train"]))
        if odd:
            raise UserError(
                f"{self._root}: train and test differ in their classes ({', '.join(sorted(odd))}); "
                "give both the same class folders"
            )
        least = {"train": MIN_TRAIN, "test": MIN_TEST}
        if "test" not in found:
            least["train"] += MIN_TEST
        for split, classes in found.items():
            for name, files in classes.items():
                if len(files) < least[split]:
                    raise UserError(
                        f"{self._root}: class {name!r} has {len(files)} images in {split}, "
                        f"expected at least {least[split]}; add images or remove the class"
                    )

    def _flatten(self, classes: dict[str, list[str]]) -> list[str]:
        return [file for name in self.class_names for file in classes[name]]

    def _hold_out(self) -> None:
        files, labels = self._files["train"], self._labels["train"]
        rows = hold_out(labels)
        self._files = {split: [files[row] for row in rows[split]] for split in SPLITS}
        self._labels = {split: labels[rows[split]] for split in SPLITS}
        self.note = "one image in five of each class is held out as the test split"


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
    dataset: str, archive: str | None = None, limit: int | None = None, offline: bool = False
) -> Dataset:
    """The dataset that ``DATASET=``, ``ARCHIVE=`` and ``LIMIT=`` ask for; ``offline``: if it is here."""
    source = source_of(dataset)
    if limit is not None and limit < 1:
        raise UserError(f"LIMIT={limit}: expected a positive number of images per split")
    if archive is not None and source != "cifar10":
        raise UserError(f"ARCHIVE= belongs to DATASET=cifar10, not to {dataset!r}; leave it out")
    if source == "cifar10":
        from features.cifar10 import Cifar10

        return Cifar10(archive, limit, offline=offline)
    return Digits(limit) if source == "digits" else Folder(Path(source), limit)
