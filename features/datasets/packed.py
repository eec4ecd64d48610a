"""Datasets in shards: files of many labelled images each."""

from __future__ import annotations

import hashlib
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

import numpy as np

from features.datasets.base import SPLITS, numbered
from features.datasets.encoded import Digests, Encoded, Picture
from features.datasets.storage import Disk
from features.errors import UserError
from features.progress import progress
from features.words import is_utf8

PART = re.compile(r"(train|test)(?![a-z])", re.I)  # prefix of a shard's name
VALIDATION = re.compile(r"(validation|valid|val)(?![a-z])", re.I)


class Reader(Protocol):
    """An open shard, fastest when read in ascending order."""

    def read(self, row: int) -> bytes:
        """The encoded image in a row."""

    def close(self) -> None: ...


class Shard(ABC):
    """A file of labelled images.

    Attributes
    ----------
    path : the file.
    labels : the class of each image, in row order.
    class_names : names by class number, or None if the file has none.
    other : number of members that are neither images nor labels.
    """

    path: Path
    labels: list[str]
    class_names: tuple[str, ...] | None = None
    other: int = 0

    def differs(self) -> bool:
        """Whether the file's content differs from a remembered index of it."""
        return False

    @abstractmethod
    def open(self) -> Reader:
        """A reader of the images."""

    def key(self, row: int) -> str:
        """The id of a row within this shard."""
        return f"{row:06d}"


class Packed(Encoded):
    """JPEGs and PNGs in shards, ordered by file name; at most one shard is open per split.

    In a folder, the names of shards start with ``train`` or ``test`` (``train-00000-of-00002.parquet``).
    Validation shards are left out and counted in ``note``, since heads are validated on a share of train.
    Without test shards, or for a single file, one image in five of each class is held out. The id of a row
    is the name of its shard and its id within the shard.

    Parameters
    ----------
    path : a shard, or a folder of them.
    suffix : of the shards' names.
    index : opens a shard and indexes its content.
    limit : images per split, stratified; None: all.
    skip_unreadable : leave out images that cannot be read.

    Raises
    ------
    UserError
        A shard cannot be read or has an unexpected layout, or a class has too few images.
    """

    _kind = "pictures"

    def __init__(
        self,
        path: Path,
        suffix: str,
        index: Callable[[Path], Shard],
        limit: int | None = None,
        skip_unreadable: bool = False,
    ) -> None:
        self._skip = skip_unreadable
        path = path.resolve()
        self.source, self.name = str(path), path.stem if path.is_file() else path.name
        self._storage = Disk(path.parent if path.is_file() else path)
        parts, notes = {"train": [path]}, []
        if path.is_dir():
            parts, left_out = _by_split(path, suffix)
            notes += [f"{left_out} shards of validation left out"] * bool(left_out)
        with progress(sum(map(len, parts.values())), "index of the shards", "shard", delay=1) as bar:
            self._shards: dict[str, list[Shard]] = {part: [] for part in parts}
            for part, paths in parts.items():
                for one in paths:
                    self._shards[part].append(index(one))
                    bar.update(1)
        every = [shard for shards in self._shards.values() for shard in shards]
        other = sum(shard.other for shard in every)
        notes += [f"{other:,} other files in the shards left out"] * bool(other)
        self._by_name = {shard.path.name: shard for shard in every}
        self._files = {part: [one.name for one in paths] for part, paths in parts.items()}
        self._ends = {
            part: np.cumsum([len(shard.labels) for shard in shards]) for part, shards in self._shards.items()
        }
        labels = [one for shard in every for one in shard.labels]
        if len({shard.class_names for shard in every}) > 1:
            raise UserError(f"{path}: its shards differ in their class names; give them the same")
        self.class_names, numbers = numbered(labels, every[0].class_names)
        self._refuse_one_class()
        count = self._ends["train"][-1]
        self._divide({part: numbers[:count] if part == "train" else numbers[count:] for part in parts})
        for split in SPLITS:
            self._refuse_too_few(split, self.all_labels(split), "add images or remove the class")
        self.note = "; ".join([self.note] * bool(self.note) + notes)
        self.limit = limit
        self._lock = threading.Lock()
        self._open: dict[str, tuple[int, Reader]] = {}

    def digest(self, fresh: bool = False) -> str:
        if fresh:
            for shard in self._by_name.values():
                if shard.differs():
                    raise UserError(
                        f"{shard.path} has changed, but its size and time have not; run this again"
                    )
        return super().digest(fresh)

    def name_of(self, split: str, row: int) -> str:
        part = self._part_of[split]
        number, inner = self._place(part, int(self._rows_of[split][row]))
        return f"{Path(self._files[part][number]).stem}/{self._shards[part][number].key(inner)}"

    def _place(self, part: str, row: int) -> tuple[int, int]:
        """The number of a row's shard, and the row within it."""
        number = self._file_of(part, row)
        return number, row - (int(self._ends[part][number - 1]) if number else 0)

    def _file_of(self, part: str, row: int) -> int:
        return int(np.searchsorted(self._ends[part], row, side="right"))

    def _count(self, part: str, number: int) -> int:
        return len(self._shards[part][number].labels)

    def _picture(self, part: str, row: int) -> Picture:
        number, inner = self._place(part, row)
        shard = self._shards[part][number]
        with self._lock:
            opened, reader = self._open.get(part, (None, None))
            if reader is None or opened != number:
                if reader is not None:
                    reader.close()
                reader = shard.open()
                self._open[part] = number, reader
            return Picture(f"{shard.path}, {shard.key(inner)}", reader.read(inner))

    def _file_digest(self, path: str) -> str:
        shard, proof = self._by_name[path], hashlib.sha256()
        with closing(shard.open()) as reader:
            for row in range(len(shard.labels)):
                proof.update(f"{shard.key(row)}\0{hashlib.sha256(reader.read(row)).hexdigest()}\n".encode())
        return proof.hexdigest()

    def _whole_digest(self, digests: Digests) -> str:
        proof = hashlib.sha256("\0".join(self.class_names).encode())
        for part, files in self._files.items():
            for name, digest in zip(files, digests[part], strict=True):
                proof.update(f"{Path(name).stem}\0{digest.decode()}\n".encode())
        for split in SPLITS:
            proof.update(self._rows_of[split].tobytes() + self._labels[split].tobytes())
        return proof.hexdigest()


def _by_split(folder: Path, suffix: str) -> tuple[dict[str, list[Path]], int]:
    """The shards of each split in a folder, and the number of validation shards left out."""
    parts: dict[str, list[Path]] = {split: [] for split in SPLITS}
    left_out = 0
    for path in shards_in(folder, suffix):
        split = PART.match(path.name)
        if split is not None:
            parts[split[1].lower()].append(path)
        elif VALIDATION.match(path.name):
            left_out += 1
        else:
            raise UserError(
                f"{path}: its name gives no split; expected names like train-00000{suffix} and "
                f"test-00000{suffix}; rename or move it, or give it alone: dataset="
            )
    if not parts["train"]:
        raise UserError(f"{folder} has no train shards; expected names like train-00000{suffix}")
    return {split: paths for split, paths in parts.items() if paths}, left_out


def shards_in(folder: Path, suffix: str) -> Sequence[Path]:
    """The visible files of a folder with this suffix, by name."""
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() == suffix and not path.name.startswith(".") and path.is_file()
    )
    for path in found:
        if not is_utf8(path.name):
            raise UserError(f"{str(path)!a}: not a UTF-8 name; rename it")
    return found
