"""Work budget: a work folder that grows past what was foreseen stops its file, before the disk is full for everybody."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import ConversionError

RESERVE_BYTES = 1_000_000_000
RESERVE_SHARE = 0.01
"""What is left free on the disk: the smaller of the two."""
STEP_BYTES, LEAST_STEP_BYTES = 32 * 2**20, 2**16
"""How much more a span writes before its whole folder is counted again: half of the room that is left, within these bounds."""


class Spending:
    """Asks while a span is written, so that one span alone cannot fill the disk either. Raises as check_work, also when it is made.

    folder, limit_bytes: see check_work; files: those that grow, which need not be there yet
    """

    def __init__(self, folder: Path, limit_bytes: int, files: Iterable[Path]) -> None:
        self._folder, self._limit_bytes, self._files = folder, limit_bytes, tuple(files)
        self._ask_at = 0
        self.ask()

    def ask(self) -> None:
        """Call it for every frame: the folder, maybe of thousands of files, is counted only when the own ones have grown by much."""
        own = sum(map(_size, self._files))
        if own < self._ask_at:
            check_disk(self._folder)
            return
        taken = check_work(self._folder, self._limit_bytes)
        room = self._limit_bytes - taken if self._limit_bytes else STEP_BYTES
        self._ask_at = own + max(LEAST_STEP_BYTES, min(STEP_BYTES, room // 2))


def check_work(folder: Path, limit_bytes: int) -> int:
    """Bytes of a work folder. limit_bytes: what its files may take together, 0 = no limit.

    Raises ConversionError when they take more, or when the disk has less than the reserve left; what is done stays.
    """
    size = folder_bytes(folder)
    if 0 < limit_bytes < size:
        raise ConversionError(
            f"{folder}: has grown to {size / 1e6:.0f} MB, past its limit of {limit_bytes / 1e6:.0f} MB (workers.work_limit times the plan's "
            "estimate); this file is stopped. If that is what it needs, raise workers.work_limit, or 0 for none, and run the same command "
            "again: finished spans are kept."
        )
    check_disk(folder)
    return size


def check_disk(folder: Path) -> None:
    """Raises ConversionError when the disk of a folder has less than the reserve left."""
    disk = os.statvfs(folder)
    free, reserve = disk.f_bavail * disk.f_frsize, reserve_bytes(disk.f_blocks * disk.f_frsize)
    if free < reserve:
        raise ConversionError(
            f"{folder}: no space left on the disk but a reserve: {free / 1e6:.0f} MB are free and {reserve / 1e6:.0f} MB stay so; this file is "
            "stopped. Free some and run the same command again, finished spans are kept."
        )


def _size(file: Path) -> int:
    """Bytes of a file, 0 where there is none yet."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


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
