"""Classifiers for cached embeddings, by name."""
