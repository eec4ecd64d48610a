"""TensorFlow, imported on first use and without its start-up messages."""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any


def tensorflow() -> Any:
    """The TensorFlow module, imported at the first call, which takes seconds.

    Keras uses TensorFlow whatever ``KERAS_BACKEND`` says. Messages of TensorFlow's C++ libraries are shown
    only if the import fails.
    """
    if "tensorflow" in sys.modules:
        return sys.modules["tensorflow"]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            import tensorflow
        except BaseException:
            chatter.seek(0)
            os.write(kept, chatter.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
    return tensorflow
