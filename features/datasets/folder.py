"""A folder of pictures as a dataset."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.datasets.base import MIN_TEST, MIN_TRAIN, SPLITS, Dataset, hold_out
from features.datasets.filedigests import FileDigests, stamp
from features.datasets.images import Stored, read_square, stored
from features.errors import UserError


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
        paths = [self.name_of(split, row) for split in SPLITS for row in range(len(self._files[split]))]
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

    def stored(self, split: str, row: int) -> Stored:
        return stored(self._root / self.name_of(split, int(self._rows[split][row])))

    def all_labels(self, split: str) -> NDArray[np.int64]:
        return self._labels[split]

    def read(self, split: str, rows: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
        paths = [self._root / self.name_of(split, int(row)) for row in rows]
        out = np.empty((len(rows), size, size, 3), dtype=np.uint8)

        def read(place: int) -> None:
            out[place] = read_square(paths[place], size)
            if self._digest is not None and stamp(paths[place]) != tuple(self._stamps[split][rows[place]]):
                raise UserError(f"{paths[place]} has changed since its digest was taken; run this again")

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the GIL
            for _ in pool.map(read, range(len(rows))):
                pass
        return out

    def name_of(self, split: str, row: int) -> str:
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
