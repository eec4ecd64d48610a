"""The cache is whole or absent, resumes, and never tells a wrong value."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

from features.backbones.extractor import VGG16
from features.cache import part
from features.cache import store as store_module
from features.cache.catalogue import find
from features.cache.embeddings import Damaged, Embeddings, slug
from features.cache.lock import set_aside
from features.cache.part import arrays, canonical, header_digest
from features.cache.shards import in_words
from features.cache.store import DISK_MARGIN, EmbeddingStore, fingerprint
from features.datasets.base import SPLITS
from features.datasets.folder import Folder
from features.errors import UserError

WIDTHS = {"block3": 6, "block5": 3}
SPEC: dict[str, Any] = VGG16("block3,block5", precision="float32").spec()


@pytest.fixture
def dataset(make_folder: Callable[..., Path]) -> Folder:
    return Folder(make_folder({"train": 12, "test": 5}))


@pytest.fixture
def store(dataset: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddingStore:
    monkeypatch.setattr(store_module, "SHARDS", (10,))
    return EmbeddingStore(tmp_path / "embeddings", dataset, SPEC, WIDTHS)


def vectors(split: str, start: int, stop: int) -> dict[str, Any]:
    seed = SPLITS.index(split)
    rng = np.random.default_rng(seed)
    whole = {layer: rng.standard_normal((100, width), np.float32) for layer, width in WIDTHS.items()}
    return {layer: array[start:stop] for layer, array in whole.items()}


def fill(store: EmbeddingStore, dataset: Folder) -> Embeddings:
    with store.lock(), store.assembly() as assembly:
        for shard in store.missing():
            store.folder.put(shard, vectors(shard.split, shard.start, shard.stop))
        for shard in store.shards:
            kept = store.folder.read(shard)
            assert kept is not None
            assembly.add(shard, kept.vectors)
        return store.commit(assembly, {"weights_source": "test"})


def test_what_went_in_comes_out(store: EmbeddingStore, dataset: Folder) -> None:
    embeddings = fill(store, dataset)
    for split in SPLITS:
        rows = len(dataset.labels(split))
        expected = vectors(split, 0, rows)
        kept = embeddings.labels() if split == "train" else embeddings.test_labels()
        assert np.array_equal(kept, dataset.labels(split))
        assert embeddings.ids(split) == dataset.ids(split)
        for layers in (("block3",), ("block5", "block3")):
            wide = np.concatenate([expected[layer] for layer in layers], axis=1)
            assert np.array_equal(embeddings.matrix(split, layers), wide)
    assert embeddings.class_names == dataset.class_names
    assert embeddings.spec == SPEC
    assert embeddings.dataset == {
        "name": dataset.name,
        "source": dataset.source,
        "digest": dataset.digest(),
        "note": dataset.note,
        "limit": None,
    }
    assert embeddings.provenance == {"weights_source": "test"}
    assert all(problem is None for _, problem in embeddings.problems())


def test_a_finished_file_leaves_nothing_beside_it(store: EmbeddingStore, dataset: Folder) -> None:
    fill(store, dataset)
    assert list(store.path.parent.iterdir()) == [store.path]


def test_the_file_explains_itself_to_plain_h5py(store: EmbeddingStore, dataset: Folder) -> None:
    fill(store, dataset)
    with h5py.File(store.path) as file:
        assert file["train/block3"].shape == (36, 6)
        assert file["test/labels"][:].tolist() == dataset.labels("test").tolist()
        assert file["test/ids"].asstr()[0] == "test/cat/000.png"
        assert list(file.attrs["class_names"]) == [b"cat", b"dog", b"eel"]
        assert json.loads(file.attrs["spec"])["backbone"] == "vgg16"
        assert file["train/block3"].fletcher32


def test_only_missing_shards_are_done_again(store: EmbeddingStore, dataset: Folder) -> None:
    with store.lock():
        todo = store.missing()
        assert [(shard.split, shard.start, shard.stop) for shard in todo[-3:]] == [
            ("train", 30, 36),
            ("test", 0, 10),
            ("test", 10, 15),
        ]
        for shard in todo[:3]:
            store.folder.put(shard, vectors(shard.split, shard.start, shard.stop))
    with store.lock():
        assert store.missing() == todo[3:]


@pytest.fixture
def filled(store: EmbeddingStore) -> Iterator[tuple[EmbeddingStore, Path]]:
    """All shards are there: the store, locked, and the folder of its shards."""
    with store.lock():
        for shard in store.missing():
            store.folder.put(shard, vectors(shard.split, shard.start, shard.stop))
        yield store, store.path.with_suffix(".parts")


@pytest.mark.parametrize("damage", ["cut", "zeros", "longer", "nothing", "text"])
def test_a_damaged_shard_is_done_again(filled: tuple[EmbeddingStore, Path], damage: str) -> None:
    store, parts = filled
    victim = store.shards[3]
    content = (parts / victim.name).read_bytes()
    damaged = {"cut": content[:-300], "zeros": bytes(len(content)), "longer": content + b"x"}
    (parts / victim.name).write_bytes(damaged.get(damage, b"" if damage == "nothing" else b"text" * 50))
    assert store.missing() == [victim]


@pytest.mark.parametrize(
    "body",
    [
        b"no JSON\n",
        b"[" * 100_000 + b"\n",
        b"null\n",
        b"{}\n",
        b'{"fingerprint": "F", "shard": "S", "seconds": "long"}\n',
        b'{"fingerprint": "F", "shard": "S", "seconds": NaN}\n',
        b'{"fingerprint": "F", "shard": "S", "seconds": 0, "more": 0}\n',
        b'{"fingerprint": "0", "shard": "S", "seconds": 0}\n',
        b'{"fingerprint": "F", "shard": "train", "seconds": 0}\n',
        b"",
    ],
)
@pytest.mark.parametrize("rows", [10, 9, 11])
def test_what_cannot_be_a_shard_is_done_again_though_its_digest_is_right(
    filled: tuple[EmbeddingStore, Path], body: bytes, rows: int
) -> None:
    store, parts = filled
    victim = store.shards[0]
    whole = b'{"fingerprint": "F", "shard": "S", "seconds": 0}\n'
    for said in (body, whole):
        names = said.replace(b"F", store.folder.fingerprint.encode()).replace(b"S", victim.name.encode())
        content = names + bytes(4 * rows * sum(store.folder.widths.values()))
        (parts / victim.name).write_bytes(hashlib.sha256(content).hexdigest().encode() + content)
        assert (store.missing() == []) == (said == whole and rows == 10)


def test_a_pipe_in_the_place_of_a_shard_is_not_waited_for(filled: tuple[EmbeddingStore, Path]) -> None:
    store, parts = filled
    (parts / store.shards[0].name).unlink()
    os.mkfifo(parts / store.shards[0].name)
    assert store.missing() == [store.shards[0]]


def test_of_a_file_without_end_in_the_place_of_a_shard_no_more_is_read_than_a_shard_has(
    filled: tuple[EmbeddingStore, Path],
) -> None:
    store, parts = filled
    os.truncate(parts / store.shards[0].name, 1 << 40)
    assert store.missing() == [store.shards[0]]


def test_a_flipped_bit_anywhere_in_a_shard_is_noticed(filled: tuple[EmbeddingStore, Path]) -> None:
    store, parts = filled
    path = parts / store.shards[0].name
    content = path.read_bytes()
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        assert store.folder.read(store.shards[0]) is None, f"byte {place} of {len(content)}"


@pytest.mark.parametrize("other", [1, 4])
def test_two_exchanged_shards_are_done_again(filled: tuple[EmbeddingStore, Path], other: int) -> None:
    """Of the same split, and one of train with one of test: all have ten rows."""
    store, parts = filled
    one, two = (parts / store.shards[place].name for place in (0, other))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert store.missing() == [store.shards[0], store.shards[other]]


def test_a_shard_of_another_spec_is_done_again(filled: tuple[EmbeddingStore, Path], dataset: Folder) -> None:
    store, parts = filled
    other = EmbeddingStore(store.path.parent, dataset, SPEC | {"preprocess": "unit"}, WIDTHS)
    shutil.copytree(parts, other.path.with_suffix(".parts"))
    assert other.missing() == other.shards


@pytest.mark.parametrize(
    ("image_size", "rows"),
    [
        *[(32, 1000), (149, 1000), (150, 500), (224, 250), (300, 125), (512, 50), (800, 25), (1024, 10)],
        *[(2048, 5), (4096, 5)],  # five even where they are larger than a shard's images should be
    ],
)
def test_shards_of_larger_images_hold_fewer(image_size: int, rows: int, tmp_path: Path) -> None:
    dataset: Any = SimpleNamespace(
        name="many", limit=None, digest=lambda: "d", labels=lambda split: np.zeros(1500)
    )
    store = EmbeddingStore(tmp_path, dataset, SPEC | {"image_size": image_size}, WIDTHS)
    assert store.shards[0].rows == rows


def test_the_last_shard_of_a_split_holds_the_rest(dataset: Folder, tmp_path: Path) -> None:
    large = EmbeddingStore(tmp_path, dataset, SPEC | {"image_size": 1024}, WIDTHS)
    assert [shard.stop - shard.start for shard in large.shards] == [10, 10, 10, 6, 10, 5]


def test_every_flipped_bit_in_the_finished_file_is_noticed_or_harmless(
    store: EmbeddingStore, dataset: Folder
) -> None:
    """A child process reads each damaged copy: HDF5 may do anything with a crafted file, but a
    value it hands out must be the one that was written."""
    fill(store, dataset)
    content = store.path.read_bytes()
    rng = np.random.default_rng(11)
    places = np.unique(np.concatenate([rng.integers(0, len(content), 150), np.arange(0, 2000, 40)]))
    copies = store.path.parent / "copies"
    copies.mkdir()
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        (copies / f"{place}.h5").write_bytes(flipped)
    reader = (
        "import sys, hashlib; from pathlib import Path; from features.cache.embeddings import Embeddings\n"
        "from features.errors import UserError\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    try:\n"
        "        e = Embeddings(path)\n"
        "        seen = [e.labels().tobytes(), e.matrix('test', e.layers).tobytes(),\n"
        "                repr((e.ids('train'), e.class_names, e.spec, e.dataset)).encode()]\n"
        "        print(path.name, hashlib.sha256(b''.join(seen)).hexdigest())\n"
        "    except UserError as error:\n"
        "        print(path.name, 'noticed')\n"
    )
    shutil.copy(store.path, copies / "original.h5")
    run = subprocess.run(
        [sys.executable, "-c", reader, str(copies)], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    seen = dict(line.split() for line in run.stdout.splitlines())
    assert len(seen) == len(places) + 1
    assert set(seen.values()) == {seen["original.h5"], "noticed"}


def test_a_file_cut_short_is_damaged(store: EmbeddingStore, dataset: Folder) -> None:
    fill(store, dataset)
    content = store.path.read_bytes()
    rng = np.random.default_rng(1)
    for length in (0, 100, len(content) // 2, len(content) - 1, *rng.integers(0, len(content), 40)):
        store.path.write_bytes(content[:length])
        with pytest.raises(Damaged, match="compute it again"):
            Embeddings(store.path).matrix("test", ("block3",))


def test_labels_exchanged_for_others_are_noticed(store: EmbeddingStore, dataset: Folder) -> None:
    fill(store, dataset)
    with h5py.File(store.path, "r+") as file:
        file["train/labels"][:] = file["train/labels"][:][::-1]
    with pytest.raises(Damaged, match="damaged in train/labels"):
        Embeddings(store.path).labels()


def test_an_edited_header_is_noticed(store: EmbeddingStore, dataset: Folder) -> None:
    fill(store, dataset)
    with h5py.File(store.path, "r+") as file:
        file.attrs["spec"] = file.attrs["spec"].replace(b"imagenet", b"unit")
    with pytest.raises(Damaged, match="damaged in its header"):
        Embeddings(store.path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spec", "[" * 100_000),
        ("spec", '{"layers": 5}'),
        ("dataset", '{"digest": "a", "source": "b"}'),
        ("provenance", "null"),
    ],
    ids=lambda value: value[:12],
)
def test_a_header_that_is_none_is_damaged_whatever_its_digest(
    store: EmbeddingStore, dataset: Folder, name: str, value: str
) -> None:
    fill(store, dataset)
    with h5py.File(store.path, "r+") as file:
        file.attrs[name] = np.bytes_(value) if len(value) < 1000 else value
        file.attrs["sha256"] = header_digest(file.attrs, dict(arrays(file)))
    with pytest.raises(
        Damaged, match=r"is damaged (in its header|or cut short) \((spec|dataset|prov|nested)"
    ):
        Embeddings(store.path)


@pytest.mark.parametrize("place", ["train", "train/block3"])
def test_arrays_outside_the_file_are_refused(store: EmbeddingStore, dataset: Folder, place: str) -> None:
    """Even where they hold what was written."""
    fill(store, dataset)
    shutil.copy(store.path, store.path.with_name("whole.h5"))
    with h5py.File(store.path, "r+") as file:
        del file[place]
        file[place] = h5py.ExternalLink("whole.h5", f"/{place}")
    with pytest.raises(Damaged, match=f"holds {place}, which is not a plain dataset"):
        Embeddings(store.path)


def test_a_group_among_the_arrays_is_refused(store: EmbeddingStore, dataset: Folder) -> None:
    fill(store, dataset)
    with h5py.File(store.path, "r+") as file:
        file.create_group("train/more")
    with pytest.raises(Damaged, match="holds train/more, which is not a plain dataset"):
        Embeddings(store.path)


def test_a_flipped_bit_among_the_vectors_is_told_with_their_layer(
    store: EmbeddingStore, dataset: Folder
) -> None:
    """HDF5's own checksum of the chunk notices it before the digest does."""
    fill(store, dataset)
    content = bytearray(store.path.read_bytes())
    place = content.find(vectors("train", 0, 1)["block3"].tobytes())
    assert place > 0
    content[place] ^= 1
    store.path.write_bytes(content)
    with pytest.raises(Damaged, match=r"\.h5 is damaged in train/block3 \(.*\); compute it again$"):
        Embeddings(store.path).matrix("train", ["block3"])


