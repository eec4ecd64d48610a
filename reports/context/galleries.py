"""Which images does a comparison turn on? Rows of test images, each for one question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.cache.embeddings import Embeddings
from models.runs.run import Run
from reports.context.neighbours import Neighbours, crowded, near_duplicates

SHOWN = 12  # images a gallery
VOTERS = 5  # heads, best first, that a gallery asks
NEAR = 3  # neighbours shown with an image


@dataclass(frozen=True)
class Gallery:
    """Test images that answer one question, the strongest case first.

    ``total`` counts all there are; each item has ``row`` and ``id`` (of the test split),
    ``label``, ``says`` (of each head that is asked: its name, class and calibrated probability)
    and ``neighbours`` (of the training split: ``row``, ``id``, ``label``, ``similarity``).
    """

    key: str
    title: str
    about: str
    total: int
    items: tuple[dict[str, Any], ...]


def galleries(
    runs: Sequence[Run], names: Mapping[str, str], cache: Embeddings | None, found: Neighbours | None
) -> list[Gallery]:
    """The galleries of these runs, best first; without ``cache`` the images have no names.

    A vote is not asked: it says what its members say.

    Parameters
    ----------
    runs : of one test split, one a configuration.
    names : what to call each run, by its id.
    cache : the embeddings of the first run.
    found : the nearest training images of each test image.
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
            f"Test images that the best head ({best}) has wrong, the most confident first.",
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
                "Test images that the two best configurations call differently, the surest of both first.",
                split,
                strength,
            ),
            (
                "labels",
                "Labels to look at again",
                f"All {len(asked)} heads that are asked say the same class, and it is not the label. Some of "
                "these labels are wrong, others are right and the embedding is misleading.",
                unanimous,
                on_label,
            ),
        ]
    if found is not None and not crowded(found):
        doubled = near_duplicates(found)
        plans.append(
            (
                "duplicates",
                "Test images that all but stand in the training split",
                "The nearest training image is a near-duplicate: to be right on it is no sign of learning.",
                doubled,
                -found.similarities[:, 0],
            )
        )
    context = _Context(asked, said, sure, names, cache, found)
    return [
        Gallery(key, title, about, len(rows), context.items(rows[np.argsort(order[rows], kind="stable")]))
        for key, title, about, rows, order in plans
        if len(rows)
    ]


def _told(run: Run) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """The class a run says, its calibrated probability, and that of the label: (n,) each."""
    proba = run.test_scaled
    return proba.argmax(axis=1), proba.max(axis=1), proba[np.arange(len(proba)), run.test_labels]


class _Context:
    """What an item says of an image, looked up once for all galleries."""

    def __init__(
        self,
        runs: Sequence[Run],
        said: NDArray[np.int64],
        sure: NDArray[np.float64],
        names: Mapping[str, str],
        cache: Embeddings | None,
        found: Neighbours | None,
    ) -> None:
        self._runs, self._said, self._sure, self._found = runs, said, sure, found
        self._heads = [names[run.id] for run in runs]
        self._names = runs[0].class_names
        self._ids = {split: cache.ids(split) if cache else [] for split in ("train", "test")}
        self._train_labels = cache.labels() if cache else np.empty(0, np.int64)

    def items(self, rows: NDArray[np.int64]) -> tuple[dict[str, Any], ...]:
        return tuple(self._item(int(row)) for row in rows[:SHOWN])

    def _item(self, row: int) -> dict[str, Any]:
        says = [
            {"head": head, "class": self._names[int(code)], "probability": float(probability)}
            for head, code, probability in zip(
                self._heads, self._said[:, row], self._sure[:, row], strict=True
            )
        ]
        return {
            "row": row,
            "id": self._ids["test"][row] if self._ids["test"] else f"test image {row}",
            "label": self._names[int(self._runs[0].test_labels[row])],
            "says": says,
            "neighbours": self._neighbours(row),
        }

    def _neighbours(self, row: int) -> list[dict[str, Any]]:
        if self._found is None or not self._ids["train"]:
            return []
        pairs = zip(self._found.rows[row], self._found.similarities[row], strict=True)
        return [
            {
                "row": int(near),
                "id": self._ids["train"][near],
                "label": self._names[int(self._train_labels[near])],
                "similarity": float(similarity),
            }
            for near, similarity in list(pairs)[:NEAR]
        ]
