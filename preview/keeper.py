"""Keeper: the process in front of the server's. It holds the socket and starts the server again when that crashed, so the page stays.

Sources are read in threads of the server; a codec that crashes ends it. What was open then is told, and after a second time not opened again.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType

from pipeline.errors import ConversionError
from pipeline.parent import end_with

MOST_CRASHES = 2
PAGE_BYTES = 256 << 10
"""Room for the names of all that a server's tabs may have open."""
STOPS = (signal.SIGINT, signal.SIGTERM)


class Notes:
    """Which sources are open, written down where they outlive the process. For any thread. write: takes all of them at each change"""

    def __init__(self, write: Callable[[list[str]], None] = lambda _: None) -> None:
        self._write = write
        self._open: dict[object, str] = {}
        self._lock = threading.Lock()

    def open(self, who: object, source: str) -> None:
        """From now on `who`, a tab or a look, reads this source and no other."""
        with self._lock:
            self._open[who] = source
            self._write(sorted(set(self._open.values())))

    def close(self, who: object) -> None:
        """It reads none."""
        with self._lock:
            self._open.pop(who, None)
            self._write(sorted(set(self._open.values())))


@dataclass(frozen=True)
class Kept:
    """What a server is told of those before it. barred: sources not to be opened; told: what happened, "" for the first server"""

    barred: frozenset[str] = frozenset()
    told: str = ""
    notes: Notes = field(default_factory=Notes)


def keep() -> Kept:
    """Returns in the server's process, a new one after each crash. In this process it ends as the server does, by SystemExit.

    To be called while there is one thread, and before anything dear is loaded. Raises ConversionError when a server crashes before a
    source is open, which starting again does not mend; KeyboardInterrupt when it had no time to end in order.
    """
    page = mmap.mmap(-1, PAGE_BYTES)  # shared by both processes
    crashes: Counter[str] = Counter()
    told = ""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    while True:
        _write(page, [])
        keeper, server = os.getpid(), os.fork()
        if server == 0:
            _begin(keeper)
            barred = frozenset(name for name, count in crashes.items() if count >= MOST_CRASHES)
            return Kept(barred, told, Notes(lambda names: _write(page, names)))
        code = _wait(server)
        if code >= 0:
            sys.exit(code)  # the server has said all that there was to say
        names = _read(page)
        why = f"The preview's server died ({signal.Signals(-code).name})"
        if not names:
            raise ConversionError(f"{why} before anything was open.")
        crashes.update(names)
        told = f"{why} while {', '.join(names)} was open, and was started again."
        for name in names:
            if crashes[name] >= MOST_CRASHES:
                told += f" {name} is not opened any more: this was the second time."
        sys.stderr.write(f"{told}\n")
        sys.stderr.flush()


def _begin(keeper: int) -> None:
    """What a server's process begins with: it ends with the keeper, which alone acts on Ctrl-C and says so by SIGTERM."""
    end_with(keeper)
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


def _wait(server: int) -> int:
    """Its exit code, or minus the signal that it died of. Raises KeyboardInterrupt when it died of being told to end."""
    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        with suppress(ProcessLookupError):
            os.kill(server, signal.SIGTERM)

    for number in STOPS:
        signal.signal(number, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    code = os.waitstatus_to_exitcode(os.waitpid(server, 0)[1])
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # until the next server is there to be told
    if code < 0 and (stopped or -code in STOPS):
        raise KeyboardInterrupt
    return code


def _write(page: mmap.mmap, names: list[str]) -> None:
    text = json.dumps(names).encode() + b"\n"
    page[: len(text)] = text


def _read(page: mmap.mmap) -> list[str]:
    return json.loads(page[: page.find(b"\n")])
