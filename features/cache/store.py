"""Writing a cache: shards, resuming, and the finished file or files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from features.backbones.extractor import store_of
from features.backbones.registry import marked
from features.cache.assembly import Assembly, labelled
from features.cache.embeddings import FORMAT, Embeddings, canonical_digest, slug
from features.cache.lock import finished_of, parts_of, writing
from features.cache.parts import PartAssembly, PartFolder
from features.cache.shards import Shard, ShardFolder, in_words
from features.datasets.base import SPLITS, Dataset
from features.errors import UserError
from features.files import put_in_place
from features.progress import say
from features.words import size

SHARDS = (1_000, 500, 250, 125, 50, 25, 10, 5)  # rows per shard: the first for which
SHARD_BYTES = 64 << 20  # its images take at most these bytes; a kill loses at most two shards
DISK_MARGIN = 64 << 20  # bytes left free on disk
MAX_FILE = "50GB"  # of vectors in one file


class EmbeddingStore:
    """Assembles the cache of one dataset for one spec.

    Shards are written atomically (:class:`ShardFolder`). The finished file is assembled from them under a
    temporary name, synced, verified and renamed, and only then are the shards removed. So a file with its
    final name is always complete, and no file is reopened for writing. Vectors larger than one file may be
    are stored in a folder of parts with an index, under the same name.

    Parameters
    ----------
    root : the folder of all caches.
    dataset : the labelled images.
    spec : the extractor's spec.
    widths : number of values in each layer's vector.
    max_file : largest number of bytes of vectors in one file, as a number or as in ``50GB``. A pass that has
        finished a part continues in parts regardless.

    Attributes
    ----------
    path : the finished file or folder.
    folder : the folder of shards.
    fingerprint : SHA-256 that identifies the cache.
    """

    def __init__(
        self,
        root: Path,
        dataset: Dataset,
        spec: dict[str, Any],
        widths: dict[str, int],
        max_file: int | str = MAX_FILE,
    ) -> None:
        self._max_file = size("max_file", max_file)
        self._dataset = dataset
        self._spec, self._store = spec, store_of(spec)
        self._widths = widths
        self.fingerprint = fingerprint(spec, dataset.digest(), dataset.limit)
        name = "-".join(filter(None, (slug(dataset.name), marked(spec["backbone"]))))
        name += f"-{spec['image_size']}px-{spec['preprocess']}-{spec['precision']}"
        name += "-mirror" * spec["mirror"] + f"-stored-{self._store}" * ("store" in spec)
        self.path = root / f"{name}-{self.fingerprint[:12]}.h5"
        self.folder = ShardFolder(parts_of(self.path), self.fingerprint, widths)

    def lock(self) -> AbstractContextManager[None]:
        """The lock for writing: see :func:`writing`."""
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
        """Whether a pass has been begun, running or interrupted."""
        return self.folder.path.is_dir()

    @cached_property
    def _parts(self) -> PartFolder:
        return PartFolder(finished_of(self.path), self.shards, self.fingerprint)

    @property
    def _row_bytes(self) -> int:
        return np.dtype(self._store).itemsize * sum(self._widths.values())

    @property
    def _in_parts(self) -> bool:
        """Whether the vectors exceed one file, or a part is already finished."""
        rows = sum(shard.rows for shard in self.shards)
        return rows * self._row_bytes > self._max_file or self._parts.begun

    def loose(self) -> list[Shard]:
        """The shards that are in no finished part, in row order."""
        held = self._parts.held()
        return [shard for shard in self.shards if shard not in held]

    @property
    def seconds_in_parts(self) -> float:
        """Seconds spent in the network for the shards in finished parts."""
        return self._parts.seconds

    def missing(self) -> list[Shard]:
        """The shards to be computed, in row order. Damaged shards are deleted and included."""
        self.folder.remove(self._parts.held())  # left by a killed pass
        todo = []
        for shard in self.loose():
            if self.folder.read(shard) is None:
                todo.append(shard)
                if (path := self.folder.path / shard.name).exists():
                    say(f"{path} is damaged; it is computed again")
                    path.unlink()
        return todo

    def check_disk(self, todo: list[Shard]) -> None:
        """Refuse a pass for which the disk is too small: shards, and the finished file or one part."""
        groups = list(self._parts.cut(self._row_bytes, self._max_file)) if self._in_parts else [self.shards]
        twice = max((sum(shard.rows for shard in group) for group in groups), default=0)
        need = sum(shard.rows for shard in todo) * 4 * sum(self._widths.values())
        need += twice * self._row_bytes + DISK_MARGIN
        free = shutil.disk_usage(self.path.parent).free
        if need > free:
            what = "the embeddings, one part of them twice" if self._in_parts else "twice the embeddings"
            raise UserError(
                f"not enough disk for {self.path.name}: {need / 1e6:,.0f} MB needed ({what} "
                f"during assembly), {free / 1e6:,.0f} MB free in "
                f"{self.path.parent}; free some, choose another folder, or fewer layers="
            )

    @contextmanager
    def assembly(self) -> Iterator[Assembly | PartAssembly]:
        """Open the assembly under a temporary name, which is removed at the end if it was not renamed.

        Finished parts remain.
        """
        rows = labelled(self._dataset)
        if self._in_parts:
            plan = list(self._parts.cut(self._row_bytes, self._max_file))
            with (
                in_words(self._parts.path),
                PartAssembly(self._parts, self.folder, rows, plan, self._store) as parts,
            ):
                yield parts
            return
        temporary = self.path.with_suffix(".tmp")
        try:
            with in_words(temporary), Assembly(temporary, rows, self._widths, store=self._store) as assembly:
                yield assembly
        finally:
            temporary.unlink(missing_ok=True)

    def commit(self, assembly: Assembly | PartAssembly, provenance: dict[str, Any]) -> Embeddings:
        """Finish the file, rename it, and remove the shards."""
        dataset = self._dataset
        left_out = len(dataset.left_out())
        assembly.finish(
            {
                "headroom_format": FORMAT,
                "fingerprint": self.fingerprint,
                "spec": self._spec,
                "dataset": {
                    "name": dataset.name,
                    "source": dataset.source,
                    "digest": dataset.digest(),
                    "note": dataset.note,
                    "limit": dataset.limit,
                    **({"unreadable": left_out} if left_out else {}),
                },
                "class_names": dataset.class_names,
                "provenance": provenance,
            }
        )
        put_in_place(assembly.path, self.path)
        shutil.rmtree(self.folder.path, ignore_errors=True)
        return Embeddings(self.path)


def fingerprint(spec: dict[str, Any], dataset_digest: str, limit: int | None) -> str:
    """Hex SHA-256 over everything that determines the vectors and their order."""
    return canonical_digest({"extractor": spec, "dataset": dataset_digest, "limit": limit, "format": FORMAT})
