"""Datasets of one image per file, whatever the source of paths and labels."""

from __future__ import annotations

import hashlib

from features.datasets.base import SPLITS
from features.datasets.encoded import Digests, Encoded, Picture, Pictures


class PictureFiles(Encoded):
    """Labelled JPEG and PNG files; the id of a row is the path of its file below the root."""

    _named: bytes = b""  # class names for the digest, if the paths do not contain them

    def name_of(self, split: str, row: int) -> str:
        return self._files[self._part_of[split]][int(self._rows_of[split][row])]

    def reader(self, split: str, start: int, stop: int, size: int) -> Pictures:
        return self._pictures(split, self._rows[split][start:stop], size)

    def _picture(self, part: str, row: int) -> Picture:
        return Picture(self._storage.at(self._files[part][row]))

    def _file_of(self, part: str, row: int) -> int:
        return row

    def _count(self, part: str, number: int) -> int:
        return 1

    def _whole_digest(self, digests: Digests) -> str:
        proof = hashlib.sha256(self._named)
        for split in SPLITS:
            part = self._part_of[split]
            for row in self._rows_of[split]:
                proof.update(f"{self._files[part][row]}\0{digests[part][row].decode()}\n".encode())
        for split in SPLITS:
            proof.update(self._labels[split].tobytes())
        return proof.hexdigest()
