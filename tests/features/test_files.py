"""A file is written whole or not at all, whoever else writes it."""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from features.backbones import vgg16 as vgg16_weights
from features.backbones.registry import BACKBONES
from features.cache.embeddings import Embeddings
from features.cache.lock import owner_of, parts_of, writing
from features.datasets.cifar import find_archive, read_archive
from features.datasets.filelist import csv_list
from features.datasets.images import read_square, stored
from features.datasets.parquet import ParquetShard
from features.datasets.webdataset import TarShard
from features.errors import UserError
from features.files import (
    NotRegular,
    file_digest,
    given_file,
    given_path,
    open_regular,
    replacing,
    write_whole,
)

ROOT = Path(__file__).parents[2]


def test_it_replaces_what_was_there(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        write_whole(tmp_path / "file", content)
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [content]


def test_of_two_writers_with_one_process_number_the_last_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in two containers, where either may be process 1."""
    path, rename = tmp_path / "file", os.replace

    def after_another(*places: Path) -> None:
        monkeypatch.setattr(os, "replace", rename)
        write_whole(path, b"another's")
        rename(*places)

    monkeypatch.setattr(os, "replace", after_another)
    write_whole(path, b"mine")
    assert [found.read_bytes() for found in tmp_path.iterdir()] == [b"mine"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_leaves_the_earlier_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "file"
    write_whole(path, b"earlier")

    def fail(*_: Path) -> None:
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(type(error)):
        write_whole(path, b"later")
    assert [found.read_bytes() for found in tmp_path.iterdir()] == [b"earlier"]


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), replacing(tmp_path / "head.keras", ".keras") as temporary:
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".keras")
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_the_content_reaches_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, steps = tmp_path / "file", list[str]()
    sync, rename = os.fsync, os.replace

    def synced(handle: int) -> None:
        steps.append(
            "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else f"{os.fstat(handle).st_size} bytes"
        )
        sync(handle)

    def renamed(*places: Path) -> None:
        steps.append("renamed")
        rename(*places)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    write_whole(path, b"whole")
    assert steps == ["5 bytes", "renamed", "folder"]


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """Nobody writes to the pipe, so that to open it as usual would wait for ever."""
    (tmp_path / "file").write_bytes(b"whole")
    (tmp_path / "link").symlink_to("file")
    with open_regular(tmp_path / "link") as stream:
        assert stream.read() == b"whole"
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "pipe", tmp_path / "socket", tmp_path, Path("/dev/zero")):
            with pytest.raises(NotRegular):
                open_regular(path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "nothing")


def test_a_path_holds_no_nul() -> None:
    with pytest.raises(UserError, match=r"^weights='a\\x00b': expected a path without \\x00; leave it out$"):
        given_path("weights", "a\0b")


def test_what_is_no_file_where_one_was_given_is_told_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    assert given_file("weights", str(tmp_path / "file"), "numbers") == tmp_path / "file"
    for name, what in (("pipe", "Not a regular file"), ("", "Is a directory"), ("x", "no such file")):
        path = str(tmp_path / name)
        with pytest.raises(UserError, match=rf"^weights={path}: {what}; expected numbers$"):
            given_file("weights", path, "numbers")


@pytest.mark.parametrize(
    "given",
    [
        lambda path: BACKBONES["vgg16"].load(path),
        lambda path: BACKBONES["mobilenetv2"].load(path),
        find_archive,
    ],
    ids=["vgg16", "mobilenetv2", "archive"],
)
def test_a_pipe_that_was_given_is_not_said_to_be_no_file(
    tmp_path: Path, given: Callable[[str], object]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"=.*/pipe: Not a regular file; expected "):
        given(str(tmp_path / "pipe"))


def pipes(folder: Path) -> dict[str, Callable[[Path], object]]:
    """What reads a file of this name in a folder, wherever files of others are read."""
    return {
        "pet.jpg": lambda path: read_square(path, 32),
        "pet.png": stored,
        "list.csv": csv_list,
        "list.parquet": ParquetShard,
        "shard.tar": TarShard,
        "archive.tar.gz": read_archive,
        "weights.h5": vgg16_weights.read,
        "proved.h5": lambda path: find_archive(str(path)),
        "mobile.weights.h5": lambda path: BACKBONES["mobilenetv2"].load(str(path)),
        "cache.h5": Embeddings,
    }


@pytest.mark.parametrize("name", pipes(Path()))
def test_what_others_may_have_made_is_opened_only_where_it_is_a_regular_file(
    tmp_path: Path, name: str
) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=re.escape(name)):
        pipes(tmp_path)[name](tmp_path / name)


def test_a_pipe_has_no_digest(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotRegular):
        file_digest(tmp_path / "pipe")


def test_a_pipe_for_the_owner_of_a_lock_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "owner")
    assert owner_of(tmp_path) == "another process"
    cache = tmp_path / "pets.h5"
    parts_of(cache).mkdir()
    os.mkfifo(parts_of(cache) / "owner")
    with writing(cache):
        assert owner_of(parts_of(cache)).startswith("process ")


def test_no_file_is_read_in_another_way() -> None:
    """But the system's and Headroom's own, and a run's, which is proved by its digest first."""
    of_the_system, own = {"environment.py", "budget.py"}, {"files.py", "render.py", "gathering.py"}
    reading = r"(?<![\w.])open\([^)]*\"rb?\"|\.read_(bytes|text)\(|tarfile\.open\(path|ZipFile\(path"
    packages = ("features", "models", "reports", "pipeline")
    for path in (path for package in packages for path in (ROOT / package).rglob("*.py")):
        read = re.search(reading, path.read_text())
        assert read is None or path.name in of_the_system | own | {"objects.py", "saving.py"}, path


def test_no_other_file_renames_or_writes_one() -> None:
    """But what is renamed with its folder or its shards, and the word in a lock."""
    renaming = {"files.py", "lock.py", "saving.py", "changes.py", "store.py", "shards.py", "assembly.py"}
    packages = ("features", "models", "reports", "pipeline")
    for path in (path for package in packages for path in (ROOT / package).rglob("*.py")):
        source = path.read_text()
        assert path.name in renaming or not re.search(r"os\.(replace|rename)\(", source), path
        assert path.name in ("files.py", "lock.py") or not re.search(r"\.write_(bytes|text)\(", source), path


def test_no_file_has_a_process_number_in_its_name() -> None:
    """Numbers repeat where containers share a folder; words name one: a lock's owner, a stalled worker."""
    packages = ("features", "models", "reports", "pipeline")
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    assert {path.name for path in files if "getpid" in path.read_text()} == {"lock.py", "ray.py"}
    assert not [path.name for path in files if "os.kill" in path.read_text()]
