"""A list of image files and labels as a dataset."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from pathlib import Path, PurePath
from typing import NamedTuple

from features.datasets.base import LEAST, SPLITS, numbered
from features.datasets.bucket import BucketObject
from features.datasets.images import open_source
from features.datasets.picturefiles import PictureFiles
from features.datasets.storage import Disk, Storage
from features.errors import UserError

COLUMNS = ("path", "label")
SPLIT = "split"  # an optional column
VALIDATION = ("validation", "valid", "val")  # names of splits that are left out: ours is drawn from train


class Listed(NamedTuple):
    """An image in a list.

    Attributes
    ----------
    where : its position for messages, such as ``line 7``.
    path : absolute, or relative to the list's folder.
    label : its class.
    split : ``train``, ``test`` or one of ``VALIDATION``; empty if the list has no splits.
    """

    where: str
    path: str
    label: str
    split: str = ""


class FileList(PictureFiles):
    """The image files in a list, in the order of the list.

    If no row has the split ``test``, one image in five of each class is held out, reproducibly: the choice
    depends on the labels and their order alone. Rows of a validation split are left out and counted in
    ``note``, since heads are validated on a share of train.

    Parameters
    ----------
    path : the list; paths in it are relative to its folder.
    listed : the rows of the list.
    class_names : names by class number; None: the sorted labels.
    limit : images per split, stratified; None: all.
    skip_unreadable : leave out images that cannot be read, and missing files.

    Raises
    ------
    UserError
        A row has no path, no label or an unknown split, or its file does not exist or occurs twice; or a
        class has too few images.
    """

    def __init__(
        self,
        path: Path | BucketObject,
        listed: Iterable[Listed],
        class_names: tuple[str, ...] | None = None,
        limit: int | None = None,
        skip_unreadable: bool = False,
    ) -> None:
        self._skip = skip_unreadable
        if isinstance(path, Path):
            path = path.resolve()
            self._storage: Storage = Disk(path.parent)
        else:
            self._storage = path.bucket
        self.source, self.name = str(path), PurePath(path.name).stem
        files: dict[str, list[str]] = {split: [] for split in SPLITS}
        labels: dict[str, list[str]] = {split: [] for split in SPLITS}
        seen: dict[str, str] = {}
        left_out = 0
        for row in listed:
            where = f"{path}, {row.where}"
            if row.split in VALIDATION:
                left_out += 1
                continue
            split = row.split or "train"
            if not row.path or "\0" in row.path or not row.label or split not in SPLITS:
                got = f"path {row.path!r}, label {row.label!r}" + f", split {row.split!r}" * bool(row.split)
                raise UserError(
                    f"{where}: expected a path, a label and, where there are splits, train or test; "
                    f"got {got}; fill it in or remove the row"
                )
            try:
                name = self._storage.normal(row.path)
            except UserError as error:
                raise UserError(f"{where}: {error}; correct it or remove the row") from None
            if name in seen:
                raise UserError(f"{where}: {name} is in {seen[name]} already; remove one of the two")
            if not skip_unreadable and not self._storage.has(name):
                raise UserError(
                    f"{where}: no such file: {self._storage.where(name)}; expected a path relative to the "
                    "list's folder; correct it or remove the row"
                )
            seen[name] = row.where
            files[split].append(name)
            labels[split].append(sys.intern(row.label))  # few distinct labels, many rows
        if not files["train"]:
            raise UserError(
                f"{path}: no row has the split train; expected at least {LEAST['train']} per class"
            )
        parts = {split: files[split] for split in SPLITS if files[split]}
        self.class_names, numbers = numbered([one for part in parts for one in labels[part]], class_names)
        self._refuse_one_class()
        self._files = parts
        self._named = "\0".join(self.class_names).encode()
        count = len(files["train"])
        self._divide(
            {"train": numbers[:count], "test": numbers[count:]} if "test" in parts else {"train": numbers}
        )
        for split in SPLITS:
            self._refuse_too_few(split, self.all_labels(split), "add images or remove the class")
        if left_out:
            self.note = f"{self.note}; " * bool(self.note) + f"{left_out:,} rows of validation left out"
        self.limit = limit


def csv_list(path: Path | BucketObject, limit: int | None = None, skip_unreadable: bool = False) -> FileList:
    """The image files in a CSV with the columns ``path``, ``label`` and optionally ``split``.

    The file is UTF-8 with commas; other columns are ignored. Raises as :class:`FileList`.
    """
    return FileList(path, _lines(path), limit=limit, skip_unreadable=skip_unreadable)


def _lines(path: Path | BucketObject) -> Iterator[Listed]:
    try:
        with TextIOWrapper(open_source(path), "utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, skipinitialspace=True, strict=True)
            try:
                header = [name.strip() for name in next(reader, [])]
                if not set(COLUMNS) <= set(header):
                    raise UserError(
                        f"{path}, line 1: expected a header with the columns {' and '.join(COLUMNS)} (and "
                        f"perhaps {SPLIT}), separated by commas; got {','.join(header)!r}; correct it"
                    )
                wanted = [header.index(name) for name in (*COLUMNS, SPLIT) if name in header]
                for cells in reader:
                    if not any(cell.strip() for cell in cells):
                        continue
                    if len(cells) != len(header):
                        raise UserError(
                            f"{path}, line {reader.line_num}: expected {len(header)} values, as the header "
                            f"has, got {len(cells)}; correct it (a value with a comma needs quotes)"
                        )
                    yield Listed(f"line {reader.line_num}", *(cells[place].strip() for place in wanted))
            except (csv.Error, UnicodeDecodeError) as error:
                raise UserError(
                    f"{path}, line {reader.line_num + 1}: not CSV in UTF-8 ({error}); save it as such"
                ) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
