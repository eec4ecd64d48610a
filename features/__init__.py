"""Images in, embeddings out: datasets, weights, the frozen network and the HDF5 cache."""
