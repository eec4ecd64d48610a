"""A tar's headers may say anything: each is a member or a ReadError."""

from __future__ import annotations

import io
import tarfile
from itertools import islice
from pathlib import Path

import pytest

from features.datasets.tars import members


def header(size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A member's header with any size, in base 256."""
    whole = bytearray(tarfile.TarInfo("a").tobuf(tarfile.GNU_FORMAT))
    whole[156:157] = kind
    whole[124:136] = (b"\xff" if size < 0 else b"\x80") + (size % 256**11).to_bytes(11, "big")
    whole[148:156] = b"%06o\0 " % (sum(whole[:148]) + sum(whole[156:]) + 8 * ord(" "))
    return bytes(whole)


def extended(record: bytes) -> bytes:
    """A pax header of one record, and the header of its member."""
    line = b"%d %s\n" % (len(record) + 4, record)
    return header(len(line), tarfile.XHDTYPE) + line.ljust(tarfile.BLOCKSIZE, b"\0") + header()


DAMAGED = {
    "a size that leads back to the same header": header(-513),
    "a size that leads back to the one before": header(-1025),
    "a size that no number of the system holds": header(1 << 80),
    "a size to which no file reaches": header(1 << 62),
    "a name of 2^62 bytes": header(1 << 62, tarfile.GNUTYPE_LONGNAME),
    "a name of 2^80 bytes": header(1 << 80, tarfile.GNUTYPE_LONGNAME),
    "an extended header of 2^62 bytes": header(1 << 62, tarfile.XHDTYPE),
    "an extended header below zero": header(-1024, tarfile.XHDTYPE),
    "a size below zero in an extended header": extended(b"size=-9999"),
    "a map of holes that are no numbers": extended(b"GNU.sparse.map=x,y"),
    "extended headers of each other": extended(b"abcdef=x")[:-512] * 3000,
    "another header than its checksum says": header().replace(b"a", b"b"),
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("before", [0, 1], ids=["at the beginning", "behind a member"])
def test_a_damaged_header_is_a_read_error(damage: str, before: int, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(before * header() + DAMAGED[damage] + bytes(2 * tarfile.BLOCKSIZE))
    with path.open("rb") as stream, pytest.raises(tarfile.ReadError):
        list(islice(members(stream, "r:"), before + 2))  # for ever, where tarfile comes back to a header


def test_an_error_of_the_disk_is_none_of_the_file() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        next(members(Broken(header()), "r:"))
