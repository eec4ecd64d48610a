"""Shards embedded on the nodes of a Ray cluster. Nothing else imports Ray."""

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

import numpy as np
from numpy.typing import NDArray

from features.backbones.extractor import TOLERANCE, Extractor
from features.cache.shards import Shard, ShardFolder, Vectors
from features.datasets.base import Dataset, Images
from features.environment import versions
from features.errors import UserError
from features.executors.base import STAGES, Advance, Worker
from features.files import open_regular, write_whole
from features.progress import say

CORES = 4  # of a worker without a GPU; all there are where a node has fewer
SAMPLE = 8  # images that every worker embeds first, as this process did
TRIES = 4  # workers that may die over one shard
LATE = 2.0  # times as long as the median shard: then an idle worker does it, too
POLL = 1.0  # seconds between two looks at what has come
RENEW = 5.0  # seconds between two looks at which nodes there are
SEEN = (
    60.0  # seconds until this machine sees a file that another has written: NFS remembers what is not there
)
JOIN = 22.0  # seconds until a cluster answers
OBJECTS = 512 << 20  # bytes of shared memory on this machine, where Ray is started here
INSTALL = ".venv/bin/python -m pip install -r requirements-ray.txt"


class Ray:
    """Workers on the nodes of a Ray cluster: a GPU each where there are any, else ``CORES`` cores.

    This process hands out shards and embeds none. A shard goes to another worker where its worker dies, and
    is done twice where it is late and another worker has nothing left to do: the file that comes last stands.

    Parameters
    ----------
    address : ``host:port`` of a cluster that this machine belongs to; left out, Ray is started on this
        machine for one pass, on the loopback interface alone.

    Raises
    ------
    UserError
        Ray is not installed, or the address is none.
    """

    def __init__(self, address: str | None = None) -> None:
        if find_spec("ray") is None:
            raise UserError(f"executor=ray needs Ray, which is not installed; run: {INSTALL}")
        if address is not None and not re.fullmatch(r"[^\s/]+:\d{1,5}", address):
            raise UserError(f"address={address}: expected host:port, as `ray start --head` prints it")
        self._address = address
        # Before TensorFlow is loaded: this process embeds a few images and leaves the GPUs to the workers.
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

    def prepare(self, extractor: Extractor) -> None:
        """As :meth:`Executor.prepare` says; with this network workers are compared."""
        if self._address is not None:
            _answers(self._address)
        extractor.prepare()

    def embed(
        self, dataset: Dataset, extractor: Extractor, folder: ShardFolder, todo: list[Shard], advance: Advance
    ) -> Generator[Shard]:
        """As :meth:`Executor.embed` says; a shard's images advance together, once it is kept."""
        if not todo:
            return
        size = extractor.image_size
        token = folder.path / f"{secrets.token_hex(8)}.tmp"
        with _cluster(self._address):
            import ray

            count = min(SAMPLE, len(dataset.labels("train")))
            sample = dataset.reader("train", 0, count, size)
            vectors = extractor.embed(sample(0, count))
            write_whole(token, token.name.encode())
            network = extractor.at(extractor.precision)  # with its weights, not built
            terms = Terms(network, folder, _versions(), token, sample, vectors)
            crew = _Crew(ray.put(terms), folder)
            try:
                yield from self._hand_out(crew, dataset, size, todo, advance)
            finally:
                crew.dismiss()
                token.unlink(missing_ok=True)

    def _hand_out(
        self, crew: _Crew, dataset: Dataset, size: int, todo: list[Shard], advance: Advance
    ) -> Iterator[Shard]:
        waiting, left, lost = deque(todo), set(todo), Counter[Shard]()
        durations: list[float] = []
        while left:
            crew.renew()
            for hand in crew.hands:
                while hand.ready and len(hand.shards) < STAGES:
                    shard = self._next(crew, hand, waiting, left, durations)
                    if shard is None:
                        break
                    hand.give(shard, dataset.reader(shard.split, shard.start, shard.stop, size))
            for shard, hand, error in crew.ended():
                if error is None and shard in left:
                    _see(crew.folder.path / shard.name)
                    durations.append(hand.seconds(shard))
                    left.remove(shard)
                    advance(shard.rows)
                    yield shard
                elif error is not None and shard in left:
                    lost[shard] += 1
                    if lost[shard] == TRIES:
                        raise UserError(
                            f"{TRIES} workers died while they had {shard.name}, the last on {hand.node}: "
                            f"{error}; look at its images and at the memory of the nodes, then run this again"
                        )
                    if not any(shard in other.shards for other in crew.hands):
                        waiting.appendleft(shard)

    @staticmethod
    def _next(
        crew: _Crew, hand: _Hand, waiting: deque[Shard], left: set[Shard], durations: list[float]
    ) -> Shard | None:
        """The next shard for a worker; where none waits and it has none, one that is late elsewhere."""
        while waiting:
            shard = waiting.popleft()
            if shard in left:
                return shard
        if hand.shards or not durations:
            return None
        limit = max(LATE * statistics.median(durations), POLL)
        late = [
            (other.seconds(shard), shard)
            for other in crew.hands
            for shard in other.shards
            if shard in left and other.seconds(shard) > limit
            if sum(shard in one.shards for one in crew.hands) == 1
        ]
        return max(late, key=lambda pair: pair[0])[1] if late else None


