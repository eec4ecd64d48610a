"""Stage one on a real Ray of several nodes on this machine: whatever happens, the local pass's embeddings.

Skipped where Ray is not installed (``requirements-ray.txt``). Each node has one core, so each has one worker.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.features.cache.test_faults import ROOT, Stage, assert_equal

# Before Ray is imported: it then keeps to the loopback interface.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
os.environ.update(LOOPBACK)
pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")
from ray.cluster_utils import Cluster  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

LIMIT = 400  # seconds for one test, lest it hang
SHARDS = 12
STAND_IN = "from tests.stand_in_ray import run; run()"


def ours(mark: str) -> list[int]:
    """The processes that have this text in their environment, but for this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (path / "environ").read_bytes() and int(path.name) != os.getpid():
                state = (path / "stat").read_text().rpartition(")")[2].split()[0]
                found += [int(path.name)] * (state != "Z")
        except OSError:
            continue
    return found


def workers(mark: str) -> list[int]:
    """Those of :func:`ours` that Ray runs as workers."""
    found = []
    for pid in ours(mark):
        with suppress(OSError):
            found += [pid] * Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::StandIn")
    return found


def eventually(condition: Callable[[], Any], seconds: float = LIMIT) -> Any:
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.05)
    return value


@pytest.fixture(autouse=True)
def _time_limit() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"more than {LIMIT} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT)
    yield
    signal.alarm(0)


class Nodes:
    """A cluster on the loopback interface; each node is told its plan."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self.cluster = Cluster()
        self.head = self.add(num_cpus=0)

    def add(self, plan: str = "", num_cpus: int = 1) -> Any:
        env = {"HEADROOM_PLAN": plan, "HEADROOM_TEST": self._mark}
        return self.cluster.add_node(
            num_cpus=num_cpus,
            env_vars=env,
            include_dashboard=False,
            object_store_memory=80 << 20,
        )

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def kill(self, node: Any) -> None:
        """SIGKILL for all that runs on a node, as when its power fails."""
        (raylet,) = node.all_processes["raylet"]
        children = subprocess.run(["pgrep", "-P", str(raylet.process.pid)], capture_output=True, text=True)
        for pid in (raylet.process.pid, *map(int, children.stdout.split())):
            os.kill(pid, signal.SIGKILL)
        raylet.process.wait()


class RayStage(Stage):
    """``features`` on Ray."""

    address: str | None = None

    def start(
        self,
        plan: str = "-",
        out: str = "out",
        stage: str = "features",
        before: tuple[str, ...] = (),
        more: tuple[str, ...] = (),
    ) -> subprocess.Popen[str]:
        if plan == "local":
            return super().start("-", out, stage, before, more)
        code = STAND_IN if plan == "-" else plan
        where = ["--address", self.address] if self.address else []
        command = [sys.executable, "-c", code, stage, *self._given, *where, "--executor", "ray", *more]
        return subprocess.Popen(
            [*command, "--out", str(self.root / out)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "HEADROOM_TEST": str(self.root)},
        )

    def kept(self, out: str = "out") -> dict[str, int]:
        """The shards that are there, and which file each is."""
        found = {}
        for path in (self.root / out).glob("embeddings/*.parts/*.shard"):
            try:
                found[path.name] = path.stat().st_ino
            except FileNotFoundError:
                continue
        return found

    def ended(self, child: subprocess.Popen[str]) -> str:
        """The standard error of a pass that must come to its end."""
        _, err = child.communicate()
        assert child.returncode == 0, err
        return err

    def same_as_local(self, out: str = "out") -> None:
        self.ended(self.start("local", "whole"))
        assert_equal(self.content(out), self.content("whole"))


@pytest.fixture
def stage(make_folder: Callable[..., Path], weights_path: str, tmp_path: Path) -> Iterator[RayStage]:
    images = make_folder({"train": 100, "test": 20}, classes=("cat", "dog"))
    yield RayStage(images, weights_path, tmp_path)
    for pid in ours(str(tmp_path)):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def nodes(stage: RayStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    monkeypatch.setenv("HEADROOM_TEST", str(tmp_path))
    scratch = tempfile.mkdtemp(prefix="ray-")  # a short path: it holds sockets
    (Path(scratch) / "ray").mkdir()
    monkeypatch.setenv("RAY_TMPDIR", scratch)
    made: Nodes | None = None
    try:
        made = Nodes(str(tmp_path))
        stage.address = made.address
        yield made
    finally:
        if made is not None:
            made.cluster.shutdown()
        for pid in ours(str(tmp_path)):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(scratch, ignore_errors=True)
        del made
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray leaves pipes of its processes to the garbage collector
            gc.collect()


def test_three_nodes_do_what_one_process_does(stage: RayStage, nodes: Nodes) -> None:
    for _ in range(3):
        nodes.add()
    stage.ended(stage.start())
    stage.same_as_local()


def test_the_network_itself_gives_the_same_bits(
    stage: RayStage, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the same machine, with the same number of threads."""
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        monkeypatch.setenv(name, "1")
    code = "import sys; from pipeline.__main__ import main; from features.cache import store; "
    code += "store.SHARDS = (20,); sys.exit(main(sys.argv[1:] + {}))"
    nodes.add()
    stage.ended(stage.start(code.format([])))
    stage.address = None
    stage.ended(stage.start(code.format(["--executor", "local"]), "whole"))
    assert_equal(stage.content(), stage.content("whole"))


