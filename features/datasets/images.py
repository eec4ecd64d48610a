"""Decoding and resizing images to the network's square input, for all datasets."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from features.errors import UserError
from features.files import open_regular

if TYPE_CHECKING:
    from PIL import Image

# Part of the extractor's spec, since it changes the vectors.
RESIZE = "exif-rotated RGB, jpeg decoded at >= 2x, pillow bicubic on the short side, centre crop"

SUFFIXES = (".jpg", ".jpeg", ".png")  # of image files, in lower case

# Largest total number of pixels in the scans of a JPEG: seconds of decoding, half a minute with arithmetic
# coding. An empty scan takes a few bytes of the file and a pass over the image; encoders write about ten.
SCANNED = 1 << 32
SCAN = re.compile(b"\xff\xda")  # "start of scan": ITU-T T.81, table B.1; faster than bytes.count
BLOCK = 1 << 20  # bytes read at a time

STREAM = re.compile(r"<_io\.\w+ (object at|name=)[^>]*>")  # an open file in Pillow's messages

# Quantisation table for luminance at quality 50: ITU-T T.81, table K.1.
LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)


class Unreadable(UserError):
    """An image that cannot be decoded, as opposed to a failure of storage or network."""


class Distant(Protocol):
    """A remote file: ``str`` gives its name, :meth:`open` its bytes."""

    def open(self) -> BinaryIO:
        """The file's bytes. Raises OSError for the file, UserError for the connection to it."""


Source = Path | Distant  # a local or remote file


class Stored(NamedTuple):
    """Size and quality of an image as stored.

    Attributes
    ----------
    side : length of the short side in pixels.
    quality : JPEG quality from 1 to 100, estimated by :func:`jpeg_quality`; None for other formats.
    """

    side: int
    quality: int | None = None


def upright(image: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB: EXIF rotation is applied, transparency is blended with white."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):  # 16-bit PNGs
        wide = np.asarray(image, dtype=np.float64)
        image = Image.fromarray((wide / 257).clip(0, 255).round().astype(np.uint8))
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Convert to ``(size, size, 3)`` uint8 RGB.

    The image is brought :func:`upright`, resized so that its short side has ``size`` pixels (Pillow's bicubic
    filter, antialiased), and its centre is cropped.
    """
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.fit(upright(image), (size, size), Image.Resampling.BICUBIC))


def read_square(where: Source | str, size: int, content: bytes | None = None) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG and convert it with :func:`square`.

    A JPEG much larger than ``size`` is decoded at a half, quarter or eighth of its size, never below twice
    ``size``: libjpeg does so in the frequency domain, several times as fast.

    Parameters
    ----------
    where : the file; if ``content`` is given, its name in messages.
    size : pixels per side of the result.
    content : the file's bytes; None: read from the file.

    Raises
    ------
    Unreadable
        The file is missing, damaged, truncated or too large, or has too many scans; the message names it.
    """
    with _opened(where, content) as image:
        image.draft("RGB", (2 * size, 2 * size))
        return square(image, size)


def stored(where: Source | str, content: bytes | None = None) -> Stored:
    """Size and quality of a JPEG or PNG, from its header. Arguments and errors as :func:`read_square`."""
    with _opened(where, content) as image:
        tables = getattr(image, "quantization", {})
        return Stored(min(image.size), jpeg_quality(tables[0]) if 0 in tables else None)


def jpeg_quality(table: Sequence[int]) -> int:
    """Estimate JPEG quality: the one at which libjpeg's quantisation table is closest to this one.

    Parameters
    ----------
    table : (64,) for luminance, row by row, as in Pillow's ``image.quantization[0]``.

    Notes
    -----
    libjpeg scales table K.1 by a factor that depends on the quality: ``jpeg_quality_scaling`` and
    ``jpeg_add_quant_table`` in ``jcparam.c``. For other encoders the result is approximate.
    """
    qualities = np.arange(1, 101)[:, None]
    percent = np.where(qualities < 50, 5000 // qualities, 200 - 2 * qualities)
    tables = ((LUMINANCE.ravel() * percent + 50) // 100).clip(1, 255)
    return int(np.abs(tables - np.asarray(table)).sum(axis=1).argmin()) + 1


def open_source(where: Source | str) -> BinaryIO:
    """Open a local regular file or a remote file for reading bytes."""
    return open_regular(where) if isinstance(where, Path | str) else where.open()


@contextmanager
def _opened(where: Source | str, content: bytes | None) -> Iterator[Image.Image]:
    """Open a JPEG or PNG with Pillow; any error is reported in one line."""
    from PIL import Image

    with _one_line(where), io.BytesIO(content) if content is not None else open_source(where) as stream:
        if content == b"":
            raise ValueError("no bytes")
        with Image.open(stream, formats=("JPEG", "PNG")) as image:
            if image.format != "PNG":
                scans = _scans(stream)
                if scans * image.width * image.height > SCANNED:
                    raise ValueError(f"{scans:,} scans of {image.width} x {image.height} pixels")
            yield image


def _scans(stream: BinaryIO) -> int:
    """The number of scans in a JPEG; restores the position of the stream."""
    place, found, last = stream.tell(), 0, b""
    stream.seek(0)
    while block := stream.read(BLOCK):
        found += len(SCAN.findall(last + block))
        last = block[-1:]
    stream.seek(place)
    return found


@contextmanager
def _one_line(where: Source | str) -> Iterator[None]:
    """Report any error of Pillow for this file in one line."""
    try:
        yield
    except (MemoryError, UserError):  # not a fault of the image
        raise
    except Exception as error:  # damaged metadata makes Pillow raise struct.error, TypeError and others
        text = (isinstance(error, OSError) and error.strerror) or str(error)
        reason = " ".join(STREAM.sub("it", text).split())
        if not reason or not isinstance(error, OSError | SyntaxError | ValueError):
            reason = f"{type(error).__name__} {reason}".rstrip()
        raise Unreadable(
            f"cannot read the image {where}: expected a whole JPEG or PNG, got: {reason}; "
            "replace or remove it, then run the command again"
        ) from None


def array_squares(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Convert ``(n, h, w, 3)`` uint8 images to ``(n, size, size, 3)`` with :func:`square`."""
    if images.shape[1:3] == (size, size):
        return images
    from PIL import Image

    out = np.empty((len(images), size, size, 3), dtype=np.uint8)
    for row, pixels in enumerate(images):
        out[row] = square(Image.fromarray(pixels), size)
    return out
