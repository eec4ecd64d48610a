"""Arrays in an ``.npz`` file, read as data: nothing is taken that the file does not hold."""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_STORED, ZipFile

from numpy.lib import format as npy
from numpy.typing import NDArray

from features.files import open_regular

Arrays = dict[str, NDArray[Any]]

LARGEST = 2**30  # bytes of all compressed arrays together: those of a million images have 100 MB


def read(source: Path | IO[bytes]) -> Arrays:
    """The arrays in a file that NumPy's ``savez`` or ``savez_compressed`` wrote, by name.

    A header says how much memory is taken before anything is read. So each array must be exactly as large
    as its part of the file, and what is compressed no larger than ``LARGEST``. Nothing is unpickled.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is no such file, is damaged, or says what it does not hold.
    """
    try:
        opened = open_regular(source) if isinstance(source, Path) else source
        with opened as whole, ZipFile(whole) as archive:
            members = archive.infolist()
            if len({member.filename for member in members}) < len(members):
                raise ValueError("two arrays have one name")
            if sum(each.file_size for each in members if each.compress_type != ZIP_STORED) > LARGEST:
                raise ValueError(f"more than {LARGEST:,} bytes are compressed in it")
            arrays = {}
            for member in members:
                if member.compress_type == ZIP_STORED and member.file_size != member.compress_size:
                    raise ValueError(f"{member.filename} is not as large as it says")
                with archive.open(member) as file:
                    check(file, member.file_size)
                with archive.open(member) as file:
                    arrays[member.filename.removesuffix(".npy")] = npy.read_array(file, allow_pickle=False)
            return arrays
    except OSError:
        raise
    except Exception as error:  # whatever a damaged archive makes zipfile and NumPy raise
        raise ValueError(f"no whole file of arrays: {error}") from None


def check(file: IO[bytes], size: int) -> None:
    """Refuse an array whose header does not describe the bytes behind it; the file has ``size`` of them."""
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    shape, _, dtype = readers[npy.read_magic(file)](file)
    if dtype.hasobject or not dtype.itemsize:
        raise ValueError(f"an array of {dtype} is not expected here")
    said = math.prod(shape) * dtype.itemsize
    if said != size - file.tell():
        raise ValueError(f"an array says it has {said:,} bytes, there are {size - file.tell():,}")
