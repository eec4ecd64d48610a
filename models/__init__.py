"""Embeddings in, fitted heads out: the heads, how they are chosen, and what a run keeps."""
