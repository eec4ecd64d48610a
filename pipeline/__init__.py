"""The front door: the command line and the stages it calls."""
