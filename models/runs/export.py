"""A fitted head as a plain scikit-learn or Keras object, for use without Headroom."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from features.errors import UserError
from models.heads.dense import DenseHead
from models.runs.run import Run

SUFFIXES = {True: (".keras",), False: (".joblib", ".skops")}  # of a Keras head, and of any other


def write(run: Run, to: Path) -> Path:
    """Write the run's head, loaded with ``with_head=True``, to the file ``to``.

    A linear head becomes a ``LogisticRegression`` and nearest neighbours a
    ``KNeighborsClassifier``; a classifier of scikit-learn stays what it is. All of them take raw
    embeddings, the run's layers side by side in order, and are for ``joblib.load`` or ``skops.io.load``.
    A Keras head becomes a ``.keras`` file for ``keras.models.load_model``. Linear and Keras heads
    answer with the run's calibrated probabilities; nearest neighbours with the shares of the k votes
    alone (``KnnHead.plain``), and classifiers of scikit-learn with their own.

    Returns
    -------
    ``path``.

    Raises
    ------
    UserError
        The name does not end as the head needs, the head is a vote, or the file cannot be written.
    """
    if run.members:
        raise UserError(f"{run.folder} is a vote of several heads; export one of: {', '.join(run.members)}")
    wanted = SUFFIXES[isinstance(run.estimator, DenseHead)]
    if path.suffix not in wanted:
        raise UserError(
            f"to={path}: expected a name that ends in {' or '.join(wanted)} for the head {run.head}"
        )
    plain = run.estimator.plain(run.temperature)
    temporary = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")  # Keras looks at the suffix
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if path.suffix == ".keras":
                plain.save(temporary)
            elif path.suffix == ".skops":
                import skops.io

                skops.io.dump(plain, temporary)
            else:
                import joblib

                joblib.dump(plain, temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; choose another to=") from None
    return path
