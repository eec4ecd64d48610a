"""Images in, embeddings out: datasets, frozen networks and the HDF5 cache."""

from typing import TYPE_CHECKING

from features.lazy import lazily

if TYPE_CHECKING:
    from features.backbones.extractor import VGG16, Extractor
    from features.cache.embeddings import Embeddings
    from features.datasets.base import Dataset
    from features.datasets.memory import from_arrays, from_indexed
    from features.datasets.registry import open_dataset
    from features.extraction import extract

__all__ = [
    "VGG16",
    "Dataset",
    "Embeddings",
    "Extractor",
    "extract",
    "from_arrays",
    "from_indexed",
    "open_dataset",
]

__getattr__ = lazily(
    __name__,
    {
        "Dataset": "datasets.base",
        "Embeddings": "cache.embeddings",
        "Extractor": "backbones.extractor",
        "VGG16": "backbones.extractor",
        "extract": "extraction",
        "from_arrays": "datasets.memory",
        "from_indexed": "datasets.memory",
        "open_dataset": "datasets.registry",
    },
)
