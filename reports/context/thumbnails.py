"""Thumbnails of a run's images, as long as the dataset is unchanged."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from features.datasets.base import Dataset
from features.datasets.bucket import is_url
from features.datasets.cifar import ARCHIVED, places
from features.datasets.registry import DATASETS, open_dataset
from features.errors import UserError

SIDE = 64  # px of a thumbnail at most
QUALITY = 90  # of JPEG, from 1 to 95


class Pictures:
    """Thumbnails of a dataset's images.

    The dataset's digest must be that of the images that were embedded. Nothing is downloaded.

    Parameters
    ----------
    dataset : ``Run.dataset``: ``name``, ``source``, ``digest`` and ``limit``.
    archive : path of the archive, as in ``ARCHIVE=``; None: look for it.
    remembered : paths of the archive when the images were embedded.

    Attributes
    ----------
    problem : why there are no thumbnails, in one line, or None.

    Raises
    ------
    UserError
        ``archive`` is given and is not the dataset's.
    """

    problem: str | None = None

    def __init__(
        self, dataset: dict[str, Any], archive: str | None = None, remembered: Iterable[str] = ()
    ) -> None:
        try:
            self._dataset = self._proved(dataset, archive, remembered)
            self._dataset.labels("train")  # reads the archive and checks the limit
        except (UserError, OSError) as error:
            if archive is not None:
                raise
            self._fail(error)

    def uri(self, split: str, row: int) -> str | None:
        """An image as a ``data:`` URI, JPEG or PNG, whichever is smaller; None if there is a :attr:`problem`.

        It shows the square that is embedded, at most ``SIDE`` pixels wide and never enlarged.
        """
        if self.problem is not None:
            return None
        try:
            size = min(SIDE, self._dataset.stored(split, row).side)
            (pixels,) = self._dataset.images(split, row, row + 1, size)
        except (UserError, OSError) as error:
            self._fail(error)
            return None
        return _uri(pixels)

    def _fail(self, error: Exception) -> None:
        self.problem = " ".join(str(error).split())

    @staticmethod
    def _proved(dataset: dict[str, Any], archive: str | None, remembered: Iterable[str]) -> Dataset:
        """Open the dataset; raises UserError if it is missing or has changed."""
        source = dataset["source"]
        if source not in DATASETS and not is_url(source) and not Path(source).exists():
            known = Path(source).is_absolute()
            raise UserError(f"{source} is gone" if known else f"no dataset is named {source} here")
        opened = open_dataset(
            source,
            archive,
            dataset["limit"],
            offline=True,
            remembered=remembered,
            skip_unreadable="unreadable" in dataset,
        )
        if opened.digest() != dataset["digest"]:
            raise UserError(f"the images of {source} have changed since they were embedded")
        return opened


def whereabouts(source: str, archive: str | None, remembered: Iterable[str]) -> list[Any]:
    """JSON values that tell whether a dataset's images are available, without reading any.

    For a folder or list, whether it exists; for an archive, size and modification time of each candidate.
    """
    if source not in DATASETS:
        return [source, Path(source).exists()]
    if source not in ARCHIVED:
        return [source]
    files = (
        places(remembered, ARCHIVED[source]) if archive is None else [Path(archive).expanduser().resolve()]
    )
    stats = [(str(path), path.stat()) for path in files if path.is_file()]
    return [source, [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]]


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
