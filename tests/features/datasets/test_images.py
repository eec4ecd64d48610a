"""Any picture becomes the same kind of square."""

from __future__ import annotations

import io
import struct
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from features.datasets import images
from features.datasets.images import array_squares, read_square, square, stored
from features.errors import UserError


def gradient(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, x], axis=-1).astype(np.uint8))


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    image = gradient(32, 32)
    assert np.array_equal(square(image, 32), np.asarray(image))


def test_the_long_side_is_cropped_around_its_centre() -> None:
    pixels = square(gradient(96, 32), 32)
    assert pixels.shape == (32, 32, 3)
    assert pixels[:, 0, 0].mean() == pytest.approx(255 / 3, abs=4)
    assert pixels[:, -1, 0].mean() == pytest.approx(2 * 255 / 3, abs=4)


def test_shrinking_does_not_alias() -> None:
    stripes = np.zeros((320, 320, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(square(Image.fromarray(stripes), 32).astype(int) - 127).max() < 10


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = gradient(40, 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate 90 degrees clockwise to view
    image.save(tmp_path / "turned.png", exif=exif)
    expected = square(image.transpose(Image.Transpose.ROTATE_270), 32)
    assert np.array_equal(read_square(tmp_path / "turned.png", 32), expected)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (32, 32), 100), (100, 100, 100)),
        (Image.new("RGBA", (32, 32), (9, 9, 9, 0)), (255, 255, 255)),
        (Image.new("LA", (32, 32), (50, 255)), (50, 50, 50)),
        (Image.new("1", (32, 32), 1), (255, 255, 255)),
        (Image.fromarray(np.full((32, 32), 40_000, np.uint16)), (156, 156, 156)),
    ],
    ids=["grey", "transparent", "grey+alpha", "black+white", "16 bit"],
)
def test_every_mode_becomes_rgb(image: Image.Image, expected: tuple[int, ...]) -> None:
    assert tuple(square(image, 32)[5, 5]) == expected


def test_arrays_and_files_take_the_same_way(tmp_path: Path) -> None:
    pixels = np.asarray(gradient(32, 32))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(array_squares(pixels[None], 64)[0], read_square(tmp_path / "a.png", 64))


def test_a_large_jpeg_decoded_small_looks_the_same(tmp_path: Path) -> None:
    image = gradient(1024, 768)
    image.save(tmp_path / "large.jpg", quality=95)
    difference = read_square(tmp_path / "large.jpg", 32).astype(int) - square(image, 32)
    assert np.abs(difference).max() <= 3


def test_a_small_jpeg_is_decoded_whole(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (63, 63, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "small.jpg")
    with Image.open(tmp_path / "small.jpg") as image:
        assert np.array_equal(read_square(tmp_path / "small.jpg", 32), square(image, 32))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("quality", [1, 30, 50, 75, 90, 95, 100])
def test_a_jpeg_tells_its_short_side_and_its_quality(tmp_path: Path, quality: int, mode: str) -> None:
    gradient(60, 40).convert(mode).save(tmp_path / "a.jpg", quality=quality)
    assert stored(tmp_path / "a.jpg") == (40, quality)


def test_a_table_of_another_encoder_has_about_the_quality_of_the_nearest(tmp_path: Path) -> None:
    flat = [16] * 64
    gradient(60, 40).save(tmp_path / "a.jpg", qtables=[flat, flat])
    quality = stored(tmp_path / "a.jpg").quality
    assert quality is not None and 80 <= quality <= 95


def test_a_png_has_no_quality(tmp_path: Path) -> None:
    gradient(60, 40).save(tmp_path / "a.png")
    assert stored(tmp_path / "a.png") == (40, None)


@pytest.mark.parametrize("damage", ["cut short", "not an image", "empty", "missing", "another format"])
def test_what_cannot_be_read_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "bad.jpg"
    gradient(64, 64).save(path)
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "another format":
        gradient(64, 64).save(path, format="GIF")
    else:
        path.write_bytes({"cut short": whole[: len(whole) // 2], "not an image": b"no", "empty": b""}[damage])
    with pytest.raises(UserError, match=r"cannot read the image .*bad\.jpg"):
        read_square(path, 32)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize(
    ("tag", "value", "kind"),
    [
        ((0x0128, 2, 4), b"abc\0", "error"),  # the unit of the resolution as text: struct.error
        ((0x011A, 2, 4), b"abc\0", "TypeError"),  # the resolution as text
    ],
)
def test_damaged_metadata_is_named_in_a_line(
    tmp_path: Path, tag: tuple[int, int, int], value: bytes, kind: str, suffix: str
) -> None:
    turned = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)  # only a picture that is turned has its EXIF rewritten
    broken = struct.pack("<HHI4s", *tag, value)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + turned + broken + bytes(4)
    path = tmp_path / f"bad.{suffix}"
    gradient(64, 64).save(path, exif=exif)
    with pytest.raises(UserError, match=rf"^cannot read the image .*bad\.{suffix}: .* got: {kind} .+$"):
        read_square(path, 32)


@pytest.mark.parametrize("cause", ["corrupt EXIF", "many pixels"])
def test_a_warning_of_pillow_s_that_is_made_an_error_names_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    """Caught it cannot be: that is for a whole process, and pictures are decoded in several threads."""
    path = tmp_path / "odd.jpg"
    if cause == "corrupt EXIF":
        gradient(64, 64).save(path, exif=b"Exif\0\0II*\0" + struct.pack("<IH", 8, 50))
    else:
        gradient(64, 64).save(path)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_square(path, 32).shape == (32, 32, 3)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="PIL")
        with pytest.raises(UserError, match=r"cannot read the image .*odd\.jpg: .* got: \w+Warning "):
            read_square(path, 32)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, MemoryError])
