"""Calls that stand still in every way there is, for the watchdog. Imports little, so that a process that runs them is there soon."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.heartbeat import beat

CLASS = "fake-class"


def fake_class() -> str:
    return CLASS


def wait_for_ever() -> None:
    """Other threads of Python go on."""
    threading.Event().wait()


def hold_the_interpreter() -> None:
    """As a decoder that deadlocks without letting go of the interpreter: nothing of Python runs any more."""
    libc = ctypes.PyDLL(None)
    mutex = ctypes.create_string_buffer(128)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)


def stop_the_process() -> None:
    while True:  # whoever wakes it (on a machine that is put to sleep, say), it stops again
        os.kill(os.getpid(), signal.SIGSTOP)


def move_slowly() -> None:
    for _ in range(44):  # longer than the watchdog's patience
        time.sleep(0.25)
        beat()


WAYS: dict[str, Callable[[], None]] = {
    "wait": wait_for_ever,
    "hold": hold_the_interpreter,
    "stop": stop_the_process,
    "slow": move_slowly,
    "pass": lambda: None,
}


def act(way: str, marks: Path) -> None:
    """A key of WAYS; "once:" before it: the first time alone. SIGTERM is of no use. marks: a file for counting"""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    with marks.open("a") as file:
        file.write("x")
    if way.startswith("once:"):
        way = way.removeprefix("once:") if marks.stat().st_size == 1 else "pass"
    if way != "pass":
        time.sleep(1.5)  # so that whoever watches has seen that it is up, and gives it no time to start
    WAYS[way]()


def call(argument: tuple[str, str]) -> int:
    """What a FileDesk has done elsewhere. argument: the way, a file for counting"""
    way, marks = argument
    act(way, Path(marks))
    return os.getpid()


def span(workdir: str, track: int, span: int, *, on_frames: Callable[[int], None], **_: object) -> dict[str, Any]:
    """Stands in for pipeline.span_job.run_span."""
    folder = Path(workdir)
    on_frames(7)
    act((folder / "ways").read_text().split()[span], folder / f"attempts{span}")
    return {"pid": os.getpid()}
