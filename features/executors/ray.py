"""The Ray executor: embeds shards on the nodes of a cluster. No other module imports Ray."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from features.backbones.extractor import TOLERANCE, Extractor, distances
from features.cache.shards import Shard, ShardFolder, Vectors
from features.datasets.base import Dataset, Images
from features.environment import versions
from features.errors import UserError
from features.executors.base import STAGES, Advance, Worker
from features.files import open_regular, write_whole
from features.progress import say

CORES = 4  # per worker without a GPU; all cores of a node with fewer
SAMPLE = 8  # images that every worker embeds for comparison with this process
MAX_FAILURES = 4  # workers that may die while embedding one shard, or while starting on one node
STRAGGLER = 2.0  # times the median duration after which an idle worker repeats a shard
STALLED = 10.0  # times the median duration, and
STALLED_SECONDS = 300.0  # at least, after which a worker is reported as stalled
START_SECONDS = 60.0  # after which a worker that has not started is reported
RECENT = 1000  # shards over which the median duration is taken
POLL = 1.0  # seconds between two checks for finished tasks
REFRESH = 5.0  # seconds between two checks for nodes
VISIBLE_SECONDS = 60.0  # to wait for another machine's file: NFS caches negative lookups
JOIN_SECONDS = 20.0  # timeout for joining a cluster
OBJECT_STORE = 512 << 20  # bytes of shared memory if Ray is started on this machine
INSTALL = ".venv/bin/python -m pip install -r requirements-ray.txt"


class Ray:
    """Workers on the nodes of a Ray cluster: one per GPU, or one per ``CORES`` cores on nodes without GPUs.

    This process schedules shards and embeds none. If a worker dies, its shards are given to others. A late
    shard is repeated by an idle worker; the last file written remains.

    Parameters
    ----------
    address : ``host:port`` of a cluster that this machine belongs to; None: start Ray on this machine for one
        pass, on the loopback interface only.

    Raises
    ------
    UserError
        Ray is not installed, or ``address`` is malformed.
    """

    def __init__(self, address: str | None = None) -> None:
        if find_spec("ray") is None:
            raise UserError(f"executor=ray needs Ray, which is not installed; run: {INSTALL}")
        if address is not None and not re.fullmatch(r"[^\s/]+:\d{1,5}", address):
            raise UserError(f"address={address}: expected host:port, as `ray start --head` prints it")
        self._address = address
        # Set before TensorFlow is loaded: this process embeds few images and leaves the GPUs to the workers.
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

    def prepare(self, extractor: Extractor) -> None:
        """As :meth:`Executor.prepare`; workers are compared with this network."""
        if self._address is not None:
            _check_cluster(self._address)
        extractor.prepare()

    def embed(
        self, dataset: Dataset, extractor: Extractor, folder: ShardFolder, todo: list[Shard], advance: Advance
    ) -> Generator[Shard]:
        """As :meth:`Executor.embed`; progress advances shard by shard."""
        if not todo:
            return
        size = extractor.image_size
        token = folder.path / f"{secrets.token_hex(8)}.tmp"
        with _session(self._address):
            import ray

            count = min(SAMPLE, len(dataset.labels("train")))
            sample = dataset.reader("train", 0, count, size)
            vectors = extractor.embed(sample(0, count))
            write_whole(token, token.name.encode())
            network = extractor.at(extractor.precision)  # a copy with weights, not built
            spec = WorkerSpec(network, folder, _versions(), token, sample, vectors)
            pool = _WorkerPool(ray.put(spec))
            try:
                for shard in self._schedule(pool, dataset, size, todo):
                    _wait_until_visible(folder.path / shard.name)
                    advance(shard.rows)
                    yield shard
            finally:
                pool.shutdown()
                token.unlink(missing_ok=True)

    @staticmethod
    def _schedule(pool: _WorkerPool, dataset: Dataset, size: int, todo: list[Shard]) -> Iterator[Shard]:
        """Yield each shard once a worker has written it."""
        queue, left, failures = deque(todo), set(todo), Counter[Shard]()
        durations = deque[float](maxlen=RECENT)
        while left:
            pool.refresh()
            median = statistics.median(durations) if durations else 0.0
            pool.report_stalled(median)
            late = deque[Shard]()
            if durations and not queue:
                late.extend(pool.stragglers(left, max(STRAGGLER * median, POLL)))
            for worker in pool.workers:
                while worker.state == READY:
                    if queue and len(worker.shards) < prefetch(len(queue), len(pool.workers)):
                        shard = queue.popleft()
                    elif late and not worker.shards:
                        shard = late.popleft()
                    else:
                        break
                    worker.submit(shard, dataset.reader(shard.split, shard.start, shard.stop, size))
            for shard, worker, error in pool.completed():
                if shard not in left:
                    continue  # was repeated
                if error is None:
                    durations.append(worker.waited(shard))
                    left.remove(shard)
                    yield shard
                    continue
                failures[shard] += pool.alive(worker)  # a lost node is no fault of the shard
                if failures[shard] >= MAX_FAILURES:
                    raise UserError(
                        f"{MAX_FAILURES} workers died while they had {shard.name}, the last on "
                        f"{worker.node}: {error}; look at its images and at the memory of the nodes, then "
                        "run this again"
                    )
                if not any(shard in other.shards for other in pool.workers):
                    queue.appendleft(shard)


def prefetch(queued: int, workers: int) -> int:
    """The number of shards a worker may hold, given the numbers of queued shards and workers.

    Towards the end it decreases, so that no shard waits for a busy worker while another is idle.
    """
    return min(STAGES, 1 + queued // workers)


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker needs, and what it is checked for before it is given a shard.

    Attributes
    ----------
    extractor : the network with its weights, not yet built.
    folder : of the shards.
    versions : of the packages that results depend on, and of Headroom.
    token : a file in ``folder`` that contains its own name.
    sample : reads the first images of the dataset.
    vectors : the embeddings of these images in this process.
    """

    extractor: Extractor
    folder: ShardFolder
    versions: dict[str, str]
    token: Path
    sample: Images
    vectors: Vectors


