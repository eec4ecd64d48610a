"""The context of a report: learning curves, caches, neighbours, maps, evaluations, images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from features.cache.embeddings import Embeddings, canonical, canonical_digest
from features.datasets.cifar import ARCHIVED
from features.errors import UserError
from features.files import file_digest
from features.progress import say
from models import curve
from models.runs import looks
from models.runs.run import Run
from reports.context import evaluations
from reports.context.neighbours import Neighbours
from reports.context.thumbnails import Pictures, whereabouts


@dataclass
class ReportContext:
    """What is known besides the runs; each part may be missing.

    Attributes
    ----------
    looks : number of final predictions so far, by test digest.
    looks_doubt : why there may have been more, in a phrase, or empty.
    curves : learning curves, by the run's folder.
    caches : open embeddings, by fingerprint.
    neighbours : the training images nearest to each test image, by fingerprint.
    maps : 2-D maps of test embeddings, by the run's id.
    evaluations : scores of the runs on other labelled images (``context/evaluations.py``).
    archive : path of CIFAR's archive, as in ``ARCHIVE=``, or None.
    """

    looks: dict[str, int] = field(default_factory=dict)
    looks_doubt: str = ""
    curves: dict[str, curve.Curve] = field(default_factory=dict)
    caches: dict[str, Embeddings] = field(default_factory=dict)
    neighbours: dict[str, Neighbours] = field(default_factory=dict)
    maps: dict[str, dict[str, Any]] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    archive: str | None = None

    def pictures(self, run: Run) -> Pictures:
        """Thumbnails of the run's images; CIFAR's archive is ``archive``, or looked for."""
        return Pictures(run.dataset, *self._archives(run.dataset["source"]))

    def whereabouts(self, run: Run) -> list[Any]:
        """JSON values that change when :meth:`pictures` would find other files; cheap to compute."""
        return whereabouts(run.dataset["source"], *self._archives(run.dataset["source"]))

    def _archives(self, source: str) -> tuple[str | None, list[str]]:
        if source not in ARCHIVED:
            return None, []
        remembered = {
            str(cache.provenance["archive"])
            for cache in self.caches.values()
            if cache.dataset.get("source") == source and cache.provenance.get("archive")
        }
        return self.archive, sorted(remembered)

    def look_closer(self, run: Run, memory: int | str | None = None) -> None:
        """Add neighbours and map for the embeddings of this run; they are stored beside the cache.

        Parameters
        ----------
        memory : limit of each in bytes, or as in ``4GB``; None: the free memory less a tenth. There is no map
            if its sample does not fit.
        """
        cache = self.caches.get(run.fingerprint)
        if cache is None:
            return
        from reports.context.embedding_map import embedding_map
        from reports.context.neighbours import neighbours

        try:
            found = neighbours(cache, memory)
            layers = [layer for layer in run.layers if layer in cache.layers]
            drawn = embedding_map(cache, layers, run.test_labels, memory)
            cache.ids("train", []), cache.ids("test", []), cache.labels()  # for the galleries: all are whole
        except UserError as error:
            say(f"note: {error}; the report has no neighbours and no map")
            del self.caches[run.fingerprint]
            return
        self.neighbours[run.fingerprint] = found
        if drawn is None:
            return
        said = run.test_proba[drawn.rows].argmax(axis=1)
        labels = run.test_labels[drawn.rows]
        self.maps[run.id] = {
            "layers": layers,
            "rows": drawn.rows.tolist(),
            "labels": labels.tolist(),
            "wrong": (said != labels).tolist(),
            "pca": drawn.pca.round(4).tolist(),
            "tsne": drawn.tsne.round(4).tolist(),
            "explained": list(drawn.explained),
        }


def gather(
    runs: Sequence[Run], root: str | Path, caches: str | Path, archive: str | None = None
) -> ReportContext:
    """Collect what is stored besides the runs: learning curves, caches, evaluations.

    Damaged files are skipped with a note.

    Parameters
    ----------
    runs : the runs of the report.
    root : the folder of all runs.
    caches : the folder of embeddings.
    archive : path of CIFAR's archive, for thumbnails; None: look for it.

    Returns
    -------
    ReportContext
        For :func:`build`.

    Examples
    --------
    >>> from models import load_all
    >>> from reports import gather
    >>> runs = load_all("out/runs")
    >>> context = gather(runs, "out/runs", "out/embeddings")
    >>> len(context.caches)
    1
    """
    root, caches = Path(root), Path(caches)
    scored = evaluations.load_all(root, runs)
    noted = looks.read(root)
    doubt = noted.doubt([run.look for run in runs], {each["test_digest"]: each["looks"] for each in scored})
    if doubt:
        say(f"note: {doubt}: test splits may have been predicted more often than the report can count")
    digests = [run.test_digest for run in runs] + [each["test_digest"] for each in scored]
    counts = {digest: noted.counts[digest] for digest in dict.fromkeys(digests)}
    found = ReportContext(looks=counts, looks_doubt=doubt, evaluations=scored, archive=archive)
    for run in runs:
        try:
            points = curve.load(root, run)
        except UserError as error:
            say(f"note: {error}")
            continue
        if points is not None:
            found.curves[run.folder] = points
    wanted = {run.fingerprint for run in runs}
    for path in sorted(caches.glob("*.h5")):
        try:
            cache = Embeddings(path)
        except UserError as error:
            say(f"note: {error}")
            continue
        if cache.fingerprint in wanted:
            found.caches[cache.fingerprint] = cache
    return found


def state_of(runs: Sequence[Run], context: ReportContext, form: str) -> str:
    """Hex SHA-256 over everything that determines a report, including its CSV format and this code."""
    code = Path(__file__).parents[1]
    sources = sorted([*code.rglob("*.py"), *code.rglob("templates/*"), *code.parent.glob("models/**/*.py")])
    state = [
        [(run.folder, run.seconds, run.command) for run in runs],
        form,
        [context.looks, context.looks_doubt],
        [found["sha256"] for found in context.evaluations],
        {name: [found.points, sorted(found.rows)] for name, found in context.curves.items()},
        sorted((name, cache.provenance) for name, cache in context.caches.items()),
        sorted({canonical(context.whereabouts(run)) for run in runs}),
        [file_digest(path) for path in sources],
    ]
    return canonical_digest(state)
