"""All runs in a folder, and search for a run by its identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.cache.embeddings import slug
from features.errors import UserError
from features.progress import say
from models.runs.changes import clear_up_if_free
from models.runs.identity import id_of, in_order
from models.runs.run import Run
from models.runs.saving import load


def load_all(root: str | Path) -> list[Run]:
    """Load all runs below ``root``, without fitted heads, sorted by folder name.

    Damaged runs, copies, and votes with members that were trained again are skipped with a note; other
    folders are ignored.

    Parameters
    ----------
    root : the folder of all runs.

    Returns
    -------
    list of Run
        Empty if there are none.

    Examples
    --------
    >>> from models import load_all
    >>> [(run.head, run.seed) for run in load_all("out/runs")]
    [('centroid', 0), ('ridge', 0)]
    """
    root = Path(root)
    clear_up_if_free(root)
    runs: dict[str, Run] = {}
    ids: dict[str, str] = {}
    for path in sorted(root.glob("[!.]*/run.json")):
        folder = path.parent.name
        try:
            run = load(path.parent)
            if run.folder != folder:
                raise UserError(f"{path.parent} was copied or renamed, expected the name {run.folder}")
            if run.id in ids:  # one dataset under two names
                raise UserError(f"{path.parent} is the same run as {ids[run.id]}; remove one of them")
            runs[folder], ids[run.id] = run, folder
        except UserError as error:
            say(f"note: passed over: {error}")
    for folder in [folder for folder, run in runs.items() if is_outdated(run, runs)]:
        say(f"note: passed over: {folder}: a member was trained again; take the vote again")
        del runs[folder]
    return list(runs.values())


def is_outdated(vote: Run, runs: Mapping[str, Run]) -> bool:
    """Whether all members of a vote are among these runs (by folder), but predict something else now."""
    if not vote.members or not set(vote.members) <= set(runs):
        return False
    now = mean([(runs[folder].test_scaled, weight) for folder, weight in vote.members.items()])
    return not agree(now, vote.test_proba)


def agree(one: NDArray[np.float64], two: NDArray[np.float64]) -> bool:
    """Whether two arrays of probabilities are equal up to rounding errors."""
    return bool(np.allclose(one, two, rtol=0, atol=1e-9))


def mean(parts: Sequence[tuple[NDArray[np.float64], float]]) -> NDArray[np.float64]:
    """The weighted mean of arrays of probabilities ``(n, k)``, each with its weight."""
    return np.asarray(sum(weight * proba for proba, weight in parts))


def find(root: Path, identity: dict[str, Any]) -> Path | None:
    """The folder of an intact run with this identity (``identity.py``), or None.

    If there is none, a run of an earlier version with the same layers in another order is accepted.
    """
    clear_up_if_free(root)
    own, asked = f"-{id_of(identity)}", in_order(identity)
    paths = root.glob(f"[!.]*-{slug(identity['head'])}-seed{identity['seed']}-*/run.json")
    for path in sorted(paths, key=lambda path: (not path.parent.name.endswith(own), path)):
        try:
            run = load(path.parent)
            if run.folder == path.parent.name and id_of(in_order(vars(run))) == id_of(asked):
                return path.parent
        except UserError:
            continue  # damaged: it is trained again
    return None
