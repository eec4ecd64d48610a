"""SHA-256 of many files, remembered by path, size and time of change."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from features.download import cache_dir, file_digest
from features.errors import UserError
from features.files import open_regular
from features.progress import progress, say

BATCH = 2_000  # files hashed between two commits: what a kill can cost


Stamp = tuple[int, int]  # size in bytes and time of change in nanoseconds, by which a file is known again


def stamp(path: Path) -> Stamp:
    """The stamp of a file that is there."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


class FileDigests:
    """Digests of the files below one folder; a context manager over a small SQLite table.

    The one place where a file is trusted by (path, size, time of change) and not by its content,
    so that a million images are read once and not at every command. ``fresh=True`` reads all.

    Parameters
    ----------
    root : the folder.
    fresh : trust nothing that is remembered.
    digest : the digest of a file.
    kind : what that is a digest of, if not of the file's bytes.
    """

    def __init__(
        self, root: Path, fresh: bool = False, digest: Callable[[Path], str] = file_digest, kind: str = ""
    ) -> None:
        self._root = root
        self._fresh = fresh
        self._digest = digest
        self._kind = kind and f"//{kind}"  # no path holds two slashes
        try:
            cache_dir().mkdir(parents=True, exist_ok=True)
            place = cache_dir() / "file-digests.sqlite"
            if place.exists():
                open_regular(place).close()
            self._db = self._open(str(place))
        except (OSError, sqlite3.Error) as error:
            say(f"note: digests of the images cannot be remembered in {cache_dir()} ({error})")
            self._db = self._open(":memory:")

    @staticmethod
    def _open(place: str) -> sqlite3.Connection:
        db = sqlite3.connect(place, timeout=60)
        db.execute(
            "create table if not exists digest (root text, path text, size integer, "
            "changed integer, sha256 text, primary key (root, path)) without rowid"
        )
        db.execute(
            "create table if not exists unreadable (sha256 text, decoder text, found text, "
            "primary key (sha256, decoder)) without rowid"
        )
        return db

    def __enter__(self) -> FileDigests:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def digests(self, paths: list[str], missing: bool = False) -> Iterator[tuple[str, Stamp]]:
        """The hex SHA-256 and the stamp of each file, in order; ``paths`` are relative to the root.

        With ``missing``, a file that cannot be read has an empty digest.

        Raises
        ------
        UserError
            A file cannot be read; it is named.
        """
        self._missing = missing
        with (
            ThreadPoolExecutor(os.cpu_count()) as pool,
            progress(len(paths), "digest of the images", "file", delay=1) as bar,
        ):
            for start in range(0, len(paths), BATCH):
                group = paths[start : start + BATCH]
                stamps = {path: self._stamp(path) for path in group}
                known = {} if self._fresh else self._known(group)
                unknown = [path for path in group if path not in known or known[path][:2] != stamps[path]]
                fresh = pool.map(self._sha256, unknown)
                news = [(path, *stamps[path], sha) for path, sha in zip(unknown, fresh, strict=True)]
                known.update({path: (size, changed, sha) for path, size, changed, sha in news})
                with contextlib.suppress(sqlite3.Error), self._db:  # remembered or not, they are right
                    added = [(str(self._root), path + self._kind, *rest) for path, *rest in news if rest[-1]]
                    self._db.executemany("insert or replace into digest values (?, ?, ?, ?, ?)", added)
                bar.update(len(group))
                yield from ((known[path][2], stamps[path]) for path in group)

    def unreadable(self, digests: list[str]) -> dict[str, list[int]]:
        """Which pictures in files of these digests could not be read, for those files that were looked at."""
        found: dict[str, list[int]] = {}
        if not self._fresh:
            for start in range(0, len(digests), BATCH):
                group = digests[start : start + BATCH]
                marks = ",".join("?" * len(group))
                query = f"select sha256, found from unreadable where decoder = ? and sha256 in ({marks})"
                found |= {
                    sha: json.loads(rows) for sha, rows in self._db.execute(query, (_decoder(), *group))
                }
        return found

    def remember(self, unreadable: dict[str, list[int]]) -> None:
        """Which pictures in files of these digests could not be read: their rows in the file."""
        added = [(sha, _decoder(), json.dumps(rows)) for sha, rows in unreadable.items() if sha]
        with contextlib.suppress(sqlite3.Error), self._db:
            self._db.executemany("insert or replace into unreadable values (?, ?, ?)", added)

    def _known(self, group: list[str]) -> dict[str, tuple[int, int, str]]:
        """Size, time of change and digest of those files of a group that were seen before."""
        marks = ",".join("?" * len(group))
        rows = self._db.execute(
            f"select path, size, changed, sha256 from digest where root = ? and path in ({marks})",
            (str(self._root), *(path + self._kind for path in group)),
        )
        return {path.removesuffix(self._kind): (size, changed, sha) for path, size, changed, sha in rows}

    def _stamp(self, path: str) -> Stamp:
        try:
            return stamp(self._root / path)
        except OSError as error:
            if self._missing:
                return 0, 0
            raise self._unreadable(path, error) from None

    def _sha256(self, path: str) -> str:
        try:
            return self._digest(self._root / path)
        except OSError as error:
            if self._missing:
                return ""
            raise self._unreadable(path, error) from None

    def _unreadable(self, path: str, error: OSError) -> UserError:
        return UserError(f"cannot read the image {self._root / path}: {error.strerror}; replace or remove it")


def _decoder() -> str:
    """What decides whether a picture can be read."""
    from PIL import __version__

    return f"pillow {__version__}"
