"""The report object, with every number that JSON, Markdown and HTML show."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from features.backbones.registry import DEFAULT
from features.words import counted
from models.runs.configurations import ranked_on_validation
from models.runs.run import Run
from reports.answer import answer, elsewhere
from reports.context.galleries import Gallery, galleries
from reports.context.gathering import ReportContext
from reports.context.neighbours import (
    CALIBRATED,
    CALIBRATED_SIZE,
    NEAR_DUPLICATE,
    Neighbours,
    crowded,
    near_duplicates,
)
from reports.entry import Entry, entry_of
from reports.gains import Gain, ladder
from reports.standing import COMPARED, Standing, on_one_axis, standings
from reports.statistics.metrics import DRAWS, LEVEL
from reports.statistics.paired import Pair, compare
from reports.statistics.ranking import (
    Seeds,
    best_first,
    first_seeds,
    is_right,
    names_of,
    seeds_of,
)

SCHEMA = 4  # of report.json; docs/report.schema.json describes it
MATRIX = 200  # classes up to which report.json has confusion matrices


@dataclass(frozen=True)
class Group:
    """Runs on the same test images, best first.

    ``looks`` is the number of final predictions of these images so far, including deleted runs;
    ``looks_doubt`` says why there may have been more, or is empty. ``duplicates`` counts test images with
    near-duplicates in the training split (None if that cannot be determined), with the best run's accuracy
    on the others. ``evaluations`` are scores on other labelled images, best run first.
    """

    test_digest: str
    dataset: str
    source: dict[str, Any]
    note: str
    limit: int | None
    class_names: tuple[str, ...]
    test_images: int
    looks: int
    looks_doubt: str
    answer: str
    entries: tuple[Entry, ...]
    pairs: tuple[Pair, ...]
    seeds: tuple[Seeds, ...]
    ladder: tuple[Gain, ...]
    galleries: tuple[Gallery, ...]
    duplicates: dict[str, Any] | None
    evaluations: tuple[dict[str, Any], ...]
    map: dict[str, Any] | None

    @property
    def configurations(self) -> tuple[Entry, ...]:
        """The entries with the lowest seed of each configuration."""
        further = {id for seeds in self.seeds for id in seeds.ids[1:]}
        return tuple(entry for entry in self.entries if entry.id not in further)

    @cached_property
    def standings(self) -> tuple[Standing, ...]:
        """The configurations with mean accuracy over their seeds, best first."""
        return standings(self.entries, self.seeds, self.pairs, self.test_images)

    @cached_property
    def drawn(self) -> tuple[Standing, ...]:
        """The best of :attr:`standings`, as far as their differences are visible on one axis."""
        return on_one_axis(self.standings)

    @property
    def equal_classes(self) -> int | None:
        """Test images per class, if the number is the same for all; otherwise None."""
        sizes = {row["support"] for row in self.entries[0].per_class}
        return sizes.pop() if len(sizes) == 1 else None

    @property
    def origins(self) -> list[dict[str, Any]]:
        """Distinct combinations of weights, precision, processor and versions, with their number of runs."""
        names = ("weights", "weights_sha256", "precision", "processor", "versions")
        found: list[dict[str, Any]] = []
        for entry in self.entries:
            origin = {name: getattr(entry, name) for name in names}
            same = next((each for each in found if each | {"runs": 0} == origin | {"runs": 0}), None)
            if same is None:
                found.append(origin | {"runs": 1})
            else:
                same["runs"] += 1
        return found

    @property
    def shared(self) -> str:
        """The properties that all entries share, for the caption of a table."""
        phrases = [text for name, text in self.entries[0].traits.items() if name in self._shared]
        if len({entry.seed for entry in self.entries}) == 1:
            phrases.append(f"seed {self.entries[0].seed}")
        if len({entry.train_images for entry in self.entries}) == 1:
            phrases.append(f"trained on {counted(self.entries[0].train_images, 'image')}")
        return ", ".join(filter(None, phrases))

    def embedding(self, entry: Entry) -> str:
        """The properties of an entry's embedding that are not :attr:`shared`."""
        return ", ".join(text for name, text in entry.traits.items() if text and name not in self._shared)

    @property
    def _shared(self) -> set[str]:
        every = [entry.traits for entry in self.entries]
        return {name for name in every[0] if len({traits[name] for traits in every}) == 1}

    def entry(self, id: str) -> Entry:
        """The entry with this id."""
        return next(entry for entry in self.entries if entry.id == id)


