"""The write side of the cache: shards, resume, and one finished file."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from features.backbones.registry import marked
from features.cache.assembly import Assembly
from features.cache.embeddings import FORMAT, Embeddings, canonical, slug
from features.cache.lock import parts_of, writing
from features.cache.shards import Shard, ShardFolder, in_words
from features.datasets.base import SPLITS, Dataset
from features.errors import UserError
from features.files import put_in_place
from features.progress import say

SHARDS = (1_000, 500, 250, 125, 50, 25, 10, 5)  # rows of a shard, so many that
SHARD_BYTES = 64 << 20  # its images take no more: a kill costs this shard and one that waits to be written
DISK_MARGIN = 64 << 20  # bytes that are left free


class EmbeddingStore:
    """Where the embeddings of one dataset under one spec are put together.

    Shards are written under a temporary name, synced and renamed (:class:`ShardFolder`); the finished file
    is assembled from them the same way, and only then do they go. So a file that has its name is whole, at
    any moment, and nothing is reopened for writing.

    Parameters
    ----------
    root : the folder of all caches.
    dataset : gives labels, ids, digest and limit.
    spec : the extractor's spec.
    widths : numbers in each layer's vector.

    Attributes
    ----------
    path : the finished file.
    folder : where the shards are kept until then.
    """

    def __init__(self, root: Path, dataset: Dataset, spec: dict[str, Any], widths: dict[str, int]) -> None:
        self._dataset = dataset
        self._spec = spec
        self._widths = widths
        self.fingerprint = fingerprint(spec, dataset.digest(), dataset.limit)
        name = "-".join(filter(None, (slug(dataset.name), marked(spec["backbone"]))))
        name += f"-{spec['image_size']}px-{spec['preprocess']}-{spec['precision']}"
        name += f"{'-mirror' if spec['mirror'] else ''}-{self.fingerprint[:12]}"
        self.path = root / f"{name}.h5"
        self.folder = ShardFolder(parts_of(self.path), self.fingerprint, widths)

    def lock(self) -> AbstractContextManager[None]:
        """Be the only writer: see :func:`writing`."""
        return writing(self.path)

    @property
    def shards(self) -> list[Shard]:
        """All shards, in row order."""
        pixels = 3 * self._spec["image_size"] ** 2
        size = next((rows for rows in SHARDS if rows * pixels <= SHARD_BYTES), SHARDS[-1])
        return [
            Shard(split, start, min(start + size, rows))
            for split in SPLITS
            for rows in [len(self._dataset.labels(split))]
            for start in range(0, rows, size)
        ]

    @property
    def begun(self) -> bool:
        """Whether a pass is under way, or an interrupted one has left its folder."""
        return self.folder.path.is_dir()

    def missing(self) -> list[Shard]:
        """The shards still to do, in row order; damaged ones among them (and deleted)."""
        todo = []
        for shard in self.shards:
            if self.folder.read(shard) is None:
                todo.append(shard)
                if (path := self.folder.path / shard.name).exists():
                    say(f"{path} is damaged; it is done again")
                    path.unlink()
        return todo

    def check_disk(self, todo: list[Shard]) -> None:
        """Refuse to start what the disk cannot hold: the missing shards, then the finished file."""
        row = 4 * sum(self._widths.values())
        rows = sum(shard.rows for shard in todo)
        rows += sum(len(self._dataset.labels(split)) for split in SPLITS)
        need, free = rows * row + DISK_MARGIN, shutil.disk_usage(self.path.parent).free
        if need > free:
            raise UserError(
                f"not enough disk for {self.path.name}: {need / 1e6:,.0f} MB needed (twice the "
                f"embeddings while they are put together), {free / 1e6:,.0f} MB free in "
                f"{self.path.parent}; free some, choose another folder, or fewer layers="
            )

    @contextmanager
    def assembly(self) -> Iterator[Assembly]:
        """The finished file in the making, under a temporary name that goes if it comes to nothing."""
        temporary = self.path.with_suffix(".tmp")
        try:
            with in_words(temporary), Assembly(temporary, self._dataset, self._widths) as assembly:
                yield assembly
        finally:
            temporary.unlink(missing_ok=True)

    def commit(self, assembly: Assembly, provenance: dict[str, Any]) -> Embeddings:
        """Finish the file, read it back, give it its name; then remove the shards."""
        dataset = self._dataset
        left_out = len(dataset.left_out())
        assembly.finish(
            {
                "headroom_format": FORMAT,
                "fingerprint": self.fingerprint,
                "spec": canonical(self._spec),
                "dataset": canonical(
                    {
                        "name": dataset.name,
                        "source": dataset.source,
                        "digest": dataset.digest(),
                        "note": dataset.note,
                        "limit": dataset.limit,
                        **({"unreadable": left_out} if left_out else {}),
                    }
                ),
                "class_names": dataset.class_names,
                "provenance": canonical(provenance),
            }
        )
        for _, problem in Embeddings(assembly.path).problems():
            if problem:
                raise UserError(f"the disk did not keep what was written: {problem}")
        put_in_place(assembly.path, self.path)
        shutil.rmtree(self.folder.path, ignore_errors=True)
        return Embeddings(self.path)


def fingerprint(spec: dict[str, Any], dataset_digest: str, limit: int | None) -> str:
    """SHA-256 of all that decides the vectors and their order."""
    whole = {"extractor": spec, "dataset": dataset_digest, "limit": limit, "format": FORMAT}
    return hashlib.sha256(canonical(whole).encode()).hexdigest()