@dataclass(frozen=True)
class Terms:
    """What a worker must be like before it is given a shard.

    Attributes
    ----------
    extractor : the network with its weights, not yet built.
    folder : where it keeps shards.
    versions : of the packages that numbers depend on, and of Headroom.
    token : a file in that folder, which holds its own name.
    sample : reads the first images of the dataset.
    vectors : what this process makes of them.
    """

    extractor: Extractor
    folder: ShardFolder
    versions: dict[str, str]
    token: Path
    sample: Images
    vectors: Vectors


class RemoteWorker:
    """A :class:`Worker` in a process of its own, on some node.

    Parameters
    ----------
    cores : how many threads its arithmetic has.
    """

    def __init__(self, cores: int) -> None:
        for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
            os.environ[name] = str(cores)

    def admit(self, terms: Terms) -> str | None:
        """Build the network; None if all is as the terms say, else what is not."""
        here = _versions()
        for name, expected in terms.versions.items():
            if here.get(name) != expected:
                return f"it has {name} {here.get(name)}, expected {expected}; install the same there"
        try:
            with open_regular(terms.token) as file:
                seen = file.read() == terms.token.name.encode()
        except OSError:
            seen = False
        if not seen:
            return f"it does not see {terms.folder.path}; give it that folder under the same path"
        count = len(next(iter(terms.vectors.values())))
        precision = terms.extractor.precision
        try:
            vectors = terms.extractor.embed(terms.sample(0, count))
        except UserError as error:
            return str(error)
        away = max(_distance(vectors[layer], array) for layer, array in terms.vectors.items())
        if not away <= TOLERANCE[precision]:
            return (
                f"its vectors of the first images are {away:.1e} of their length away, expected at most "
                f"{TOLERANCE[precision]:g} in {precision}: it computes in another precision; see that "
                "nothing in its environment changes TensorFlow's arithmetic"
            )
        self._worker = Worker(terms.extractor, terms.folder)
        return None

    def embed(self, shard: Shard, images: Images) -> None:
        """As :meth:`Worker.embed`; called from several threads at once."""
        self._worker.embed(shard, images)


@dataclass
class _Hand:
    """A worker as this process knows it.

    Attributes
    ----------
    actor : Ray's handle.
    node : a name for people.
    node_id : Ray's name of it.
    joining : what :meth:`RemoteWorker.admit` will answer.
    state : ``joining``, ``ready``, or ``refused``: then it is left where it is, so that none takes its place.
    shards : what it is embedding, with Ray's reference of the task and the time when it was handed out.
    """

    actor: Any
    node: str
    node_id: str
    joining: Any
    state: str = "joining"
    shards: dict[Shard, tuple[Any, float]] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        return self.state == "ready"

    def give(self, shard: Shard, images: Images) -> None:
        self.shards[shard] = (self.actor.embed.remote(shard, images), time.monotonic())

    def seconds(self, shard: Shard) -> float:
        """How long it has had a shard."""
        return time.monotonic() - self.shards[shard][1]


