"""Numbers, intervals and tests; each computed here and once."""
