"""Reaper: a small process beside a Ray of our own that tidies up when the driver was killed with SIGKILL.

The kernel kills Ray's servers then, and these their workers, but Ray's two agents try to report to the dead servers for over
a minute first. Runs as a script with nothing but the standard library: `python reaper.py FOLDER`, where FOLDER is the one
to remove. Its standard input is a pipe that only the driver holds: "PID START" lines, then "bye" after an orderly end.
"""

from __future__ import annotations

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


def stat_fields(pid: int) -> list[str]:
    """/proc/PID/stat from the state on: [0] state, [1] parent, [19] start time in ticks since boot. Empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def descendants(pid: int) -> dict[int, str]:
    """Live descendants of a process, each with its start time. Empty where there is no /proc."""
    children: dict[int, list[tuple[int, str]]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        fields = stat_fields(int(folder.name))
        if fields and fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append((int(folder.name), fields[19]))
    found: dict[int, str] = {}
    todo = [pid]
    while todo:
        for child, start in children.get(todo.pop(), []):
            found[child] = start
            todo.append(child)
    return found


@contextmanager
def reaper(folder: Path) -> Iterator[IO[str]]:
    """Run the reaper for the length of a with block; yields its standard input, for watch()."""
    command = [sys.executable, "-I", "-S", __file__, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdin is not None
    try:
        yield process.stdin
    finally:
        with suppress(BrokenPipeError):  # somebody killed the reaper, and nothing else is amiss
            process.stdin.write("bye\n")
            process.stdin.close()
        process.wait(timeout=10)


def watch(pipe: IO[str]) -> None:
    """Name this process's descendants of now to the reaper."""
    for pid, start in descendants(os.getpid()).items():
        pipe.write(f"{pid} {start}\n")
    pipe.flush()


def main(folder: str, pipe: IO[str]) -> None:
    """Wait for the driver's end; unless it was orderly, kill what is left of its processes and remove the folder."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lines = pipe.read().splitlines()
    if "bye" in lines:
        return
    time.sleep(PATIENCE_SECONDS)
    for pid, start in (line.split() for line in lines):
        fields = stat_fields(int(pid))
        if (
            fields and fields[19] == start and int(pid) != os.getpid()
        ):  # else the number belongs to somebody else by now
            os.kill(int(pid), signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.stdin)
