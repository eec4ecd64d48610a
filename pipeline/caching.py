"""The cache that the options ask for: found, or computed."""

from __future__ import annotations

from pathlib import Path
from statistics import median_high
from typing import TYPE_CHECKING

from features.progress import say
from pipeline.options import Options

if TYPE_CHECKING:
    from features.datasets.base import Dataset

LOOKED_AT = 20  # pictures whose size and quality are looked at
GOOD = 95  # JPEG quality from which on nothing is reported


def finished_cache(options: Options) -> Path:
    """The finished cache for these options, computed if there is none."""
    from features.datasets.registry import open_dataset
    from features.extraction import extract

    extractor = options.extractor()
    dataset = open_dataset(options.dataset, options.archive, options.limit)

    def before() -> None:
        _note_what_is_lost(dataset, extractor.image_size, chosen="image_size" in options.said)

    return extract(dataset, extractor, options.embeddings, options.command("features"), before).path


def _note_what_is_lost(dataset: Dataset, size: int, chosen: bool) -> None:
    """A note where pictures are much larger than the network's input, and nobody chose its size.

    Also where they are compressed and much smaller: enlarging them enlarges what compression did.
    """
    rows = range(0, len(dataset.labels("train")), len(dataset.labels("train")) // LOOKED_AT or 1)
    looked_at = [dataset.stored("train", row) for row in rows]
    side = median_high(picture.side for picture in looked_at)
    quality = median_high(picture.quality or 100 for picture in looked_at)
    if side >= 2 * size and not chosen:
        say(
            f"note: these pictures are about {side} pixels on their short side, and {size} of it are left; "
            "a larger IMAGE_SIZE= keeps more: four times the time for twice the size"
        )
    elif size >= 2 * side and quality < GOOD:
        say(
            f"note: these pictures are JPEGs of about quality {quality}, {side} pixels on their short side, "
            f"enlarged {round(size / side, 1):g} times: compression, not the network, may limit accuracy; "
            "lossless originals keep more"
        )
