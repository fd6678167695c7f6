"""Listeners: who is told what happens in a batch. The terminal is always one; the log and the metrics are, where they are asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self

from configs.schema import WorkersConfig
from pipeline.file_report import FileReport
from workers.events import Event
from workers.metrics import Metrics
from workers.progress import ProgressDisplay
from workers.run_log import RunLog


class Listener(Protocol):
    """What a batch tells. Every method is called in the main thread but message()."""

    def add_video(
        self,
        workdir: str,
        name: str,
        frames: int,
        spans: int,
        reused_frames: int = 0,
        reused_spans: int = 0,
        source_bytes: int = 0,
    ) -> None:
        """A video is planned; see ProgressDisplay.add_video."""

    def add_file(self, source_bytes: int) -> None:
        """One more file belongs to the batch."""

    def skip_video(self, name: str, note: str, source_bytes: int = 0, report: FileReport | None = None) -> None:
        """A file is not converted: refused, or done already."""

    def show(self, event: Event) -> None:
        """What the pool said."""

    def finish_video(self, workdir: str, note: str, report: FileReport | None = None) -> None:
        """A video is over, well or badly."""

    def message(self, text: str) -> None:
        """A sentence for people."""

    def watch_workers(self, alive: Callable[[], int]) -> None:
        """The workers are starting; alive() says how many are there at any time."""


class Listeners:
    """Tells the terminal, then the log and the metrics. Use it as a context manager, in the place of the ProgressDisplay that it is given.

    Opens what `workers.log` and `workers.metrics_port` ask for. Raises InputError, before anything is converted, when the log cannot be
    written or the port is taken.
    """

    def __init__(self, display: ProgressDisplay, config: WorkersConfig) -> None:
        self._display, self._config = display, config
        self._all: list[Listener] = []
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as opening:
            if self._config.log:
                log = RunLog(self._config.log, on_trouble=self._display.message)
                self._all.append(opening.enter_context(log))
            if self._config.metrics_port:
                self._all.append(opening.enter_context(Metrics(self._config.metrics_port, self._display.batch)))
            opening.enter_context(self._display)
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    @property
    def note(self) -> str:
        """A word on the whole batch that the terminal shows, such as "paused"."""
        return self._display.note

    @note.setter
    def note(self, text: str) -> None:
        self._display.note = text

    def numbers(self) -> dict[str, Any]:
        """See ProgressDisplay."""
        return self._display.numbers()

    def add_file(self, source_bytes: int) -> None:
        """See Listener."""
        self._display.add_file(source_bytes)
        for one in self._all:
            one.add_file(source_bytes)

    def add_video(
        self,
        workdir: str,
        name: str,
        frames: int,
        spans: int,
        reused_frames: int = 0,
        reused_spans: int = 0,
        source_bytes: int = 0,
    ) -> None:
        """See Listener."""
        self._display.add_video(workdir, name, frames, spans, reused_frames, reused_spans, source_bytes)
        for one in self._all:
            one.add_video(workdir, name, frames, spans, reused_frames, reused_spans, source_bytes)

    def skip_video(self, name: str, note: str, source_bytes: int = 0, report: FileReport | None = None) -> None:
        """See Listener."""
        self._display.skip_video(name, note, source_bytes)
        for one in self._all:
            one.skip_video(name, note, source_bytes, report)

    def show(self, event: Event) -> None:
        """See Listener."""
        self._display.show(event)
        for one in self._all:
            one.show(event)

    def finish_video(self, workdir: str, note: str, report: FileReport | None = None) -> None:
        """See Listener."""
        self._display.finish_video(workdir, note)
        for one in self._all:
            one.finish_video(workdir, note, report)

    def message(self, text: str) -> None:
        """See Listener."""
        self._display.message(text)
        for one in self._all:
            one.message(text)

    def watch_workers(self, alive: Callable[[], int]) -> None:
        """See Listener."""
        for one in self._all:
            one.watch_workers(alive)
