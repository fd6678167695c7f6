"""Progress for programs: JSON objects, one a line, on standard error. The numbers are those that people are shown."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TextIO

from workers.events import Event, Progress
from workers.progress import ProgressDisplay

SECONDS = 1.0
"""Between two lines while nothing changes. What they hold is told by `convert --help`."""


class ProgressLines(ProgressDisplay):
    """Use it as a ProgressDisplay. A reader that goes away ends the program with BrokenPipeError, as it would end any in a pipe."""

    def __init__(
        self,
        *,
        stream: TextIO | None = None,
        now: Callable[[], float] = time.monotonic,
        source_bytes: Sequence[int] = (),
    ) -> None:
        super().__init__(quiet=True, now=now, source_bytes=source_bytes)
        self._stream = stream or sys.stderr
        self._began = now()
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._clock = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._clock.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._clock.join()

    def add_file(self, source_bytes: int) -> None:
        """See ProgressDisplay."""
        with self._lock:
            super().add_file(source_bytes)

    def add_video(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """See ProgressDisplay."""
        with self._lock:
            super().add_video(*args, **kwargs)
            self._write_progress()

    def skip_video(self, name: str, note: str, source_bytes: int = 0) -> None:
        """See ProgressDisplay."""
        with self._lock:
            super().skip_video(name, note, source_bytes)
            self._write_progress()

    def show(self, event: Event) -> None:
        """See ProgressDisplay."""
        with self._lock:
            super().show(event)
            if not isinstance(event, Progress):
                self._write_progress()

    def finish_video(self, workdir: str, note: str) -> None:
        """See ProgressDisplay."""
        with self._lock:
            super().finish_video(workdir, note)
            self.message(f"{self._videos[workdir].name}: {note}")
            self._write_progress()

    def message(self, text: str) -> None:
        """One line of what people are told. May be called from any thread."""
        self._write({"is": "message", "text": text})

    def _tick(self) -> None:
        while not self._over.wait(SECONDS):
            try:
                self._write_progress()
            except BrokenPipeError:
                return  # the next change tells the main thread

    def _write_progress(self) -> None:
        with self._lock:
            facts = {
                "is": "progress",
                "seconds": round(self._now() - self._began, 3),
                "files_done": self._finished,
                "files": self._total_files(),
                "note": self.note,
                **self.numbers(),
            }
        self._write(facts)

    def _write(self, facts: dict[str, Any]) -> None:
        with self._lock:
            self._stream.write(json.dumps(facts) + "\n")
            self._stream.flush()
