"""A run in a folder of its own, written whole or not at all, and read back as data."""

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
SAID = [item.name for item in fields(Run) if item.name not in (*ARRAYS, "estimator")]  # in run.json
REMEDY = "remove the folder and train this head again"


def save(run: Run, root: str | Path, trust: bool = False) -> Path:
    """Write the run below ``root``, whole or not at all; an equal earlier run is replaced.

    Headroom's heads are kept as numbers, scikit-learn's classifiers as a file of skops that holds
    nothing but listed types (:mod:`models.heads.objects`). That its test split was looked at is
    noted for good (``looks.py``).

    Parameters
    ----------
    trust : keep a classifier of another package with joblib, whose files run code when they are
        read; without it the run is kept without its fitted head.

    Returns
    -------
    Path
        The run's folder.

    Raises
    ------
    UserError
        The folder cannot be written, or another process holds it for too long.

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


def load(folder: Path, with_head: bool = False, trust: bool = False) -> Run:
    """The run in ``folder``; its fitted head too if asked for.

    Nothing stored is executed, but for a head that was kept with joblib, where ``trust`` says so.

    Raises
    ------
    UserError
        A file is missing, does not have its digest, is of another format, or holds what is not
        trusted.
    """
    broken = "is damaged; remove the folder and train this head again"
    try:
        document = read_json(folder / "run.json")
        if document["format"] != FORMAT:
            raise UserError(
                f"{folder} is of format {document['format']}, this Headroom reads {FORMAT}; "
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
        known(run.head)  # a class of scikit-learn's that is no head is refused
        if with_head and not run.members:
            run.estimator = _read_head(run, folder, heads, document["learned"], trust)
            _try_out(run)
    except UserError:
        raise
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder} is not a whole run ({error}); remove it and train this head again"
        ) from None
    return run


def _write_head(run: Run, folder: Path, trust: bool) -> dict[str, Any]:
    """Write the fitted head beside the predictions; what of it stands in ``run.json``."""
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
            say(f"warning: {run.head}: the fitted head is not kept, only its predictions: {error}")
            return {}
        sync(folder / SKOPS)
    elif trust:
        import joblib

        joblib.dump(run.estimator.fitted_, folder / JOBLIB)
        sync(folder / JOBLIB)
    else:
        say(
            f"note: {run.head}: only its predictions are kept, not the fitted head, as files of other "
            "packages' classifiers run code when they are read; trust=1 keeps it"
        )
    return {}


def _read_head(run: Run, folder: Path, files: list[str], learned: dict[str, Any], trust: bool) -> BaseHead:
    """What :func:`_write_head` wrote."""
    if SKOPS in files:
        return EstimatorHead.of_fitted(objects.read(folder / SKOPS), run.train_rows)
    if JOBLIB in files:
        if not trust:
            raise UserError(
                f"{folder / JOBLIB} runs code when it is read; trust=1 reads it, if you know who wrote it"
            )
        import joblib

        return EstimatorHead.of_fitted(joblib.load(folder / JOBLIB), run.train_rows)
    if NPZ not in files:
        raise UserError(
            f"{folder} keeps predictions without a fitted head; train it again with trust=1 and force=1"
        )
    head: BaseHead = saved.from_data(
        remade(run.head, run.seed, run.parameters), learned, arrays.read(folder / NPZ)
    )
    if isinstance(head, KnnHead) and hasattr(head, "source_"):
        head.attach(rows_of_run(run.fingerprint, run.layers, folder.parent.parent / "embeddings"))
    return head


def _goes_together(run: Run) -> bool:
    """Whether a classifier of another package says that it was fitted on such embeddings and classes."""
    head = run.estimator
    return (
        isinstance(head, EstimatorHead)
        and getattr(head.fitted_, "n_features_in_", None) == run.width
        and np.array_equal(head.classes_, np.arange(len(run.class_names)))
    )


def _try_out(run: Run) -> None:
    """Refuse a head whose parts do not go together, before its first embeddings."""
    if isinstance(run.estimator, KnnHead) and hasattr(run.estimator, "source_"):
        return  # a pass over all of its cache; its rows were counted
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):  # ones are far from any embedding
            warnings.simplefilter("ignore")
            proba = np.asarray(run.estimator.predict_proba(np.ones((1, run.width), np.float32)))
    except Exception as error:  # whatever arrays of wrong shapes make of it
        if isinstance(error, Refused) and _goes_together(run):
            return  # ones are no embedding: a classifier may have no neighbour or no probability for them
        raise ValueError(f"its head cannot predict: {error}") from None
    if proba.shape != (1, len(run.class_names)):
        raise ValueError("its head does not predict probabilities of its classes")


def _write_npz(path: Path, named: saved.Arrays) -> None:
    """Write the arrays down to the disk, without a copy in memory."""
    np.savez(path, allow_pickle=False, **named)
    sync(path)
