"""Pulse: what a process answers while it works, and how one is ended that answers no more: its stacks first, then SIGKILL."""

from __future__ import annotations

import faulthandler
import functools
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.heartbeat import beat_on_imports, last_beat

STACKS_SECONDS, QUIET_SECONDS = 3.0, 0.5
"""How long a process may take to write its stacks, which have no end mark: once it writes no more for that long, they are complete."""
STACKS_BYTES = 20_000
LOG_TAIL_BYTES = 4000
GONE_SECONDS = 5.0
ELSEWHERE_SECONDS = 30.0
"""How long another node may take to end a process there."""

STATES = {
    "T": "it was stopped (SIGSTOP, or a frozen container)",
    "t": "a debugger holds it",
    "D": "it waits inside the kernel, for a disk or a network share that does not answer",
    "R": "it computes",
    "S": "it waits",
}
"""Process states of Linux, as in /proc/PID/stat."""


@dataclass(frozen=True)
class Process:
    """A process that may have to be ended. node: Ray's name of its node, "" for this one; started: as in /proc/PID/stat, since numbers are
    used again; stacks: its descriptor into which SIGUSR1 makes it write the stacks of its threads"""

    node: str
    host: str
    pid: int
    started: int
    stacks: int


@dataclass(frozen=True)
class Pulse:
    """What a worker answers at any time. key, frames: what it does, and how many frames of that are done; beats: of each of its processes;
    it moves when anything of it changes."""

    key: str
    frames: int
    beats: tuple[int, ...]
    processes: tuple[Process, ...]


@dataclass(frozen=True)
class Found:
    """What was seen of a process that was ended. words: how it was, for people; stacks: of its threads, maybe empty"""

    words: str
    stacks: str


def own_pulse(key: str = "", frames: int = 0) -> Pulse:
    """Of this process, a worker of Ray's."""
    return Pulse(key, frames, (last_beat(),), (_this_process(),))


def be_watched() -> None:
    """From now on this process beats with its imports, and can be asked for its stacks."""
    beat_on_imports()
    _stacks()


def write_stacks_into(handle: int) -> None:
    """SIGUSR1 makes this process write the stacks of all its threads there, whatever they do; it needs no lock of Python's."""
    faulthandler.register(signal.SIGUSR1, file=handle, all_threads=True, chain=False)


@functools.cache
def _stacks() -> int:
    handle = os.memfd_create("sunvisor-stacks")
    write_stacks_into(handle)
    return handle


@functools.cache
def _this_process() -> Process:
    import ray

    node = ray.get_runtime_context().get_node_id()
    fields = _fields(os.getpid())
    assert fields is not None
    return Process(node, socket.gethostname(), os.getpid(), int(fields[19]), _stacks())


def process_here(pid: int, stacks: int) -> Process | None:
    """A process of this machine; None when it is gone."""
    fields = _fields(pid)
    return Process("", socket.gethostname(), pid, int(fields[19]), stacks) if fields else None


def end_process(process: Process) -> Found:
    """Take the stacks of a process of this machine, and kill it. Takes some seconds when it does not go."""
    fields = _fields(process.pid)
    if not _is(process, fields):
        return Found("it was gone already", "")
    assert fields is not None
    words = STATES.get(fields[0], f"its state is {fields[0]}")
    stacks = ""
    try:
        if fields[0] not in "Tt":
            os.kill(process.pid, signal.SIGUSR1)
            stacks = _read_stacks(process)
        os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return Found(words, stacks)
    except PermissionError as error:
        return Found(f"{words}, and could not be killed ({error.strerror})", stacks)
    deadline = time.monotonic() + GONE_SECONDS
    while _is(process, fields := _fields(process.pid)) and fields is not None and fields[0] != "Z":
        if time.monotonic() > deadline:
            return Found(f"{words}; it has been killed, and goes when the kernel lets it", stacks)
        time.sleep(0.02)
    return Found(words, stacks)


def last_output(session_dir: Path | None, pid: int | None) -> str:
    """The end of what a dead worker of our own Ray wrote: x265's words, or the stack of a segmentation fault. Empty where nothing is known.

    session_dir: of that Ray
    """
    if session_dir is None or pid is None:
        return ""
    parts = []
    for path in sorted((session_dir / "logs").glob(f"worker-*-{pid}.*")):
        text = path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
        if text:
            parts.append(f"{path.name}:\n{text}")
    return "\n".join(parts)


class Ending(threading.Thread):
    """Ends processes wherever they are, in a thread of its own. found: what was seen of each, once the thread has ended."""

    def __init__(self, processes: Sequence[Process]) -> None:
        super().__init__(name="ending", daemon=True)
        self._processes = processes
        self.found: list[tuple[Process, Found]] = []
        self.start()

    def run(self) -> None:
        for process in self._processes:
            self.found.append((process, end_process(process) if self._is_here(process) else _end_elsewhere(process)))

    def words(self) -> str:
        """How the processes were, in a sentence."""
        told = "; ".join(f"process {process.pid} on {process.host}: {found.words}" for process, found in self.found)
        return told or "its process never answered"

    def stacks(self) -> str:
        """Of all of them, for a log."""
        return "\n".join(
            f"Stacks of process {process.pid} on {process.host}:\n{found.stacks}"
            for process, found in self.found
            if found.stacks
        )

    def _is_here(self, process: Process) -> bool:
        if not process.node:
            return True
        import ray

        return process.node == ray.get_runtime_context().get_node_id()


def _end_elsewhere(process: Process) -> Found:
    """The same on another node, by a task of Ray there."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(process.node, soft=False)
    task = ray.remote(num_cpus=0, max_retries=0)(end_process).options(scheduling_strategy=there)
    try:
        return ray.get(task.remote(process), timeout=ELSEWHERE_SECONDS)
    except ray.exceptions.RayError as error:
        return Found(f"its node could not be asked ({type(error).__name__})", "")


def _fields(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third on, the state first; None when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _is(process: Process, fields: list[str] | None) -> bool:
    """Is the process of that number still the one that is meant?"""
    return fields is not None and int(fields[19]) == process.started


def _read_stacks(process: Process) -> str:
    """What the process has written, once it writes no more."""
    path, text = Path(f"/proc/{process.pid}/fd/{process.stacks}"), b""
    now = time.monotonic()
    end, quiet_since = now + STACKS_SECONDS, now
    while now < end and not (text and now - quiet_since > QUIET_SECONDS):
        time.sleep(0.02)
        now = time.monotonic()
        try:
            more = path.read_bytes()
        except OSError:
            break
        if more != text:
            text, quiet_since = more, now
    return text[:STACKS_BYTES].decode(errors="replace").strip()
