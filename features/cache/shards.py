"""Shards: small files of embeddings, written atomically by any number of writers."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.cache.embeddings import canonical
from features.errors import UserError
from features.files import open_regular, replacing
from features.shapes import fits, number, parsed, text

Vectors = dict[str, NDArray[np.float32]]
LONGEST = 1_000  # bytes of a shard's header; about 200 are used
SECONDS = number(0, sys.float_info.max)


@dataclass(frozen=True)
class Shard:
    """Rows ``start`` to ``stop`` of one split."""

    split: str
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.split}-{self.start:09d}.shard"

    @property
    def rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Kept:
    """The content of a shard: ``{layer: (rows, d)}`` float32, and seconds spent in the network."""

    vectors: Vectors
    seconds: float


@dataclass(frozen=True)
class ShardFolder:
    """The folder of a cache's shards; picklable for writers in other processes.

    Attributes
    ----------
    path : the folder.
    fingerprint : of the cache.
    widths : number of values in each layer's vector.
    """

    path: Path
    fingerprint: str
    widths: dict[str, int]

    def put(self, shard: Shard, vectors: Vectors, seconds: float = 0.0) -> None:
        """Write one shard's vectors, ``{layer: (rows, d)}`` float32, atomically.

        The file has the SHA-256 of everything after it, a line of JSON that identifies the shard, and the
        layers' values in the order of their names, so it can be verified before it is parsed. If several
        writers write a shard, the last file remains (:func:`replacing`).

        Raises
        ------
        UserError
            The operating system refuses to write, for instance because the disk is full.
        """
        about = {"fingerprint": self.fingerprint, "shard": shard.name, "seconds": seconds}
        parts: list[Any] = [canonical(about).encode(), b"\n"]
        parts += [np.ascontiguousarray(vectors[layer]).data.cast("B") for layer in sorted(self.widths)]
        proof = hashlib.sha256()
        for part in parts:
            proof.update(part)
        target = self.path / shard.name
        with in_words(target), replacing(target) as temporary, open(temporary, "xb") as out:
            out.write(proof.hexdigest().encode())
            for part in parts:
                out.write(part)

    def read(self, shard: Shard) -> Kept | None:
        """The content of a shard, or None if the file is missing, damaged or of another shard."""
        size = 4 * shard.rows * sum(self.widths.values())
        try:
            with open_regular(self.path / shard.name) as file:
                content = file.read(LONGEST + size)
        except OSError:
            return None
        proof, body = content[:64], memoryview(content)[64:]
        start = content.find(b"\n") + 1
        if hashlib.sha256(body).hexdigest().encode() != proof or len(content) - start != size:
            return None
        try:
            about = parsed(content[64:start])
        except ValueError:
            return None
        if not fits(about, {"fingerprint": text, "shard": text, "seconds": SECONDS}):
            return None
        if (about["fingerprint"], about["shard"]) != (self.fingerprint, shard.name):
            return None
        vectors = {}
        for layer, width in sorted(self.widths.items()):
            numbers = np.frombuffer(content, np.float32, shard.rows * width, start)
            vectors[layer] = numbers.reshape(shard.rows, width)
            start += numbers.nbytes
        return Kept(vectors, about["seconds"])

    def remove(self, shards: Iterable[Shard]) -> None:
        """Remove these shards, where they exist."""
        for shard in shards:
            (self.path / shard.name).unlink(missing_ok=True)


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """Report errors of the operating system for a file as UserError."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise UserError(
            f"cannot write {path}: {error.strerror}; what is finished is kept: free some disk or "
            "choose another folder, then run this again"
        ) from None
