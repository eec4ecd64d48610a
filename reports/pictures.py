"""Thumbnails of a run's images, while they are still where and what they were."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from features.datasets import NAMED, Dataset, open_dataset
from features.errors import UserError

SIDE = 64  # px of a thumbnail at most
QUALITY = 90  # of JPEG, from 1 to 95


class Pictures:
    """The images of a dataset as small pictures that a page can hold.

    They are the images that were embedded (their digest is compared) or none. Nothing is downloaded.

    Parameters
    ----------
    dataset : ``Run.dataset``: ``name``, ``source``, ``digest`` and ``limit``.

    Attributes
    ----------
    problem : why there are no pictures, in one line; else None.
    """

    problem: str | None = None

    def __init__(self, dataset: dict[str, Any]) -> None:
        try:
            self._dataset = self._proved(dataset)
            self._dataset.labels("train")  # an archive is read at last, and a limit judged
        except (UserError, OSError) as error:
            self._fail(error)

    def uri(self, split: str, row: int) -> str | None:
        """Row ``row`` of the split as a ``data:`` URI, JPEG or PNG, whichever is shorter.

        It is the square that is embedded, at most ``SIDE`` pixels wide and never enlarged. None if
        there is a :attr:`problem`.
        """
        if self.problem is not None:
            return None
        try:
            size = min(SIDE, self._dataset.short_side(split, row))
            (pixels,) = self._dataset.images(split, row, row + 1, size)
        except (UserError, OSError) as error:
            self._fail(error)
            return None
        return _uri(pixels)

    def _fail(self, error: Exception) -> None:
        self.problem = " ".join(str(error).split())

    @staticmethod
    def _proved(dataset: dict[str, Any]) -> Dataset:
        """The dataset, if it still is what it was."""
        source = dataset["source"]
        if source not in NAMED and not Path(source).is_dir():
            raise UserError(f"the folder {source} is gone")
        opened = open_dataset(source, limit=dataset["limit"], offline=True)
        if opened.digest() != dataset["digest"]:
            raise UserError(f"the images of {source} have changed since they were embedded")
        return opened


def _uri(pixels: Any) -> str:
    from PIL import Image

    image = Image.fromarray(pixels)
    contents = {}
    for kind, options in {"jpeg": {"quality": QUALITY, "subsampling": 0}, "png": {}}.items():
        buffer = io.BytesIO()
        image.save(buffer, kind, optimize=True, **options)
        contents[kind] = buffer.getvalue()
    kind = min(contents, key=lambda name: len(contents[name]))
    return f"data:image/{kind};base64,{base64.b64encode(contents[kind]).decode()}"
