"""Frozen networks, and the extractor that turns images into embeddings."""
