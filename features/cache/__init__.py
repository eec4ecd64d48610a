"""The cache of embeddings on disk, in HDF5: atomic writes, checksums verified on reading."""
