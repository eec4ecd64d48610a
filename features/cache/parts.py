"""The parts of a cache too large for one file, in the making: each is proved before its shards go."""

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
    """Parts that are whole, of a cache that is not yet.

    Parameters
    ----------
    path : the folder; it is there once it holds a part.
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
        """Whether there is any part."""
        return any(self.path.glob("*.h5"))

    def parts(self) -> dict[int, tuple[Part, list[Shard]]]:
        """Each part with the shards that it holds, by the place of the first, in row order.

        A part is proved once; one that is damaged, or cut otherwise than the shards, goes.
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
                say(f"{path} is damaged; its rows are done again")
                path.unlink()
        return dict(sorted(found.items()))

    def held(self) -> set[Shard]:
        """The shards that parts hold."""
        return {shard for _, shards in self.parts().values() for shard in shards}

    @property
    def seconds(self) -> float:
        """What the network took for the shards in parts."""
        return sum(float(part.header["about"]["seconds"]) for part, _ in self.parts().values())

    def cut(self, row_bytes: int, most: int) -> Iterator[list[Shard]]:
        """The shards that no part holds, cut into parts: of ``most`` bytes, or of one shard."""
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
        """Give a part that is proved its name, that of its first shard, for good."""
        if not self.path.exists():
            self.path.mkdir()
            sync(self.path.parent)
        path = self.path / f"{first.name.removesuffix('.shard')}.h5"
        put_in_place(part.path, path)
        part.path = path
        self._proved[path] = part

    def _held(self, part: Part) -> list[Shard]:
        """The shards that a part holds, in row order; none where it is not made of these shards."""
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
    """A folder of parts being written: every shard that no part holds, in row order, then :meth:`finish`.

    A part is closed, brought to the disk, read back and named before the shards that it holds are removed, so
    that no more than one part lies on the disk twice.

    Parameters
    ----------
    folder : where the parts are kept.
    shards : where the shards are kept.
    labelled : labels and ids of all rows, as :func:`features.cache.assembly.labelled` gives them.
    plan : the shards of each part that is still to be written.
    store : dtype in which the vectors are kept.
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
        """Write the next shard's rows, and finish the part of which it is the last."""
        if self._making is None:
            self._making = self._begun(self._plan[0])
        self._making.add(shard, vectors)
        self._seconds += seconds
        if shard == self._plan[0][-1]:
            self._complete(self._making, self._plan.pop(0))
            self._making, self._seconds = None, 0.0

    def finish(self, header: dict[str, Any]) -> None:
        """Write the index, and bring it to the disk.

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
