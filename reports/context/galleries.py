"""Galleries: test images that show where heads fail or disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.cache.embeddings import Embeddings
from models.runs.run import Run
from reports.context.neighbours import Neighbours, crowded, near_duplicates

SHOWN = 12  # images per gallery
VOTERS = 5  # best heads whose predictions a gallery shows
NEAR = 3  # training neighbours shown per image


@dataclass(frozen=True)
class Gallery:
    """Test images for one question, the clearest cases first.

    ``total`` is the number of all cases; each item has ``row`` and ``id`` (of the test split), ``label``,
    ``says`` (name, class and calibrated probability of each head) and ``neighbours`` (of the training split:
    ``row``, ``id``, ``label``, ``similarity``).
    """

    key: str
    title: str
    about: str
    total: int
    items: tuple[dict[str, Any], ...]


def galleries(
    runs: Sequence[Run], names: Mapping[str, str], cache: Embeddings | None, found: Neighbours | None
) -> list[Gallery]:
    """The galleries of these runs. Votes and ``prior`` are left out.

    Parameters
    ----------
    runs : on one test split, one per configuration, best first.
    names : the name of each run, by id.
    cache : the embeddings of the first run; None: images have row numbers instead of ids.
    found : the training images nearest to each test image, or None.
    """
    asked = [run for run in runs if run.head != "prior" and not run.members][:VOTERS]
    if not asked:
        return []
    labels = asked[0].test_labels
    said, sure, of_label = (np.array(each) for each in zip(*map(_told, asked), strict=True))  # (heads, n)
    wrong, on_label = said != labels, np.mean(of_label, axis=0)
    best = names[asked[0].id]
    plans = [
        (
            "errors",
            "Most confident errors",
            f"Test images that the best head ({best}) gets wrong, the most confident first.",
            np.flatnonzero(wrong[0]),
            -sure[0],
        )
    ]
    if len(asked) > 1:
        split = np.flatnonzero(said[0] != said[1])
        strength = -np.minimum(sure[0], sure[1])
        unanimous = np.flatnonzero(wrong.all(axis=0) & (said == said[0]).all(axis=0))
        plans += [
            (
                "disagreements",
                "Where the two best disagree",
                "Test images that the two best configurations classify differently, most confident first.",
                split,
                strength,
            ),
            (
                "labels",
                "Labels to check",
                f"All {len(asked)} heads predict the same class, and it is not the label. Some of "
                "these labels are wrong; for others the embedding is misleading.",
                unanimous,
                on_label,
            ),
        ]
    if found is not None and not crowded(found):
        doubled = near_duplicates(found)
        plans.append(
            (
                "duplicates",
                "Test images with near-duplicates in the training split",
                "The nearest training image is a near-duplicate: being right on it shows no generalisation.",
                doubled,
                -found.similarities[:, 0],
            )
        )
    shown = [rows[np.argsort(order[rows], kind="stable")][:SHOWN] for *_, rows, order in plans]
    context = _Context(asked, said, sure, names, cache, found, np.concatenate(shown))
    return [
        Gallery(key, title, about, len(rows), tuple(context.item(int(row)) for row in some))
        for (key, title, about, rows, _), some in zip(plans, shown, strict=True)
        if len(rows)
    ]


def _told(run: Run) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """The predicted class, its calibrated probability, and that of the label, (n,) each."""
    proba = run.test_scaled
    return proba.argmax(axis=1), proba.max(axis=1), proba[np.arange(len(proba)), run.test_labels]


class _Context:
    """Builds the items of galleries."""

    def __init__(
        self,
        runs: Sequence[Run],
        said: NDArray[np.int64],
        sure: NDArray[np.float64],
        names: Mapping[str, str],
        cache: Embeddings | None,
        found: Neighbours | None,
        rows: NDArray[np.int64],
    ) -> None:
        self._runs, self._said, self._sure, self._found = runs, said, sure, found
        self._heads = [names[run.id] for run in runs]
        self._names = runs[0].class_names
        near = found.rows[rows, :NEAR] if found is not None else np.empty(0, np.int64)
        self._test_ids, self._train_ids = _ids(cache, "test", rows), _ids(cache, "train", near)
        self._train_labels = cache.labels() if cache else np.empty(0, np.int64)

    def item(self, row: int) -> dict[str, Any]:
        says = [
            {"head": head, "class": self._names[int(code)], "probability": float(probability)}
            for head, code, probability in zip(
                self._heads, self._said[:, row], self._sure[:, row], strict=True
            )
        ]
        return {
            "row": row,
            "id": self._test_ids.get(row, f"test image {row}"),
            "label": self._names[int(self._runs[0].test_labels[row])],
            "says": says,
            "neighbours": self._neighbours(row),
        }

    def _neighbours(self, row: int) -> list[dict[str, Any]]:
        if self._found is None or not self._train_ids:
            return []
        pairs = zip(self._found.rows[row], self._found.similarities[row], strict=True)
        return [
            {
                "row": int(near),
                "id": self._train_ids[int(near)],
                "label": self._names[int(self._train_labels[near])],
                "similarity": float(similarity),
            }
            for near, similarity in list(pairs)[:NEAR]
        ]


def _ids(cache: Embeddings | None, split: str, rows: NDArray[np.int64]) -> dict[int, str]:
    """What names some rows of a split, by their numbers."""
    wanted = np.unique(rows)
    return dict(zip(wanted.tolist(), cache.ids(split, wanted), strict=True)) if cache else {}
