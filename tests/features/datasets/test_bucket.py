"""Pictures in a bucket: a folder's dataset, wherever it is read; held by a real S3 server in this process.

Skipped where s3fs or the server is not installed (``make s3`` installs both, and Ray).
"""

from __future__ import annotations

import logging
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

INSTALL = "is not installed: pip install -r requirements-s3.txt -r requirements-s3-dev.txt"
pytest.importorskip("s3fs", reason=f"s3fs {INSTALL}")
pytest.importorskip("moto.server", reason=f"moto {INSTALL}")
import boto3  # noqa: E402
from moto.server import ThreadedMotoServer  # noqa: E402

from features.datasets import bucket as bucket_module  # noqa: E402
from features.datasets.base import SPLITS, Dataset  # noqa: E402
from features.datasets.bucket import THREADS, Bucket, BucketObject  # noqa: E402
from features.datasets.encoded import AHEAD  # noqa: E402
from features.datasets.registry import open_dataset  # noqa: E402
from features.errors import UserError  # noqa: E402
from pipeline.__main__ import main  # noqa: E402
from pipeline.evaluate import _seen_in_training  # noqa: E402
from tests.conftest import Project  # noqa: E402
from tests.features.datasets.packing import listed  # noqa: E402
from tests.features.datasets.test_datasets import TestContract, write_csv  # noqa: E402, F401

# Of botocore and of the server; sockets are closed late.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).parents[3]
KEY, SECRET = "AKIAHEADROOMTESTKEY0", "headroom/secret/of/a/test/0123456789abcd"
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture(autouse=True)
def _environment(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)


class Store:
    """A bucket of a test's own."""

    def __init__(self, server: str, name: str) -> None:
        self.client = boto3.client("s3", endpoint_url=server)
        self.name, self.url = name, f"s3://{name}"
        self.client.create_bucket(Bucket=name)

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=content)

    def copy(self, folder: Path, prefix: str) -> str:
        """Every file below a folder as an object below a prefix."""
        for path in folder.rglob("*.*"):
            self.put(f"{prefix}/{path.relative_to(folder)}", path.read_bytes())
        return f"{self.url}/{prefix}"


@pytest.fixture
def store(server: str, request: pytest.FixtureRequest, _environment: None) -> Store:
    return Store(server, f"bucket-{abs(hash(request.node.nodeid))}")


@pytest.fixture
def root(make_folder: Make) -> Path:
    return make_folder({"train": 12, "test": 4})


