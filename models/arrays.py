"""Validated reading of ``.npz`` files, without pickle."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

from numpy.lib import format as npy
from numpy.typing import NDArray

from features.files import open_regular

Arrays = dict[str, NDArray[Any]]

LARGEST = 2**30  # bytes of all compressed arrays together; for a million images they have 100 MB


def read(source: Path | IO[bytes]) -> Arrays:
    """The arrays in a file written by NumPy's ``savez`` or ``savez_compressed``, by name.

    NumPy allocates what an array's header declares before it reads the data. So each array must be exactly
    as large as its member of the archive, no byte may belong to two members, and compressed members are at
    most ``LARGEST`` bytes in total. Nothing is unpickled.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        The file is not an ``.npz`` file, is damaged, or declares more than it contains.
    """
    try:
        opened = open_regular(source) if isinstance(source, Path) else source
        with opened as whole, ZipFile(whole) as archive:
            members = archive.infolist()
            if len({member.filename for member in members}) < len(members):
                raise ValueError("two arrays have one name")
            if not {each.compress_type for each in members} <= {ZIP_STORED, ZIP_DEFLATED}:
                raise ValueError("it is compressed in a way that grows as it is read")  # beyond what it says
            if sum(each.compress_size for each in members) > whole.seek(0, os.SEEK_END):
                raise ValueError("its parts overlap")
            if sum(each.file_size for each in members if each.compress_type != ZIP_STORED) > LARGEST:
                raise ValueError(f"more than {LARGEST:,} bytes are compressed in it")
            arrays = {}
            for member in members:
                if member.compress_type == ZIP_STORED and member.file_size != member.compress_size:
                    raise ValueError(f"{member.filename} is not as large as declared")
                with archive.open(member) as file:
                    check(file, member.file_size)
                with archive.open(member) as file:
                    arrays[member.filename.removesuffix(".npy")] = npy.read_array(file, allow_pickle=False)
            return arrays
    except OSError:
        raise
    except Exception as error:  # zipfile and NumPy raise many kinds for damaged archives
        raise ValueError(f"not an intact file of arrays: {error}") from None


def check(file: IO[bytes], size: int) -> None:
    """Refuse an array whose header does not match the size of its file.

    Parameters
    ----------
    file : an ``.npy`` file.
    size : its number of bytes.

    Raises
    ------
    ValueError
        The dtype is not allowed, or the declared size differs from the actual one.
    """
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    shape, _, dtype = readers[npy.read_magic(file)](file)
    if dtype.hasobject or not dtype.itemsize:
        raise ValueError(f"an array of {dtype} is not expected here")
    said = math.prod(shape) * dtype.itemsize
    if said != size - file.tell():
        raise ValueError(f"an array declares {said:,} bytes, the file has {size - file.tell():,}")