def test_a_pipe_in_the_place_of_the_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(UserError, match=r"pipe\.h5 is not a regular file; move it away$"):
        Embeddings(tmp_path / "pipe.h5")


@pytest.mark.parametrize("version", [0, 99])
def test_another_format_is_refused_in_words(store: EmbeddingStore, dataset: Folder, version: int) -> None:
    fill(store, dataset)
    with h5py.File(store.path, "r+") as file:
        file.attrs["headroom_format"] = version
    with pytest.raises(UserError, match=f"has format {version}, this Headroom reads 2: use the Headroom"):
        Embeddings(store.path)


def test_one_layer_costs_one_layer(store: EmbeddingStore, dataset: Folder) -> None:
    """Damage elsewhere goes unseen by a command that reads one layer: it has not read the rest."""
    fill(store, dataset)
    with h5py.File(store.path, "r+") as file:
        file["train/block5"][3] = 0
    embeddings = Embeddings(store.path)
    assert embeddings.matrix("train", ["block3"]).shape == (36, 6)
    with pytest.raises(Damaged, match="damaged in train/block5"):
        embeddings.matrix("train", ["block3", "block5"])


def test_a_file_that_went_after_it_was_opened_is_told(store: EmbeddingStore, dataset: Folder) -> None:
    embeddings = fill(store, dataset)
    store.path.unlink()
    with pytest.raises(UserError, match=r"\.h5 is gone; compute it again$"):
        embeddings.labels()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(13, "Permission denied"), "cannot be read: permission denied"),
        (OSError(11, "no lock"), r"cannot be read now \(Resource temporarily unavailable\)"),
    ],
)
def test_what_the_operating_system_refuses_is_no_damage(
    store: EmbeddingStore, dataset: Folder, monkeypatch: pytest.MonkeyPatch, error: OSError, told: str
) -> None:
    """What is called damaged is set aside and computed again."""
    fill(store, dataset)

    def refused(path: Path) -> Any:
        raise error

    monkeypatch.setattr(part, "open_hdf5", refused)
    with pytest.raises(UserError, match=told) as raised:
        Embeddings(store.path)
    assert not isinstance(raised.value, Damaged)


