"""Downloads: to a temporary name, resumable, verified by digest before use."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from filelock import FileLock, Timeout

from features.errors import UserError
from features.files import file_digest, given_path, put_in_place
from features.progress import progress

TIMEOUT = 8.0  # seconds without a byte until a host is given up: without a network, few seconds are lost
CHUNK = 1 << 20  # bytes


def cache_dir() -> Path:
    """The folder of downloads: ``$HEADROOM_CACHE``, or ``headroom`` in the user's cache folder."""
    named = os.environ.get("HEADROOM_CACHE")
    if named:
        return given_path("HEADROOM_CACHE", named)
    return given_path("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "headroom"


def keras_dir() -> Path:
    """Keras' cache folder: ``$KERAS_HOME``, or ``~/.keras``."""
    return given_path("KERAS_HOME", os.environ.get("KERAS_HOME") or "~/.keras")


def fetch(url: str, target: Path, digest: str, algorithm: str = "sha256") -> None:
    """Download ``url`` to ``target`` and verify its ``digest``.

    An interrupted download stays in ``target`` + ``.part`` and is resumed, from this host or any
    other that serves the same bytes.

    Raises
    ------
    UserError
        The host cannot be reached, or the content has another digest (it is then deleted).
    """
    part = target.with_name(target.name + ".part")
    lock = target.with_name(target.name + ".lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=0):
            try:
                _fetch_locked(url, part, digest, algorithm, target)
            finally:
                lock.unlink(missing_ok=True)
    except Timeout:
        raise UserError(f"{target} is being downloaded by another process; wait for it") from None
    except (OSError, HTTPException) as error:  # urllib's, the socket's and the disk's
        reason = getattr(error, "reason", None) or error
        raise UserError(f"{url}: {getattr(reason, 'strerror', None) or reason}") from None


def _fetch_locked(url: str, part: Path, digest: str, algorithm: str, target: Path) -> None:
    if not part.is_file():  # a named pipe would block
        part.unlink(missing_ok=True)
    have = part.stat().st_size if part.exists() else 0
    if not (have and file_digest(part, algorithm) == digest):  # killed just before the rename
        _append(url, part, have, target.name)
    got = file_digest(part, algorithm)
    if got != digest:
        part.unlink()
        raise UserError(f"{url} has other content: expected {algorithm} {digest}, got {got}")
    put_in_place(part, target)


def _append(url: str, part: Path, have: int, name: str) -> None:
    """Append the rest of ``url`` to the ``have`` bytes of ``part``; start over if the host cannot resume."""
    request = urllib.request.Request(url, headers={"User-Agent": "headroom"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing left to send: the digest decides
            raise
        return
    with response:
        if response.status != 206:
            have = 0
        total = have + int(response.headers.get("Content-Length") or 0)
        with (
            open(part, "ab" if have else "wb") as out,
            progress(total, f"download {name}", "B", done=have, scale=True) as bar,
        ):
            while chunk := response.read(CHUNK):
                out.write(chunk)
                bar.update(len(chunk))
    if total and part.stat().st_size < total:  # urllib does not report a lost connection
        raise ConnectionError(f"cut off after {part.stat().st_size:,} of {total:,} bytes")
