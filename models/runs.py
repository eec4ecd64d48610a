"""What was trained on what, its predictions and its seconds: one folder a run."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from features.embeddings import canonical, slug
from features.errors import UserError
from features.progress import say
from models import looks, saved
from models.heads import remade
from models.identity import PARTS, id_of, in_order
from models.temperature import scaled

FORMAT = 5
PACKAGES = ("numpy", "scipy", "scikit-learn", "tensorflow", "keras", "h5py", "pillow")
ARRAYS = ("val_rows", "val_labels", "val_proba", "test_labels", "test_proba")


@cache
def processor() -> str:
    """The processor's name, as the operating system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def versions() -> dict[str, str]:
    """The installed packages that numbers depend on, without importing them."""
    return {name: version(name) for name in PACKAGES}


@dataclass
class Run:
    """One head, trained once.

    Attributes
    ----------
    head, seed : which entry of ``HEADS``, and what seeded it.
    layers : the layers it read, in column order; ``width`` numbers together.
    dataset, class_names, spec, fingerprint : of the embeddings.
    test_digest : SHA-256 over dataset, limit, class names, test ids and labels: equal for runs that
        answered the same questions.
    asked, parameters : the whole configuration before and after ``chosen``, what validation decided.
    grid, sweep, history : what was tried, how each value did, and the curves by epoch.
    kept_epoch : the epoch of ``history`` whose weights predicted validation, from 1.
    floors : validation accuracy of the heads that any other should beat, by name.
    warnings : what a reader of the result should know: a sentence each.
    train_accuracy : of the final fit on (a sample of) its own images.
    temperature : fitted on ``val_proba``; :attr:`test_scaled` are the calibrated probabilities.
    members : of a vote: the folder of each run that votes, and its weight.
    seconds : ``select``, ``refit`` and ``predict`` (all of test).
    train_rows : images of the final fit.
    val_rows, val_labels, val_proba : (m,), (m,), (m, k); from the selection fit.
    test_labels, test_proba : (n,), (n, k); from the final fit.
    versions, processor, command : where the numbers came from.
    estimator : the final fit itself; None where it was not asked for.
    """

    head: str
    seed: int
    layers: tuple[str, ...]
    width: int
    dataset: dict[str, Any]
    class_names: tuple[str, ...]
    spec: dict[str, Any]
    fingerprint: str
    test_digest: str
    chosen: dict[str, Any]
    grid: dict[str, list[Any]]
    sweep: list[dict[str, Any]]
    history: dict[str, list[float]]
    kept_epoch: int | None
    seconds: dict[str, float]
    train_rows: int
    val_rows: NDArray[np.int64]
    val_labels: NDArray[np.int64]
    val_proba: NDArray[np.float64]
    test_labels: NDArray[np.int64]
    test_proba: NDArray[np.float64]
    asked: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    floors: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    temperature: float = 1.0
    train_accuracy: float = 0.0
    members: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: versions())
    processor: str = field(default_factory=processor)
    command: str = ""
    estimator: Any = None

    def __post_init__(self) -> None:
        if self.estimator is not None:
            self.parameters = saved.parameters(self.estimator)

    @property
    def val_scaled(self) -> NDArray[np.float64]:
        """``val_proba`` after temperature scaling."""
        return scaled(self.val_proba, self.temperature)

    @property
    def test_scaled(self) -> NDArray[np.float64]:
        """``test_proba`` after temperature scaling."""
        return scaled(self.test_proba, self.temperature)

    @property
    def val_accuracy(self) -> float:
        """Share of the validation images that the selection fit had right."""
        return float((self.val_proba.argmax(axis=1) == self.val_labels).mean())

    @property
    def id(self) -> str:
        """Twelve hex digits over all that was decided before training: a repeat has the same."""
        return id_of({part: getattr(self, part) for part in PARTS})

    @property
    def folder(self) -> str:
        """The name of the folder :meth:`save` writes."""
        return f"{slug(self.dataset['name'])}-{self.head}-seed{self.seed}-{self.id}"

    def save(self, root: Path) -> Path:
        """Write the run below ``root``, whole or not at all; an equal earlier run is replaced.

        That its test split was looked at is noted for good (``looks.py``).
        """
        learned, head_arrays = saved.to_data(self.estimator) if self.estimator is not None else ({}, {})
        arrays = {
            "predictions.npz": {name: getattr(self, name) for name in ARRAYS},
            "head.npz": head_arrays,
        }
        simple = {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if item.name not in (*ARRAYS, "estimator")
        }
        document = {"format": FORMAT, **simple, "learned": learned}
        target = root / self.folder
        temporary = root / f".{self.folder}.{os.getpid()}.tmp"
        old = root / f".{self.folder}.{os.getpid()}.old"
        _recover(root)
        try:
            temporary.mkdir(parents=True)
            digests = {name: _write_npz(temporary / name, part) for name, part in arrays.items()}
            digests["run.json"] = _digest(document)
            with open(temporary / "run.json", "wb") as out:
                out.write((json.dumps({**document, "sha256": digests}, indent=1) + "\n").encode())
                _sync(out)
            looks.record(root, self.test_digest, self.id)
            if target.exists():
                os.replace(target, old)
            os.replace(temporary, target)
        except OSError as error:
            _recover(root)
            raise UserError(f"cannot write the run {target}: {error.strerror}; choose another OUT=") from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        return target


