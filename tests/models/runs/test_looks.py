"""Every look at a test split has a line, and no line goes or changes unnoticed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from features.errors import UserError
from models.runs import looks
from models.runs.changes import changing
from models.runs.looks import FILE, append, following, read

ONE, OTHER = "a" * 64, "b" * 64
Change = Callable[[list[bytes]], list[bytes]]


def look(root: Path, test_digest: str = ONE, run_id: str = "0" * 12) -> str:
    with changing(root):
        proof, line = following(root, test_digest, run_id)
        append(root, line)
    return proof


def flipped(line: bytes, place: int) -> bytes:
    content = bytearray(line)
    content[place] ^= 1
    return bytes(content)


@pytest.fixture
def proofs(tmp_path: Path) -> list[str]:
    return [look(tmp_path, digest) for digest in (ONE, OTHER, ONE, ONE)]


def test_they_are_counted_by_test_split(tmp_path: Path, proofs: list[str]) -> None:
    found = read(tmp_path)
    assert found.counts == {ONE: 3, OTHER: 1}
    assert found.proofs == set(proofs)
    assert found.doubt(proofs, {ONE: 3, OTHER: 1}) == ""


def test_without_a_file_there_are_none(tmp_path: Path) -> None:
    assert read(tmp_path) == looks.Looks()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines: [lines[0], *lines[2:]], 2),
        (lambda lines: lines[1:], 1),
        (lambda lines: [lines[1], lines[0], *lines[2:]], 1),
        (lambda lines: [*lines[:2], b"", *lines[2:]], 3),
        (lambda lines: [*lines[:2], b"\xff\xfe", *lines[2:]], 3),
        (lambda lines: [*lines[:2], b"[" * 100_000, *lines[2:]], 3),
        (lambda lines: [*lines[:2], b"null", *lines[2:]], 3),
        (lambda lines: [*lines[:2], b'{"test": [], "run": 1}', *lines[2:]], 3),
        (lambda lines: [*lines[:2], b'{"test": "\\ud800", "run": ""}', *lines[2:]], 3),
        (lambda lines: [*lines, json.dumps({"test": ONE, "run": "x"}).encode()], 5),
        (lambda lines: [*lines[:3], lines[3][:40]], 4),
    ],
)
def test_a_changed_file_names_the_line(tmp_path: Path, proofs: list[str], change: Change, line: int) -> None:
    path = tmp_path / FILE
    path.write_bytes(b"".join(each + b"\n" for each in change(path.read_bytes().splitlines())))
    assert read(tmp_path).doubt(proofs, {}) == f"{FILE} is damaged or was changed at line {line}"


@pytest.mark.parametrize("number", range(4))
def test_no_flipped_bit_goes_unnoticed(tmp_path: Path, proofs: list[str], number: int) -> None:
    path = tmp_path / FILE
    lines = path.read_bytes().splitlines(keepends=True)
    for place in range(len(lines[number])):
        changed = [*lines[:number], flipped(lines[number], place), *lines[number + 1 :]]
        path.write_bytes(b"".join(changed))
        assert read(tmp_path).doubt(proofs, {}), place


def test_a_last_line_that_is_gone_is_known_by_who_has_its_digest_or_count(
    tmp_path: Path, proofs: list[str]
) -> None:
    path = tmp_path / FILE
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    found = read(tmp_path)
    assert found.doubt(proofs[:-1], {ONE: 2}) == ""
    assert found.doubt(proofs, {}) == found.doubt([], {ONE: 3}) == f"{FILE} lacks lines that were there"


def test_a_line_without_its_end_is_told(tmp_path: Path, proofs: list[str]) -> None:
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-1])
    assert read(tmp_path).doubt(proofs, {}) == f"{FILE} is damaged or was changed at line 4"


def test_a_line_longer_than_any_is_not_read_to_its_end(tmp_path: Path) -> None:
    look(tmp_path)
    look(tmp_path, run_id="0" * looks.LONGEST)
    assert read(tmp_path).damage == f"{FILE} is damaged or was changed at line 2"


def test_those_of_earlier_versions_are_counted_and_vouched_for_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_text("".join(json.dumps({"test": digest, "run": "r"}) + "\n" for digest in (ONE, OTHER)))
    assert read(tmp_path).doubt([""], {}) == ""
    look(tmp_path)
    assert read(tmp_path).counts == {ONE: 2, OTHER: 1}
    assert read(tmp_path).doubt([""], {}) == ""
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))
    assert read(tmp_path).damage == f"{FILE} is damaged or was changed at line 2"


def test_after_damage_the_chain_goes_on(tmp_path: Path, proofs: list[str]) -> None:
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-30])  # a power cut within the last line
    look(tmp_path, OTHER)
    look(tmp_path, OTHER)
    assert read(tmp_path).counts == {ONE: 2, OTHER: 3}
    assert read(tmp_path).damage == f"{FILE} is damaged or was changed at line 4"


def test_many_at_once_stand_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though each takes its time between what it follows and its own line."""

    def slowly(root: Path) -> looks.Looks:
        found = read(root)
        time.sleep(0.01)
        return found

    monkeypatch.setattr(looks, "read", slowly)
    with ThreadPoolExecutor(4) as pool:
        proofs = list(pool.map(lambda _: look(tmp_path), range(20)))
    assert read(tmp_path).counts == {ONE: 20}
    assert read(tmp_path).doubt(proofs, {}) == ""


def test_a_full_disk_leaves_the_file_as_it_was(
    tmp_path: Path, proofs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (tmp_path / FILE).read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=rf"{FILE}: No space left on device"):
        look(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before


def test_a_folder_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    assert read(tmp_path).damage == f"{FILE} cannot be read (Is a directory)"
    with pytest.raises(UserError, match=rf"{FILE}: Is a directory"):
        look(tmp_path)
