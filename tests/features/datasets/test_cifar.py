"""The archive is proved before it is read, and read without running it."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.datasets import cifar
from features.datasets.cifar import CIFAR10, CIFAR100, Cifar10, Cifar100, find_archive, read_archive
from features.download import cache_dir, keras_dir
from features.errors import UserError
from features.files import file_digest

Make = Callable[..., Path]


def test_pixels_and_labels_are_the_archives(make_archive: Make) -> None:
    pixels, labels = read_archive(make_archive(rows=20))
    rng = np.random.default_rng(5)
    first = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
    assert np.array_equal(pixels["train"][:20], first.reshape(20, 3, 32, 32).transpose(0, 2, 3, 1))
    assert pixels["train"].shape == (100, 32, 32, 3)
    assert pixels["test"].shape == (20, 32, 32, 3)
    assert labels["test"].tolist() == [row % 10 for row in range(20)]


@pytest.mark.parametrize("place", ["own cache", "keras cache", "keras unpacked"])
def test_caches_are_searched_before_the_network(make_archive: Make, place: str) -> None:
    archive = make_archive()
    target = {
        "own cache": cache_dir() / cifar.ARCHIVE_NAME,
        "keras cache": keras_dir() / "datasets" / "cifar-10-batches-py.tar.gz",
        "keras unpacked": keras_dir() / "datasets" / "cifar-10-batches-py-target_archive",
    }[place]
    target.parent.mkdir(parents=True)
    archive.rename(target)
    assert find_archive(None, file_digest(target)) == target


def test_a_partial_archive_is_named_and_refused(make_archive: Make) -> None:
    archive = make_archive()
    digest = file_digest(archive)
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"is not the official .* expected SHA-256 {digest}, got"):
        Cifar10(str(archive), sha256=digest).labels("train")


def test_a_missing_archive_is_named() -> None:
    with pytest.raises(UserError, match=r"archive=nowhere\.tar\.gz: no such file"):
        find_archive("nowhere.tar.gz")


def test_without_a_network_all_that_was_tried_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    own = cache_dir() / cifar.ARCHIVE_NAME
    own.parent.mkdir(parents=True)
    own.write_bytes(b"half an archive")
    with pytest.raises(UserError) as caught:
        find_archive(None)
    message = str(caught.value)
    assert "other content (partial?)" in message
    for url in cifar.HOSTS:
        assert url in message
    assert message.endswith("then give archive=path/to/cifar-10-python.tar.gz")


class _Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


def test_a_pickle_that_would_run_code_is_refused(make_archive: Make, tmp_path: Path) -> None:
    target = tmp_path / "owned"
    archive = make_archive(poison=pickle.dumps({b"data": _Evil(target), b"labels": [0]}, protocol=2))
    with pytest.raises(UserError, match="which no batch needs"):
        read_archive(archive)
    assert not target.exists()


WHOLE = pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2]}, protocol=2)
DAMAGED = {
    "a protocol that is none": (b"\x80\x80" + WHOLE[2:], "unsupported pickle protocol: 128"),
    "no dictionary": (pickle.dumps([1], protocol=2), "list indices"),
    "no labels": (pickle.dumps({b"data": WHOLE}, protocol=2), "labels"),
    "labels that are none": (pickle.dumps({b"labels": "ab"}, protocol=2), "invalid literal"),
    "pixels of another shape": (WHOLE.replace(b"M\x00\x0c", b"M\x00\x0d"), "cannot reshape"),
    "pixels that are none": (pickle.dumps({b"data": 3, b"labels": [1]}, protocol=2), "array"),
    "the 2^31st of two objects": (b"\x80\x02]r\xff\xff\xff\x7f.", "LONG_BINPUT 2147483647, which no batch"),
    "a text of 2^40 bytes": (b"\x80\x02\x8d\0\0\0\0\0\1\0\0.", "in a unicodestring8, but only"),
    "a block of 2^40 bytes": (b"\x80\x04\x95\0\0\0\0\0\1\0\0.", "FRAME 1099511627776, which no batch"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_batch_is_refused_and_takes_no_memory(make_archive: Make, damage: str) -> None:
    """As somebody could bring in with a digest of his own; the memory that is named would be taken first."""
    content, reason = DAMAGED[damage]
    with pytest.raises(UserError, match=f"cannot be read as the CIFAR-10 archive: .*({reason})"):
        read_archive(make_archive(poison=content))


def test_labels_out_of_range_are_refused(make_archive: Make) -> None:
    batch = {b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}
    with pytest.raises(UserError, match="labels run from 10 to 10"):
        read_archive(make_archive(poison=pickle.dumps(batch, protocol=2)))


def test_a_batch_that_is_larger_than_any_is_not_read(make_archive: Make) -> None:
    with pytest.raises(UserError, match="lacks data_batch_1"):
        read_archive(make_archive(), replace(CIFAR10, max_member=10_000))


def test_a_missing_batch_is_named(make_archive: Make) -> None:
    with pytest.raises(UserError, match="lacks data_batch_3"):
        read_archive(make_archive(leave_out="data_batch_3"))


def test_cifar100_has_its_fine_labels(make_archive: Make) -> None:
    path = make_archive(rows=200, official=CIFAR100)
    pixels, labels = read_archive(path, CIFAR100)
    assert pixels["train"].shape == pixels["test"].shape == (200, 32, 32, 3)
    assert labels["test"].tolist() == [*range(100), *range(100)]
    assert len(set(CIFAR100.class_names)) == 100
    assert list(CIFAR100.class_names) == sorted(CIFAR100.class_names)
    with pytest.raises(UserError, match=r"is not the official cifar-100-python\.tar\.gz, .*kriz/cifar-100"):
        Cifar100(str(path)).labels("train")


def test_without_a_network_cifar100_says_how_to_give_it() -> None:
    with pytest.raises(
        UserError, match=r"^CIFAR-100 .* then give archive=path/to/cifar-100-python\.tar\.gz$"
    ):
        find_archive(None, official=CIFAR100)
    with pytest.raises(UserError, match="the CIFAR-100 archive is neither"):
        Cifar100(offline=True).labels("train")


@pytest.mark.slow
def test_the_pinned_digest_of_cifar100_is_keras_own() -> None:
    import keras.src.datasets.cifar100 as keras_cifar100

    source = Path(keras_cifar100.__file__).read_text()
    assert CIFAR100.sha256 in source
    assert f'"{CIFAR100.kept[0].removesuffix("_archive")}"' in source


@pytest.mark.slow
def test_the_pinned_digest_is_keras_own() -> None:
    import keras.src.datasets.cifar10 as keras_cifar10

    source = Path(keras_cifar10.__file__).read_text()
    assert cifar.ARCHIVE_SHA256 in source
    assert len(cifar.ARCHIVE_SHA256) == hashlib.sha256().digest_size * 2
