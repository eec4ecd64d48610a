"""What is remembered of files is right, or is forgotten."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from features.datasets.filedigests import FileDigests
from features.datasets.registry import open_dataset
from features.datasets.storage import Disk
from features.download import cache_dir
from features.files import file_digest


@pytest.fixture
def root(make_folder: Callable[..., Path]) -> Path:
    return make_folder(8)


def store() -> Path:
    return cache_dir() / "file-digests.sqlite"


def hashed(root: Path) -> tuple[list[str], list[str]]:
    """The digests of a folder's files, and which of them had to be read."""
    paths, read = sorted(str(path.relative_to(root)) for path in root.rglob("*.*")), list[str]()

    def digest(path: str) -> str:
        read.append(path)
        return file_digest(root / path)

    with FileDigests(Disk(root), digest=digest) as known:
        return [sha for sha, _ in known.digests(paths)], sorted(read)


def test_files_are_read_once(root: Path) -> None:
    digests, read = hashed(root)
    assert len(read) == 24
    assert hashed(root) == (digests, [])


@pytest.mark.parametrize(
    "change",
    [
        "sha256 = 'f' || substr(sha256, 2)",
        "size = size + 1",
        "sha256 = null",
        "sha256 = x'80'",
        "sha256 = cast(x'80' as text)",
        "proof = ''",
        "path = 'cat/001.jpg', sha256 = 'f'",
    ],
)
def test_a_row_that_fails_its_own_check_is_forgotten(root: Path, change: str) -> None:
    digests, _ = hashed(root)
    with sqlite3.connect(store()) as db:
        db.execute("delete from file where path = 'cat/001.jpg'")
        db.execute(f"update file set {change} where path = 'cat/000.png'")
    db.close()
    assert hashed(root) == (digests, ["cat/000.png", "cat/001.jpg"])
    assert hashed(root) == (digests, [])


def test_a_row_of_another_file_is_forgotten_though_size_and_time_are_the_same(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "root").mkdir(exist_ok=True)
        (tmp_path / "root" / f"{name}.png").write_text(name)
        os.utime(tmp_path / "root" / f"{name}.png", (0, 0))
    digests, _ = hashed(tmp_path / "root")
    with sqlite3.connect(store()) as db:
        db.execute("delete from file where path = 'b.png'")
        db.execute("update file set path = 'b.png'")
    db.close()
    assert hashed(tmp_path / "root")[0] == digests


@pytest.mark.parametrize("damage", ["no database", "zeros", "cut short"])
def test_a_damaged_store_is_begun_again(root: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    digests, _ = hashed(root)
    content = store().read_bytes()
    page = 4096
    damaged = {
        "no database": b"x" * 5_000,
        "zeros": content[:page] + bytes(len(content) - page),
        "cut short": content[:page],
    }
    store().write_bytes(damaged[damage])
    found, read = hashed(root)
    assert (found, len(read)) == (digests, 24)
    assert "is damaged and deleted" in capsys.readouterr().err
    assert hashed(root) == (digests, [])


def test_a_store_that_lets_nothing_be_written_is_begun_again(root: Path) -> None:
    with FileDigests(Disk(root)):
        pass
    with sqlite3.connect(store()) as db:
        db.execute("create trigger no before insert on file begin select raise(abort, 'no'); end")
    db.close()
    digests, read = hashed(root)
    assert len(read) == 24
    assert hashed(root)[0] == digests


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_in_the_place_of_the_store_is_left_alone(
    root: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """SQLite waits for none of them."""
    store().parent.mkdir()
    if kind == "pipe":
        os.mkfifo(store())
    elif kind == "device":
        store().symlink_to("/dev/null")
    else:
        store().mkdir()
    assert len(hashed(root)[1]) == 24
    assert "cannot be remembered" in capsys.readouterr().err
    assert not store().is_file()


def test_no_flipped_bit_gives_another_digest(root: Path) -> None:
    for name in ("cat/003.png", "eel/005.jpg"):
        (root / name).write_bytes(b"no picture")
    before = open_dataset(str(root), skip_unreadable=True)
    before.digest()
    kept = store().with_name("kept")
    shutil.copy(store(), kept)
    draw = random.Random(0)
    for _ in range(150):
        content = bytearray(kept.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        store().write_bytes(content)
        again = open_dataset(str(root), skip_unreadable=True)
        assert again.digest() == before.digest()
        assert again.left_out() == ["cat/003.png", "eel/005.jpg"]
