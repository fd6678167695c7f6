"""On disk: making sure that what was written survives a power cut, however long a slow disk takes over it."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from pathlib import Path

from pipeline.heartbeat import beat

PIECE_BYTES = 64 * 2**20
WAIT_WRITE_WAIT = 7
"""Flags of sync_file_range(2): wait for what is being written, write the rest, wait for that."""
NOT_HERE = frozenset({errno.ENOSYS, errno.EINVAL, errno.ESPIPE, errno.EOPNOTSUPP})


def sync(path: Path) -> None:
    """fsync a file or a folder by name. A large file goes to the disk in pieces before, a beat after each. OSError as fsync does."""
    handle = os.open(path, os.O_RDONLY)
    try:
        facts = os.fstat(handle)
        if stat.S_ISREG(facts.st_mode) and facts.st_size > PIECE_BYTES:
            _write_out(handle, facts.st_size, str(path))
        os.fsync(handle)
        beat()
    finally:
        os.close(handle)


def _write_out(handle: int, size: int, name: str) -> None:
    """Have the kernel write a file's pages, where it knows how; it says nothing of the file's own size and place, so fsync follows."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "sync_file_range"):
        return
    libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    for start in range(0, size, PIECE_BYTES):
        if libc.sync_file_range(handle, start, PIECE_BYTES, WAIT_WRITE_WAIT):
            code = ctypes.get_errno()
            if code in NOT_HERE:
                return
            raise OSError(code, os.strerror(code), name)  # told once: fsync would not say it again
        beat()
