"""Shards: rows of the embeddings, each a file that is whole or not there, whoever writes it."""

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
LONGEST = 1_000  # bytes before the numbers of a shard; there are some 200
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
    """What a shard holds: ``{layer: (rows, d)}`` float32, and the seconds that the network took."""

    vectors: Vectors
    seconds: float


@dataclass(frozen=True)
class ShardFolder:
    """Where the shards of one cache are kept: small, and all that a writer needs to know.

    Attributes
    ----------
    path : the folder.
    fingerprint : of the cache that they are parts of.
    widths : numbers in each layer's vector.
    """

    path: Path
    fingerprint: str
    widths: dict[str, int]

    def put(self, shard: Shard, vectors: Vectors, seconds: float = 0.0) -> None:
        """Keep one shard's vectors, ``{layer: (rows, d)}`` float32, whole or not at all.

        The file is the SHA-256 of all that follows, a line of JSON that says which shard it is, and
        the layers' numbers in the order of their names: proved before it is parsed. Of several writers of
        one shard the last one's file stands, whole (:func:`replacing`).

        Raises
        ------
        UserError
            The operating system refuses to write, as where the disk is full.
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
        """A shard as :meth:`put` wrote it, or None if there is none, or it is another or damaged."""
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
        """Remove those of some shards that are there."""
        for shard in shards:
            (self.path / shard.name).unlink(missing_ok=True)


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """Tell in words what the operating system refused of a file."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise UserError(
            f"cannot write {path}: {error.strerror}; what is finished is kept: free some disk or "
            "choose another folder, then run this again"
        ) from None
