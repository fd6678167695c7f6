"""Ending: an end of Ray that takes too long is hurried, then given up. What is done is safe by then, and nobody may be there to press Ctrl-C."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

HURRY_SECONDS = 120.0
"""From the call of ray.shutdown(), which usually takes one or two."""
GIVE_UP_SECONDS = 240.0


@contextmanager
def bounded(processes: list[subprocess.Popen]) -> Iterator[None]:
    """Whatever waits for a Ray's end within the with block ends: after HURRY_SECONDS those processes are killed, and after
    GIVE_UP_SECONDS this one ends with exit code 1; the reaper tidies up behind it.

    processes: of the Ray that this process started; of somebody's cluster none
    """
    timers = [threading.Timer(HURRY_SECONDS, _kill, [processes]), threading.Timer(GIVE_UP_SECONDS, _give_up)]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def _kill(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        process.kill()


def _give_up() -> None:
    sys.stderr.write(
        f"Ray has not ended for {GIVE_UP_SECONDS:g} s, so this process ends without a report. What was delivered is whole; "
        "run the same command again for the rest and the report.\n"
    )
    sys.stderr.flush()
    os._exit(1)
