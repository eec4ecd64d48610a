"""Arrays, and indexable collections of image-label pairs, as datasets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from features.datasets.base import Dataset, Parted
from features.datasets.images import Stored, array_squares
from features.errors import UserError
from features.progress import progress


class Pairs(Protocol):
    """An indexable collection of image-label pairs."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: Any, /) -> Any: ...


def from_arrays(
    images: ArrayLike,
    labels: ArrayLike,
    *,
    test: tuple[ArrayLike, ArrayLike] | None = None,
    class_names: Sequence[str] | None = None,
    name: str = "arrays",
    limit: int | None = None,
) -> Dataset:
    """Make a dataset of images and labels in memory.

    Parameters
    ----------
    images : (n, h, w, 3) uint8 RGB, or (n, h, w) uint8 grey.
    labels : (n,) class numbers from 0.
    test : images and labels of the test split; None: one image in five of each class is held out.
    class_names : names by class number; None: the numbers.
    name : a short label for reports.
    limit : images per split, stratified; None: all.

    Returns
    -------
    Dataset
        Its digest covers every pixel and label.

    Raises
    ------
    UserError
        A shape, dtype or label is not as described, or a class has too few images.

    Examples
    --------
    >>> import numpy as np
    >>> from features import from_arrays
    >>> rng = np.random.default_rng(0)
    >>> images = rng.integers(0, 256, (60, 28, 28), dtype=np.uint8)
    >>> dataset = from_arrays(images, np.arange(60) % 2, class_names=["even", "odd"])
    >>> len(dataset.labels("train")), len(dataset.labels("test"))
    (48, 12)
    """
    given = {"train": (images, labels)} if test is None else {"train": (images, labels), "test": test}
    parts: dict[str, Pairs] = {}
    for split, (pixels, numbers) in given.items():
        pixels, numbers = np.asarray(pixels), np.asarray(numbers)
        grey = pixels.ndim == 3
        if pixels.dtype != np.uint8 or not (grey or (pixels.ndim == 4 and pixels.shape[3] == 3)):
            raise UserError(
                f"{name}: images of {split}: expected uint8 of shape (n, h, w, 3) or (n, h, w), got "
                f"{pixels.dtype} of shape {pixels.shape}; convert them"
            )
        if numbers.shape != pixels.shape[:1] or not np.issubdtype(numbers.dtype, np.integer):
            raise UserError(
                f"{name}: labels of {split}: expected {len(pixels)} integers, got {numbers.dtype} of shape "
                f"{numbers.shape}; give a class number for each image"
            )
        parts[split] = _Zipped(pixels, numbers)
    return Indexed(parts, class_names, name, limit)


def from_indexed(
    train: Pairs,
    test: Pairs | None = None,
    *,
    class_names: Sequence[str] | None = None,
    name: str = "indexed",
    limit: int | None = None,
) -> Dataset:
    """Make a dataset of image-label pairs by index, such as torchvision's or Hugging Face's datasets.

    Every item is read once here for labels and digest, and again when it is embedded. The item must be
    the same both times, so do not use random transforms.

    Parameters
    ----------
    train : ``train[row]`` is an (image, label) pair, or a dict with ``image`` or ``img``, and ``label``.
        Images are Pillow images, or uint8 arrays of shape (h, w, 3) or (h, w); labels are integers from 0.
    test : the test split, likewise; None: one image in five of each class is held out.
    class_names : names by class number; None: those of ``train``, or the numbers.
    name : a short label for reports.
    limit : images per split, stratified; None: all.

    Returns
    -------
    Dataset
        Its digest covers every pixel and label.

    Raises
    ------
    UserError
        An item cannot be read or is not as described; the message names it.

    Examples
    --------
    >>> from PIL import Image
    >>> from features import from_indexed
    >>> train = [(Image.new("RGB", (40, 30), (row, 0, 0)), row % 2) for row in range(20)]
    >>> test = [{"image": Image.new("L", (30, 30), row), "label": row % 2} for row in range(6)]
    >>> dataset = from_indexed(train, test, class_names=["even", "odd"])
    >>> dataset.labels("test")
    array([0, 1, 0, 1, 0, 1])
    """
    parts = {"train": train} if test is None else {"train": train, "test": test}
    return Indexed(parts, class_names or _class_names(train), name, limit)


