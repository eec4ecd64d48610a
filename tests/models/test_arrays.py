"""Arrays are read from a file only where it holds what it says."""

from __future__ import annotations

import io
import os
import struct
from copy import copy
from pathlib import Path
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_LZMA, ZIP_STORED, ZipFile

import numpy as np
import pytest
from numpy.lib.format import write_array_header_1_0

from features.files import NotRegular
from models import arrays


def header(shape: tuple[int, ...], kind: str = "<f8") -> bytes:
    """Of an array that is not there."""
    file = io.BytesIO()
    write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue()


def written(path: Path, *contents: bytes, name: str = "a.npy", compression: int = ZIP_STORED) -> Path:
    with ZipFile(path, "w", compression) as archive:
        for content in contents:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(tmp_path: Path, save: object) -> None:
    kept = {"numbers": np.arange(6.0).reshape(2, 3), "text": np.array("a"), "none": np.zeros((0, 3))}
    save(tmp_path / "a.npz", **kept)  # type: ignore[operator]
    found = arrays.read(tmp_path / "a.npz")
    assert found.keys() == kept.keys()
    assert all(np.array_equal(found[name], value) for name, value in kept.items())


@pytest.mark.parametrize("compression", [ZIP_STORED, ZIP_DEFLATED])
@pytest.mark.parametrize(
    "content",
    [
        header((10**11,)),  # 745 GiB
        header((-1, -3)) + b"\0" * 24,
        header((2,)) + b"\0" * 15,
        header((2,)) + b"\0" * 17,
        header((10**12,), "<U0"),
        header((1,), "|O") + b"\0" * 8,
        b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535,
        b"",
    ],
)
def test_one_that_says_what_it_does_not_hold_takes_no_memory(
    tmp_path: Path, content: bytes, compression: int
) -> None:
    with pytest.raises(ValueError, match="not an intact file of arrays"):
        arrays.read(written(tmp_path / "a.npz", content, compression=compression))


def test_what_grows_without_end_as_it_is_read_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "LARGEST", 10_000)
    path = written(tmp_path / "a.npz", header((2_000,)) + b"\0" * 16_000, compression=ZIP_DEFLATED)
    assert path.stat().st_size < 1_000
    with pytest.raises(ValueError, match="more than 10,000 bytes are compressed in it"):
        arrays.read(path)


@pytest.mark.parametrize("compression", [ZIP_BZIP2, ZIP_LZMA])
def test_what_numpy_does_not_write_is_not_read(tmp_path: Path, compression: int) -> None:
    """zipfile unpacks what it has read of these at once, however small the array says it is."""
    path = written(tmp_path / "a.npz", header((2,)) + bytes(16), compression=compression)
    with pytest.raises(ValueError, match="compressed in a way that grows"):
        arrays.read(path)


def test_parts_that_overlap_are_refused(tmp_path: Path) -> None:
    """Else a thousand names of one array take a thousand times its memory."""
    path = tmp_path / "a.npz"
    with ZipFile(path, "w") as archive:
        archive.writestr("a.npy", header((1_000,)) + bytes(8_000))
        for name in ("b.npy", "c.npy"):
            again = copy(archive.getinfo("a.npy"))
            again.filename = name
            archive.filelist.append(again)
    with pytest.raises(ValueError, match="its parts overlap"):
        arrays.read(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two arrays have one name"):
        arrays.read(written(tmp_path / "a.npz", header((0,)), header((0,))))


def test_a_part_of_the_archive_is_as_large_as_it_says(tmp_path: Path) -> None:
    """Its size stands in the archive's directory, too, where it can be as false as in the array's header."""
    begun = header((2**28,))  # 2 GiB
    path = written(tmp_path / "a.npz", begun)
    content = path.read_bytes()
    place = content.rindex(b"PK\x01\x02") + 24  # the uncompressed size: APPNOTE.TXT, 4.3.12
    path.write_bytes(content[:place] + struct.pack("<I", len(begun) + 2**31) + content[place + 4 :])
    with pytest.raises(ValueError, match=r"a\.npy is not as large as declared"):
        arrays.read(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(NotRegular):
        arrays.read(tmp_path / "a.npz")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match="not an intact file of arrays"):
        arrays.read(tmp_path / "a.npz")
