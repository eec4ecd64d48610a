"""WebDataset: pictures and labels in tar files."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

from features.datasets.images import SUFFIXES
from features.datasets.packed import Packed, Reader, Shard
from features.errors import UserError
from features.files import open_regular
from features.words import is_utf8

SUFFIX = ".tar"
MAX_LABEL = 1 << 20  # bytes of a member that holds a label; a larger one is none
LAYOUT = "expected key.jpg, .jpeg or .png with key.cls (a class's name or number) or key.json (with label)"


class TarShard(Shard):
    """A tar file whose members ``key.jpg`` and ``key.cls`` or ``key.json`` are a picture and its label.

    The key is a member's name up to the first dot behind its folder
    (https://github.com/webdataset/webdataset, "The WebDataset Format"). Headers are read once, for labels and
    where the pictures begin; nothing is unpacked.

    Raises
    ------
    UserError
        The file is no whole tar, or a picture has no label, or two; it is named.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        pictures: dict[str, tuple[int, int]] = {}
        labels: dict[str, str] = {}
        other = 0
        try:
            with open_regular(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # else all stay in memory
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
                            raise UserError(f"{path}, {key}: two pictures of one key; rename or remove one")
                        pictures[key] = member.offset_data, member.size
                    elif kind in ("cls", "json") and member.size <= MAX_LABEL:
                        stream.seek(member.offset_data)
                        label = _label(stream.read(member.size), kind)
                        if label and (kind == "cls" or key not in labels):
                            labels[key] = label
                    else:
                        other += 1
                stream.seek(archive.offset)  # tarfile takes a damaged header for the end
                if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
                    raise tarfile.ReadError(f"bad header at byte {archive.offset:,}")
        except (tarfile.TarError, EOFError) as error:
            raise UserError(
                f"{path}: expected a whole tar file, not compressed; came: {error}; fetch it again"
            ) from None
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        for key in pictures.keys() ^ labels.keys():
            what = "no label" if key in pictures else "a label but no picture"
            raise UserError(f"{path}, {key}: {what}; {LAYOUT}")
        if not pictures:
            raise UserError(f"{path} holds no pictures; {LAYOUT}")
        self.labels = [labels[key] for key in pictures]
        self._keys, self._places = list(pictures), list(pictures.values())
        self.other = other

    def key(self, row: int) -> str:
        return self._keys[row]

    def open(self) -> Reader:
        return _Pictures(self.path, self._places)


class _Pictures:
    """The pictures of a tar file, by where they begin and how long they are; it is open while one is read."""

    def __init__(self, path: Path, places: list[tuple[int, int]]) -> None:
        self._path, self._places = path, places

    def read(self, row: int) -> bytes:
        start, size = self._places[row]
        try:
            with open_regular(self._path) as stream:
                stream.seek(start)
                return stream.read(min(size, os.fstat(stream.fileno()).st_size))  # a header may say anything
        except OSError as error:
            raise UserError(f"cannot read {self._path}: {error.strerror}") from None

    def close(self) -> None:
        """Nothing is open."""


def web_dataset(path: Path, limit: int | None = None, skip_unreadable: bool = False) -> Packed:
    """A tar file, or a folder of them, as a dataset: see :class:`TarShard` and :class:`Packed`."""
    return Packed(path, SUFFIX, TarShard, limit, skip_unreadable)


def _label(content: bytes, kind: str) -> str:
    """The label in a member ``.cls`` or ``.json``; empty where there is none."""
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
