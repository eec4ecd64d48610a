"""Saving a run to its folder, atomically, and loading it without running stored code."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from features.budget import require
from features.cache.embeddings import canonical_digest
from features.errors import UserError
from features.files import file_digest, put_in_place, sync, write_whole
from features.progress import say
from features.shapes import read as read_json
from models import arrays
from models.heads import objects, saved
from models.heads.base import BaseHead
from models.heads.estimator import EstimatorHead
from models.heads.knn import KnnHead
from models.heads.refusal import Refused
from models.heads.registry import known, remade
from models.runs import looks
from models.runs.changes import changing
from models.runs.run import Run
from models.runs.shape import ARRAYS, check
from models.storedrows import rows_of_run

FORMAT = 5
PREDICTIONS, NPZ, SKOPS, JOBLIB = "predictions.npz", "head.npz", "head.skops", "head.joblib"
SAID = [item.name for item in fields(Run) if item.name not in (*ARRAYS, "estimator")]  # fields of run.json
REMEDY = "remove the folder and train this head again"


def save(run: Run, root: str | Path, trust: bool = False) -> Path:
    """Save a run below ``root``, atomically; an earlier run with the same identity is replaced.

    Headroom's heads are stored as arrays, scikit-learn's classifiers as skops files restricted to listed
    types (:mod:`models.heads.objects`). The evaluation on the test split is recorded permanently
    (``looks.py``).

    Parameters
    ----------
    run : the run.
    root : the folder of all runs.
    trust : store a classifier of another package with joblib, whose files run code when loaded; without it
        such a run is saved without its fitted head.

    Returns
    -------
    Path
        The run's folder.

    Raises
    ------
    UserError
        The folder cannot be written, or another process holds its lock for too long.

    Examples
    --------
    >>> from features import VGG16, extract, open_dataset
    >>> from models import TrainSplit, save, train
    >>> embeddings = extract(open_dataset("digits"), VGG16(layers="block5"), "out/embeddings")
    >>> run = train(TrainSplit(embeddings, ["block5"]), "centroid", seed=0)
    >>> save(run, "out/runs").name == run.folder
    True
    """
    root = Path(root)
    target = root / run.folder
    temporary, old = root / f".{run.folder}.tmp", root / f".{run.folder}.old"
    with changing(root):
        temporary.mkdir()
        _write_npz(temporary / PREDICTIONS, {name: getattr(run, name) for name in ARRAYS})
        learned = _write_head(run, temporary, trust)
        run.look, line = looks.following(root, run.test_digest, run.id)
        simple = {name: getattr(run, name) for name in SAID}
        document = {"format": FORMAT, **simple, "learned": learned}
        digests = {path.name: file_digest(path) for path in sorted(temporary.iterdir())}
        digests["run.json"] = canonical_digest(document)
        content = json.dumps({**document, "sha256": digests}, indent=1) + "\n"
        write_whole(temporary / "run.json", content.encode())
        looks.append(root, line)
        if target.exists():
            os.replace(target, old)
        put_in_place(temporary, target)
    return target


def load(folder: Path, with_head: bool = False, trust: bool = False, memory: int | str | None = None) -> Run:
    """Load the run in ``folder``.

    Parameters
    ----------
    folder : of the run.
    with_head : load the fitted head too.
    trust : allow heads stored with joblib, which run code when loaded.
    memory : limit of a head that reads its training rows from their cache, in bytes or as in ``4GB``;
        None: the free memory less a tenth.

    Raises
    ------
    UserError
        A file is missing, damaged, of another format, or not trusted.
    """
    broken = "is damaged; remove the folder and train this head again"
    try:
        document = read_json(folder / "run.json")
        if document["format"] != FORMAT:
            raise UserError(
                f"{folder} has format {document['format']}, this Headroom reads {FORMAT}; "
                "remove the folder and train this head again"
            )
        digests = document.pop("sha256")
        if canonical_digest(document) != digests["run.json"]:
            raise UserError(f"{folder / 'run.json'} {broken}")
        heads = [name for name in (NPZ, SKOPS, JOBLIB) if name in digests] if with_head else []
        for name in (PREDICTIONS, *heads):
            require((folder / name).stat().st_size, "the size of the file", str(folder / name), REMEDY)
            if file_digest(folder / name) != digests[name]:
                raise UserError(f"{folder / name} {broken}")
        said: dict[str, Any] = {name: document[name] for name in SAID if name in document}
        predictions = arrays.read(folder / PREDICTIONS)
        check(said, predictions)
        said |= {name: tuple(said[name]) for name in ("layers", "class_names")}
        run = Run(**(said | predictions))
        known(run.head)  # refuses classes of scikit-learn that cannot be heads
        if with_head and not run.members:
            run.estimator = _read_head(run, folder, heads, document["learned"], trust, memory)
            _try_out(run)
    except UserError:
        raise
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder} is not an intact run ({error}); remove it and train this head again"
        ) from None
    return run


def _write_head(run: Run, folder: Path, trust: bool) -> dict[str, Any]:
    """Write the fitted head beside the predictions; returns its part of ``run.json``."""
    if run.estimator is None:
        return {}
    if not isinstance(run.estimator, EstimatorHead):
        learned, named = saved.to_data(run.estimator)
        _write_npz(folder / NPZ, named)
        return learned
    if known(run.head) is not None:
        try:
            objects.write(run.estimator.fitted_, folder / SKOPS)
        except objects.Untrusted as error:
            (folder / SKOPS).unlink()
            say(f"warning: {run.head}: only the predictions are saved, not the fitted head: {error}")
            return {}
        sync(folder / SKOPS)
    elif trust:
        import joblib

        joblib.dump(run.estimator.fitted_, folder / JOBLIB)
        sync(folder / JOBLIB)
    else:
        say(
            f"note: {run.head}: only the predictions are saved, not the fitted head, as files of other "
            "packages' classifiers run code when loaded; trust=1 saves it"
        )
    return {}


def _read_head(
    run: Run,
    folder: Path,
    files: list[str],
    learned: dict[str, Any],
    trust: bool,
    memory: int | str | None,
) -> BaseHead:
    """Load the head written by :func:`_write_head`."""
    if SKOPS in files:
        return EstimatorHead.of_fitted(objects.read(folder / SKOPS), run.train_rows)
    if JOBLIB in files:
        if not trust:
            raise UserError(
                f"{folder / JOBLIB} runs code when loaded; trust=1 loads it, if you know who wrote it"
            )
        import joblib

        return EstimatorHead.of_fitted(joblib.load(folder / JOBLIB), run.train_rows)
    if NPZ not in files:
        raise UserError(
            f"{folder} has predictions without a fitted head; train it again with trust=1 and force=1"
        )
    head: BaseHead = saved.from_data(
        remade(run.head, run.seed, run.parameters), learned, arrays.read(folder / NPZ)
    )
    if isinstance(head, KnnHead) and hasattr(head, "source_"):
        caches = folder.parent.parent / "embeddings"
        head.attach(rows_of_run(run.fingerprint, run.layers, caches, memory))
    return head


def _goes_together(run: Run) -> bool:
    """Whether a classifier of another package was fitted on embeddings and classes like the run's."""
    head = run.estimator
    return (
        isinstance(head, EstimatorHead)
        and getattr(head.fitted_, "n_features_in_", None) == run.width
        and np.array_equal(head.classes_, np.arange(len(run.class_names)))
    )


def _try_out(run: Run) -> None:
    """Refuse a head with inconsistent attributes, by a trial prediction."""
    if isinstance(run.estimator, KnnHead) and hasattr(run.estimator, "source_"):
        return  # would read the complete cache; its rows were counted
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):  # ones are unlike any embedding
            warnings.simplefilter("ignore")
            proba = np.asarray(run.estimator.predict_proba(np.ones((1, run.width), np.float32)))
    except Exception as error:  # arrays of wrong shapes raise many kinds
        if isinstance(error, Refused) and _goes_together(run):
            return  # some classifiers have no neighbours or no probabilities for ones
        raise ValueError(f"its head cannot predict: {error}") from None
    if proba.shape != (1, len(run.class_names)):
        raise ValueError("its head does not predict a probability for each class")


def _write_npz(path: Path, named: saved.Arrays) -> None:
    """Write arrays and sync them to the disk, without a copy in memory."""
    np.savez(path, allow_pickle=False, **named)
    sync(path)