def test_set_aside_loses_nothing(tmp_path: Path) -> None:
    for number in (1, 2):
        path = tmp_path / "a.h5"
        path.write_text(str(number))
        assert set_aside(path).name == f"a.h5.damaged-{number}"
    assert (tmp_path / "a.h5.damaged-1").read_text() == "1"


class TestName:
    def test_it_says_what_the_vectors_are_of(self, dataset: Folder, tmp_path: Path) -> None:
        for other, said in (
            ({}, "32px-imagenet-float32"),
            ({"backbone": "resnet50"}, "resnet50-32px-imagenet-float32"),
            ({"image_size": 64, "preprocess": "unit", "mirror": True}, "64px-unit-float32-mirror"),
            ({"precision": "bfloat16", "store": "float16"}, "32px-imagenet-bfloat16-stored-float16"),
        ):
            store = EmbeddingStore(tmp_path, dataset, SPEC | other, WIDTHS)
            assert store.path == tmp_path / f"{dataset.name}-{said}-{store.fingerprint[:12]}.h5"

    @pytest.mark.parametrize(
        ("name", "safe"),
        [
            ("cats-and_dogs.v2", "cats-and_dogs.v2"),
            ("Käfer & Bienen/2", "Käfer_Bienen_2"),
            ("..hidden", "hidden"),
            ("Xavier", "Xavier"),
            ("///", "_"),
            ("...", "dataset"),
            ("", "dataset"),
            ("a" * 100, "a" * 80),
            ("a" * 79 + "ä", "a" * 79),  # 81 bytes, of which the last two are one letter
        ],
    )
    def test_any_name_of_a_dataset_is_part_of_a_files_name(self, name: str, safe: str) -> None:
        assert slug(name) == safe


