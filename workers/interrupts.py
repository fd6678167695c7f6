"""Ctrl-C: the first finishes the running spans, the second stops now. SIGTERM stops now."""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self


class StopNow(KeyboardInterrupt):
    """Raised in the main thread by the second Ctrl-C (exit_code 130) or by SIGTERM (exit_code 143)."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"stopped by the user, exit code {exit_code}")
        self.exit_code = exit_code


class Interrupts:
    """Context manager that installs handlers for SIGINT and SIGTERM and restores the old ones.

    on_drain: called once, in a thread of its own, after the first SIGINT; may take locks and print
    on_abort: called once, in that thread, after the second SIGINT or a SIGTERM, while StopNow unwinds the main thread
    is_working: asked by the first SIGINT, inside the signal handler; while it says False there is nothing to finish, and the first
        SIGINT stops like a second
    exit_code: 0, then 130 after SIGINT or 143 after SIGTERM
    A signal after that ends the process at once; Ray's processes share its fate. Enter it in the main thread, and call
    install() again after workers.cluster.connect(): Ray's C++ puts a handler of its own on SIGTERM, which aborts the process.
    """

    def __init__(
        self,
        on_drain: Callable[[], object],
        on_abort: Callable[[], object],
        is_working: Callable[[], bool] = lambda: True,
    ) -> None:
        self.exit_code = 0
        self._pid = os.getpid()
        self._is_working = is_working
        self._actions: dict[str, Callable[[], object]] = {"drain": on_drain, "abort": on_abort}
        # SimpleQueue.put may be called by a signal handler that interrupted another put; Lock and Queue may not.
        self._wanted: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._previous: dict[int, Any] = {}
        self._aborting = False
        self._thread: threading.Thread | None = None

    @property
    def draining(self) -> bool:
        """True from the first signal on: begin nothing new."""
        return self.exit_code != 0

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._act, name="interrupts", daemon=True)
        self._thread.start()
        self._previous = self.install()
        return self

    def install(self) -> dict[int, Any]:
        """Make SIGINT and SIGTERM ours (again); returns the handlers that were there."""
        return {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._wanted.put("end")
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """The handler: it only notes what is wanted, since it may have interrupted a thread that holds any lock."""
        if os.getpid() != self._pid:
            return  # a child between fork and exec: the signal went to the whole group, and is the parent's to act on
        if self._aborting:
            os._exit(self.exit_code)
        if number == signal.SIGINT and self.exit_code == 0 and self._is_working():
            self.exit_code = 130
            self._wanted.put("drain")
            return
        self._aborting = True
        self.exit_code = 130 if number == signal.SIGINT else 143
        self._wanted.put("abort")
        raise StopNow(self.exit_code)

    def _act(self) -> None:
        """The thread that carries out what the handler noted."""
        while (wanted := self._wanted.get()) != "end":
            self._actions[wanted]()