@dataclass(frozen=True)
class Report:
    """All groups, by descending size of the test split."""

    schema: int
    created: str
    level: float
    draws: int
    groups: tuple[Group, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values, as in ``report.json``.

        Returns
        -------
        dict
            ``schema``, ``created``, ``level``, ``draws`` and ``groups``. For more than 200 classes,
            confusion matrices are None; their cells are in ``confusion.csv``.

        Examples
        --------
        >>> from models import load_all
        >>> from reports import build
        >>> document = build(load_all("out/runs")).to_json()
        >>> document["groups"][0]["dataset"]
        'digits'
        """
        document = asdict(self)
        for group in document["groups"]:
            if len(group["class_names"]) > MATRIX:
                for entry in group["entries"]:
                    entry["confusion"] = None
        return document


def build(runs: Sequence[Run], context: ReportContext | None = None) -> Report:
    """Compute the report of these runs, grouped by ``test_digest``.

    Parameters
    ----------
    runs : from :func:`models.train` or :func:`models.load_all`.
    context : learning curves, caches and so on, from :func:`gather`; None: the runs alone.

    Returns
    -------
    Report
        One group for each test split.

    Examples
    --------
    >>> from models import load_all
    >>> from reports import build
    >>> report = build(load_all("out/runs"))
    >>> sorted(entry.head for entry in report.groups[0].entries)
    ['centroid', 'ridge']
    """
    context = context or ReportContext()
    together: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        together[run.test_digest].append(run)
    groups = [_group(digest, found, context) for digest, found in together.items()]
    groups.sort(key=lambda group: -group.test_images)
    return Report(SCHEMA, time.strftime("%Y-%m-%d %H:%M %Z"), LEVEL, DRAWS, tuple(groups))


def _group(digest: str, runs: list[Run], context: ReportContext) -> Group:
    runs = best_first(runs)
    names = names_of(runs)
    entries = Parallel(n_jobs=-1, prefer="threads")(
        delayed(entry_of)(run, name, runs, context) for run, name in zip(runs, names, strict=True)
    )
    first, best = runs[0], entries[0]
    firsts = first_seeds(runs)
    correct = {run.id: is_right(run) for run in firsts[:COMPARED]}
    pairs = tuple(compare(correct))
    by_id = dict(zip((run.id for run in runs), names, strict=True))
    seeds = tuple(seeds_of(runs, by_id, {entry.id: entry.metrics for entry in entries}))
    ranked = standings(entries, seeds, pairs, len(first.test_labels))
    found = context.neighbours.get(first.fingerprint)
    return Group(
        test_digest=digest,
        dataset=first.dataset["name"],
        source=first.dataset,
        note=first.dataset["note"],
        limit=first.dataset["limit"],
        class_names=first.class_names,
        test_images=len(first.test_labels),
        looks=context.looks.get(digest, 0),
        looks_doubt=context.looks_doubt,
        answer=answer(entries, ranked, pairs, _chosen(runs)),
        entries=tuple(entries),
        pairs=pairs,
        seeds=seeds,
        ladder=tuple(ladder(firsts, entries)),
        galleries=tuple(galleries(firsts, by_id, context.caches.get(first.fingerprint), found)),
        duplicates=None if found is None else _duplicates(found, first, best.name),
        evaluations=_evaluations(runs, by_id, context),
        map=context.maps.get(first.id),
    )


def _chosen(runs: Sequence[Run]) -> list[str]:
    """The ids of the runs that validation chooses; several in a tie, the chosen one first."""
    ranked = ranked_on_validation(runs)
    return [each.runs[0].id for each in ranked if each.accuracy == ranked[0].accuracy]


def _evaluations(
    runs: Sequence[Run], names: Mapping[str, str], context: ReportContext
) -> tuple[dict[str, Any], ...]:
    """The evaluations of these runs, with the run's ``name``, the images in ``on``, and a ``sentence``."""
    digests: dict[str, set[str]] = defaultdict(set)  # by dataset name; several if a folder has changed
    for each in context.evaluations:
        digests[each["dataset"]["name"]].add(each["test_digest"])
    found = []
    for run in runs:
        for each in context.evaluations:
            if each["run"] != run.folder:
                continue
            on, digest = each["dataset"]["name"], each["test_digest"]
            item = {name: value for name, value in each.items() if name not in ("format", "sha256")} | {
                "id": run.id,
                "name": names[run.id],
                "on": on if len(digests[on]) == 1 else f"{on} {digest[:6]}",
                "looks": max(each["looks"], context.looks.get(digest, 0)),
            }
            found.append(item | {"sentence": elsewhere(item)})
    return tuple(found)


def _duplicates(found: Neighbours, run: Run, name: str) -> dict[str, Any]:
    """The number of near-duplicates of test images in the training split, and accuracy without them."""
    rows, told = near_duplicates(found), not crowded(found)
    correct = is_right(run)
    rest = np.delete(correct, rows)
    return {
        "layer": found.layer,
        "threshold": NEAR_DUPLICATE,
        "rough": (run.spec["backbone"], found.layer, run.spec["image_size"])
        != (DEFAULT, CALIBRATED, CALIBRATED_SIZE),
        "images": len(rows) if told else None,
        "share": len(rows) / len(correct) if told else None,
        "name": name,
        "accuracy": float(correct.mean()),
        "accuracy_without": float(rest.mean()) if told and len(rest) else None,
    }
