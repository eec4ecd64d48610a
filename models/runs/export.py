"""A fitted head as a plain scikit-learn or Keras object, for use without Headroom."""

from __future__ import annotations

from pathlib import Path

from features.errors import UserError
from features.files import replacing
from models.heads.dense import DenseHead
from models.heads.refusal import Refused
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
    Path
        ``to``.

    Raises
    ------
    UserError
        The name does not end as the head needs, the head is a vote, or the file cannot be written.
    """
    if run.members:
        raise UserError(f"{run.folder} is a vote of several heads; export one of: {', '.join(run.members)}")
    wanted = SUFFIXES[isinstance(run.estimator, DenseHead)]
    if to.suffix not in wanted:
        raise UserError(
            f"to={to}: expected a name that ends in {' or '.join(wanted)} for the head {run.head}"
        )
    try:
        plain = run.estimator.plain(run.temperature)
    except Refused as error:
        raise UserError(f"{run.folder} cannot be exported: {error}") from None
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with replacing(to, to.suffix) as temporary:
            if to.suffix == ".keras":
                plain.save(temporary)
            elif to.suffix == ".skops":
                import skops.io

                skops.io.dump(plain, temporary)
            else:
                import joblib

                joblib.dump(plain, temporary)
    except OSError as error:
        raise UserError(f"cannot write {to}: {error.strerror or error}; choose another to=") from None
    return to
