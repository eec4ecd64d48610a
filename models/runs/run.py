"""What was trained on what, its predictions and its seconds: one folder a run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from features.cache.embeddings import canonical, slug
from features.environment import processor, versions
from features.errors import UserError
from features.progress import say
from models.heads import saved
from models.heads.registry import head, remade
from models.runs import looks
from models.runs.identity import PARTS, id_of, in_order
from models.temperature import scaled

FORMAT = 5
ARRAYS = ("val_rows", "val_labels", "val_proba", "test_labels", "test_proba")
LOCK = "lock"  # in the folder of runs: whoever holds it is the only one that changes the folder
PATIENCE = 600.0  # seconds that a run waits for another to be saved; one of gigabytes takes a minute
LEFT = re.compile(r"\.(.+-[0-9a-f]{12})(?:\.\d+)?\.(old|tmp)")  # by a kill; earlier versions added a number


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

    def is_set_as(self, settings: Mapping[str, Any]) -> bool:
        """Whether this is the head as it is but for these settings, whatever the seed and the images."""
        try:
            as_set = head(self.head, settings).configuration(self.seed, self.train_rows)
        except UserError:  # a vote, or a head that has no such parameter
            return False
        return as_set == {"asked": self.asked, "grid": self.grid}

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
        temporary, old = root / f".{self.folder}.tmp", root / f".{self.folder}.old"
        with _changing(root):
            temporary.mkdir()
            digests = {name: _write_npz(temporary / name, part) for name, part in arrays.items()}
            digests["run.json"] = _digest(document)
            with open(temporary / "run.json", "wb") as out:
                out.write((json.dumps({**document, "sha256": digests}, indent=1) + "\n").encode())
                _sync(out)
            looks.record(root, self.test_digest, self.id)
            if target.exists():
                os.replace(target, old)
            os.replace(temporary, target)
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
    _clear_up_if_free(root)
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
    _clear_up_if_free(root)
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
    going = folder.with_name(f".{folder.name}.tmp")
    with _changing(folder.parent):
        os.replace(folder, going)
        shutil.rmtree(going)


@contextmanager
def _changing(root: Path) -> Iterator[None]:
    """Be the only process that changes the folder of runs, and leave whole runs alone behind.

    The system frees the lock of a process however it ends. So whoever holds it knows that what is
    half written is nobody's, which no process number tells: another container counts its own.

    Raises
    ------
    UserError
        The folder cannot be written, or another process holds the lock for too long.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / LOCK, timeout=PATIENCE):
            _clear_up(root)
            try:
                yield
            finally:
                _clear_up(root)
    except Timeout:
        raise UserError(
            f"another process has been writing to {root} for {PATIENCE:g} s; wait for it, then run this again"
        ) from None
    except OSError as error:
        raise UserError(f"cannot write {root}: {error.strerror or error}; choose another OUT=") from None


def _clear_up_if_free(root: Path) -> None:
    """What :func:`_changing` does first, for a reader: it waits for nobody, and needs no permission."""
    if any(_left(root)):
        with suppress(OSError), FileLock(root / LOCK, timeout=0):  # its Timeout is an OSError
            _clear_up(root)


def _clear_up(root: Path) -> None:
    """Clear up after a run that was being saved or removed; the caller holds the lock.

    A run whose replacement never came gets its name back; what was half written goes.
    """
    for left, name, kind in _left(root):
        if kind == "old" and not (root / name).exists():
            os.replace(left, root / name)
        else:
            shutil.rmtree(left)


def _left(root: Path) -> list[tuple[Path, str, str]]:
    """What is half written, half removed or half replaced: where, of which run, ``tmp`` or ``old``."""
    matches = ((path, LEFT.fullmatch(path.name)) for path in root.glob(".*"))
    return [(path, match[1], match[2]) for path, match in matches if match]


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
