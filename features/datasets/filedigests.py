"""SHA-256 digests of files, remembered by path and stamp (size and modification time)."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.datasets.storage import Stamp, Storage
from features.download import cache_dir
from features.errors import UserError
from features.progress import progress, say

BATCH = 2_000  # files hashed between two commits: the most that a kill can lose
# Errors of SQLite; UnicodeDecodeError: if it quotes a damaged name.
FAILURES = (OSError, sqlite3.Error, UnicodeDecodeError)
OF_THE_SYSTEM = (  # https://www.sqlite.org/rescode.html
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR),
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PERM),
)


class FileDigests:
    """Digests of the files of one storage, remembered in an SQLite table; a context manager.

    This is the only place where files are trusted by path and stamp, so that a million images are read once
    and not for every command; ``fresh=True`` reads all. Each row of the table has a digest; files of damaged
    rows are hashed again.

    Parameters
    ----------
    storage : of the files.
    fresh : ignore remembered digests.
    digest : maps a path to the digest, or another text computed from the file's content; None: the SHA-256
        of its bytes.
    kind : what ``digest`` computes, if not the SHA-256 of the bytes.
    """

    def __init__(
        self,
        storage: Storage,
        fresh: bool = False,
        digest: Callable[[str], str] | None = None,
        kind: str = "",
    ) -> None:
        self._storage = storage
        self._fresh = fresh
        self._digest = digest or storage.digest
        self._kind = kind and f"//{kind}"  # no path holds two slashes
        self._place = cache_dir() / "file-digests.sqlite"
        try:
            self._place.parent.mkdir(parents=True, exist_ok=True)
            self._db = self._open(self._place)
        except FAILURES as error:
            if _is_damage(error):
                self._start_again()
            else:
                self._db = self._without(error)

    @staticmethod
    def _open(place: Path | str) -> sqlite3.Connection:
        db = sqlite3.connect(place, timeout=60)
        db.text_factory = lambda text: text.decode(errors="replace")  # such a row fails its digest
        try:
            for table in ("digest", "unreadable"):  # of earlier versions
                db.execute(f"drop table if exists {table}")
            db.execute(
                "create table if not exists file (root text, path text, size integer, changed integer, "
                "sha256 text, proof text, primary key (root, path)) without rowid"
            )
            db.execute(
                "create table if not exists unreadable_in (sha256 text, decoder text, found text, "
                "proof text, primary key (sha256, decoder)) without rowid"
            )
        except FAILURES:
            db.close()
            raise
        return db

    def _without(self, error: Exception) -> sqlite3.Connection:
        say(f"note: digests of the images cannot be remembered in {self._place.parent} ({error})")
        return self._open(":memory:")

    def _start_again(self) -> None:
        """Delete and recreate a damaged database. Processes that have it open keep the deleted file."""
        say(f"note: {self._place} is damaged and deleted; files are hashed again")
        try:
            for name in (f"{self._place.name}-journal", self._place.name):
                self._place.with_name(name).unlink(missing_ok=True)
            self._db = self._open(self._place)
        except FAILURES as error:
            self._db = self._without(error)

    def _found(self, query: str, values: Iterable[str]) -> list[tuple[Any, ...]]:
        """The rows of a query whose last column is their digest, without that column."""
        try:
            rows = self._db.execute(query, tuple(values)).fetchall()
        except FAILURES as error:
            self._forget(error)
            return []
        return [tuple(row) for *row, proof in rows if proof == _proof(row)]

    def _keep(self, table: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Store rows with their digests. Failure to store them changes no result."""
        if not rows:
            return
        marks = ", ".join("?" * (len(rows[0]) + 1))
        try:
            with self._db:
                self._db.executemany(
                    f"insert or replace into {table} values ({marks})", [(*row, _proof(row)) for row in rows]
                )
        except FAILURES as error:
            self._forget(error)

    def _forget(self, error: Exception) -> None:
        """Recreate the database if it is damaged, but not if it is locked or the disk is full."""
        if _is_damage(error):
            self._db.close()
            self._start_again()

    def __enter__(self) -> FileDigests:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def digests(self, paths: list[str], missing: bool = False) -> Iterator[tuple[str, Stamp]]:
        """Yield the digest and stamp of each file, in order.

        Parameters
        ----------
        paths : relative to the root of the storage.
        missing : yield an empty digest for files that cannot be read.

        Raises
        ------
        UserError
            A file cannot be read; the message names it.
        """
        self._missing = missing
        with (
            ThreadPoolExecutor(self._storage.threads) as pool,
            progress(len(paths), "digest of the images", "file", delay=1) as bar,
        ):
            for start in range(0, len(paths), BATCH):
                group = paths[start : start + BATCH]
                found = self._of(group, lambda unknown: pool.map(self._sha256, unknown))
                bar.update(len(group))
                yield from found

    def digest(self, path: str) -> str:
        """The digest of one file. Raises as :meth:`digests`."""
        self._missing = False
        ((digest, _),) = self._of([path], lambda unknown: map(self._sha256, unknown))
        return digest

    def _of(self, group: list[str], take: Callable[[list[str]], Iterable[str]]) -> list[tuple[str, Stamp]]:
        """Digests and stamps of some files; unknown digests are computed and stored."""
        stamps = {path: self._stamp(path) for path in group}
        known = {} if self._fresh else self._known(group)
        unknown = [path for path in group if path not in known or known[path][:2] != stamps[path]]
        news = [(path, *stamps[path], sha) for path, sha in zip(unknown, take(unknown), strict=True)]
        known.update({path: (size, changed, sha) for path, size, changed, sha in news})
        rows = ((str(self._storage), path + self._kind, *rest) for path, *rest in news)
        self._keep("file", [row for row in rows if row[-1]])
        return [(known[path][2], stamps[path]) for path in group]

    def unreadable(self, digests: NDArray[np.bytes_]) -> Iterator[list[int] | None]:
        """Yield, for each file digest, the rows with unreadable images; None if not checked yet."""
        for start in range(0, len(digests), BATCH):
            group, found = [one.decode() for one in digests[start : start + BATCH]], dict[str, list[int]]()
            if not self._fresh:
                marks = ",".join("?" * len(group))
                query = (
                    "select sha256, decoder, found, proof from unreadable_in where decoder = ? and sha256 in "
                    f"({marks})"
                )
                rows = self._found(query, (_decoder(), *group))
                found = {sha: json.loads(numbers) for sha, _, numbers in rows}
            yield from map(found.get, group)

    def remember(self, unreadable: dict[str, list[int]]) -> None:
        """Store the rows with unreadable images, by the digest of their file."""
        rows = [(sha, _decoder(), json.dumps(rows)) for sha, rows in unreadable.items() if sha]
        self._keep("unreadable_in", rows)

    def _known(self, group: list[str]) -> dict[str, tuple[int, int, str]]:
        """Size, modification time and digest of the known files of a group."""
        marks = ",".join("?" * len(group))
        rows = self._found(
            f"select root, path, size, changed, sha256, proof from file where root = ? and path in ({marks})",
            (str(self._storage), *(path + self._kind for path in group)),
        )
        return {path.removesuffix(self._kind): (size, changed, sha) for _, path, size, changed, sha in rows}

    def _stamp(self, path: str) -> Stamp:
        try:
            return self._storage.stamp(path)
        except OSError as error:
            if self._missing:
                return 0, 0
            raise self._unreadable(path, error) from None

    def _sha256(self, path: str) -> str:
        try:
            return self._digest(path)
        except OSError as error:
            if self._missing:
                return ""
            raise self._unreadable(path, error) from None

    def _unreadable(self, path: str, error: OSError) -> UserError:
        where = self._storage.where(path)
        return UserError(f"cannot read the image {where}: {error.strerror}; replace or remove it")


def _is_damage(error: Exception) -> bool:
    """Whether an error means a damaged database, and not a full disk, lock or permission."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return not isinstance(error, OSError) and code & 0xFF not in OF_THE_SYSTEM


def _proof(row: Iterable[object]) -> str:
    """A digest that detects changes in a row."""
    return hashlib.sha256("\0".join(map(str, row)).encode()).hexdigest()[:16]


def _decoder() -> str:
    """The decoder and its version, on which it depends whether an image is readable."""
    from PIL import __version__

    return f"pillow {__version__}"
