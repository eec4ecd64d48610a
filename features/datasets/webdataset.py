"""WebDataset: images and labels in tar files."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.datasets.filedigests import FileDigests
from features.datasets.images import SUFFIXES
from features.datasets.packed import Packed, Reader, Shard
from features.datasets.storage import Disk
from features.datasets.tars import members
from features.errors import UserError
from features.files import open_regular
from features.words import is_utf8

SUFFIX = ".tar"
INDEX = "index of a tar, 1"  # the number is the version of the index
MAX_LABEL = 1 << 20  # bytes of a member with a label; larger ones are ignored
LAYOUT = "expected key.jpg, .jpeg or .png with key.cls (a class's name or number) or key.json (with label)"


class TarShard(Shard):
    """A tar file with an image ``key.jpg`` and a label ``key.cls`` or ``key.json`` for each key.

    The key is a member's path up to the first dot in its base name
    (https://github.com/webdataset/webdataset, "The WebDataset Format"). The file is indexed once, and the
    index is remembered by the file's stamp. Nothing is unpacked.

    Raises
    ------
    UserError
        The file is not a complete tar file, an image has no label, or two images have one key.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        text = self._remembered()
        self._proof = hashlib.sha256(text.encode()).digest()
        index = json.loads(text)
        self.labels = [sys.intern(label) for label in index["labels"]]
        self.other = index["other"]
        self._keys: list[str] = index["keys"]
        self._places = np.array(index["places"], np.int64)

    def differs(self) -> bool:
        return hashlib.sha256(self._remembered(fresh=True).encode()).digest() != self._proof

    def key(self, row: int) -> str:
        return self._keys[row]

    def open(self) -> Reader:
        return _Pictures(self.path, self._places)

    def _remembered(self, fresh: bool = False) -> str:
        with FileDigests(Disk(self.path.parent), fresh, lambda _: _index(self.path), INDEX) as known:
            return known.digest(self.path.name)


def _index(path: Path) -> str:
    """The index of a tar file as JSON: keys, labels, and offset and size of each image in bytes."""
    pictures: dict[str, tuple[int, int]] = {}
    labels: dict[str, str] = {}
    other = 0
    try:
        with open_regular(path) as stream:
            end = os.fstat(stream.fileno()).st_size
            for _, member in members(stream, "r:"):
                if member.isdir():
                    continue
                folder, slash, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                key, kind = folder + slash + stem, suffix.lower()
                if not is_utf8(member.name):
                    raise UserError(f"{path}, {member.name!a}: not a UTF-8 name; rename it")
                if not member.isreg() or member.sparse is not None:
                    other += 1
                elif f".{kind}" in SUFFIXES:
                    if key in pictures:
                        raise UserError(f"{path}, {key}: two images with one key; rename or remove one")
                    pictures[key] = member.offset_data, min(member.size, end)  # the header may claim any size
                elif kind in ("cls", "json") and member.size <= MAX_LABEL:
                    stream.seek(member.offset_data)
                    label = _label(stream.read(member.size), kind)
                    if label and (kind == "cls" or key not in labels):
                        labels[key] = label
                else:
                    other += 1
    except tarfile.TarError as error:
        raise UserError(
            f"{path}: expected a whole tar file, not compressed; got: {error}; fetch it again"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    for key in pictures.keys() ^ labels.keys():
        what = "no label" if key in pictures else "a label but no image"
        raise UserError(f"{path}, {key}: {what}; {LAYOUT}")
    if not pictures:
        raise UserError(f"{path} holds no images; {LAYOUT}")
    about = {"keys": list(pictures), "labels": [labels[key] for key in pictures]}
    return json.dumps(about | {"places": list(pictures.values()), "other": other})


class _Pictures:
    """The images of a tar file by offset and size; the file is open only while an image is read."""

    def __init__(self, path: Path, places: NDArray[np.int64]) -> None:
        self._path, self._places = path, places

    def read(self, row: int) -> bytes:
        start, size = map(int, self._places[row])
        try:
            with open_regular(self._path) as stream:
                stream.seek(start)
                return stream.read(min(size, os.fstat(stream.fileno()).st_size))
        except OSError as error:
            raise UserError(f"cannot read {self._path}: {error.strerror}") from None

    def close(self) -> None:
        """Nothing to close."""


def web_dataset(path: Path, limit: int | None = None, skip_unreadable: bool = False) -> Packed:
    """A tar file, or a folder of them, as a dataset. Raises as :class:`TarShard` and :class:`Packed`."""
    return Packed(path, SUFFIX, TarShard, limit, skip_unreadable)


def _label(content: bytes, kind: str) -> str:
    """The label in a ``.cls`` or ``.json`` member; empty if there is none."""
    try:
        text = content.decode()
        if kind == "cls":
            return text.strip()
        found = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    label = found.get("label") if isinstance(found, dict) else None
    known = isinstance(label, str | int) and not isinstance(label, bool)
    return str(label).strip() if known and is_utf8(str(label)) else ""
