"""The head protocol: what selection asks of a head beyond scikit-learn's own, with defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.multiclass import check_classification_targets

from models.heads.blocks import Blocks, Rows, in_blocks
from models.heads.refusal import Refused

Watched = tuple[Rows, NDArray[Any]]  # validation rows and their labels
Candidate = tuple[dict[str, Any], NDArray[np.float64]]
OnEpoch = Callable[[int, dict[str, list[float]]], None]


class BaseHead:
    """A classifier that ``models.selection`` can choose, refit and keep.

    What scikit-learn asks of a classifier is asked of a head: ``get_params``, ``set_params``,
    ``fit``, ``predict_proba`` and ``classes_``. Whatever selection asks beyond it is a method of
    this class, so that a head overrides what it does better and inherits the rest.

    Attributes
    ----------
    warm_start : whether ``fit`` starts where the last one ended, so that the final fit may take
        over what the sweep has learned.
    remembers : whether it keeps its training rows, which then have their own labels by heart: its
        accuracy on them is measured by :meth:`predict_proba_of_own` and left out of a sweep.
    """

    warm_start: bool = False
    remembers: bool = False

    # What every classifier has; stated for the type checker, and met by each subclass.
    classes_: NDArray[Any]
    fit: Callable[..., Any]
    predict_proba: Callable[..., NDArray[np.float64]]
    get_params: Callable[..., dict[str, Any]]
    set_params: Callable[..., Any]

    def check(self) -> None:
        """Raise ``ValueError`` for the first parameter that is not what it may be."""

    def automatic(self, rows: int) -> dict[str, Any]:
        """The parameters that may be ``auto``, as they are with so many training images."""
        return {}

    def fit_watching(self, X: Rows, y: NDArray[Any], watched: Watched, on_epoch: OnEpoch | None) -> Any:
        """``fit``, where validation rows may decide when to stop; they are not looked at by default."""
        return self.fit(X, y)

    def sweep(
        self,
        X: Rows,
        y: NDArray[Any],
        watched: Watched,
        grid: Mapping[str, Sequence[Any]],
        on_epoch: OnEpoch | None = None,
    ) -> Iterator[Candidate]:
        """Each combination of the grid's values with the probabilities it gives the validation rows.

        Each is fitted from the start by default. When one is yielded, the head is fitted with it.

        Parameters
        ----------
        X, y : (n, d) float32 and (n,), to fit on; ``X`` may come in blocks, as :meth:`memory_in_blocks` says.
        watched : (m, d) float32 and (m,), the validation rows.
        grid : the values of each parameter; empty for one candidate, the head as it is.
        on_epoch : called with the number of each epoch, from 1, and the curves so far.

        Yields
        ------
        parameters, proba : the candidate by name, and (m, k) probabilities.
        """
        for values in product(*grid.values()):
            parameters = dict(zip(grid, values, strict=True))
            self.set_params(**parameters)
            self.fit_watching(X, y, watched, on_epoch)
            yield parameters, self.proba_of(watched[0])

    def predict(self, X: NDArray[np.float32]) -> NDArray[Any]:
        """The most probable class of each row, ``(n,)``."""
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def proba_of(self, X: Rows) -> NDArray[np.float64]:
        """Probabilities (n, k) of rows in memory or in blocks."""
        if not isinstance(X, Blocks):
            return np.asarray(self.predict_proba(X), np.float64)
        return np.concatenate(
            [np.asarray(self.predict_proba(block), np.float64) for _, block in in_blocks(X)]
        )

    def predict_proba_of_own(self, X: Rows, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Probabilities (m, k) of these rows of the training inputs ``X``, by number.

        Of inputs in blocks, ``rows`` are the :func:`~models.heads.blocks.evenly` spaced ones.
        """
        return self.proba_of(X.sample() if isinstance(X, Blocks) else X[rows])

    def curves(self) -> tuple[dict[str, list[float]], int | None]:
        """The training curves of the last fit by name, and the epoch whose weights it kept, from 1."""
        return {}, None

    def decided(self) -> dict[str, Any]:
        """Parameters that the last fit decided on validation rows; the final fit is given them."""
        return {}

    def remarks(self) -> list[str]:
        """What a reader of the result should know of the last fit: phrases of which it is the subject."""
        return []

    def memory(self, rows: int, width: int, classes: int) -> tuple[int, str]:
        """Bytes that a fit takes beside ``X`` (rows, width), at least, and the sum in words."""
        return 0, ""

    def memory_in_blocks(self, rows: int, width: int, classes: int) -> tuple[int, str]:
        """Bytes that a fit takes beside blocks of ``X`` (rows, width), at least, and the sum in words.

        By default all rows, as a head that says nothing else must have them in memory: where they do not fit,
        it is refused with that number.
        """
        beside, words = self.memory(rows, width, classes)
        return 4 * rows * width + beside, " + ".join(
            filter(None, (f"{rows:,} images x {width:,} values x 4 bytes", words))
        )

    def plain(self, temperature: float = 1.0) -> Any:
        """The fitted head as a scikit-learn or Keras object that needs nothing of Headroom's.

        It takes embeddings as they come. Its probabilities are divided by ``temperature`` as logits
        where its class can say so.
        """
        return self

    def _encoded(self, y: NDArray[Any]) -> NDArray[np.int64]:
        """The class numbers of labels (n,), which must be of two classes at least; sets ``classes_``."""
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise Refused(f"{type(self).__name__} needs at least two classes; got one class")
        return codes
