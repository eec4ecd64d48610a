"""A folder of images as a dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from features.datasets.base import LEAST, SPLITS
from features.datasets.images import SUFFIXES
from features.datasets.picturefiles import PictureFiles
from features.datasets.storage import Disk, Storage
from features.errors import UserError
from features.words import counted


class Folder(PictureFiles):
    """JPEG and PNG files in ``train/<class>/`` and ``test/<class>/``, or in ``<class>/`` alone.

    Without a ``test`` folder, one image in five of each class is held out, reproducibly: the choice depends
    on the sorted file names alone. Other files are ignored and counted in ``note``.

    Parameters
    ----------
    root : the folder, or another storage of such files.
    limit : images per split, stratified; None: all.
    skip_unreadable : leave out images that cannot be read.

    Raises
    ------
    UserError
        There are no images, only one class, different classes in the splits, or too few images of a class.
    """

    def __init__(self, root: Path | Storage, limit: int | None = None, skip_unreadable: bool = False) -> None:
        self._skip = skip_unreadable
        self._storage = Disk(root.resolve()) if isinstance(root, Path) else root
        self.source = str(self._storage)
        self.name = self._storage.name
        self._other = 0
        top = self._storage.folders()
        if set(SPLITS) <= set(top):
            found = {
                split: self._scan([f"{split}/{name}" for name in self._storage.folders(split)])
                for split in SPLITS
            }
        else:
            found = {"train": self._scan(top)}
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

    def _scan(self, folders: list[str]) -> dict[str, list[str]]:
        """Sorted paths of the images of each class, one folder per class."""
        classes: dict[str, list[str]] = {}
        for folder, names in zip(folders, self._storage.files(folders), strict=True):
            images = sorted(name for name in names if name.lower().endswith(SUFFIXES))
            self._other += len(names) - len(images)
            classes[folder.rpartition("/")[2]] = [f"{folder}/{name}" for name in images]
        return classes

    def _check_classes(self, found: dict[str, dict[str, list[str]]]) -> None:
        expected = "expected train/<class>/ and test/<class>/, or <class>/ alone, with .jpg or .png files"
        if not any(files for classes in found.values() for files in classes.values()):
            raise UserError(f"{self._storage} holds no images; {expected}")
        if len(self.class_names) < 2:
            raise UserError(
                f"{self._storage} holds one class ({', '.join(self.class_names)}), at least two are "
                f"needed; {expected}"
            )
        odd = set(found["train"]) ^ set(found.get("test", found["train"]))
        if odd:
            raise UserError(
                f"{self._storage}: train and test differ in their classes ({', '.join(sorted(odd))}); "
                "give both the same class folders"
            )
        least = dict(LEAST)
        if "test" not in found:
            least["train"] += LEAST["test"]
        for split, classes in found.items():
            for name, files in classes.items():
                if len(files) < least[split]:
                    raise UserError(
                        f"{self._storage}: class {name!r} has {counted(len(files), 'image')} in {split}, "
                        f"expected at least {least[split]}; add images or remove the class"
                    )
