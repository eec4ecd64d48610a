"""The cache for the options, found or computed, and notes on its images."""

from __future__ import annotations

from pathlib import Path
from statistics import median_high
from typing import TYPE_CHECKING

from features.cache.embeddings import slug
from features.files import save_file
from features.progress import say
from features.words import counted
from pipeline.options import Options

if TYPE_CHECKING:
    from features.datasets.base import Dataset

LOOKED_AT = 20  # images whose size and quality are checked
SHOWN = 3  # unreadable images named in a message
GOOD = 95  # JPEG quality from which nothing is reported


def finished_cache(options: Options) -> Path:
    """The finished cache for these options, computed if there is none."""
    from features.cache.store import MAX_FILE
    from features.executors.registry import executor
    from features.extraction import extract

    extractor, who = options.extractor(), executor(options.executor, options.address)
    dataset = options.images()
    list_left_out(dataset, options)

    def before() -> None:
        _note_what_is_lost(dataset, extractor.image_size, chosen="image_size" in options.said)

    command = options.command("features")
    most = MAX_FILE if options.max_file is None else options.max_file
    return extract(dataset, extractor, options.embeddings, command, before, who, most).path


def list_left_out(dataset: Dataset, options: Options) -> None:
    """Report unreadable images that are left out: some in a line, all in a file."""
    names = dataset.left_out()
    if not names:
        return
    path = options.logs / f"unreadable-{slug(dataset.name)}-{dataset.digest()[:12]}.txt"
    save_file(path, "".join(f"{name}\n" for name in names).encode())
    some = ", ".join(names[:SHOWN]) + ", ..." * (len(names) > SHOWN)
    say(f"left out: {counted(len(names), 'unreadable picture')} ({some}); listed in {path}")


def _note_what_is_lost(dataset: Dataset, size: int, chosen: bool) -> None:
    """Print a note if images are much larger than the network's default input size.

    Also if they are compressed and much smaller, since their compression artefacts are enlarged.
    """
    rows = range(0, len(dataset.labels("train")), len(dataset.labels("train")) // LOOKED_AT or 1)
    looked_at = [dataset.stored("train", row) for row in rows]
    side = median_high(picture.side for picture in looked_at)
    quality = median_high(picture.quality or 100 for picture in looked_at)
    if side >= 2 * size and not chosen:
        say(
            f"note: these pictures are about {side} pixels on their short side, reduced to {size}; "
            "a larger IMAGE_SIZE= keeps more: four times the time for twice the size"
        )
    elif size >= 2 * side and quality < GOOD:
        say(
            f"note: these pictures are JPEGs of about quality {quality}, {side} pixels on their short side, "
            f"enlarged {round(size / side, 1):g} times: compression, not the network, may limit accuracy; "
            "lossless originals keep more"
        )
