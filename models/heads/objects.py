"""Serialisation of fitted scikit-learn objects with skops, restricted to a list of types.

skops stores an object as a tree of nodes, each with a type and a loader. Its own trust rules allow prefixes,
such as all functions of NumPy, some of which run code. So the tree is checked first, and a file with a node
that is not on an exact list is refused before skops loads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

from features.words import listed
from models import arrays

LIST = "object_types.txt"  # beside this file: the allowed nodes, one per line
SCHEMA = "schema.json"
LARGEST_SCHEMA = 2**26  # bytes; a forest of 500 trees has 1.5 MB
DEEPEST = 200  # nested nodes; scikit-learn's classifiers have up to 12


class Untrusted(ValueError):
    """A file has a node that is not on the list, or is not a skops file."""


def write(fitted: Any, path: Path) -> None:
    """Write a fitted scikit-learn object to ``path``.

    Raises
    ------
    Untrusted
        The object has a node that :func:`read` would refuse.
    """
    import skops.io

    skops.io.dump(fitted, path, compression=ZIP_STORED)
    _check(path)


def read(path: Path) -> Any:
    """Load an object written by :func:`write`.

    Raises
    ------
    Untrusted
        The file is not a skops file, or has a node that is not on the list; nothing was loaded.
    OSError
        The file cannot be read.
    """
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    _check(path)
    try:
        return skops.io.load(path, trusted=[name.partition(":")[2] for name in allowed()])
    except UntrustedTypesFoundException as error:  # for types that no node shows, such as bit generators
        raise Untrusted(f"{path.name}: {error}") from None


def nodes(path: Path) -> list[str]:
    """The distinct names of the nodes in a file, sorted.

    Raises
    ------
    Untrusted
        The file is not a skops file.
    """
    try:
        with ZipFile(path) as archive:
            members = archive.infolist()
            if sum(member.compress_size for member in members) > path.stat().st_size:
                raise Untrusted("its parts overlap")
            for member in members:
                if member.compress_type != ZIP_STORED:  # so that no member expands
                    raise Untrusted(f"{member.filename} is compressed, which is not expected here")
                if member.file_size != member.compress_size:
                    raise Untrusted(f"{member.filename} is not as large as declared")
                if member.filename.endswith(".npy"):
                    with archive.open(member) as file:
                        arrays.check(file, member.file_size)
            if archive.getinfo(SCHEMA).file_size > LARGEST_SCHEMA:
                raise Untrusted(f"{SCHEMA} is larger than {LARGEST_SCHEMA:,} bytes")
            tree = json.loads(archive.read(SCHEMA))
        return sorted({f"protocol:{tree['protocol']}", *_names(tree)})
    except (BadZipFile, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Untrusted(f"{path.name} is not a skops file ({error})") from None
    except ValueError as error:
        raise error if isinstance(error, Untrusted) else Untrusted(f"{path.name}: {error}") from None


@cache
def allowed() -> frozenset[str]:
    """The names of the allowed nodes."""
    return frozenset(files(__package__).joinpath(LIST).read_text().split())


def _check(path: Path) -> None:
    strange = [name for name in nodes(path) if name not in allowed()]
    if strange:
        raise Untrusted(f"{path.name} holds {listed(strange, 3)}, which is not on the list of trusted types")


def _names(node: Any, depth: int = 0) -> Iterator[str]:
    """Yield the name of this node and of all nodes below it."""
    if depth > DEEPEST:
        raise Untrusted(f"{SCHEMA} is nested more than {DEEPEST} deep")
    if isinstance(node, dict):
        if "__loader__" in node:
            yield _name(node)
        for child in node.values():
            yield from _names(child, depth + 1)
    elif isinstance(node, list):
        for child in node:
            yield from _names(child, depth + 1)


def _name(node: dict[str, Any]) -> str:
    """``Loader:module.Class``."""
    return f"{node['__loader__']}:{node.get('__module__', '')}.{node.get('__class__', '')}".replace(" ", "?")
