"""What was trained on what, kept as data."""