class TestFingerprint:
    def test_it_is_of_json_with_one_spelling(self) -> None:
        one, other = {"b": [1, None], "a": "Käfer"}, {"a": "Käfer", "b": (1, None)}
        assert canonical(one) == canonical(other) == '{"a":"Käfer","b":[1,null]}'

    @pytest.mark.parametrize("field", sorted(SPEC))
    def test_every_field_of_the_spec_counts(self, field: str) -> None:
        changed = {**SPEC, field: "something else"}
        assert fingerprint(changed, "d", None) != fingerprint(SPEC, "d", None)

    def test_dataset_and_limit_count(self) -> None:
        base = fingerprint(SPEC, "d", None)
        assert len({base, fingerprint(SPEC, "e", None), fingerprint(SPEC, "d", 100)}) == 3


class TestFind:
    @pytest.mark.parametrize(
        ("field", "asked", "phrase"),
        [
            ("image_size", 64, "cached: image_size=32, asked: 64"),
            ("preprocess", "unit", "cached: preprocess=imagenet, asked: unit"),
            ("precision", "bfloat16", "cached: precision=float32, asked: bfloat16"),
            ("limit", 100, "cached: limit=null, asked: 100"),
            ("layers", ["block4"], "cached: layers=block3,block5, asked: block4"),
            ("weights_sha256", "0", "asked: 0"),
            ("dataset_sha256", "0", "asked: 0"),
            ("resize", "nearest", "asked: nearest"),
        ],
    )
    def test_a_near_miss_names_the_field(
        self, store: EmbeddingStore, dataset: Folder, field: str, asked: object, phrase: str
    ) -> None:
        fill(store, dataset)
        fitting, others = find(store.path.parent, {**SPEC, "limit": None, field: asked})
        assert not fitting
        ((path, phrases),) = others
        assert path == store.path
        assert len(phrases) == 1
        assert phrase in phrases[0]

    @pytest.mark.parametrize("field", sorted(set(SPEC) - {"layers"}))
    def test_every_field_of_the_spec_is_a_miss_that_names_it(
        self, store: EmbeddingStore, dataset: Folder, field: str
    ) -> None:
        fill(store, dataset)
        fitting, ((_, phrases),) = find(store.path.parent, {**SPEC, field: "another"})
        assert not fitting
        assert [phrase.partition("=")[0] for phrase in phrases] == [f"cached: {field}"]

    def test_a_subset_of_the_layers_fits(self, store: EmbeddingStore, dataset: Folder) -> None:
        fill(store, dataset)
        fitting, _ = find(store.path.parent, {**SPEC, "layers": ["block5"]})
        assert [item.path for item in fitting] == [store.path]


