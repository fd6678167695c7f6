"""`convert` in one process, without Ray, for tests that kill it: python -m tests.storage_run KILL_AFTER_SPANS WORDS...

KILL_AFTER_SPANS: the process kills itself before the span after so many, 0: it does not
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import Any

import torch

from run_pipeline import main
from tests.here import DeskHere, PoolHere
from workers import batch as batches
from workers import batch_run


def stand_in(patch: Any) -> None:  # noqa: ANN401 - setattr, or pytest's
    """Let `convert` do everything here. patch: called as setattr is"""
    cluster = type("Cluster", (), {"gpus": 0, "cpus": 1, "local": True, "check": lambda _: None})()
    patch(batches, "connect", lambda *_, **__: contextlib.nullcontext(cluster))
    patch(batches, "SpanPool", PoolHere)
    patch(batch_run, "FileDesk", DeskHere)


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
