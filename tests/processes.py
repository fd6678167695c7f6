"""What processes there are, from /proc: for tests that kill."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

NICENESS = "RAY_worker_niceness"
"""Ray's workers give way to everybody else by 15, which on a busy machine may be for ever."""


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


def usual_environment() -> dict[str, str]:
    """This process' environment without Ray's words, but for one: its workers do not give way."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {NICENESS: "0"}


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, the same as an IPv6 address, and ::1, as the kernel writes them."""


def listening(pids: set[int]) -> set[tuple[str, int]]:
    """(local address in the kernel's hexadecimal, port) of the TCP sockets that these processes listen on."""
    inodes = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    inodes.add(str(link.readlink()))
    rows = [row.split() for name in ("tcp", "tcp6") for row in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    places = [row[1].split(":") for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes]
    return {(address, int(port, 16)) for address, port in places}
