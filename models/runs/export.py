"""Export of fitted heads as scikit-learn or Keras objects, for use without Headroom."""

from __future__ import annotations

from pathlib import Path

from features.errors import UserError
from features.files import replacing
from models.heads.dense import DenseHead
from models.heads.refusal import Refused
from models.runs.run import Run

SUFFIXES = {True: (".keras",), False: (".joblib", ".skops")}  # by whether the head is a Keras head


def write(run: Run, to: Path) -> Path:
    """Export the head of a run to a file.

    Linear heads become a ``LogisticRegression``, nearest neighbours a ``KNeighborsClassifier``; classifiers
    of scikit-learn are exported unchanged. Load them with ``joblib.load`` or ``skops.io.load``. Keras heads
    become a ``.keras`` file for ``keras.models.load_model``. All take raw embeddings, with the run's layers
    concatenated in order. Linear and Keras heads predict the run's calibrated probabilities, nearest
    neighbours the shares of the k votes (``KnnHead.plain``), classifiers of scikit-learn their own
    probabilities.

    Parameters
    ----------
    run : loaded with ``with_head=True``.
    to : the file; its suffix decides the format.

    Returns
    -------
    Path
        ``to``.

    Raises
    ------
    UserError
        The suffix does not fit the head, the run is a vote, or the file cannot be written.
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
