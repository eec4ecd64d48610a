"""One way to bring a picture to the square the network reads, for every dataset."""

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

# Named in the extractor's spec, because another way gives other vectors.
RESIZE = "exif-rotated RGB, jpeg decoded at >= 2x, pillow bicubic on the short side, centre crop"

SUFFIXES = (".jpg", ".jpeg", ".png")  # of the files that are pictures, in lower case

# Pixels that the scans of a JPEG go over, all together: seconds of decoding at most, half a minute if its
# coding is arithmetic. An empty scan costs some bytes and a pass over the whole picture, progressive or not;
# encoders make about ten.
SCANNED = 1 << 32
SCAN = re.compile(b"\xff\xda")  # "start of scan": ITU-T T.81, table B.1; re counts it faster than bytes do
BLOCK = 1 << 20  # bytes read together

STREAM = re.compile(r"<_io\.\w+ (object at|name=)[^>]*>")  # what Pillow calls a file that is open already

# How coarsely a JPEG of quality 50 keeps the 8 x 8 frequencies of brightness: ITU-T T.81, table K.1.
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
    """A picture that cannot be read, and not what lies between it and here."""


class Distant(Protocol):
    """A file that is no path: ``str`` names it, and what is opened are its bytes."""

    def open(self) -> BinaryIO:
        """The whole file, or OSError; UserError where the way to it is barred."""


Source = Path | Distant  # a file to be read


class Stored(NamedTuple):
    """How a picture is stored.

    Attributes
    ----------
    side : pixels of its short side.
    quality : 1 to 100, of a JPEG, as :func:`jpeg_quality` estimates it; None of what is no JPEG.
    """

    side: int
    quality: int | None = None


def upright(image: Image.Image) -> Image.Image:
    """``image`` as 8-bit RGB: EXIF rotation is applied, transparency is laid over white."""
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
    """``image`` as ``(size, size, 3)`` uint8 RGB.

    It is brought :func:`upright`, the short side to ``size`` pixels with Pillow's bicubic filter (which
    widens its support when it shrinks, so it does not alias), and the long side is cropped around its centre.
    """
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.fit(upright(image), (size, size), Image.Resampling.BICUBIC))


def read_square(where: Source | str, size: int, content: bytes | None = None) -> NDArray[np.uint8]:
    """The picture in a JPEG or PNG file, as :func:`square` makes it.

    ``content`` are the file's bytes where they are here already; then ``where`` only names it. A JPEG much
    larger than ``size`` is decoded at a half, a quarter or an eighth of its size, never below twice ``size``:
    libjpeg averages in the frequency domain, several times as fast.

    Raises
    ------
    Unreadable
        The file is missing, damaged (be it in its metadata), cut short, or of a forbidding size or number of
        scans; it is named.
    """
    with _opened(where, content) as image:
        image.draft("RGB", (2 * size, 2 * size))
        return square(image, size)


def stored(where: Source | str, content: bytes | None = None) -> Stored:
    """How the picture in a JPEG or PNG file is stored, from its header. As :func:`read_square`."""
    with _opened(where, content) as image:
        tables = getattr(image, "quantization", {})
        return Stored(min(image.size), jpeg_quality(tables[0]) if 0 in tables else None)


def jpeg_quality(table: Sequence[int]) -> int:
    """The quality at which the Independent JPEG Group's library makes the table nearest to this one.

    Parameters
    ----------
    table : (64,) of brightness, row by row, as Pillow's ``image.quantization[0]`` holds it.

    Notes
    -----
    The library scales table K.1 by a factor that follows from the quality: ``jpeg_quality_scaling`` and
    ``jpeg_add_quant_table`` in its ``jcparam.c``. For files of other encoders it is an estimate.
    """
    qualities = np.arange(1, 101)[:, None]
    percent = np.where(qualities < 50, 5000 // qualities, 200 - 2 * qualities)
    tables = ((LUMINANCE.ravel() * percent + 50) // 100).clip(1, 255)
    return int(np.abs(tables - np.asarray(table)).sum(axis=1).argmin()) + 1


def open_source(where: Source | str) -> BinaryIO:
    """A file, to be read as bytes: a regular one, where it lies on this machine."""
    return open_regular(where) if isinstance(where, Path | str) else where.open()


@contextmanager
def _opened(where: Source | str, content: bytes | None) -> Iterator[Image.Image]:
    """The picture in a regular file, or in its bytes, with one line for whatever Pillow raises about it."""
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
    """How often a JPEG says "start of scan"; the stream is left where it was."""
    place, found, last = stream.tell(), 0, b""
    stream.seek(0)
    while block := stream.read(BLOCK):
        found += len(SCAN.findall(last + block))
        last = block[-1:]
    stream.seek(place)
    return found


@contextmanager
def _one_line(where: Source | str) -> Iterator[None]:
    """One line for whatever Pillow raises about this file."""
    try:
        yield
    except (MemoryError, UserError):  # the machine's, or of the way to it; not the picture's
        raise
    except Exception as error:  # damaged metadata makes Pillow raise anything: struct.error, TypeError
        text = (isinstance(error, OSError) and error.strerror) or str(error)
        reason = " ".join(STREAM.sub("it", text).split())
        if not reason or not isinstance(error, OSError | SyntaxError | ValueError):
            reason = f"{type(error).__name__} {reason}".rstrip()
        raise Unreadable(
            f"cannot read the image {where}: expected a whole JPEG or PNG, got: {reason}; "
            "replace or remove it, then run the command again"
        ) from None


def array_squares(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """``(n, h, w, 3)`` uint8 pictures as ``(n, size, size, 3)``, each as :func:`square` makes it."""
    if images.shape[1:3] == (size, size):
        return images
    from PIL import Image

    out = np.empty((len(images), size, size, 3), dtype=np.uint8)
    for row, pixels in enumerate(images):
        out[row] = square(Image.fromarray(pixels), size)
    return out
