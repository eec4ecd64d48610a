"""Executors: what runs the extraction, in this process or distributed over several."""