class Indexed(Parted):
    """Image-label pairs by index, in two parts or in one from which a test split is held out.

    The constructor takes the digest over every pixel and label. An image that has changed when it is read
    again is refused.
    """

    def __init__(
        self, parts: dict[str, Pairs], class_names: Sequence[str] | None, name: str, limit: int | None
    ) -> None:
        self.name = self.source = name
        self._parts = parts
        self._proofs: dict[str, list[bytes]] = {}
        labels: dict[str, NDArray[np.int64]] = {}
        for part in parts:
            found = list(self._proved(part))
            labels[part] = np.array([label for _, label in found], dtype=np.int64)
            self._proofs[part] = [proof for proof, _ in found]
        count = 1 + max((int(numbers.max()) for numbers in labels.values() if len(numbers)), default=-1)
        names = range(count) if class_names is None else class_names
        self.class_names = tuple(str(one) for one in names)
        if not 2 <= len(self.class_names) >= count:
            raise UserError(
                f"{name}: expected at least two classes and a name for each, got labels up to {count - 1} "
                f"and {len(self.class_names)} names; correct labels or class_names"
            )
        self._digest = self._whole_digest(self._proofs, labels)
        self._divide(labels)
        self.limit = limit

    def digest(self, fresh: bool = False) -> str:
        if not fresh:
            return self._digest
        found = {part: list(self._proved(part)) for part in self._parts}
        labels = {part: np.array([label for _, label in items], np.int64) for part, items in found.items()}
        return self._whole_digest({part: [proof for proof, _ in found[part]] for part in found}, labels)

    def read(self, split: str, rows: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
        out = np.empty((len(rows), size, size, 3), dtype=np.uint8)
        part = self._part_of[split]
        for place, row in enumerate(rows):
            inner = int(self._rows_of[split][row])
            pixels, _ = self._item(part, inner)
            if _proof(pixels) != self._proofs[part][inner]:
                raise UserError(
                    f"{self._where(part, inner)} has changed since its digest was taken; give images without "
                    "random transforms"
                )
            out[place] = array_squares(pixels[None], size)[0]
        return out

    def name_of(self, split: str, row: int) -> str:
        return f"{self._part_of[split]}/{self._rows_of[split][row]:06d}"

    def stored(self, split: str, row: int) -> Stored:
        whole = int(self._rows[split][row])
        pixels, _ = self._item(self._part_of[split], int(self._rows_of[split][whole]))
        return Stored(min(pixels.shape[:2]))

    def _proved(self, part: str) -> Iterator[tuple[bytes, int]]:
        """The digest of each image of a part, and its label."""
        with progress(len(self._parts[part]), f"digest of {part}", "img", delay=1) as bar:
            for row in range(len(self._parts[part])):
                pixels, label = self._item(part, row)
                yield _proof(pixels), label
                bar.update(1)

    def _whole_digest(self, proofs: dict[str, list[bytes]], labels: dict[str, NDArray[np.int64]]) -> str:
        whole = hashlib.sha256("\0".join(self.class_names).encode())
        for part in proofs:
            whole.update(f"\0{part} {len(proofs[part])}\n".encode())
            whole.update(b"".join(proofs[part]) + labels[part].astype("<i8").tobytes())
        return whole.hexdigest()

    def _where(self, part: str, row: int) -> str:
        return f"{self.name}: item {row} of {part}"

    def _item(self, part: str, row: int) -> tuple[NDArray[np.uint8], int]:
        """The image, ``(h, w, 3)`` uint8 RGB, and the label of an item."""
        from PIL import Image

        from features.datasets.images import upright

        try:
            item = self._parts[part][row]
            if isinstance(item, dict):
                image, label = item["img" if "img" in item else "image"], item["label"]
            else:
                image, label = item
            if not isinstance(image, Image.Image):
                image = np.asarray(image)
                if image.dtype != np.uint8:
                    raise TypeError(f"pixels of {image.dtype}")
                image = Image.fromarray(image)
            pixels, number = np.asarray(upright(image)), np.asarray(label)
            if not np.issubdtype(number.dtype, np.integer) or number.ndim or number < 0:
                raise TypeError(f"the label {label!r}")
        except MemoryError:  # not a fault of the item
            raise
        except Exception as error:  # from any library
            reason = f"{type(error).__name__} {' '.join(str(error).split())}".rstrip()
            raise UserError(
                f"{self._where(part, row)} cannot be read: expected a Pillow image or uint8 (h, w, 3) or "
                f"(h, w), and a class number from 0; got: {reason}; replace or remove it"
            ) from None
        return pixels, int(number)


class _Zipped:
    """Arrays of images and labels as image-label pairs."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[Any]) -> None:
        self._images, self._labels = images, labels

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, row: int) -> tuple[NDArray[np.uint8], Any]:
        return self._images[row], self._labels[row]


def _proof(pixels: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()


def _class_names(indexed: Any) -> Sequence[str] | None:
    """The class names of torchvision's and Hugging Face's datasets, or None."""
    features = getattr(indexed, "features", None)
    if isinstance(features, dict):  # Hugging Face's
        return getattr(features.get("label"), "names", None)
    return getattr(indexed, "classes", None)
