"""Runs in, pages out: numbers, figures, and the report that holds both."""
