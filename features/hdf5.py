"""HDF5 files from untrusted sources, checked before any data is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import h5py
from h5py import h5z

from features.errors import UserError
from features.files import open_regular

FILTERS = (h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32)  # any other could load a plug-in
DEFLATE = 1032  # largest compression factor of deflate: https://zlib.net/zlib_tech.html
CHUNK = 1 << 20  # bytes that any chunk may have: the size of HDF5's chunk cache
DEEPEST = 32  # nested groups; Keras uses a handful


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a regular file with h5py for reading.

    Raises
    ------
    OSError
        As :func:`open_regular`, or the file is not HDF5.
    """
    with open_regular(path), h5py.File(path, "r") as file:
        yield file


def plain_datasets(group: h5py.Group, path: Path) -> dict[str, h5py.Dataset]:
    """All non-empty datasets below a group, by their path relative to it.

    Each object is visited once, however many links point to it; soft links are skipped.

    Parameters
    ----------
    path : the file, for messages.

    Raises
    ------
    UserError
        A link points to another file, or :func:`unsafe` finds a problem with a dataset.
    """
    found: dict[str, h5py.Dataset] = {}
    seen = {_address(group)}
    todo = [(group, "", 0)]
    while todo:
        inside, above, depth = todo.pop()
        for key in inside:
            link, at = inside.get(key, getlink=True), f"{above}/{key}"
            if isinstance(link, h5py.SoftLink):  # its target is visited by its own name
                continue
            if not isinstance(link, h5py.HardLink) or depth > DEEPEST:
                what = "groups that are nested too deep" if depth > DEEPEST else "a link to another file"
                raise UserError(f"{path}: expected numbers in the file itself, got {what} at {at}")
            item = inside[key]
            if _address(item) in seen:
                continue
            seen.add(_address(item))
            if isinstance(item, h5py.Group):
                todo.append((item, at, depth + 1))
            elif isinstance(item, h5py.Dataset) and item.size:
                problem = unsafe(item, DEFLATE)
                if problem:
                    raise UserError(f"{path}: expected numbers in the file itself, got {problem} at {at}")
                found[at] = item
    return found


def unsafe(item: h5py.Dataset, shrunk: int = 1) -> str | None:
    """Why a dataset must not be read, in words; None if it is safe.

    Parameters
    ----------
    shrunk : largest ratio of bytes in memory to bytes in the file.
    """
    properties = item.id.get_create_plist()
    filters = {properties.get_filter(number)[0] for number in range(properties.get_nfilters())}
    if item.is_virtual or item.external:
        return "a dataset that lies in another file"
    if not filters <= set(FILTERS):
        return f"a dataset that only a plug-in of HDF5 reads (filter {max(filters)})"
    if item.dtype.hasobject:
        return "a dataset with items of variable length"
    if item.nbytes > shrunk * item.id.get_storage_size():
        return (
            f"a dataset of shape {item.shape} ({item.nbytes:,} bytes) of which the file stores "
            f"{item.id.get_storage_size():,} bytes"
        )
    if item.chunks and item.dtype.itemsize * prod(item.chunks) > max(CHUNK, item.nbytes):
        return f"a dataset in chunks of shape {item.chunks}, larger than itself"
    return None


def _address(item: h5py.Group | h5py.Dataset) -> int:
    return int(h5py.h5o.get_info(item.id).addr)
