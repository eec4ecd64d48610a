"""Runs: a fitted head with its configuration and its predictions, stored as data."""
