"""Embeddings in, fitted heads out: classifier heads, model selection, and stored runs."""

from typing import TYPE_CHECKING

from features.lazy import lazily

if TYPE_CHECKING:
    from models.heads.estimator import EstimatorHead
    from models.heads.registry import HEADS, Head
    from models.runs.collection import load_all
    from models.runs.predictor import Predictor
    from models.runs.run import Run
    from models.runs.saving import save
    from models.selection import train
    from models.trainsplit import TrainSplit

__all__ = ["HEADS", "EstimatorHead", "Head", "Predictor", "Run", "TrainSplit", "load_all", "save", "train"]

__getattr__ = lazily(
    __name__,
    {
        "EstimatorHead": "heads.estimator",
        "HEADS": "heads.registry",
        "Head": "heads.registry",
        "Predictor": "runs.predictor",
        "Run": "runs.run",
        "TrainSplit": "trainsplit",
        "load_all": "runs.collection",
        "save": "runs.saving",
        "train": "selection",
    },
)