def test_a_node_that_is_killed_midway_costs_its_shards(stage: RayStage, nodes: Nodes) -> None:
    nodes.add("slow=0.5")
    victim = nodes.add("slow=0.5")
    child = stage.start()
    eventually(lambda: len(stage.kept()) >= 3)
    nodes.kill(victim)
    err = stage.ended(child)
    assert "is lost; others take over its shards" in err
    stage.same_as_local()


def test_a_node_that_joins_midway_takes_part(stage: RayStage, nodes: Nodes) -> None:
    first = nodes.add("slow=1")
    child = stage.start()
    eventually(lambda: len(stage.kept()) >= 1)
    nodes.add()
    eventually(lambda: len(stage.kept()) >= 6)
    nodes.kill(first)
    stage.ended(child)
    stage.same_as_local()


def test_a_driver_that_is_killed_and_started_at_once_does_the_missing_shards(
    stage: RayStage, nodes: Nodes
) -> None:
    nodes.add("slow=0.5")
    first = stage.start()
    eventually(lambda: len(stage.kept()) >= 3)
    first.kill()
    first.communicate()
    before = stage.kept()
    second = stage.start()
    eventually(lambda: len(stage.kept()) == SHARDS or second.poll() is not None)
    after = stage.kept()
    err = stage.ended(second)
    assert not after or {name: after[name] for name in before} == before, "a finished shard is done twice"
    assert f"embed: {20 * len(before)}/" in err or f"embed: {20 * (len(before) + 1)}/" in err, err
    stage.same_as_local()


def test_a_second_driver_is_refused_in_a_line(stage: RayStage, nodes: Nodes) -> None:
    nodes.add("slow=0.5")
    first = stage.start()
    eventually(stage.kept)
    second = stage.start()
    _, err = second.communicate()
    assert second.returncode == 2
    assert f"is being written by process {first.pid} since" in err.splitlines()[-1]
    stage.ended(first)
    stage.same_as_local()


def test_a_worker_that_is_frozen_while_it_writes_and_woken_later_does_no_harm(
    stage: RayStage, nodes: Nodes, tmp_path: Path
) -> None:
    note = tmp_path / "frozen"
    nodes.add(f"freeze={note}")
    nodes.add("slow=0.3")
    child = stage.start()
    pid, name = eventually(lambda: note.exists() and note.read_text()).split()
    assert name not in stage.kept()
    eventually(lambda: name in stage.kept())
    os.kill(int(pid), signal.SIGCONT)
    stage.ended(child)
    stage.same_as_local()
    assert len(list((stage.root / "out" / "embeddings").iterdir())) == 1


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        ("other-version", "it has numpy 1.0, expected "),
        ("other-precision", "it computes in another precision"),
        ("other-folder", "it does not see "),
    ],
)
def test_a_worker_that_is_not_as_expected_is_refused_by_name(
    stage: RayStage, nodes: Nodes, plan: str, why: str
) -> None:
    bad = nodes.add(plan)
    child = stage.start()
    _, err = child.communicate()
    assert child.returncode == 2, err
    last = err.splitlines()[-1]
    assert last.startswith("error: no worker is left: the worker on ")
    assert bad.node_id[:8] in last
    assert why in last
    assert not stage.kept()
    nodes.add("slow=0.5")  # so that the other one is tried before all is done
    assert why in stage.ended(stage.start())
    stage.same_as_local()


def test_a_frozen_worker_that_nobody_can_stand_in_for_is_told_with_what_to_do(
    stage: RayStage, nodes: Nodes, tmp_path: Path
) -> None:
    """It is the only one; its process ended, as the line says, another takes its place."""
    note = tmp_path / "frozen"
    nodes.add(f"freeze={note}")
    child = stage.start("from features.executors import ray; ray.STALLED_SECONDS = 3; " + STAND_IN)
    assert child.stderr is not None
    told = next(line for line in iter(child.stderr.readline, "") if "kill process" in line)
    pid, name = note.read_text().split()
    assert f"has been at {name} for " in told
    assert f"kill process {pid} there: another worker then does its shards" in told
    os.kill(int(pid), signal.SIGKILL)
    stage.ended(child)
    stage.same_as_local()


