"""Ending: an end of Ray that takes too long is hurried, then given up. What is done is safe by then, and nobody may be there to press Ctrl-C."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

HURRY_SECONDS = 120.0
"""From the call of ray.shutdown(), which usually takes one or two, to the killing of Ray's processes."""
GIVE_UP_SECONDS = 45.0
"""From there to the end of this process. Ray itself ends a driver that cannot reach its GCS for 60 s, and says less."""
SHOW_CURSOR = "\x1b[?25h"


@contextmanager
def bounded(processes: list[subprocess.Popen], error: BaseException | None = None) -> Iterator[None]:
    """Whatever waits for a Ray's end within the with block ends: after HURRY_SECONDS those processes are killed, and GIVE_UP_SECONDS
    later this one ends; the reaper tidies up behind it.

    processes: of the Ray that this process started; of somebody's cluster none
    error: why Ray is ended, when not because all is done; its `exit_code`, if it has one, becomes this process', else 1
    """
    done = threading.Event()

    def watch() -> None:
        if done.wait(HURRY_SECONDS):
            return
        for process in processes:
            process.kill()
        if not done.wait(GIVE_UP_SECONDS):
            _give_up(error)

    threading.Thread(target=watch, name="end of ray", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _give_up(error: BaseException | None) -> None:
    why = f" It was to end because of: {str(error).removesuffix('.') or type(error).__name__}." if error else ""
    with suppress(OSError, ValueError):  # nobody may be there to read it
        sys.stderr.write(
            f"{SHOW_CURSOR if sys.stderr.isatty() else ''}Ray has not ended for {HURRY_SECONDS + GIVE_UP_SECONDS:g} s, so this process "
            f"ends without a report.{why} What was delivered is whole; run the same command again for the rest and the report.\n"
        )
        sys.stderr.flush()
    os._exit(getattr(error, "exit_code", 1))
