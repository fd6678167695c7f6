"""Work budget: a work folder that grows past what was foreseen stops its file, before the disk is full for everybody."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import ConversionError

RESERVE_BYTES = 1_000_000_000
RESERVE_SHARE = 0.01
"""What is left free on the disk: the smaller of the two."""


def check_work(folder: Path, limit_bytes: int) -> None:
    """Call it before a span begins. limit_bytes: what the files of the work folder may take together, 0 = no limit.

    Raises ConversionError when they take more, or when the disk has less than the reserve left; what is done stays.
    """
    size = folder_bytes(folder)
    if 0 < limit_bytes < size:
        raise ConversionError(
            f"{folder}: has grown to {size / 1e6:.0f} MB, past its limit of {limit_bytes / 1e6:.0f} MB (workers.work_limit times the plan's "
            "estimate); this file is stopped. If that is what it needs, raise workers.work_limit, or 0 for none, and run the same command "
            "again: finished spans are kept."
        )
    disk = os.statvfs(folder)
    free, reserve = disk.f_bavail * disk.f_frsize, reserve_bytes(disk.f_blocks * disk.f_frsize)
    if free < reserve:
        raise ConversionError(
            f"{folder}: no space left on the disk but a reserve: {free / 1e6:.0f} MB are free and {reserve / 1e6:.0f} MB stay so; this file is "
            "stopped. Free some and run the same command again, finished spans are kept."
        )


def folder_bytes(folder: Path) -> int:
    """Bytes of the files in a folder, those in folders below it left out; one that vanishes meanwhile counts nothing."""
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                total += entry.stat(follow_symlinks=False).st_size if entry.is_file(follow_symlinks=False) else 0
            except FileNotFoundError:
                continue
    return total


def reserve_bytes(disk_bytes: int) -> int:
    """What stays free on a disk of that size."""
    return min(RESERVE_BYTES, round(disk_bytes * RESERVE_SHARE))
