"""`convert` in one process, without Ray, for tests that kill it: python -m tests.storage_run KILL_AFTER_SPANS WORDS...

KILL_AFTER_SPANS: the process kills itself before the span after so many, 0: it does not
"""

from __future__ import annotations

import os
import signal
import sys

import torch

from run_pipeline import main
from tests.here import PoolHere, stand_in

if __name__ == "__main__":
    torch.set_num_threads(1)
    stand_in(setattr)
    allowed = int(sys.argv[1])
    begun: list[object] = []

    def aside(task: object) -> None:
        begun.append(task)
        if allowed and len(begun) > allowed:
            os.kill(os.getpid(), signal.SIGKILL)

    PoolHere.asides = staticmethod(aside)
    sys.exit(main(["convert", *sys.argv[2:]]))
