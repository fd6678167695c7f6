"""A clock that jumps: Python imports this by itself in every process whose PYTHONPATH names this folder.

time.time() differs from the truth by the seconds in the file that SUNVISOR_CLOCK names. Clocks that only go forward (time.monotonic) stay as
they are, as they do when a system's time is set; so do the times of files.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_file = Path(os.environ.get("SUNVISOR_CLOCK", os.devnull))
_time = time.time


def _shifted() -> float:
    try:
        return _time() + float(_file.read_text() or 0)
    except (OSError, ValueError):
        return _time()


time.time = _shifted
