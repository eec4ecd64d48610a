"""A folder of pictures as a dataset."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from features.datasets.base import LEAST, SPLITS
from features.datasets.images import SUFFIXES
from features.datasets.picturefiles import PictureFiles
from features.errors import UserError
from features.words import counted, is_utf8


class Folder(PictureFiles):
    """JPEG and PNG files in ``train/<class>/`` and ``test/<class>/``, or in ``<class>/`` alone.

    Without a ``test`` folder, one in five of each class is held out by a fixed rule that depends
    on the sorted file names alone. Other files are left out and counted in ``note``.

    Raises
    ------
    UserError
        No classes, one class, classes that differ between the splits, or too few images in one.
    """

    def __init__(self, root: Path, limit: int | None = None, skip_unreadable: bool = False) -> None:
        self._skip = skip_unreadable
        self._root = root.resolve()
        self.source = str(self._root)
        self.name = self._root.name
        self._other = 0
        split_folders = all((self._root / split).is_dir() for split in SPLITS)
        if split_folders:
            found = {split: self._scan(self._root / split) for split in SPLITS}
        else:
            found = {"train": self._scan(self._root)}
        self.class_names = tuple(sorted(found["train"]))
        self._check_classes(found)
        self._files = {
            part: [file for name in self.class_names for file in classes[name]]
            for part, classes in found.items()
        }
        self._divide(
            {
                part: np.repeat(np.arange(len(classes)), [len(classes[name]) for name in self.class_names])
                for part, classes in found.items()
            }
        )
        if self._other:
            self.note = f"{self.note}; " * bool(self.note) + f"{self._other} other files left out"
        self.limit = limit

    def _scan(self, top: Path) -> dict[str, list[str]]:
        """Sorted file names by class, of the visible folders below ``top``."""
        classes: dict[str, list[str]] = {}
        for folder in sorted(entry for entry in top.iterdir() if entry.is_dir()):
            if folder.name.startswith("."):
                continue
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries if _is_file(entry)]
            for name in (folder.name, *names):
                if not name.isprintable() and not is_utf8(name):
                    raise UserError(f"{str(folder / name)!a}: not a UTF-8 name; rename it")
            images = sorted(name for name in names if name.lower().endswith(SUFFIXES))
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
        least = dict(LEAST)
        if "test" not in found:
            least["train"] += LEAST["test"]
        for split, classes in found.items():
            for name, files in classes.items():
                if len(files) < least[split]:
                    raise UserError(
                        f"{self._root}: class {name!r} has {counted(len(files), 'image')} in {split}, "
                        f"expected at least {least[split]}; add images or remove the class"
                    )


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is to be read as a file: of a link to itself that is tried, and then reported."""
    try:
        return entry.is_file()
    except OSError:
        return True
