"""A cache too large for one file is several, read as one, and never with anything wrong or missing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from features.cache import index
from features.cache import store as store_module
from features.cache.catalogue import damaged, find
from features.cache.embeddings import Damaged, Embeddings
from features.cache.index import open_parts
from features.cache.lock import clear, finished_of, parts_of
from features.cache.part import HEADER, Part
from features.cache.parts import PartFolder
from features.cache.store import EmbeddingStore
from features.datasets.base import SPLITS
from features.datasets.folder import Folder
from features.errors import UserError
from models.runs.identity import test_digest as digest_of_test
from tests.conftest import Project
from tests.features.cache.test_store import SPEC, WIDTHS, fill, vectors

ROW = 4 * sum(WIDTHS.values())
MOST = 26 * ROW  # 36 + 15 rows in shards of ten are 20 of train, 16 of train with 10 of test, 5 of test
PARTS = ["train-000000000.h5", "train-000000020.h5", "test-000000010.h5"]

Make = Callable[..., EmbeddingStore]


@pytest.fixture
def dataset(make_folder: Callable[..., Path]) -> Folder:
    return Folder(make_folder({"train": 12, "test": 5}))


@pytest.fixture
def make(dataset: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setattr(store_module, "SHARDS", (10,))

    def make(max_file: int | str = MOST, name: str = "embeddings", **spec: Any) -> EmbeddingStore:
        return EmbeddingStore(tmp_path / name, dataset, SPEC | spec, WIDTHS, max_file)

    return make


@pytest.fixture
def parts(make: Make, dataset: Folder) -> Embeddings:
    return fill(make(), dataset)


def content(embeddings: Embeddings) -> list[Any]:
    """All that can be read."""
    layers = embeddings.layers
    said = [embeddings.fingerprint, embeddings.spec, embeddings.dataset, embeddings.class_names]
    told = [embeddings.rows, layers, [embeddings.width(layer) for layer in layers], embeddings.provenance]
    read = [[embeddings.ids(split), embeddings.matrix(split, layers).tolist()] for split in SPLITS]
    return [said, told, read, embeddings.labels().tolist(), embeddings.test_labels().tolist()]


def add(store: EmbeddingStore, assembly: Any, count: int | None = None) -> list[str]:
    """Keep what is missing and assemble the first of it; the names of the shards that were missing."""
    todo = store.missing()
    for shard in todo:
        store.folder.put(shard, vectors(shard.split, shard.start, shard.stop), 1.0)
    for shard in store.loose()[:count]:
        kept = store.folder.read(shard)
        assert kept is not None
        assembly.add(shard, kept.vectors, kept.seconds)
    return [shard.name for shard in todo]


class TestReadAsOne:
    def test_all_that_is_read_is_that_of_one_file(
        self, parts: Embeddings, make: Make, dataset: Folder
    ) -> None:
        one = fill(make("50GB", "other"), dataset)
        assert one.path.is_file()
        assert parts.path.is_dir()
        assert parts.path.name == one.path.name
        assert content(parts) == content(one)
        assert parts.ids("train", range(0, parts.rows["train"], 3)) == one.ids("train")[::3]
        assert digest_of_test(parts) == digest_of_test(one)
        assert all(problem is None for _, problem in parts.problems())

    @pytest.mark.parametrize("most", [1, 10 * ROW, 20 * ROW, MOST, 50 * ROW])
    def test_wherever_it_is_cut(self, make: Make, dataset: Folder, most: int) -> None:
        embeddings = fill(make(most), dataset)
        assert content(embeddings) == content(fill(make("50GB", "other"), dataset))
        files = sorted(embeddings.path.glob("*.h5"))
        assert len(files) == {1: 6, 10 * ROW: 6, 20 * ROW: 3, MOST: 3, 50 * ROW: 2}[most]
        for path in files:
            with h5py.File(path) as file:
                rows = sum(len(file[split]["block3"]) for split in SPLITS if len(file[split]))
            assert rows * ROW <= max(most, 10 * ROW)

    def test_rows_in_any_order_blocks_and_rows_by_number(self, parts: Embeddings) -> None:
        layers = ("block5", "block3")
        whole = parts.matrix("train", layers)
        order = np.random.default_rng(0).permutation(36)
        assert np.array_equal(parts.matrix("train", layers, order), whole[order])
        blocks = list(parts.blocks("train", layers, 7))
        assert [start for start, _ in blocks] == list(range(0, 36, 7))
        assert np.array_equal(np.concatenate([X for _, X in blocks]), whole)
        for rows in ([0, 19, 20, 35], [21, 22], range(36)):
            assert np.array_equal(parts.take("train", layers, np.array(rows)), whole[rows])
        assert np.array_equal(
            parts.rows_of("test", "block5", slice(8, 12)), parts.matrix("test", layers)[8:12, :3]
        )

    def test_it_is_a_folder_of_plain_files_and_an_index(self, parts: Embeddings) -> None:
        assert [path.name for path in parts.path.parent.iterdir()] == [parts.path.name], "nothing beside it"
        assert {path.name for path in parts.path.iterdir()} == {"index.json", *PARTS}
        assert parts.nbytes == sum(path.stat().st_size for path in parts.path.glob("*.h5"))
        said = json.loads((parts.path / "index.json").read_text())
        assert [part["file"] for part in said["parts"]] == PARTS
        with h5py.File(parts.path / PARTS[1]) as file:
            assert file["train/block3"].shape == (16, 6)
            assert file["test/ids"].asstr()[0] == "test/cat/000.png"

    def test_it_is_found_as_one_file_is(self, parts: Embeddings) -> None:
        fitting, others = find(parts.path.parent, {**SPEC, "limit": None})
        assert ([item.path for item in fitting], others) == ([parts.path], [])

    def test_a_limit_that_is_not_reached_changes_nothing(self, make: Make, dataset: Folder) -> None:
        one, other = (fill(make(most, str(most)), dataset) for most in (51 * ROW, "50GB"))
        assert one.path.is_file()
        assert content(one) == content(other)
        assert Part(one.path).digest == Part(other.path).digest


class TestDamage:
    @pytest.mark.parametrize("name", ["index.json", *PARTS])
    def test_what_is_missing_is_damage(self, parts: Embeddings, name: str) -> None:
        (parts.path / name).unlink()
        with pytest.raises(Damaged, match=rf"has lost .*{name}; compute it again"):
            Embeddings(parts.path)
        assert [path for path, _ in damaged(parts.path.parent)] == [parts.path]

    @pytest.mark.parametrize(("one", "two"), [(0, 1), (0, 2), (1, 2)])
    def test_two_parts_exchanged_are_noticed(self, parts: Embeddings, one: int, two: int) -> None:
        first, second = (parts.path / PARTS[place] for place in (one, two))
        kept = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(kept)
        with pytest.raises(Damaged, match=f"{PARTS[one]} is not the part that the index names"):
            Embeddings(parts.path)

    @pytest.mark.parametrize("name", PARTS)
    def test_a_part_of_another_cache_is_noticed(
        self, parts: Embeddings, make: Make, dataset: Folder, name: str
    ) -> None:
        other = fill(make(name="other", preprocess="unit"), dataset)
        shutil.copy(other.path / name, parts.path / name)
        with pytest.raises(Damaged, match=f"{name} is not the part that"):
            Embeddings(parts.path)

    @pytest.mark.parametrize("name", PARTS)
    def test_a_part_cut_short_is_damaged(self, parts: Embeddings, name: str) -> None:
        whole = (parts.path / name).read_bytes()
        for length in (0, 100, len(whole) // 2, len(whole) - 1):
            (parts.path / name).write_bytes(whole[:length])
            with pytest.raises(Damaged, match="compute it again"):
                for _, problem in Embeddings(parts.path).problems():
                    if problem:
                        raise Damaged(problem)

    @pytest.mark.parametrize("layer", ["block3", "labels", "ids"])
    def test_a_changed_row_is_told_with_its_part(self, parts: Embeddings, layer: str) -> None:
        with h5py.File(parts.path / PARTS[1], "r+") as file:
            file[f"train/{layer}"][3] = file[f"train/{layer}"][4]
        if layer == "labels":
            with h5py.File(parts.path / PARTS[1], "r+") as file:
                file["train/labels"][3] += 1
        problems = [name for name, problem in Embeddings(parts.path).problems() if problem]
        assert problems == [f"train/{layer} in {PARTS[1]}"]

    def test_every_flipped_bit_in_the_index_is_noticed(self, parts: Embeddings) -> None:
        path = parts.path / "index.json"
        whole = path.read_bytes()
        for place in range(len(whole)):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << place % 8
            path.write_bytes(flipped)
            with pytest.raises(UserError, match="compute it again"):  # in the version: of a later format
                Embeddings(parts.path)

    @pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"parts": []}', "[" * 5000])
    def test_what_is_no_index_is_damage(self, parts: Embeddings, text: str) -> None:
        (parts.path / "index.json").write_text(text)
        with pytest.raises(Damaged, match="is damaged"):
            Embeddings(parts.path)

    def test_a_newer_index_is_refused_in_words(self, parts: Embeddings) -> None:
        path = parts.path / "index.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "headroom_format": 99}))
        with pytest.raises(UserError, match="has format 99, this Headroom reads 2: use the"):
            Embeddings(parts.path)

    def test_parts_that_leave_rows_out_are_damage(self, parts: Embeddings) -> None:
        said, files = open_parts(parts.path)
        header = {name: said[name] for name in HEADER}
        for some in (files[1:], files[::2], files[::-1]):
            index.write(parts.path, header, said["digests"], some)
            with pytest.raises(Damaged, match=r"does not begin with row \d+ of (train|test);"):
                Embeddings(parts.path)

    @pytest.mark.parametrize("name", ["test/labels", "train/ids"])
    def test_parts_that_together_are_not_the_split_are_damage(self, parts: Embeddings, name: str) -> None:
        said, files = open_parts(parts.path)
        header = {name: said[name] for name in HEADER}
        index.write(parts.path, header, {**said["digests"], name: "0" * 64}, files)
        with pytest.raises(Damaged, match=rf"{parts.path.name} is damaged in {name}; compute it again"):
            Embeddings(parts.path)._whole(name)

    def test_a_pipe_in_the_place_of_the_index_is_not_waited_for(self, parts: Embeddings) -> None:
        (parts.path / "index.json").unlink()
        os.mkfifo(parts.path / "index.json")
        with pytest.raises(UserError, match=r"index\.json is not a regular file; move it away"):
            Embeddings(parts.path)

    def test_a_cache_is_not_finished_before_its_last_shard(self, make: Make) -> None:
        store = make()
        with store.lock(), store.assembly() as assembly:
            add(store, assembly, 5)
            with pytest.raises(ValueError, match=r"test-000000010\.shard has not been added yet"):
                store.commit(assembly, {})
            assert not store.path.exists()

    def test_a_part_alone_is_no_cache(self, parts: Embeddings) -> None:
        alone = parts.path.with_name("alone.h5")
        shutil.copy(parts.path / PARTS[0], alone)
        with pytest.raises(UserError, match="is one of several parts of a cache; put it back"):
            Embeddings(alone)

    @pytest.mark.slow
    def test_every_flipped_bit_in_a_part_is_noticed_or_harmless(self, parts: Embeddings) -> None:
        """A child process reads each damaged copy: HDF5 may do anything with a crafted file."""
        rng = np.random.default_rng(11)
        copies = parts.path.parent.with_name("copies")
        for name in PARTS:
            whole = (parts.path / name).read_bytes()
            for place in np.unique([*rng.integers(0, len(whole), 40), *range(0, 2000, 90)]):
                flipped = bytearray(whole)
                flipped[place] ^= 1 << int(rng.integers(8))
                copy = shutil.copytree(parts.path, copies / f"{name}-{place}.h5")
                (copy / name).write_bytes(flipped)
        shutil.copytree(parts.path, copies / "original.h5")
        reader = (
            "import sys, hashlib; from pathlib import Path\n"
            "from features.cache.embeddings import Embeddings; from features.errors import UserError\n"
            "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
            "    try:\n"
            "        e = Embeddings(path)\n"
            "        seen = [e.labels().tobytes(), e.matrix('test', e.layers).tobytes(),\n"
            "                e.take('train', e.layers, slice(None)).tobytes(),\n"
            "                repr((e.ids('train'), e.class_names, e.spec, e.dataset)).encode()]\n"
            "        print(path.name, hashlib.sha256(b''.join(seen)).hexdigest())\n"
            "    except UserError:\n"
            "        print(path.name, 'noticed')\n"
        )
        run = subprocess.run(
            [sys.executable, "-c", reader, str(copies)], capture_output=True, text=True, timeout=300
        )
        assert run.returncode == 0, run.stderr
        seen = dict(line.split() for line in run.stdout.splitlines())
        assert len(seen) > 150
        assert set(seen.values()) == {seen["original.h5"], "noticed"}


class TestResume:
    def test_what_a_finished_part_holds_is_not_done_again(self, make: Make) -> None:
        first = make()
        with first.lock(), first.assembly() as assembly:
            assert len(add(first, assembly, 3)) == 6
            assert {path.name for path in first.folder.path.glob("*.shard")} == {
                "train-000000020.shard",
                "train-000000030.shard",
                "test-000000000.shard",
                "test-000000010.shard",
            }, "the first part is whole, so its shards are gone"
        assert not list(first.folder.path.glob("*.tmp"))
        again = make()
        with again.lock(), again.assembly() as assembly:
            assert add(again, assembly) == []
            embeddings = again.commit(assembly, {})
        assert sorted(path.name for path in embeddings.path.glob("*.h5")) == sorted(PARTS)

    @pytest.mark.parametrize("most", [1, 30 * ROW, "50GB"])
    def test_another_limit_cuts_what_is_left(self, make: Make, dataset: Folder, most: int | str) -> None:
        first = make()
        with first.lock(), first.assembly() as assembly:
            add(first, assembly, 3)
        again = make(most)
        with again.lock(), again.assembly() as assembly:
            add(again, assembly)
            embeddings = again.commit(assembly, {"weights_source": "test"})
        assert len(list(embeddings.path.glob("*.h5"))) == {1: 5, 30 * ROW: 3, "50GB": 2}[most]
        assert content(embeddings) == content(fill(make("50GB", "other"), dataset))

    def test_parts_without_any_shard_are_kept(self, make: Make) -> None:
        store = make()
        with store.lock(), store.assembly() as assembly:
            add(store, assembly, 3)
            for shard in store.folder.path.glob("*.shard"):
                shard.unlink()
        assert PartFolder(finished_of(store.path), store.shards, store.fingerprint).begun

    @pytest.mark.parametrize("name", PARTS)
    def test_the_rows_of_a_damaged_part_are_done_again(self, make: Make, dataset: Folder, name: str) -> None:
        first = make()
        with first.lock(), first.assembly() as assembly:
            add(first, assembly)
        path = finished_of(first.path) / name
        path.write_bytes(path.read_bytes()[:-400])
        again = make()
        with again.lock(), again.assembly() as assembly:
            rows = {PARTS[0]: (0, 2), PARTS[1]: (2, 5), PARTS[2]: (5, 6)}[name]
            assert add(again, assembly) == [shard.name for shard in again.shards[slice(*rows)]]
            embeddings = again.commit(assembly, {"weights_source": "test"})
        assert content(embeddings) == content(fill(make("50GB", "other"), dataset))

    def test_a_part_of_another_spec_is_done_again(self, make: Make, dataset: Folder) -> None:
        other = make(preprocess="unit")
        with other.lock(), other.assembly() as assembly:
            add(other, assembly)
        store = make()
        shutil.copytree(finished_of(other.path), finished_of(store.path))
        assert store.missing() == store.shards

    def test_shards_that_a_kill_left_beside_their_part_go(self, make: Make) -> None:
        store = make()
        with store.lock(), store.assembly() as assembly:
            add(store, assembly, 3)
            store.folder.put(store.shards[0], vectors("train", 0, 10))
            assert store.missing() == []
            assert not (store.folder.path / store.shards[0].name).exists()

    def test_the_networks_seconds_are_those_of_all_passes(self, make: Make) -> None:
        store = make()
        with store.lock(), store.assembly() as assembly:
            add(store, assembly, 3)
            assert make().seconds_in_parts == 2.0

    def test_parts_beside_a_finished_cache_go(self, parts: Embeddings, make: Make) -> None:
        store = make(preprocess="unit")
        with store.lock(), store.assembly() as assembly:
            add(store, assembly)
        shutil.move(parts_of(store.path), parts_of(parts.path))
        clear(parts.path)
        assert [path.name for path in parts.path.parent.iterdir()] == [parts.path.name]


def test_one_part_lies_on_the_disk_twice_and_no_more(
    make: Make, dataset: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards of 400 kB, beside which HDF5's own bytes are few."""
    width = 10_000
    store = EmbeddingStore(tmp_path / "wide", dataset, SPEC, {"block5": width}, 20 * 4 * width)
    used: list[int] = []

    def measure() -> None:
        used.append(sum(path.stat().st_size for path in store.path.parent.rglob("*") if path.is_file()))

    keep = PartFolder.keep

    def measured(self: PartFolder, *given: Any) -> None:
        measure()
        keep(self, *given)
        measure()

    monkeypatch.setattr(PartFolder, "keep", measured)
    with store.lock(), store.assembly() as assembly:
        for shard in store.missing():
            store.folder.put(shard, {"block5": np.zeros((shard.rows, width), np.float32)})
        measure()
        for shard in store.shards:
            kept = store.folder.read(shard)
            assert kept is not None
            assembly.add(shard, kept.vectors)
            measure()
        embeddings = store.commit(assembly, {})
    largest = max(path.stat().st_size for path in embeddings.path.glob("*.h5"))
    assert used[0] > 2_000_000
    assert used[0] + 0.8 * largest < max(used) < used[0] + 1.1 * largest