class RemoteWorker:
    """A :class:`Worker` in its own process, on any node.

    Parameters
    ----------
    cores : number of threads for arithmetic.
    """

    def __init__(self, cores: int) -> None:
        for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
            os.environ[name] = str(cores)

    def start(self, spec: WorkerSpec) -> tuple[int, str | None]:
        """Build the network; returns the process number, and the reason to refuse this worker or None."""
        return os.getpid(), self._start(spec)

    def _start(self, spec: WorkerSpec) -> str | None:
        here = _versions()
        for name, expected in spec.versions.items():
            if here.get(name) != expected:
                return f"it has {name} {here.get(name)}, expected {expected}; install the same there"
        try:
            with open_regular(spec.token) as file:
                seen = file.read() == spec.token.name.encode()
        except OSError:
            seen = False
        if not seen:
            return f"it does not see {spec.folder.path}; give it that folder under the same path"
        count = len(next(iter(spec.vectors.values())))
        precision = spec.extractor.precision
        try:
            vectors = spec.extractor.embed(spec.sample(0, count))
        except UserError as error:
            return str(error)
        away = max(distances(vectors[layer], array).max() for layer, array in spec.vectors.items())
        if away > TOLERANCE[precision]:
            return (
                f"its vectors of the first images are {away:.1e} of their length away, expected at most "
                f"{TOLERANCE[precision]:g} in {precision}: it computes in another precision; check that "
                "nothing in its environment changes TensorFlow's arithmetic"
            )
        self._worker = Worker(spec.extractor, spec.folder)
        return None

    def embed(self, shard: Shard, images: Images) -> None:
        """As :meth:`Worker.embed`; called from several threads."""
        self._worker.embed(shard, images)


STARTING, READY, REFUSED = "starting", "ready", "refused"


