"""scikit-learn's handwritten digits as a dataset."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from features.datasets.base import SPLITS, Dataset, hold_out
from features.datasets.images import array_squares


class Digits(Dataset):
    """The 1,797 handwritten digits of ``sklearn.datasets.load_digits``, 8 x 8 pixels in grey.

    Source: the test part of E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI,
    1998. One image in five of each class is held out as the test split.
    """

    name = source = "digits"
    class_names = tuple(str(digit) for digit in range(10))
    side = 8
    note = "one image in five of each class is held out as the test split"

    def __init__(self, limit: int | None = None) -> None:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        grey = np.round(bunch.images * (255 / 16)).astype(np.uint8)  # from 17 grey levels
        self._pixels = np.repeat(grey[..., None], 3, axis=3)
        target = bunch.target.astype(np.int64)
        self._whole = hold_out(target)
        self._labels: dict[str, NDArray[np.int64]] = {s: target[rows] for s, rows in self._whole.items()}
        self.limit = limit

    def digest(self, fresh: bool = False) -> str:
        proof = hashlib.sha256(self._pixels.tobytes())
        for split in SPLITS:
            proof.update(self._whole[split].tobytes() + self._labels[split].tobytes())
        return proof.hexdigest()

    def all_labels(self, split: str) -> NDArray[np.int64]:
        return self._labels[split]

    def read(self, split: str, rows: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
        return array_squares(self._pixels[self._whole[split][rows]], size)

    def name_of(self, split: str, row: int) -> str:
        return f"digits/{self._whole[split][row]:04d}"
