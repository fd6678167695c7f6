"""A clock that jumps: Python imports this by itself in every process whose PYTHONPATH names this folder.

time.time() and what is derived from it differ from the truth by the seconds in the file that SUNVISOR_CLOCK names. Clocks that only go
forward (time.monotonic) stay as they are, as they do when a system's time is set; so do the times of files.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_file = Path(os.environ.get("SUNVISOR_CLOCK", os.devnull))
_time, _localtime, _strftime = time.time, time.localtime, time.strftime


def _shifted() -> float:
    try:
        return _time() + float(_file.read_text() or 0)
    except (OSError, ValueError):
        return _time()


time.time = _shifted
time.localtime = lambda seconds=None: _localtime(_shifted() if seconds is None else seconds)
time.strftime = lambda form, when=None: _strftime(form, time.localtime() if when is None else when)
