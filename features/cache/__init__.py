"""Embeddings on disk: written whole, proved when read."""
