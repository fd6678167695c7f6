"""Reaper: a small process beside a Ray of our own that tidies up when the driver was killed with SIGKILL.

The kernel kills Ray's servers then, and these their workers, but Ray's two agents try to report to the dead servers for over a
minute first; so they do when ray.init() is interrupted half-way. Runs as a script with nothing but the standard library:
`python reaper.py FOLDER`, where FOLDER is the one to remove; Ray's processes carry its name in their environment and log into it. Its standard
input is a pipe that only the driver holds; "bye" comes through it after an orderly end.

Where the reaper was killed as well, the next run tidies up: a driver holds the lock of its folder while it lives.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

PATIENCE_SECONDS = 2.0
REAPER_SECONDS = 20.0
ROUNDS = 50  # of a tenth of a second: a process may be in the middle of starting another
MARK = "SUNVISOR_RAY_FOLDER"
PREFIX = "sunvisor-ray-"
LOCK = "driver.lock"


def belonging(folder: str, driver: int) -> list[int]:
    """Live processes of the Ray in that folder, all but this one and the driver: started with MARK=folder in their environment, or
    with a file below the folder open for writing. (Processes that set their title, as Ray's agents do, write it over their
    environment as /proc shows it; they have their logs open. So has the driver.) Empty where there is no /proc.
    """
    mark = f"{MARK}={folder}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if int(entry.name) in (os.getpid(), driver):
                continue
            if mark in (entry / "environ").read_bytes().split(b"\0") or _writes_below(entry, folder):
                found.append(int(entry.name))
    return found


def _writes_below(process: Path, folder: str) -> bool:
    for descriptor in (process / "fd").iterdir():
        with suppress(FileNotFoundError):
            if str(descriptor.readlink()).startswith(f"{folder}{os.sep}"):
                facts = (process / "fdinfo" / descriptor.name).read_text()
                flags = next(line.split()[1] for line in facts.splitlines() if line.startswith("flags:"))
                if int(flags, 8) & os.O_ACCMODE != os.O_RDONLY:
                    return True
    return False


@contextmanager
def reaper(folder: Path) -> Iterator[None]:
    """Run the reaper for the length of a with block; every process that is started in it carries the mark."""
    command = [sys.executable, "-I", "-S", __file__, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdin is not None
    os.environ[MARK] = str(folder)
    try:
        yield
    finally:
        del os.environ[MARK]
        with suppress(BrokenPipeError):  # somebody killed the reaper, and nothing else is amiss
            process.stdin.write("bye\n")
            process.stdin.close()
        with suppress(subprocess.TimeoutExpired):  # something of Ray's hangs in the kernel: it waits for that alone
            process.wait(timeout=REAPER_SECONDS)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the folder's lock for the length of a with block, or until this process is killed."""
    lock = folder / f"{LOCK}.new"
    lock.touch()
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        lock.rename(folder / LOCK)  # nobody sees it unheld
        yield


def sweep(temporary: Path) -> None:
    """Remove the folders of one's own whose drivers are gone, and what is left of their Rays. Other users' folders, and folders that
    were never locked, are let be.
    """
    for folder in temporary.glob(f"{PREFIX}*"):
        with suppress(OSError):  # gone or being swept by another, held by a live driver (BlockingIOError), never locked
            if folder.lstat().st_uid != os.getuid():
                continue
            with (folder / LOCK).open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _tidy(str(folder), os.getpid())


def main(folder: str, pipe: IO[str]) -> None:
    """Wait for the driver's end, then kill what is left of its Ray and remove the folder."""
    driver = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if "bye" not in pipe.read():
        time.sleep(PATIENCE_SECONDS)  # the driver was killed; what can end by itself may
    _tidy(folder, driver)


def _tidy(folder: str, driver: int) -> None:
    for _ in range(ROUNDS):
        left = belonging(folder, driver)
        if not left:
            break
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.stdin)
