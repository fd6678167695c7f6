"""Heartbeat: work says that it goes on. Who started the process may look, and end it when nothing has moved for long.

A beat is one store to memory, without a lock; where nobody looks it does nothing else.
"""

from __future__ import annotations

import mmap
import os
import sys
import time
from array import array

_BYTES = 8
_cell: memoryview = memoryview(array("q", [0]))


def beat() -> None:
    """Say that a piece of work is done: a packet, a frame, a block of bytes. Call it from any thread, every few seconds at least."""
    _cell[0] = time.monotonic_ns()


def last_beat() -> int:
    """Changes with every beat of this process, and means nothing else; 0 before the first."""
    return _cell[0]


def shared_memory() -> int:
    """A descriptor of memory for the beats of another process, which inherits it. Close it when it is not needed any more."""
    handle = os.memfd_create("sunvisor-heartbeat")
    os.ftruncate(handle, _BYTES)
    return handle


def share(handle: int) -> None:
    """Beats of this process go into memory that somebody else made, from now on. handle: see `shared_memory`; it may be closed then"""
    global _cell
    _cell = memoryview(mmap.mmap(handle, _BYTES)).cast("q")


def beat_of(handle: int) -> int:
    """As `last_beat`, of the process that was given this memory; it need not be able to answer."""
    return int.from_bytes(os.pread(handle, _BYTES, 0), sys.byteorder, signed=True)


def beat_on_imports() -> None:
    """Every module that this process imports from now on is a beat: from a slow disk, heavy ones take minutes."""
    if not any(isinstance(one, _BeatingFinder) for one in sys.meta_path):
        sys.meta_path.insert(0, _BeatingFinder())


class _BeatingFinder:
    """Finds nothing, and leaves it to the others."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        beat()
