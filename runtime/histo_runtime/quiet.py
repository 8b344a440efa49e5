"""Keep the chatter of native libraries off the terminal of a command, without losing it when they fail.

TensorFlow writes to file descriptor 2 while it is being imported, before any log level applies. Only commands
use this: a descriptor belongs to the whole process, so a library must not take it from its host.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2


@contextmanager
def native_stderr_held() -> Iterator[None]:
    """Hold back what is written to file descriptor 2; when the body fails, write it out after all."""
    if sys.stderr is None:  # closed, as a daemon's may be: descriptor 2 is none, or another file's
        yield
        return
    sys.stderr.flush()
    saved = os.dup(_STDERR)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), _STDERR)
        try:
            yield
        except Exception:
            sys.stderr.flush()
            held.seek(0)
            os.write(saved, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, _STDERR)
            os.close(saved)
