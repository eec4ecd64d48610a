"""The contract of a head: methods beyond scikit-learn's protocol, with defaults."""

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
    """A classifier for ``models.selection``.

    A head follows scikit-learn's protocol: ``get_params``, ``set_params``, ``fit``, ``predict_proba`` and
    ``classes_``. Everything else that selection uses is a method of this class with a default.

    Attributes
    ----------
    warm_start : whether ``fit`` starts from the last solution, so that the refit continues from the sweep.
    remembers : whether the head memorises its training rows. Its training accuracy is then measured by
        :meth:`predict_proba_of_own`, and omitted from sweeps.
    """

    warm_start: bool = False
    remembers: bool = False

    # Of every classifier; declared for the type checker.
    classes_: NDArray[Any]
    fit: Callable[..., Any]
    predict_proba: Callable[..., NDArray[np.float64]]
    get_params: Callable[..., dict[str, Any]]
    set_params: Callable[..., Any]

    def check(self) -> None:
        """Raise ``ValueError`` for the first invalid parameter."""

    def automatic(self, rows: int) -> dict[str, Any]:
        """Values of the parameters that are ``auto``, for this number of training images."""
        return {}

    def fit_watching(self, X: Rows, y: NDArray[Any], watched: Watched, on_epoch: OnEpoch | None) -> Any:
        """``fit`` with validation rows for early stopping; ignores them by default.

        Parameters and errors as :meth:`sweep`.
        """
        return self.fit(X, y)

    def sweep(
        self,
        X: Rows,
        y: NDArray[Any],
        watched: Watched,
        grid: Mapping[str, Sequence[Any]],
        on_epoch: OnEpoch | None = None,
    ) -> Iterator[Candidate]:
        """Fit each combination of the grid's values and predict the validation rows.

        By default each is fitted from scratch. After each yield, the head is fitted with that candidate.

        Parameters
        ----------
        X, y : (n, d) float32 and (n,), to fit; ``X`` may be :class:`~models.heads.blocks.Blocks`.
        watched : (m, d) float32 and (m,), the validation rows.
        grid : the values of each parameter; empty: fit the head as it is.
        on_epoch : called after each epoch with its number, from 1, and the curves so far.

        Yields
        ------
        parameters, proba : the candidate's parameters by name, and its probabilities (m, k).

        Raises
        ------
        ValueError
            As ``fit``.
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
        """Probabilities (n, k) for rows in memory or in blocks."""
        if not isinstance(X, Blocks):
            return np.asarray(self.predict_proba(X), np.float64)
        return np.concatenate(
            [np.asarray(self.predict_proba(block), np.float64) for _, block in in_blocks(X)]
        )

    def rows_per_pass(self) -> int | None:
        """Rows that one pass over training rows on a disk predicts; None: predictions read no such rows."""
        return None

    def predict_proba_of_own(self, X: Rows, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Probabilities (m, k) for rows of the training inputs.

        Parameters
        ----------
        X : (n, d), the training inputs.
        rows : (m,) row numbers; for inputs in blocks, those of :func:`~models.heads.blocks.evenly`.
        """
        return self.proba_of(X.sample() if isinstance(X, Blocks) else X[rows])

    def curves(self) -> tuple[dict[str, list[float]], int | None]:
        """The training curves of the last fit by name, and the epoch whose weights were kept, from 1."""
        return {}, None

    def decided(self) -> dict[str, Any]:
        """Parameters that the last fit chose on validation rows, for the refit."""
        return {}

    def remarks(self) -> list[str]:
        """Remarks on the last fit: predicates that follow "the final fit"."""
        return []

    def memory(self, rows: int, width: int, classes: int) -> tuple[int, str]:
        """A lower bound of the bytes that ``fit`` needs beside ``X`` (rows, width), and its derivation."""
        return 0, ""

    def memory_in_blocks(self, rows: int, width: int, classes: int) -> tuple[int, str]:
        """A lower bound of the bytes that ``fit`` needs beside blocks of ``X``, and its derivation.

        By default this includes all rows, for heads that cannot be fitted out of core.
        """
        beside, words = self.memory(rows, width, classes)
        return 4 * rows * width + beside, " + ".join(
            filter(None, (f"{rows:,} images x {width:,} values x 4 bytes", words))
        )

    def plain(self, temperature: float = 1.0) -> Any:
        """The fitted head as a scikit-learn or Keras object that does not depend on Headroom.

        It takes raw embeddings. If its class allows, its logits are divided by ``temperature``.
        """
        return self

    def _encoded(self, y: NDArray[Any]) -> NDArray[np.int64]:
        """Encode labels (n,) as class numbers and set ``classes_``; Refused if there is only one class."""
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise Refused(f"{type(self).__name__} needs at least two classes; got one class")
        return codes