def test_what_is_not_the_picture_s_fault_is_not_put_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    def stopped(*_: object) -> None:
        raise stop

    gradient(64, 64).save(tmp_path / "good.png")
    monkeypatch.setattr(Image.Image, "convert", stopped)
    with pytest.raises(stop):
        read_square(tmp_path / "good.png", 32)


def segment(marker: int, content: bytes) -> bytes:
    """A part of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def empty_scans(side: int, scans: int, kind: int) -> bytes:
    """A JPEG that is not progressive, with scans of its three components in turn that hold nothing."""
    components = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    return b"".join(
        [
            b"\xff\xd8",
            segment(0xDB, b"\0" + bytes([1] * 64)),
            segment(kind, struct.pack(">BHHB", 8, side, side, 3) + components),
            segment(0xC4, b"\x00\x01" + bytes(15) + b"\x00"),
            segment(0xC4, b"\x10\x01" + bytes(15) + b"\x00"),
            *(segment(0xDA, bytes([1, 1 + number % 3, 0, 0, 63, 0])) for number in range(scans)),
            b"\xff\xd9",
        ]
    )


def many_scans(side: int, scans: int) -> bytes:
    """A grey progressive JPEG whose scans but the first say, in some bytes, that nothing changes."""

    def scan(first: int, last: int, bits: str) -> bytes:
        bits += "1" * (-len(bits) % 8)
        coded = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
        return segment(0xDA, bytes([1, 1, 0, first, last, 0])) + coded

    blocks = (-(-side // 8)) ** 2
    runs = "".join(  # of blocks without a coefficient: 2 ** 14 and what 14 bits add
        "0" + format(min(blocks - start, 32767) - 16384, "014b") for start in range(0, blocks, 32767)
    )
    return b"".join(
        [
            b"\xff\xd8",
            segment(0xDB, b"\0" + bytes([1] * 64)),
            segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0])),
            segment(0xC4, b"\x00\x01" + bytes(15) + b"\x00"),
            segment(0xC4, b"\x10\x01" + bytes(15) + b"\xe0"),
            scan(0, 0, "0" * blocks),
            scan(1, 63, runs) * (scans - 1),
            b"\xff\xd9",
        ]
    )


@pytest.mark.parametrize("in_file", [True, False])
def test_scans_of_a_jpeg_that_would_take_minutes_are_refused(tmp_path: Path, in_file: bool) -> None:
    """400 kB, which libjpeg decodes for 25 s."""
    content = many_scans(side=9_000, scans=2_000)
    path = tmp_path / "bad.jpg"
    if in_file:
        path.write_bytes(content)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"bad\.jpg: .* got: 2,000 scans of 9000 x 9000 pixels; replace"):
        read_square(path, 32, None if in_file else content)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("kind", [0xC0, 0xC1, 0xC9], ids=["baseline", "extended", "arithmetic"])
def test_scans_count_in_a_jpeg_that_is_not_progressive(kind: int) -> None:
    """3 kB, which libjpeg decodes for seconds; a hundred times as many bytes, for as many minutes."""
    with pytest.raises(UserError, match=r"bad\.jpg: .* got: 300 scans of 4000 x 4000 pixels; replace"):
        read_square("bad.jpg", 32, empty_scans(4_000, 300, kind))
    assert read_square("good.jpg", 32, empty_scans(400, 300, kind)).shape == (32, 32, 3)


@pytest.mark.parametrize("block", [1, 7, images.BLOCK])
def test_every_scan_is_counted_wherever_blocks_end(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(images, "BLOCK", block)
    stream = io.BytesIO(empty_scans(64, 30, 0xC0))
    stream.seek(5)
    assert images._scans(stream) == 30
    assert stream.tell() == 5


def test_a_progressive_jpeg_as_encoders_make_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "good.jpg"
    gradient(64, 64).save(path, progressive=True)
    assert path.read_bytes().count(b"\xff\xda") > 5
    assert np.abs(read_square(path, 64).astype(int) - np.asarray(gradient(64, 64))).mean() < 5
    path.write_bytes(many_scans(side=1_032, scans=500))
    assert (read_square(path, 32) == 128).all()


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gradient(64, 64).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"bomb\.png"):
        read_square(tmp_path / "bomb.png", 32)
