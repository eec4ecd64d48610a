"""Datasets of labelled images: from folders, archives, lists, buckets and arrays."""
