"""A plugin of pytest: what runs of Headroom is counted line by line, for libFuzzer (``tests/fuzz.py``).

It is named on pytest's command line, as it has to be there before anything is imported.
"""

import atheris

atheris.instrument_imports(include=["features", "models", "pipeline"]).__enter__()
