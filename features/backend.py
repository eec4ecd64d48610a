"""TensorFlow, loaded late and quietly."""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any


def tensorflow() -> Any:
    """The TensorFlow module, imported at the first call (seconds) without its start-up chatter.

    Keras runs on TensorFlow whatever ``KERAS_BACKEND`` says elsewhere. What the C++ side prints
    while it loads is shown only if loading fails.
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
