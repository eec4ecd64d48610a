"""Embeddings in, fitted heads out: the heads, how they are chosen, and what a run keeps."""

from typing import TYPE_CHECKING

from features.lazy import lazily

if TYPE_CHECKING:
    from models.heads.registry import HEADS, Head
    from models.runs.predictor import Predictor
    from models.runs.run import Run, load_all
    from models.selection import TrainSplit, train

__all__ = ["HEADS", "Head", "Predictor", "Run", "TrainSplit", "load_all", "train"]

__getattr__ = lazily(
    __name__,
    {
        "HEADS": "heads.registry",
        "Head": "heads.registry",
        "Predictor": "runs.predictor",
        "Run": "runs.run",
        "TrainSplit": "selection",
        "load_all": "runs.run",
        "train": "selection",
    },
)