class TestDisk:
    def test_where_every_part_is_finished_a_margin_is_enough(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = make()
        monkeypatch.setattr(
            shutil, "disk_usage", lambda _: type("Usage", (), {"free": store_module.DISK_MARGIN})()
        )
        with store.lock(), store.assembly() as assembly:
            add(store, assembly)
            store.check_disk(store.missing())

    def test_so_much_is_asked_for(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = type("Usage", (), {"free": 0})()
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        monkeypatch.setattr(store_module, "DISK_MARGIN", 0)
        monkeypatch.setattr(EmbeddingStore, "_row_bytes", 1_000_000)
        store = make(26_000_000)
        with (
            store.lock(),
            pytest.raises(UserError, match=r"\b26 MB needed \(the embeddings, one part of them twice"),
        ):
            store.check_disk(store.missing())


@pytest.mark.parametrize(
    ("given", "expected"), [(7, 7), ("7", 7), ("50GB", 50 * 10**9), ("1.5kb", 1500), ("2 TB", 2 * 10**12)]
)
def test_sizes_are_written_as_people_write_them(make: Make, given: int | str, expected: int) -> None:
    assert make(given)._max_file == expected


@pytest.mark.parametrize("given", [0, "0", "-1", "much", "", "5 PB", "0.2", "1e9", "1_000", "9" * 40])
def test_what_is_no_size_is_refused(make: Make, given: int | str) -> None:
    with pytest.raises(UserError, match=r"^max_file=.*: expected bytes, such as 50GB, 700MB or 1000000$"):
        make(given)


@pytest.mark.slow
class TestCommands:
    GIVEN = ("--max-file", "1")

    def test_every_command_reads_it(self, project: Project) -> None:
        code, printed, err = project("features", *self.GIVEN)
        assert code == 0, err
        assert project.cache.is_dir()
        assert printed.strip() == str(project.cache)
        for stage, more in (
            ("train", ("--head", "centroid")),
            ("train", ("--head", "ridge")),
            ("verify", ()),
            ("curve", ("--head", "ridge")),
            ("report", ()),
            ("predict", ("--image", str(project.images / "test"))),
            ("evaluate", ()),
        ):
            code, printed, err = project(stage, *more)
            assert code == 0, err + printed
        report = json.loads((project.out / "report" / "report.json").read_text())
        assert report["groups"][0]["entries"][0]["costs"]["cache_bytes"] == Embeddings(project.cache).nbytes

    def test_runs_are_those_of_one_file(self, project: Project) -> None:
        project("features", *self.GIVEN)
        _, in_parts, _ = project("train", "--head", "ridge")
        shutil.rmtree(project.cache)
        project("features")
        assert project.cache.is_file()
        _, in_one, err = project("train", "--head", "ridge")
        assert in_parts == in_one
        assert "already trained" in err

    def test_a_finished_cache_is_a_hit_whatever_the_limit(self, project: Project) -> None:
        project("features")
        before = hashlib.sha256(project.cache.read_bytes()).hexdigest()
        code, _, err = project("features", *self.GIVEN)
        assert (code, hashlib.sha256(project.cache.read_bytes()).hexdigest()) == (0, before)
        assert "cached and verified" in err

    @pytest.mark.parametrize("damage", ["part", "index", "row"])
    def test_a_damaged_one_is_set_aside_and_computed_again(self, project: Project, damage: str) -> None:
        project("features", *self.GIVEN)
        whole, cache = content(Embeddings(project.cache)), project.cache
        if damage == "part":
            (cache / "test-000000000.h5").unlink()
        elif damage == "index":
            (cache / "index.json").write_text("{}")
        else:
            with h5py.File(cache / "train-000000000.h5", "r+") as file:
                file["train/block4"][7] = 0
        code, printed, _ = project("verify")
        assert code == 1
        assert "FAILED" in printed
        code, _, err = project("features", *self.GIVEN)
        assert code == 0
        assert f"{cache.name} is set aside as {cache.name}.damaged-1" in err
        again = content(Embeddings(cache))
        again[1][-1] = whole[1][-1] = None  # seconds differ
        assert again == whole

    def test_what_is_no_size_is_refused_in_a_line(self, project: Project) -> None:
        code, _, err = project("features", "--max-file", "much")
        assert code == 2
        assert err.splitlines()[-1].startswith("error: MAX_FILE=much: expected bytes, such as 50GB")