@dataclass
class _WorkerHandle:
    """A worker as seen by this process.

    Attributes
    ----------
    actor : Ray's handle.
    node : the node's name in messages.
    node_id : the node's id in Ray.
    started : Ray's reference to the result of :meth:`RemoteWorker.start`.
    state : ``STARTING``, ``READY`` or ``REFUSED``; a refused worker stays, so that none replaces it.
    pid : its process number, once it is ready.
    since : time at which it was created or last finished a shard.
    reported : whether it has been reported as stalled since then.
    shards : the shards assigned to it, each with Ray's reference to the task and the time of submission.
    """

    actor: Any
    node: str
    node_id: str
    started: Any
    state: str = STARTING
    pid: int = 0
    since: float = field(default_factory=time.monotonic)
    reported: bool = False
    shards: dict[Shard, tuple[Any, float]] = field(default_factory=dict)

    def submit(self, shard: Shard, images: Images) -> None:
        """Assign a shard to the worker."""
        self.shards[shard] = (self.actor.embed.remote(shard, images), time.monotonic())

    def waited(self, shard: Shard) -> float:
        """Seconds spent on a shard: since it was assigned, or since the worker finished its last shard."""
        return time.monotonic() - max(self.shards[shard][1], self.since)

    def progressed(self) -> None:
        """Note that the worker has started or finished a shard."""
        self.since, self.reported = time.monotonic(), False

    def stalled(self, median: float) -> str | None:
        """A message on what the worker has not finished for long, or None."""
        waited = time.monotonic() - self.since
        if self.state == STARTING and waited > START_SECONDS:
            return (
                f"the worker on {self.node} has not started for {waited:.0f} s; check with `ray status` "
                "whether others use its cores"
            )
        shard = min(self.shards, key=lambda shard: self.shards[shard][1], default=None)
        if shard is None:
            return None
        waited = self.waited(shard)
        if waited <= max(STALLED * median, STALLED_SECONDS):
            return None
        usual = f", the median is {median:.0f} s" if median else ""
        return (
            f"the worker on {self.node} has been at {shard.name} for {waited:.0f} s{usual}; if it hangs, "
            f"kill process {self.pid} there: another worker then does its shards"
        )


class _WorkerPool:
    """The workers on all nodes, including nodes that join later.

    Parameters
    ----------
    spec : Ray's reference to the :class:`WorkerSpec`.
    """

    def __init__(self, spec: Any) -> None:
        self.workers: list[_WorkerHandle] = []
        self._spec = spec
        self._refreshed = -REFRESH
        self._problems: list[str] = []
        self._failures = Counter[str]()  # workers that died before they were ready, by node

    def refresh(self) -> None:
        """Create as many workers on each node as its resources allow.

        Raises
        ------
        UserError
            There is no worker, and no node has resources for one.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if time.monotonic() - self._refreshed < REFRESH:
            return
        self._refreshed = time.monotonic()
        room = 0
        for node in ray.nodes():
            gpus, cores = (int(node["Resources"].get(kind, 0)) for kind in ("GPU", "CPU"))
            if not node["Alive"] or not (gpus or cores):
                continue
            there = [worker for worker in self.workers if worker.node_id == node["NodeID"]]
            each = max(1, cores // gpus) if gpus else min(CORES, cores)
            count = gpus or cores // each
            refused = sum(worker.state == REFUSED for worker in there)
            room += len(there) - refused
            if self._failures[node["NodeID"]] >= MAX_FAILURES or refused:
                continue
            room += count - len(there)
            for _ in range(count - len(there)):
                place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                actor = (
                    ray.remote(RemoteWorker)
                    .options(
                        num_cpus=min(each, cores),
                        num_gpus=1 if gpus else 0,
                        max_concurrency=STAGES,
                        scheduling_strategy=place,
                    )
                    .remote(each)
                )
                name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:8]})"
                self.workers.append(
                    _WorkerHandle(actor, name, node["NodeID"], actor.start.remote(self._spec))
                )
        if not room:
            told = "; ".join(dict.fromkeys(self._problems)) or "no node of the cluster has a free core"
            raise UserError(f"no worker is left: {told}; what is finished is kept: run this again")

    def completed(self) -> Iterator[tuple[Shard, _WorkerHandle, str | None]]:
        """Yield each finished shard with its worker and None, or with the error of which the worker died.

        Raises
        ------
        UserError
            Raised by a worker: an image cannot be read, or the disk is full.
        """
        import ray

        refs = [worker.started for worker in self.workers if worker.state == STARTING]
        refs += [ref for worker in self.workers for ref, _ in worker.shards.values()]
        if not refs:
            time.sleep(POLL)
            return
        ready = set(ray.wait(refs, num_returns=1, timeout=POLL)[0])
        ready |= set(ray.wait(refs, num_returns=len(refs), timeout=0)[0])
        for worker in list(self.workers):
            try:
                if worker.state == STARTING and worker.started in ready:
                    worker.pid, problem = ray.get(worker.started)
                    worker.state = REFUSED if problem else READY
                    worker.progressed()
                    if problem:
                        self._problems.append(f"the worker on {worker.node} is refused: {problem}")
                        say(self._problems[-1])
                for shard, (ref, _) in list(worker.shards.items()):
                    if ref in ready:
                        ray.get(ref)
                        yield shard, worker, None
                        del worker.shards[shard]
                        worker.progressed()
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:
                yield from self._remove(worker, error)

    def stragglers(self, left: set[Shard], limit: float) -> list[Shard]:
        """Shards of ``left`` on which exactly one worker has spent more than ``limit`` seconds."""
        held = Counter(shard for worker in self.workers for shard in worker.shards)
        return [
            shard
            for worker in self.workers
            for shard in worker.shards
            if held[shard] == 1 and shard in left and worker.waited(shard) > limit
        ]

    def alive(self, worker: _WorkerHandle) -> bool:
        """Whether the node of a worker is alive."""
        import ray

        return any(node["Alive"] for node in ray.nodes() if node["NodeID"] == worker.node_id)

    def report_stalled(self, median: float) -> None:
        """Report each stalled worker once. It is not killed, as it may only be slow."""
        for worker in self.workers:
            if not worker.reported and (problem := worker.stalled(median)):
                worker.reported = True
                say(f"note: {problem}")

    def shutdown(self) -> None:
        """Kill all workers."""
        import ray

        for worker in self.workers:
            ray.kill(worker.actor)

    def _remove(
        self, worker: _WorkerHandle, error: Exception
    ) -> Iterator[tuple[Shard, _WorkerHandle, str | None]]:
        """Remove a worker that died, alone or with its node, and yield its shards."""
        import ray

        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1] if getattr(error, "actor_init_failed", False) else lines[0]
        if worker.state == STARTING:
            self._failures[worker.node_id] += 1
            self._problems.append(f"the worker on {worker.node} does not start: {reason}")
        say(f"note: the worker on {worker.node} is lost; others take over its shards")
        self.workers.remove(worker)
        ray.kill(worker.actor)
        shards, worker.shards = list(worker.shards), {}
        for shard in shards:
            yield shard, worker, reason


@contextmanager
def _session(address: str | None) -> Iterator[None]:
    """Join a Ray cluster, or start Ray on this machine and stop it at the end."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # avoids a warning
    if address is None:
        # Otherwise Ray replaces 127.0.0.1 by an address that other machines can reach.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        if not Path(os.environ.get("HOME", ""), ".ray", "auth_token").exists():
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # or Ray writes a token file
    import ray

    with ExitStack() as stack:
        how: dict[str, Any] = {"address": address}
        if address is None:
            scratch = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
            )
            how = {"address": "local", "_temp_dir": scratch, "object_store_memory": OBJECT_STORE}
            how["include_dashboard"] = False
        stack.callback(ray.shutdown)
        ray.init(**how, log_to_driver=False, logging_level="ERROR")
        yield


