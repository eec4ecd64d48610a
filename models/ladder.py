"""The ablation ladder: runs that lead from the baseline to the best result step by step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from features.backbones.registry import BACKBONES, DEFAULT
from models.runs.run import Run

FIXED = (
    "backbone",
    "layers",
    "preprocess",
    "image_size",
    "mirror",
    "head",
    "set",
)  # variables that the rungs set


@dataclass(frozen=True)
class Rung:
    """One step of the ladder, and the run that measures it.

    Attributes
    ----------
    title : the change, in words.
    features : ``layers``, ``preprocess`` and ``image_size`` of the network; without mirroring.
    head, settings : the head, and parameters that differ from its defaults.
    sibling : the next rung is compared with the rung below this one, not with this one.
    """

    title: str
    features: dict[str, Any]
    head: str
    settings: dict[str, Any] = field(default_factory=dict)
    sibling: bool = False


NETWORK = BACKBONES[DEFAULT]
EARLY, MIDDLE, LAST = NETWORK.layers.split(",")
UNIT = {"layers": LAST, "preprocess": "unit", "image_size": 32}
IMAGENET = UNIT | {"preprocess": "imagenet"}
LAYERS = IMAGENET | {"layers": NETWORK.layers}
PIXELS = IMAGENET | {"layers": f"{NETWORK.layers}@2", "image_size": 64}


def _suspected(title: str, **settings: Any) -> Rung:
    """A variant of the baseline with one suspected cause changed."""
    return Rung(title, UNIT, "baseline", settings, sibling=True)


RUNGS = (
    Rung("the baseline: 256 ReLU units, plain SGD, 10 epochs", UNIT, "baseline"),
    _suspected("learning rate 0.1, not 0.01", learning_rate=0.1),
    _suspected("learning rate 0.001, not 0.01", learning_rate=0.001),
    _suspected("batches of 32, not 128", batch_size=32),
    _suspected("30 epochs, not 10", epochs=30),
    _suspected(
        "learning rate 0.1, batches of 32 and 30 epochs at once", learning_rate=0.1, batch_size=32, epochs=30
    ),
    Rung("the same vectors, fitted properly: logistic regression", UNIT, "logistic"),
    Rung("ImageNet's preprocessing, not pixels / 255", IMAGENET, "logistic"),
    Rung(f"more layers: {EARLY} and {MIDDLE} beside {LAST}", LAYERS, "logistic"),
    Rung("a better head: dense", LAYERS, "dense"),
    Rung(f"more pixels: 64, not 32, and {LAST} as a 2 x 2 grid", PIXELS, "dense"),
)


def network(rung: Rung) -> dict[str, Any]:
    """Network options for a pass that has the layers of all rungs with this preprocessing and size."""
    layers = {
        layer
        for other in RUNGS
        if other.features | {"layers": ""} == rung.features | {"layers": ""}
        for layer in other.features["layers"].split(",")
    }
    return rung.features | {"layers": ",".join(sorted(layers))}


def matches(rung: Rung, run: Run) -> bool:
    """Whether a run matches a rung, on any dataset and with any seed."""
    return (
        run.head == rung.head
        and run.spec["backbone"] == NETWORK.name
        and set(run.layers) == set(rung.features["layers"].split(","))
        and all(run.spec.get(name) == rung.features[name] for name in ("preprocess", "image_size"))
        and not run.spec.get("mirror")
        and run.is_set_as(rung.settings, {})
    )