class _Crew:
    """All workers there are; new ones where there are new nodes."""

    def __init__(self, terms: Any, folder: ShardFolder) -> None:
        self.hands: list[_Hand] = []
        self.folder = folder
        self._terms = terms
        self._looked = -RENEW
        self._refused: list[str] = []
        self._failed = Counter[str]()  # workers that died before they were ready, by node

    def renew(self) -> None:
        """Have as many workers on each node as it has room for."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if time.monotonic() - self._looked < RENEW:
            return
        self._looked = time.monotonic()
        room = 0
        for node in ray.nodes():
            gpus, cores = (int(node["Resources"].get(kind, 0)) for kind in ("GPU", "CPU"))
            if not node["Alive"] or not (gpus or cores):
                continue
            there = [hand for hand in self.hands if hand.node_id == node["NodeID"]]
            each = max(1, cores // gpus) if gpus else min(CORES, cores)
            count = gpus or cores // each
            room += sum(hand.state != "refused" for hand in there)
            if self._failed[node["NodeID"]] >= TRIES or any(hand.state == "refused" for hand in there):
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
                self.hands.append(_Hand(actor, name, node["NodeID"], actor.admit.remote(self._terms)))
        if not room:
            told = "; ".join(dict.fromkeys(self._refused)) or "no node of the cluster has a core to give"
            raise UserError(f"no worker is left: {told}; what is finished is kept: run this again")

    def ended(self) -> Iterator[tuple[Shard, _Hand, str | None]]:
        """Shards that have come to an end since, where, and what their worker died of, if it did.

        Raises
        ------
        UserError
            A worker's own: an image cannot be read, the disk is full.
        """
        import ray

        refs = [hand.joining for hand in self.hands if hand.state == "joining"]
        refs += [ref for hand in self.hands for ref, _ in hand.shards.values()]
        if not refs:
            time.sleep(POLL)
            return
        ready = set(ray.wait(refs, num_returns=1, timeout=POLL)[0])
        ready |= set(ray.wait(refs, num_returns=len(refs), timeout=0)[0])
        for hand in list(self.hands):
            try:
                if hand.state == "joining" and hand.joining in ready:
                    problem = ray.get(hand.joining)
                    hand.state = "refused" if problem else "ready"
                    if problem:
                        self._refuse(hand, problem)
                for shard, (ref, _) in list(hand.shards.items()):
                    if ref in ready:
                        ray.get(ref)
                        yield shard, hand, None
                        del hand.shards[shard]
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:
                yield from self._lose(hand, error)

    def _refuse(self, hand: _Hand, problem: str) -> None:
        self._refused.append(f"the worker on {hand.node} is refused: {problem}")
        say(self._refused[-1])

    def _lose(self, hand: _Hand, error: Exception) -> Iterator[tuple[Shard, _Hand, str | None]]:
        """A worker has died, or its node: its shards are anyone's again."""
        import ray

        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1] if getattr(error, "actor_init_failed", False) else lines[0]
        if hand.state == "joining":
            self._failed[hand.node_id] += 1
            self._refused.append(f"the worker on {hand.node} does not start: {reason}")
        say(f"note: the worker on {hand.node} is lost; others do its shards")
        self.hands.remove(hand)
        ray.kill(hand.actor)
        shards, hand.shards = list(hand.shards), {}
        for shard in shards:
            yield shard, hand, reason

    def dismiss(self) -> None:
        """End all workers."""
        import ray

        for hand in self.hands:
            ray.kill(hand.actor)


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Ray joined, or started on this machine and then ended."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # what it otherwise warns of
    if address is None:
        # Ray replaces 127.0.0.1 by an address that others reach; so it is told that there are no others.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    with ExitStack() as stack:
        how: dict[str, Any] = {"address": address}
        if address is None:
            scratch = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
            )
            how = {"address": "local", "_temp_dir": scratch, "object_store_memory": OBJECTS}
            how["include_dashboard"] = False
        stack.callback(ray.shutdown)
        ray.init(**how, log_to_driver=False, logging_level="ERROR")
        yield


def _answers(address: str) -> None:
    """Join in another process first: where there is no cluster, Ray ends the process that joins."""
    problem = ""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        code = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
        subprocess.run(
            [sys.executable, "-c", code, address], capture_output=True, text=True, timeout=JOIN, check=True
        )
    except subprocess.TimeoutExpired:
        problem = f"it does not answer within {JOIN:.0f} s"
    except subprocess.CalledProcessError as error:
        problem = ([line for line in error.stderr.splitlines() if line.strip()] or ["it refuses"])[-1]
    except (OSError, OverflowError) as error:
        problem = str(error)
    if problem:
        raise UserError(
            f"no Ray cluster at address={address}: {problem}; start one with `ray start --head`, let this "
            "machine join it, or leave address= out"
        )


def _see(path: Path) -> None:
    """Wait until a file that another machine has written is seen here; listing its folder asks the server."""
    until = time.monotonic() + SEEN
    while not path.exists() and time.monotonic() < until:
        list(path.parent.iterdir())
        time.sleep(0.1)


def _versions() -> dict[str, str]:
    """What must be the same everywhere: packages, and the files of this very package."""
    root = Path(__file__).parents[1]
    proof = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        with open_regular(path) as file:
            proof.update(f"{path.relative_to(root)}\0".encode() + file.read())
    return {**versions(), "Headroom": proof.hexdigest()[:12]}


def _distance(one: NDArray[np.float32], two: NDArray[np.float32]) -> float:
    """The largest distance between two rows, in lengths of the second; of rows of zeros 0 or infinity."""
    lengths = np.linalg.norm(two.astype(np.float64), axis=1)
    moved = np.linalg.norm(one.astype(np.float64) - two, axis=1)
    return float((moved / np.maximum(lengths, 1e-30)).max())
