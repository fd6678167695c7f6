"""Progress of long work: a bar on a terminal, elsewhere a line of text every few seconds; always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 5.0


class Bar:
    """Context manager: `advance()` when one of `total` things is done. stream: stderr; now: the clock, for tests."""

    def __init__(
        self, what: str, total: int, *, stream: TextIO | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = Console(file=stream or sys.stderr, highlight=False)
        self._what, self._total, self._done, self._now = what, total, 0, now
        self._started = self._told = now()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console, transient=True) if self._console.is_terminal else None
        self._task = self._bar.add_task(what, total=total) if self._bar else None

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self) -> None:
        """One more is done."""
        self._done += 1
        if self._bar and self._task is not None:
            self._bar.advance(self._task)
            return
        now = self._now()
        if now - self._told >= PLAIN_SECONDS and self._done < self._total:
            self._told = now
            rest = (now - self._started) / self._done * (self._total - self._done)
            self._console.print(f"{self._what}: {self._done}/{self._total}, {rest:.0f} s to go", soft_wrap=True)
