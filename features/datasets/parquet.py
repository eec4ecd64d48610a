"""Parquet datasets: images as stored by Hugging Face, or a list of image files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from features.datasets.base import Dataset
from features.datasets.filelist import COLUMNS, SPLIT, FileList, Listed
from features.datasets.packed import Packed, Reader, Shard
from features.errors import UserError
from features.files import open_regular
from features.words import is_utf8

SUFFIX = ".parquet"
PICTURES = ("image", "img")  # names of the image column in Hugging Face's datasets
LABEL = "label"
BINARY = ("binary", "large_binary")
ROWS = 32  # images read from Parquet at a time
BUFFER = 1 << 20  # bytes read at a time: without it pyarrow reads complete column chunks of any size
LAYOUT = (
    "expected image (struct with bytes, as Hugging Face stores pictures) and label, or path and label "
    "(a list of files)"
)


class ParquetShard(Shard):
    """A Parquet file with images in a column ``image`` or ``img``, and their classes in ``label``.

    Images are binary, or ``bytes`` in a struct, as stored by Hugging Face's ``datasets``. Labels are strings,
    or numbers with class names in Hugging Face's metadata, if there are any.

    Raises
    ------
    UserError
        The file is not Parquet, its columns are not as described, or a row has no valid label.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        file = _opened(path)
        with _one_line(path):
            schema = file.schema_arrow
            column = next((name for name in PICTURES if name in schema.names), None)
            if column is None or LABEL not in schema.names:
                raise UserError(f"{path}: {LAYOUT}; got {', '.join(schema.names)}; rename its columns")
            kind = str(schema.field(column).type)
            if kind.startswith("struct"):
                column += ".bytes"
            if "bytes: binary" not in kind and "bytes: large_binary" not in kind and kind not in BINARY:
                raise UserError(f"{path}: {LAYOUT}; got {column}: {kind}")
            self._column = column
            self.class_names = _class_names(schema)
            self.labels = list(_labels(path, file, self.class_names))

    def open(self) -> Reader:
        return _Pictures(self.path, self._column)


class _Pictures:
    """The images of an open Parquet file, read a few rows at a time.

    Row groups may be of any size and are never read completely. Reading forwards continues from the last
    row; reading backwards starts again at the beginning of the row group.
    """

    def __init__(self, path: Path, column: str) -> None:
        self._path, self._column = path, column
        self._file = _opened(path)
        about = self._file.metadata
        counts = [about.row_group(number).num_rows for number in range(about.num_row_groups)]
        self._ends = np.cumsum(counts)
        self._batches: Iterator[Any] = iter(())
        self._group, self._start = -1, 0
        self._pictures: list[bytes | None] = []

    def read(self, row: int) -> bytes:
        group = int(np.searchsorted(self._ends, row, side="right"))
        with _one_line(self._path):
            first = int(self._ends[group - 1]) if group else 0
            if group != self._group or row < self._start:
                self._batches = self._file.iter_batches(ROWS, [group], [self._column])
                self._group, self._start, self._pictures = group, first, []
            while row >= self._start + len(self._pictures):
                self._start += len(self._pictures)
                found = next(self._batches).column(0)
                self._pictures = (found.field("bytes") if "." in self._column else found).to_pylist()
        return self._pictures[row - self._start] or b""

    def close(self) -> None:
        self._file.close()


def parquet_dataset(path: Path, limit: int | None = None, skip_unreadable: bool = False) -> Dataset:
    """A Parquet file, or a folder of them, as a dataset of images or as a list of image files.

    Raises
    ------
    UserError
        pyarrow is not installed; or as :class:`ParquetShard` and :class:`FileList`.
    """
    if path.is_file():
        with _one_line(path):
            names = _opened(path).schema_arrow.names
        if set(COLUMNS) <= set(names) and not set(PICTURES) & set(names):
            class_names, listed = _listed(path)
            return FileList(path, listed, class_names, limit, skip_unreadable)
    return Packed(path, SUFFIX, ParquetShard, limit, skip_unreadable)


def _listed(path: Path) -> tuple[tuple[str, ...] | None, Iterator[Listed]]:
    """The class names, or None if the file has none, and the rows of a list."""
    file = _opened(path)
    with _one_line(path):
        names = _class_names(file.schema_arrow)
        columns = [name for name in ("path", SPLIT) if name in file.schema_arrow.names]
        texts = [[value or "" for value in column.to_pylist()] for column in file.read(columns).columns]
        labels = list(_labels(path, file, names))
    rows = zip(texts[0], labels, *texts[1:], strict=True)
    return names, (Listed(f"row {number}", *row) for number, row in enumerate(rows))


def _labels(path: Path, file: Any, class_names: tuple[str, ...] | None) -> Iterator[str]:
    """The label of each row as text: the name of its class, or its number."""
    for number, value in enumerate(file.read([LABEL]).column(0).to_pylist()):
        if isinstance(value, int) and not isinstance(value, bool):
            if 0 <= value < (len(class_names) if class_names else value + 1):
                yield class_names[value] if class_names else str(value)
                continue
        elif isinstance(value, str) and value and (class_names is None or value in class_names):
            yield value
            continue
        expected = f"from 0 to {len(class_names) - 1}" if class_names else "from 0 on, or its name"
        raise UserError(
            f"{path}, row {number}: expected a class number {expected}, got {value!r}; correct it or "
            "remove the row"
        )


def _class_names(schema: Any) -> tuple[str, ...] | None:
    """The class names in Hugging Face's metadata (``ClassLabel.names``), or None."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        names = tuple(map(str, about["info"]["features"][LABEL]["names"]))
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return names if all(map(is_utf8, names)) else None


def _opened(path: Path) -> Any:
    """Open a file with pyarrow; column chunks are streamed."""
    try:
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError:
        raise UserError(
            f"{path}: Parquet is read with pyarrow, which is not installed; run: "
            ".venv/bin/python -m pip install -r requirements-parquet.txt"
        ) from None
    with _one_line(path), open_regular(path):
        return ParquetFile(path, buffer_size=BUFFER, pre_buffer=False)


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Report any error of pyarrow for this file in one line."""
    try:
        yield
    except (MemoryError, UserError):
        raise
    except Exception as error:  # ArrowInvalid, OSError, StopIteration in a truncated file
        raise UserError(
            f"{path}: expected a whole Parquet file, got: {' '.join(str(error).split())}; fetch it again"
        ) from None