@pytest.fixture
def url(store: Store, root: Path) -> str:
    return store.copy(root, "some/pets")


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the server is asked for what."""
    counts, ask = Counter[str](), bucket_module._ask

    def counted(where: str, method: str, **about: str) -> dict[str, Any]:
        counts[method] += 1
        return ask(where, method, **about)

    monkeypatch.setattr(bucket_module, "_ask", counted)
    return counts


@pytest.fixture(params=["class folders", "held out", "list"])
def open_it(request: pytest.FixtureRequest, make_folder: Make, store: Store) -> Callable[..., Dataset]:
    """For the contract that every dataset has."""
    folder = make_folder(15 if request.param == "held out" else {"train": 12, "test": 4})
    url = store.copy(folder, "pets")
    if request.param == "list":
        table = write_csv(folder.with_name("pets.csv"), listed(folder))
        store.put("pets.csv", table.read_bytes())
        url += ".csv"
    return lambda limit=None: open_dataset(url, limit=limit)


def images_of(dataset: Dataset) -> list[Any]:
    return [dataset.images(split, 0, len(dataset.labels(split)), 32) for split in SPLITS]


class TestSameAsAFolder:
    def test_class_folders(self, root: Path, url: str) -> None:
        folder, bucket = open_dataset(str(root)), open_dataset(f"{url}/")
        assert bucket.digest() == folder.digest()
        assert bucket.source == url
        assert bucket.name == "pets"
        for split in SPLITS:
            assert bucket.ids(split) == folder.ids(split)
        for ours, theirs in zip(images_of(bucket), images_of(folder), strict=True):
            assert np.array_equal(ours, theirs)

    @pytest.mark.parametrize("place", ["beside", "above", "urls"])
    def test_a_list(self, root: Path, store: Store, place: str) -> None:
        rows = listed(root)
        folder = open_dataset(str(write_csv(root.with_name("pets.csv"), rows)))
        store.copy(root, "some/pets")
        start = {"beside": "pets", "above": "../some/pets", "urls": f"{store.url}/some/pets"}[place]
        moved = [(path.replace("pets", start, 1), *rest) for path, *rest in rows]
        table = write_csv(root.with_name("moved.csv"), moved)
        key = "lists/pets.csv" if place == "above" else "some/pets.csv"
        store.put(key, table.read_bytes())
        bucket = open_dataset(f"{store.url}/{key}")
        assert bucket.class_names == folder.class_names
        assert (bucket.digest() == folder.digest()) is (place == "beside"), "a digest covers the paths"
        for ours, theirs in zip(images_of(bucket), images_of(folder), strict=True):
            assert np.array_equal(ours, theirs)

    def test_a_whole_bucket(self, root: Path, store: Store) -> None:
        for path in root.rglob("*.*"):
            store.put(str(path.relative_to(root)), path.read_bytes())
        assert open_dataset(store.url).digest() == open_dataset(str(root)).digest()

    def test_what_is_no_picture_of_a_class_is_left_out(self, root: Path, url: str, store: Store) -> None:
        before = open_dataset(url).digest()
        for key in (
            "train/cat/",
            "train/cat/notes.txt",
            "train/cat/more/x.jpg",
            "README",
            "train/.hid/x.jpg",
        ):
            store.put(f"some/pets/{key}", b"")
        dataset = open_dataset(url)
        assert dataset.digest() == before
        assert dataset.note == "1 other files left out"

    def test_more_objects_than_fit_in_an_answer(self, root: Path, url: str, store: Store) -> None:
        for number in range(1_001):
            store.put(f"some/pets/train/cat/{number:05d}.txt", b"")
        assert "1001 other files" in open_dataset(url).note
        assert open_dataset(url).digest() == open_dataset(str(root)).digest()

    def test_unreadable_pictures_are_left_out(self, root: Path, url: str, store: Store) -> None:
        for name in ("train/cat/001.jpg", "test/dog/002.jpg"):
            (root / name).write_bytes(b"no picture")
            store.put(f"some/pets/{name}", b"no picture")
        folder, bucket = (open_dataset(place, skip_unreadable=True) for place in (str(root), url))
        assert bucket.left_out() == folder.left_out() == ["train/cat/001.jpg", "test/dog/002.jpg"]
        assert bucket.digest() == folder.digest()
        with pytest.raises(UserError, match=r"the image s3://.*/train/cat/001\.jpg: expected a whole JPEG"):
            images_of(open_dataset(url))

    def test_a_list_with_a_missing_object(self, root: Path, url: str, store: Store) -> None:
        rows = [*listed(root), ("pets/train/cat/none.jpg", "cat", "train")]
        store.put("some/pets.csv", write_csv(root.with_name("pets.csv"), rows).read_bytes())
        with pytest.raises(UserError, match=r"line 50: no such file: s3://.*/pets/train/cat/none\.jpg; expe"):
            open_dataset(f"{url}.csv")
        assert open_dataset(f"{url}.csv", skip_unreadable=True).left_out() == ["pets/train/cat/none.jpg"]


class TestReading:
    def test_objects_are_read_once_for_their_digests(self, url: str, requests: Counter[str]) -> None:
        digest = open_dataset(url).digest()
        assert requests["get_object"] == 48
        assert requests["list_objects_v2"] == 9, "the prefix, two splits, six class folders"
        assert open_dataset(url).digest() == digest
        assert requests["get_object"] == 48
        assert open_dataset(url).digest(fresh=True) == digest
        assert requests["get_object"] == 96

    def test_an_object_written_again_is_read_again(
        self, root: Path, url: str, store: Store, requests: Counter[str]
    ) -> None:
        digest = open_dataset(url).digest()
        one, other = (root / f"train/cat/{name}.jpg" for name in ("001", "002"))
        store.put("some/pets/train/cat/001.jpg", other.read_bytes())
        one.write_bytes(other.read_bytes())
        assert open_dataset(url).digest() == open_dataset(str(root)).digest() != digest
        assert requests["get_object"] == 49

    def test_an_object_that_changes_during_the_pass_is_refused(self, url: str, store: Store) -> None:
        dataset = open_dataset(url)
        dataset.digest()
        content = store.client.get_object(Bucket=store.name, Key="some/pets/train/cat/002.jpg")["Body"].read()
        store.put("some/pets/train/cat/001.jpg", content)
        with pytest.raises(UserError, match=r"train/cat/001\.jpg has changed since it was listed; run this"):
            images_of(dataset)

    def test_an_object_that_is_gone_is_named(self, url: str, store: Store) -> None:
        dataset = open_dataset(url)
        store.client.delete_object(Bucket=store.name, Key="some/pets/train/cat/001.jpg")
        with pytest.raises(UserError, match=r"the image s3://.*cat/001\.jpg: No such object; replace or rem"):
            dataset.digest()
        with pytest.raises(UserError, match=r"the image s3://.*cat/001\.jpg: .*, got: No such object"):
            images_of(dataset)

    def test_an_object_is_too_large_to_be_read_whole(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bucket_module, "LARGEST", 500)
        with pytest.raises(UserError, match=r"an object of [\d,]+ bytes, expected at most 500"):
            open_dataset(url).digest()

    def test_many_are_read_at_once_and_ahead(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """No read ends before 18 are under way; those that are asked for are the first five of 36."""
        dataset = open_dataset(url)
        expected = dataset.images("train", 0, 36, 32)
        together, lock, read = threading.Barrier(18, timeout=60), threading.Lock(), Bucket.read
        at_work, most = 0, 0

        def waiting(self: Bucket, path: str, stamp: Any = None) -> bytes:
            nonlocal at_work, most
            with lock:
                at_work += 1
                most = max(most, at_work)
            together.wait()
            with lock:
                at_work -= 1
            return read(self, path, stamp)

        monkeypatch.setattr(Bucket, "read", waiting)
        reader = dataset.reader("train", 0, 36, 32)
        first = reader(0, 5)
        assert len(reader._begun) == min(36, 5 + AHEAD) - 5  # type: ignore[attr-defined]
        rest = [reader(place, min(place + 5, 36)) for place in range(5, 36, 5)]
        assert np.array_equal(np.concatenate([first, *rest]), expected)
        assert 18 <= most <= THREADS

    def test_a_failure_leaves_nothing_at_work(self, url: str, store: Store) -> None:
        dataset = open_dataset(url)
        store.client.delete_object(Bucket=store.name, Key="some/pets/train/cat/001.jpg")
        reader = dataset.reader("train", 0, 36, 32)
        with pytest.raises(UserError, match="No such object"):
            reader(0, 5)
        assert not reader._begun  # type: ignore[attr-defined]

    def test_another_process_reads_them(self, url: str, tmp_path: Path) -> None:
        """What travels are paths and stamps: no pixels, no keys, no listing."""
        dataset = open_dataset(url)
        dataset.digest()
        few, all_ = (pickle.dumps(dataset.reader("train", 0, stop, 224)) for stop in (2, 36))
        assert len(all_) - len(few) < 34 * 100
        assert KEY.encode() not in all_
        assert SECRET.encode() not in all_
        kept = tmp_path / "reader"
        kept.write_bytes(all_)
        code = (
            "import pickle, sys; from pathlib import Path; import numpy as np\n"
            "reader = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
            "np.save(sys.argv[2], reader(0, 36))"
        )
        out = tmp_path / "pixels.npy"
        done = subprocess.run(
            [sys.executable, "-c", code, kept, out], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert np.array_equal(np.load(out), dataset.images("train", 0, 36, 224))


class TestErrors:
    def told(self, capsys: pytest.CaptureFixture[str], *given: str) -> str:
        """The one line that a command says before it ends with 2."""
        assert main(["features", *given, "--layers", "block5"]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        return line

    def test_no_bucket(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        line = self.told(capsys, "--dataset", "s3://nobodys-bucket/pets", "--out", str(tmp_path))
        assert "s3://nobodys-bucket/pets: there is no bucket nobodys-bucket; correct the name" in line

    def test_nothing_there(self, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
        line = self.told(capsys, "--dataset", f"{store.url}/none")
        assert line.startswith(f"error: {store.url}/none holds no images; expected train/<class>/")

    def test_no_list(self, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
        line = self.told(capsys, "--dataset", f"{store.url}/none.csv")
        assert line == f"error: cannot read {store.url}/none.csv: No such object"

    def test_a_url_in_a_list_that_is_none_of_an_object(self, store: Store, capsys: Any) -> None:
        store.put("list.csv", b"path,label\ns3://user:h1dden@bucket/001.jpg,cat\n")
        line = self.told(capsys, "--dataset", f"{store.url}/list.csv")
        assert "/list.csv, line 2: a URL, but not of an object: expected s3://bucket/key" in line
        assert "h1dden" not in line

    def test_shards(self, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
        line = self.told(capsys, "--dataset", f"{store.url}/train.tar")
        assert "got a .tar file; copy it to this machine" in line

    def test_no_keys(self, url: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        line = self.told(capsys, "--dataset", url)
        assert "no keys for the bucket; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in line

    def test_wrong_keys(
        self, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
        line = self.told(capsys, "--dataset", url)
        assert "the server denies access (InvalidAccessKeyId); check that the keys" in line
        assert KEY not in line

    def test_nobody_answers(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        started = time.monotonic()
        line = self.told(capsys, "--dataset", "s3://somebodys-bucket/pets")
        assert time.monotonic() - started < 30
        assert (
            "s3://somebodys-bucket: the server does not respond" in line
            or "pets: the server does not" in line
        )

    def test_a_silent_server_is_given_up(self, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        monkeypatch.setattr(bucket_module, "SILENT", 0.5)
        started = time.monotonic()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")
            line = self.told(capsys, "--dataset", "s3://somebodys-bucket/pets")
        assert time.monotonic() - started < 30
        assert "the server does not respond" in line

    def test_a_failure_of_the_way_is_no_unreadable_picture(
        self, url: str, server: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset = open_dataset(url, skip_unreadable=True)
        monkeypatch.setattr(bucket_module, "ATTEMPTS", 1)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        with pytest.raises(UserError, match="the server does not respond"):
            dataset.digest()


def test_the_whole_job_leaves_no_keys_behind(
    project: Project, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not in any file, line or traceback; and what a folder's pass has computed is found for the bucket."""
    told = []
    url = store.copy(project.images, "pets")

    def run(stage: str, *more: str) -> int:
        code, *text = project(stage, *more)
        told.extend(text)
        return code

    there = ("--dataset", url, "--debug")
    assert run("features", *there) == 0
    assert run("train", *there, "--head", "centroid") == 0
    assert run("train", *there, "--head", "DummyClassifier") == 0  # its mistakes are shown
    assert run("evaluate", *there, "--head", "centroid") == 0
    assert run("verify", *there) == 0
    assert run("report", "--debug") == 0
    assert "data:image" in (project.out / "report" / "index.html").read_text()
    assert run("features", "--debug") == 0
    assert "cached and verified" in told[-1], "the folder has the same pictures"
    store.put("pets/train/cat/001.jpg", b"no picture")
    assert run("features", *there) == 2
    assert run("features", "--dataset", "s3://nobodys-bucket/pets", "--debug") == 2
    assert "Traceback" in told[-1]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".h5", ".json", ".html", ".sqlite"}
    for text in (*told, *(path.read_bytes().decode("latin-1") for path in files)):
        assert KEY not in text
        assert SECRET not in text


def test_workers_on_ray_read_them(url: str, weights_path: str, tmp_path: Path) -> None:
    """Each from the bucket, and not through the process that hands out the shards."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")
    from tests.features.executors.test_ray import RayStage

    stage = RayStage(url, weights_path, tmp_path)  # type: ignore[arg-type]
    stage.ended(stage.start())
    stage.same_as_local()


def test_names_of_training_images_are_warned_of_as_in_a_folder(url: str) -> None:
    run = SimpleNamespace(dataset={"source": "s3://another/pets", "digest": "f"})
    ids = open_dataset(url).ids("test")
    (warning,) = _seen_in_training(run, {"train": ids[:2]}, open_dataset(url), ids)  # type: ignore[arg-type]
    assert "2 of 12 images scored have the name of an image that the run was trained on" in warning


def test_the_name_of_an_object_is_its_url() -> None:
    assert (
        str(BucketObject(Bucket("s3://some/pets"), "train/cat/001.jpg")) == "s3://some/pets/train/cat/001.jpg"
    )
