"""What a report shows besides the runs."""