def load(folder: Path, with_head: bool = False) -> Run:
    """The run in ``folder``; its fitted head too if asked for. Nothing stored is executed.

    Raises
    ------
    UserError
        A file is missing, does not have its digest, or is of another format.
    """
    broken = "is damaged; remove the folder and train this head again"
    try:
        document = json.loads((folder / "run.json").read_text())
        if document["format"] != FORMAT:
            raise UserError(
                f"{folder} is of format {document['format']}, this Headroom reads {FORMAT}; "
                "remove the folder and train this head again"
            )
        digests = document.pop("sha256")
        if _digest(document) != digests["run.json"]:
            raise UserError(f"{folder / 'run.json'} {broken}")
        stored: dict[str, saved.Arrays] = {}
        for name in ("predictions.npz", *(("head.npz",) if with_head else ())):
            with open(folder / name, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digests[name]:
                    raise UserError(f"{folder / name} {broken}")
            with np.load(folder / name, allow_pickle=False) as archive:
                stored[name] = dict(archive)
        values: dict[str, Any] = {
            item.name: document[item.name] for item in fields(Run) if item.name in document
        }
        values |= {name: tuple(document[name]) for name in ("layers", "class_names")}
        values |= stored["predictions.npz"]
        run = Run(**values)
        if with_head and not run.members:
            estimator = remade(run.head, run.seed, run.parameters)
            run.estimator = saved.from_data(estimator, document["learned"], stored["head.npz"])
    except (OSError, KeyError, TypeError, ValueError, AttributeError, BadZipFile) as error:
        raise UserError(
            f"{folder} is not a whole run ({error}); remove it and train this head again"
        ) from None
    return run


def load_all(root: Path) -> list[Run]:
    """Every run below ``root``, without the fitted heads, by folder name.

    A folder that holds none is passed over; passed over in words: one that is damaged, a copy, and
    a vote whose members were trained again and say something else now.
    """
    _recover(root)
    runs: dict[str, Run] = {}
    ids: dict[str, str] = {}
    for path in sorted(root.glob("[!.]*/run.json")):
        folder = path.parent.name
        try:
            run = load(path.parent)
            if run.folder != folder:
                raise UserError(f"{path.parent} is a copy or renamed, expected the name {run.folder}")
            if run.id in ids:  # of one dataset under two names
                raise UserError(f"{path.parent} is the same run as {ids[run.id]}; remove one of them")
            runs[folder], ids[run.id] = run, folder
        except UserError as error:
            say(f"note: passed over: {error}")
    for folder in [folder for folder, run in runs.items() if is_outdated(run, runs)]:
        say(f"note: passed over: {folder}: a member was trained again; take it anew: make train HEAD=vote")
        del runs[folder]
    return list(runs.values())


def is_outdated(vote: Run, runs: Mapping[str, Run]) -> bool:
    """Whether the members of a vote are all among these runs (by folder), but say something else now."""
    if not vote.members or not set(vote.members) <= set(runs):
        return False
    now = mean([(runs[folder].test_scaled, weight) for folder, weight in vote.members.items()])
    return not agree(now, vote.test_proba)


def agree(one: NDArray[np.float64], two: NDArray[np.float64]) -> bool:
    """Whether these are the same probabilities but for rounding in the last digits."""
    return bool(np.allclose(one, two, rtol=0, atol=1e-9))


def mean(parts: Sequence[tuple[NDArray[np.float64], float]]) -> NDArray[np.float64]:
    """The weighted mean of probabilities ``(n, k)``."""
    return np.asarray(sum(weight * proba for proba, weight in parts))


def find(root: Path, identity: dict[str, Any]) -> Path | None:
    """The folder of a whole run that was trained with this identity (``identity.py``), if any.

    One whose layers stand in another order, as they could before, will do where there is no other.
    """
    _recover(root)
    own, asked = f"-{id_of(identity)}", in_order(identity)
    paths = root.glob(f"[!.]*-{identity['head']}-seed{identity['seed']}-*/run.json")
    for path in sorted(paths, key=lambda path: (not path.parent.name.endswith(own), path)):
        try:
            run = load(path.parent)
            if run.folder == path.parent.name and id_of(in_order(vars(run))) == id_of(asked):
                return path.parent
        except UserError:
            continue  # not whole: it is trained again
    return None


def remove(folder: Path) -> None:
    """Remove a run: a kill leaves it whole, or not there."""
    going = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    os.replace(folder, going)
    shutil.rmtree(going)


def _recover(root: Path) -> None:
    """Clear up after a process that was killed while it saved a run.

    A run whose replacement never came gets its name back; what was half written goes.
    """
    for left in root.glob(".*.*.*"):
        match = re.fullmatch(r"\.(.+)\.(\d+)\.(old|tmp)", left.name)
        if match is None or _is_anothers(int(match[2])):
            continue
        if match[3] == "old" and not (root / match[1]).exists():
            os.replace(left, root / match[1])
        shutil.rmtree(left, ignore_errors=True)


def _is_anothers(process: int) -> bool:
    """Whether this is a process that lives, and not this one."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()


def _write_npz(path: Path, arrays: saved.Arrays) -> str:
    """Write the arrays down to the disk, without a copy in memory; the SHA-256 of the file."""
    with open(path, "w+b") as out:
        np.savez(out, allow_pickle=False, **arrays)
        _sync(out)
        out.seek(0)
        return hashlib.file_digest(out, "sha256").hexdigest()


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _digest(document: dict[str, Any]) -> str:
    """SHA-256 of what ``run.json`` says, however it is laid out."""
    return hashlib.sha256(canonical(document).encode()).hexdigest()
