"""Labelled picture files, wherever their paths and labels come from."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.datasets.base import SPLITS, Parted
from features.datasets.filedigests import FileDigests, stamp
from features.datasets.images import Stored, read_square, stored
from features.errors import UserError


class PictureFiles(Parted):
    """JPEG and PNG files, each with a class.

    A subclass sets ``_root`` and ``_files`` and calls ``_divide``. A row's name is its file's path below the
    root. Once the digest has been taken, a file that has changed since is refused and named.
    """

    _root: Path  # the folder that paths are relative to
    _files: dict[str, list[str]]  # the paths of each part, in row order
    _named: bytes = b""  # the class names, where paths do not hold them: a part of the digest
    _digest: str | None = None

    def digest(self, fresh: bool = False) -> str:
        if self._digest is not None and not fresh:
            return self._digest
        proof = hashlib.sha256(self._named)
        paths = [self.name_of(split, row) for split in SPLITS for row in range(len(self._labels[split]))]
        stamps = np.empty((len(paths), 2), dtype=np.int64)
        with FileDigests(self._root, fresh) as known:
            for row, (digest, found) in enumerate(known.digests(paths)):
                proof.update(f"{paths[row]}\0{digest}\n".encode())
                stamps[row] = found
        for split in SPLITS:
            proof.update(self._labels[split].tobytes())
        self._digest = proof.hexdigest()
        self._stamps = dict(zip(SPLITS, np.split(stamps, [len(self._labels["train"])]), strict=True))
        return self._digest

    def stored(self, split: str, row: int) -> Stored:
        return stored(self._root / self.name_of(split, int(self._rows[split][row])))

    def read(self, split: str, rows: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
        paths = [self._root / self.name_of(split, int(row)) for row in rows]
        out = np.empty((len(rows), size, size, 3), dtype=np.uint8)

        def read(place: int) -> None:
            out[place] = read_square(paths[place], size)
            if self._digest is not None and stamp(paths[place]) != tuple(self._stamps[split][rows[place]]):
                raise UserError(f"{paths[place]} has changed since its digest was taken; run this again")

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the GIL
            for _ in pool.map(read, range(len(rows))):
                pass
        return out

    def name_of(self, split: str, row: int) -> str:
        return self._files[self._part_of[split]][int(self._rows_of[split][row])]
