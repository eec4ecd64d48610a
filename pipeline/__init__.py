"""The command line and the stages it calls."""