class TestLock:
    def test_a_second_writer_is_told_who_holds_it(self, store: EmbeddingStore) -> None:
        code = (
            "import sys, time; from filelock import FileLock; from pathlib import Path\n"
            "parts = Path(sys.argv[1]); parts.mkdir(parents=True)\n"
            "lock = FileLock(parts / 'lock'); lock.acquire()\n"
            "(parts / 'owner').write_text('process 1 since noon'); print('held', flush=True); time.sleep(60)"
        )
        parts = store.path.with_suffix(".parts")
        child = subprocess.Popen([sys.executable, "-c", code, str(parts)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        try:
            with pytest.raises(UserError, match="is being written by process 1 since noon"), store.lock():
                pass
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
        with store.lock():  # its owner died, so it is free
            assert str(os.getpid()) in (parts / "owner").read_text()

    def test_an_unwritable_place_is_told(self, dataset: Folder, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        store = EmbeddingStore(tmp_path / "file" / "embeddings", dataset, SPEC, WIDTHS)
        with pytest.raises(UserError, match="choose another folder"), store.lock():
            pass


class TestDisk:
    def test_too_little_is_refused_before_the_start(
        self, store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = type("Usage", (), {"free": 1_000_000})()
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        with store.lock(), pytest.raises(UserError, match=r"not enough disk .* 67 MB needed"):
            store.check_disk(store.missing())

    @pytest.mark.parametrize("done", [0, 3, 6])
    def test_what_is_missing_the_finished_file_and_a_margin_are_enough(
        self, store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch, done: int
    ) -> None:
        row = 4 * sum(WIDTHS.values())
        todo = store.shards[done:]
        needed = (sum(shard.rows for shard in todo) + 36 + 15) * row + DISK_MARGIN
        for free, refused in ((needed, nullcontext()), (needed - 1, pytest.raises(UserError))):
            monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
            with refused:
                store.check_disk(todo)

    def test_an_error_that_is_not_the_operating_systems_is_not_called_one(self, tmp_path: Path) -> None:
        told = r"^cannot write .*x: No space left; what is finished is kept"
        with pytest.raises(UserError, match=told), in_words(tmp_path / "x"):
            raise OSError(28, "No space left")
        with pytest.raises(OSError, match="a defect"), in_words(tmp_path / "x"):
            raise OSError("a defect")

    def test_a_full_disk_is_told_and_keeps_the_finished_shards(
        self, store: EmbeddingStore, dataset: Folder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with store.lock():
            todo = store.missing()
            store.folder.put(todo[0], vectors("train", 0, 10))

            def full(_: int) -> None:
                raise OSError(28, "No space left on device")

            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", full)
                with pytest.raises(UserError, match="No space left on device"):
                    store.folder.put(todo[1], vectors("train", 10, 20))
            names = {path.name for path in store.path.with_suffix(".parts").iterdir()}
            assert names == {"lock", "owner", todo[0].name}


def test_digests_are_of_the_plain_bytes(store: EmbeddingStore, dataset: Folder) -> None:
    fill(store, dataset)
    with h5py.File(store.path) as file:
        item = file["train/block3"]
        assert item.attrs["sha256"].decode() == hashlib.sha256(item[...].tobytes()).hexdigest()
