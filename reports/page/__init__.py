"""The report as pages and tables."""
