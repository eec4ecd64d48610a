"""Order of runs by test accuracy, their names, and variation over seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.heads.registry import known
from models.runs.configurations import by_configuration, configuration
from models.runs.run import Run
from reports.statistics.metrics import LEVEL

NETWORK, SIZE = 0, 2  # positions in the result of _traits


@dataclass(frozen=True)
class Seeds:
    """A configuration with several seeds: mean accuracy, standard deviation, 95% t interval of the mean.

    ``metrics`` has ``mean`` and ``deviation`` of further metrics by name, such as ``macro_f1``.
    """

    name: str
    ids: tuple[str, ...]
    mean: float
    deviation: float
    low: float
    high: float
    metrics: dict[str, dict[str, float]]


def best_first(runs: Sequence[Run]) -> list[Run]:
    """Runs by descending test accuracy; several seeds are ranked by their mean, never by the best."""
    means = {
        key: float(np.mean([accuracy(run) for run in same])) for key, same in by_configuration(runs).items()
    }
    return sorted(runs, key=lambda run: (-means[configuration(run)], configuration(run), run.seed))


def names_of(runs: Sequence[Run]) -> list[str]:
    """A short name for each run: the head, and the properties that distinguish runs with the same head.

    If the runs use several networks, each name has the network and input size, and the properties that
    distinguish it from runs with the same head, network and size.
    """
    names = []
    always = (NETWORK, SIZE) if len({run.spec["backbone"] for run in runs}) > 1 else ()
    for run in runs:
        own = _traits(run)
        same = [_traits(other) for other in runs if other.head == run.head]
        same = [other for other in same if all(other[place] == own[place] for place in always)]
        telling = [
            trait
            for place, trait in enumerate(own)
            if trait and (place in always or len({other[place] for other in same}) > 1)
        ]
        names.append(f"{run.head} ({', '.join(telling)})" if telling else run.head)
    doubled = {name for name, count in Counter(names).items() if count > 1}
    return [
        f"{name} {run.id[:6]}" if name in doubled else name for name, run in zip(names, runs, strict=True)
    ]


def first_seeds(runs: Sequence[Run]) -> list[Run]:
    """The run with the lowest seed of each configuration, in the given order."""
    lowest = {key: min(same, key=lambda run: run.seed) for key, same in by_configuration(runs).items()}
    return [run for run in runs if lowest[configuration(run)] is run]


def seeds_of(
    runs: Sequence[Run], names: Mapping[str, str], metrics: Mapping[str, Mapping[str, float]]
) -> list[Seeds]:
    """The configurations with several seeds, highest mean accuracy first.

    Parameters
    ----------
    names, metrics : mappings
        The name and the metrics of each run, by its id.
    """
    from scipy.stats import t

    found = []
    for same in by_configuration(runs).values():
        if len(same) < 2:
            continue
        same = sorted(same, key=lambda run: run.seed)
        values = np.array([accuracy(run) for run in same])
        deviation = float(values.std(ddof=1))
        half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * deviation / len(values) ** 0.5
        mean = float(values.mean())
        name = (
            names[same[0].id].replace(f", seed {same[0].seed})", ")").replace(f" (seed {same[0].seed})", "")
        )
        ids = tuple(run.id for run in same)
        others = {metric: _spread([metrics[id][metric] for id in ids]) for metric in metrics[ids[0]]}
        found.append(Seeds(name, ids, mean, deviation, mean - half, mean + half, others))
    return sorted(found, key=lambda seeds: -seeds.mean)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "deviation": float(np.std(values, ddof=1))}


def _traits(run: Run) -> tuple[str, ...]:
    """The properties that can distinguish two runs with the same head, in words."""
    entry = known(run.head)
    settings = entry.make_for(run.seed, run.train_rows).get_params() if entry is not None else {}
    changed = [
        f"{name.replace('_', ' ')} {_short(value)}"
        for name, value in run.asked.items()
        if name in settings and name != "random_state" and _short(settings[name]) != _short(value)
    ]
    return (
        run.spec["backbone"],
        " + ".join(run.layers),
        f"{run.spec['image_size']} px",
        run.spec["preprocess"],
        precision_of(run.spec),
        "mirror" if run.spec["mirror"] else "",
        run.spec["weights"],
        f"{run.train_rows:,} images",
        ", ".join(changed),
        f"seed {run.seed}",
    )


def precision_of(spec: Mapping[str, Any]) -> str:
    """The network's precision, and the dtype of stored embeddings if it is not float32."""
    return str(spec["precision"]) + (f", stored as {spec['store']}" if "store" in spec else "")


def _short(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def is_right(run: Run) -> NDArray[np.bool_]:
    """Which test images a run predicts correctly, (n,)."""
    return np.asarray(run.test_proba.argmax(axis=1) == run.test_labels)


def accuracy(run: Run) -> float:
    """Test accuracy of a run."""
    return float(is_right(run).mean())
