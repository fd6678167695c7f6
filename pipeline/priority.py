"""Priority: an encoder must not take the machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_THREADS = Path("/proc/self/task")


@contextlib.contextmanager
def usual_priority() -> Iterator[None]:
    """Threads that start within, and the caller, keep the scheduling that the caller had before.

    SVT-AV1 makes its threads and its caller real-time (SCHED_FIFO, priority 99) where it may, as for root; then nothing else on these
    cores runs while it computes, and processes that are started later inherit it. Does nothing where there is no /proc (not Linux).
    """
    if not _THREADS.is_dir():
        yield
        return
    policy, parameter, earlier = os.sched_getscheduler(0), os.sched_getparam(0), _threads()
    try:
        yield
    finally:
        for thread in {0} | (_threads() - earlier):
            with contextlib.suppress(ProcessLookupError):  # it has ended
                if os.sched_getscheduler(thread) != policy:
                    os.sched_setscheduler(thread, policy, parameter)


def _threads() -> set[int]:
    return {int(one.name) for one in _THREADS.iterdir()}
