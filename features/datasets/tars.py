"""Tar files that others may have made: their members, or one error for whatever a header says."""

from __future__ import annotations

import errno
import tarfile
from collections.abc import Iterator
from typing import IO


def members(stream: IO[bytes], mode: str) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Each member of a tar file with the open archive; none of them stays in memory.

    Parameters
    ----------
    stream : the file, at its beginning.
    mode : ``r:`` or ``r:gz``, as :func:`tarfile.open` takes it.

    Raises
    ------
    tarfile.ReadError
        It is no whole tar file. Of a damaged header tarfile raises a ``MemoryError`` (it names 2^62 bytes), a
        ``RecursionError``, a ``ValueError`` and others; and where a size is below zero it comes back to
        the same header for ever (CVE-2025-8194).
    OSError
        The file cannot be read.
    """
    archive = None
    while True:
        try:
            archive = archive or tarfile.open(fileobj=stream, mode=mode)  # type: ignore[call-overload]  # noqa: SIM115
            member = archive.next()
            if member is None:
                archive.fileobj.seek(archive.offset)  # tarfile takes a damaged header for the end
                if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
                    raise tarfile.ReadError(f"bad header at byte {archive.offset:,}")
                return
            if member.size < 0:
                raise tarfile.ReadError(f"bad header at byte {member.offset:,}: a size of {member.size:,}")
        except tarfile.TarError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that is a place beyond any file
                raise
            place = archive.offset if archive else 0
            raise tarfile.ReadError(f"bad header at byte {place:,} ({type(error).__name__})") from None
        archive.members.clear()
        yield archive, member