def test_a_shard_that_kills_every_worker_ends_the_pass_and_is_named(stage: RayStage, nodes: Nodes) -> None:
    bad = nodes.add("die")
    child = stage.start()
    _, err = child.communicate()
    assert child.returncode == 2, err
    assert "4 workers died while they had train-0000000" in err.splitlines()[-1]
    assert "train-000000020.shard" not in stage.kept()
    nodes.kill(bad)
    nodes.add()
    stage.ended(stage.start())
    stage.same_as_local()


def test_ctrl_c_leaves_whole_shards_and_a_cluster_without_workers(stage: RayStage, nodes: Nodes) -> None:
    nodes.add("slow=0.5")
    child = stage.start()
    eventually(lambda: len(stage.kept()) >= 2)
    assert workers(str(stage.root))
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    before = stage.kept()
    eventually(lambda: not workers(str(stage.root)), 20)
    second = stage.start()
    stage.ended(second)
    assert len(before) >= 2
    stage.same_as_local()


def test_an_unreadable_picture_is_named_as_it_is_locally(stage: RayStage, nodes: Nodes) -> None:
    (stage.images / "train" / "dog" / "050.jpg").write_bytes(b"no picture")
    nodes.add()
    said = {}
    for plan in ("local", "-"):
        child = stage.start(plan, out=f"out{plan}")
        _, err = child.communicate()
        assert child.returncode == 2, err
        said[plan] = err.splitlines()[-1]
    assert "dog/050.jpg: expected a whole JPEG or PNG" in said["local"]
    assert said["local"] == said["-"]


class TestOnThisMachine:
    """Without ``ADDRESS=``."""

    @pytest.fixture(autouse=True)
    def scratch(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """The only folder for temporary files: under a short path, as Ray has sockets there."""
        with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp", ignore_cleanup_errors=True) as folder:
            monkeypatch.setenv("TMPDIR", folder)
            monkeypatch.setenv("HOME", str(tmp_path / "home"))
            monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
            monkeypatch.setenv("HEADROOM_PLAN", "slow=0.5")
            yield Path(folder)
            assert not (tmp_path / "home" / ".ray").exists(), "a token for whoever comes next"

    def test_killed_it_leaves_no_process(self, stage: RayStage) -> None:
        child = stage.start()
        eventually(stage.kept)
        child.kill()
        child.communicate()
        eventually(lambda: not workers(str(stage.root)), 20)
        eventually(lambda: not ours(str(stage.root)), 110)  # Ray's agents try for a minute to tell the driver

    def test_ctrl_c_leaves_whole_shards_and_no_process(self, stage: RayStage, scratch: Path) -> None:
        child = stage.start()
        eventually(lambda: len(stage.kept()) >= 2)
        for pid in ours(str(stage.root)):
            assert self.reachable(pid) <= {"127.0.0.1"}, "others must not reach what runs what it is sent"
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does: to all of its foreground processes
        _, err = child.communicate(timeout=60)
        assert child.returncode == 130, err
        assert "interrupted; finished work is kept. To resume: make features" in err
        assert len(stage.kept()) >= 2
        eventually(lambda: not ours(str(stage.root)), 20)
        assert not list(scratch.iterdir())
        stage.ended(stage.start())
        eventually(lambda: not ours(str(stage.root)), 20)
        assert not list(scratch.iterdir())
        stage.same_as_local()

    @staticmethod
    def reachable(pid: int) -> set[str]:
        """The addresses at which a process listens."""
        listening = {}
        for kind in ("tcp", "tcp6"):
            for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
                place, state, inode = (line.split()[column] for column in (1, 3, 9))
                if state == "0A":
                    raw = bytes.fromhex(place.partition(":")[0])
                    last = socket.inet_ntoa(raw[-4:][::-1])
                    mapped = kind == "tcp" or raw[8:12] == b"\xff\xff\x00\x00"
                    listening[f"socket:[{inode}]"] = last if mapped else "any or IPv6"
        found = set()
        for handle in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                found.add(listening.get(str(handle.readlink())))
            except OSError:
                continue
        return {address for address in found if address}


@pytest.mark.parametrize("answering", [False, True], ids=["closed", "something else"])
def test_no_cluster_at_the_address_is_a_line_within_30_s(stage: RayStage, answering: bool) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        if answering:
            other.listen()
        stage.address = f"127.0.0.1:{other.getsockname()[1]}"
        started = time.monotonic()
        child = stage.start()
        _, err = child.communicate(timeout=60)
        assert child.returncode == 2
        assert time.monotonic() - started < 30
        assert len(err.splitlines()) == 1
        assert err.startswith(f"error: no Ray cluster at ADDRESS={stage.address}: ")
