"""Frozen networks: what each is, and how any of them turns images into embeddings."""
