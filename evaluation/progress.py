"""Progress of long work: a bar on a terminal, elsewhere a line of text every few seconds; always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

PLAIN_SECONDS = 5.0


class Bar:
    """Context manager: `advance()` when one of `total` things is done; rate and time to go are shown.

    unit: of the rate, such as "it/s". done: how many were done before. stream: stderr; now: the clock, for tests.
    """

    def __init__(
        self,
        what: str,
        total: int,
        unit: str = "a second",
        done: int = 0,
        *,
        stream: TextIO | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = Console(file=stream or sys.stderr, highlight=False, markup=False, soft_wrap=True)
        self._what, self._total, self._unit, self._now = what, total, unit, now
        self._done = self._before = done
        self._started = self._told = now()
        columns = ("{task.description}", BarColumn(24), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
        self._bar = None
        if self._console.is_terminal:
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task(what, total=total, completed=done, note="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, line: str) -> None:
        """A line of its own, above the bar."""
        self._console.print(line)

    def advance(self, count: int = 1, note: str = "") -> None:
        """So many more are done. note: what else to show, such as a loss."""
        self._done += count
        now = self._now()
        rate = (self._done - self._before) / max(now - self._started, 1e-9)
        rest = round((self._total - self._done) / max(rate, 1e-9))
        told = f"{note + ', ' if note else ''}{rate:.1f} {self._unit}, {timedelta(seconds=rest)} to go"
        if self._bar:
            self._bar.update(self._task, completed=self._done, note=told)
        elif now - self._told >= PLAIN_SECONDS and self._done < self._total:
            self._told = now
            self._console.print(f"{self._what}: {self._done}/{self._total}, {told}")
