"""Assembly of a cache in several files; each is verified before its shards are removed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from features.cache import index
from features.cache.assembly import Assembly, Labelled
from features.cache.part import FORMAT, PART_HEADER, Damaged, Part
from features.cache.shards import Shard, ShardFolder, Vectors
from features.datasets.base import SPLITS
from features.files import put_in_place, sync
from features.progress import say


class PartFolder:
    """The finished parts of an unfinished cache.

    Parameters
    ----------
    path : the folder; made with the first part.
    shards : all shards of the cache, in row order.
    fingerprint : of the cache.
    """

    def __init__(self, path: Path, shards: Sequence[Shard], fingerprint: str) -> None:
        self.path = path
        self._place = {shard: place for place, shard in enumerate(shards)}
        self._fingerprint = fingerprint
        self._proved: dict[Path, Part] = {}

    @property
    def begun(self) -> bool:
        """Whether any part is finished."""
        return any(self.path.glob("*.h5"))

    def parts(self) -> dict[int, tuple[Part, list[Shard]]]:
        """Each part with its shards, in row order, by the position of its first shard.

        Each part is verified once. Parts that are damaged, or do not consist of these shards, are removed.
        """
        found = {}
        for path in sorted(self.path.glob("*.h5")):
            try:
                part = self._proved.get(path) or Part(path, PART_HEADER)
                for name in part.digests:
                    part.prove(name)
                self._proved[path] = part
                shards = self._held(part)
            except Damaged:
                shards = []
            if shards:
                found[self._place[shards[0]]] = part, shards
            else:
                self._proved.pop(path, None)
                say(f"{path} is damaged; its rows are computed again")
                path.unlink()
        return dict(sorted(found.items()))

    def held(self) -> set[Shard]:
        """The shards in finished parts."""
        return {shard for _, shards in self.parts().values() for shard in shards}

    @property
    def seconds(self) -> float:
        """Seconds spent in the network for the shards in finished parts."""
        return sum(float(part.header["about"]["seconds"]) for part, _ in self.parts().values())

    def cut(self, row_bytes: int, most: int) -> Iterator[list[Shard]]:
        """Group the shards that are in no part into parts of at most ``most`` bytes, or of one shard."""
        held, group, rows = self.held(), list[Shard](), 0
        for shard in self._place:
            if group and (shard in held or (rows + shard.rows) * row_bytes > most):
                yield group
                group, rows = [], 0
            if shard not in held:
                group.append(shard)
                rows += shard.rows
        if group:
            yield group

    def keep(self, part: Part, first: Shard) -> None:
        """Rename a verified part durably; it is named after its first shard."""
        if not self.path.exists():
            self.path.mkdir()
            sync(self.path.parent)
        path = self.path / f"{first.name.removesuffix('.shard')}.h5"
        put_in_place(part.path, path)
        part.path = path
        self._proved[path] = part

    def _held(self, part: Part) -> list[Shard]:
        """The shards in a part, in row order; empty if it does not consist of these shards."""
        if part.header["fingerprint"] != self._fingerprint:
            return []
        spans = {split: (start, start + part.rows[split]) for split, start in part.starts.items()}
        inside = [
            shard
            for shard in self._place
            if spans[shard.split][0] <= shard.start and shard.stop <= spans[shard.split][1]
        ]
        return inside if sum(shard.rows for shard in inside) == sum(part.rows.values()) else []


class PartAssembly:
    """A folder of parts being written: add every shard that is in no part, in row order, then :meth:`finish`.

    A part is closed, synced, verified and renamed before its shards are removed, so at most one part is on
    disk twice.

    Parameters
    ----------
    folder : the finished parts.
    shards : the stored shards.
    labelled : labels and ids of all rows, from :func:`features.cache.assembly.labelled`.
    plan : the shards of each part to be written.
    store : dtype of the stored vectors.
    """

    def __init__(
        self,
        folder: PartFolder,
        shards: ShardFolder,
        labelled: Labelled,
        plan: list[list[Shard]],
        store: str,
    ) -> None:
        self._store = store
        self.path = folder.path
        self._folder = folder
        self._shards = shards
        self._labelled = labelled
        self._plan = plan
        self._making: Assembly | None = None
        self._seconds = 0.0

    def __enter__(self) -> PartAssembly:
        return self

    def __exit__(self, *said: object) -> None:
        if self._making is not None:
            self._making.__exit__(*said)
            with suppress(OSError):
                self._making.path.unlink(missing_ok=True)

    def add(self, shard: Shard, vectors: Vectors, seconds: float = 0.0) -> None:
        """Write the next shard's rows, and finish the part if it is its last shard."""
        if self._making is None:
            self._making = self._begun(self._plan[0])
        self._making.add(shard, vectors)
        self._seconds += seconds
        if shard == self._plan[0][-1]:
            self._complete(self._making, self._plan.pop(0))
            self._making, self._seconds = None, 0.0

    def finish(self, header: dict[str, Any]) -> None:
        """Write the index durably.

        Raises
        ------
        ValueError
            A shard has not been added yet.
        """
        if self._plan:
            raise ValueError(f"{self._plan[0][0].name} has not been added yet")
        digests = {
            name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in self._labelled.items()
        }
        index.write(self.path, header, digests, [part for part, _ in self._folder.parts().values()])

    def _begun(self, shards: list[Shard]) -> Assembly:
        self._starts = {}
        labelled = {}
        for split in SPLITS:
            inside = [shard for shard in shards if shard.split == split]
            start, stop = (inside[0].start, inside[-1].stop) if inside else (0, 0)
            self._starts[split] = start
            for name in (f"{split}/labels", f"{split}/ids"):
                labelled[name] = self._labelled[name][start:stop]
        temporary = self._shards.path / "part.tmp"
        return Assembly(temporary, labelled, self._shards.widths, self._starts, self._store)

    def _complete(self, making: Assembly, shards: list[Shard]) -> None:
        about = {"starts": self._starts, "seconds": self._seconds}
        header = {"headroom_part": FORMAT, "fingerprint": self._shards.fingerprint, "about": about}
        part = making.finish(header)
        making.__exit__()
        self._folder.keep(part, shards[0])
        self._shards.remove(shards)
