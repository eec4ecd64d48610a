"""Make a folder of images of all kinds: rotated, CMYK, transparent, huge, truncated, and invalid.

    .venv/bin/python benchmarks/messy_folder.py --images 50000 --out messy

Writes ``OUT/<split>/<class>/*``, one in six for testing. Classes differ in colour and number of stripes, with
noise, so that a head can learn them. ``KINDS`` has the share of each kind; the content depends on the seed
alone. Prints the number of images of each kind; ``SKIP_UNREADABLE=1`` leaves out those in ``UNREADABLE``.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from features.progress import progress

CLASSES = ("brick", "grass", "sky", "sand", "night")
COLOURS = ((180, 80, 60), (70, 150, 60), (90, 150, 220), (210, 190, 140), (40, 40, 60))
KINDS = {  # share of the pictures
    "plain": 0.80,
    "rotated by EXIF": 0.05,
    "greyscale": 0.04,
    "CMYK": 0.03,
    "progressive": 0.03,
    "PNG with transparency": 0.02,
    "cut short": 0.01,
    "no picture": 0.01,
    "empty": 0.01,
}
UNREADABLE = ("cut short", "no picture", "empty")
HUGE = 10_000  # one in so many is of 108 megapixels
ORIENTATION = 0x0112  # EXIF's tag


def pixels(rng: np.random.Generator, label: int) -> np.ndarray:
    """An RGB image of 48 to 320 pixels per side: colour and stripes of its class, and noise."""
    height, width = rng.integers(48, 320, 2)
    stripes = np.sin(np.arange(width) / width * np.pi * 2 * (label + 1) * 2)[None, :, None] * 30
    noise = rng.normal(0, 25, (height, width, 1))
    return np.clip(np.array(COLOURS[label]) + stripes + noise, 0, 255).astype(np.uint8)


def encoded(rng: np.random.Generator, label: int, kind: str) -> tuple[bytes, str]:
    """The bytes of a file of this kind, and its suffix."""
    if kind == "empty":
        return b"", "jpg"
    if kind == "no picture":
        return b"<html>404 Not Found</html>", "jpg"
    picture = Image.fromarray(pixels(rng, label))
    out, options = io.BytesIO(), {"quality": int(rng.integers(60, 96))}
    if kind == "huge":
        picture = picture.resize((12_000, 9_000))
    elif kind == "greyscale":
        picture = picture.convert("L")
    elif kind == "CMYK":
        picture = picture.convert("CMYK")
    elif kind == "PNG with transparency":
        picture.putalpha(128)
        picture.save(out, "PNG")
        return out.getvalue(), "png"
    elif kind == "rotated by EXIF":
        exif = Image.Exif()
        exif[ORIENTATION] = int(rng.integers(2, 9))
        options["exif"] = exif
    picture.save(out, "JPEG", progressive=kind == "progressive", **options)
    whole = out.getvalue()
    return (whole[: len(whole) // 2] if kind == "cut short" else whole), "jpg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.out.exists():
        parser.error(f"{given.out} is there already; name another --out, or remove it")
    rng = np.random.default_rng(given.seed)
    kinds = rng.choice(list(KINDS), given.images, p=list(KINDS.values()))
    kinds[::HUGE] = "huge"
    with progress(given.images, "messy folder", "img") as bar:
        for number, kind in enumerate(kinds):
            label = number % len(CLASSES)
            content, ending = encoded(rng, label, kind)
            split = "test" if number // len(CLASSES) % 6 == 0 else "train"
            folder = given.out / split / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:06}.{ending}").write_bytes(content)
            bar.update()
    for kind, count in Counter(map(str, kinds)).most_common():
        print(f"{kind}: {count:,}" + " (unreadable)" * (kind in UNREADABLE))


if __name__ == "__main__":
    main()