def _check_cluster(address: str) -> None:
    """Try to join from another process first: without a cluster, ``ray.init`` ends the process.

    Raises
    ------
    UserError
        There is no cluster at ``address``, or it does not answer within ``JOIN_SECONDS``.
    """
    problem = ""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        code = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
        subprocess.run(
            [sys.executable, "-c", code, address],
            capture_output=True,
            text=True,
            timeout=JOIN_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired:
        problem = f"it does not answer within {JOIN_SECONDS:.0f} s"
    except subprocess.CalledProcessError as error:
        problem = ([line for line in error.stderr.splitlines() if line.strip()] or ["it refuses"])[-1]
    except (OSError, OverflowError) as error:
        problem = str(error)
    if problem:
        raise UserError(
            f"no Ray cluster at address={address}: {problem}; start one with `ray start --head`, let this "
            "machine join it, or leave address= out"
        )


def _wait_until_visible(path: Path) -> None:
    """Wait until a file written by another machine is visible here; listing its folder queries the server."""
    until = time.monotonic() + VISIBLE_SECONDS
    while not path.exists() and time.monotonic() < until:
        list(path.parent.iterdir())
        time.sleep(0.1)


def _versions() -> dict[str, str]:
    """What must be the same on all machines: package versions, and a digest of this package's files."""
    root = Path(__file__).parents[1]
    proof = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        with open_regular(path) as file:
            proof.update(f"{path.relative_to(root)}\0".encode() + file.read())
    return {**versions(), "Headroom": proof.hexdigest()[:12]}
