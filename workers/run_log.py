"""Run log: what happened in a batch, one JSON object a line, for `--log FILE`. The file is rotated by size."""

from __future__ import annotations

import datetime
import json
import logging
import os
import socket
import threading
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.errors import InputError
from pipeline.file_report import FileReport
from workers.events import Done, Event, Failed, Progress, Retrying

MAX_BYTES = 10_000_000
BACKUPS = 5
"""FILE, then FILE.1 to FILE.5, the oldest: 60 MB at most."""


class RunLog:
    """Listens to a batch (workers.listeners.Listener) and writes lines; use it as a context manager. An existing file is gone on with.

    Every record has time (UTC, ISO 8601), level, event, run; those of a file have file and work (its work folder), those of a span also
    track and span, and host and pid of the worker where one was at it.
    on_trouble: told once, in a sentence, when a line cannot be written; the run goes on
    Raises InputError when the file cannot be opened.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        on_trouble: Callable[[str], None],
        max_bytes: int = MAX_BYTES,
        backups: int = BACKUPS,
    ) -> None:
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handler = _Handler(path, on_trouble, max_bytes, backups)
        except OSError as error:
            raise InputError(f"--log {path}: cannot be written ({error.strerror}); name another file.") from error
        handler.setFormatter(_JsonLines())
        self._handler = handler
        self._logger = logging.Logger("sunvisor.run")
        self._logger.addHandler(handler)
        self._run = f"{socket.gethostname()}:{os.getpid()}"
        self._names: dict[str, str] = {}
        self._workers: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._write("run begun")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for workdir, name in self._names.items():
            self._write("interrupted", logging.WARNING, file=name, work=workdir)
        if error is None:
            self._write("run ended")
        else:
            self._write("run ended", logging.ERROR, error=f"{type(error).__name__}: {error}")
        self._handler.close()

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
        self._names[workdir] = name
        facts = {"frames": frames, "spans": spans, "reused_frames": reused_frames, "reused_spans": reused_spans}
        self._write("planned", file=name, work=workdir, source_bytes=source_bytes, **facts)

    def add_file(self, source_bytes: int) -> None:
        """Nothing is logged before a file is looked at."""

    def skip_video(self, name: str, note: str, source_bytes: int = 0, report: FileReport | None = None) -> None:
        """See Listener."""
        self._end_file(name, note, report)

    def show(self, event: Event) -> None:
        """See Listener."""
        task = event.task
        if isinstance(event, Progress):
            if task.key not in self._workers:
                self._workers[task.key] = event.worker
                self._write("span begun", frames=task.frames, **self._span_facts(event))
            return
        facts = self._span_facts(event)
        self._workers.pop(task.key, None)
        if isinstance(event, Done):
            stages = event.result.get("seconds", {})
            self._write("span done", frames=task.frames, seconds=round(event.seconds, 3), stages=stages, **facts)
        elif isinstance(event, Retrying):
            told = {"attempt": event.attempt, "kind": event.error.kind, "error": event.error.message}
            self._write("span retried", logging.WARNING, **told, **facts)
        elif isinstance(event, Failed):
            told = {"attempts": event.attempts, "kind": event.error.kind, "error": event.error.message}
            self._write("span failed", logging.ERROR, **told, **facts)

    def finish_video(self, workdir: str, note: str, report: FileReport | None = None) -> None:
        """See Listener."""
        self._end_file(self._names.pop(workdir), note, report, work=workdir)

    def message(self, text: str) -> None:
        """See Listener. May be called from any thread."""
        self._write("message", text=text)

    def watch_workers(self, alive: Callable[[], int]) -> None:
        """See Listener."""
        self._write("workers started")

    def _end_file(self, name: str, note: str, report: FileReport | None, **facts: str) -> None:
        """Its warnings, then what became of it: published, failed, refused, already done."""
        if report is None:
            self._write("file ended", file=name, note=note, **facts)
            return
        for text in report.warnings:
            self._write("warning", logging.WARNING, file=name, text=text, **facts)
        told: dict[str, Any] = {"output": report.output, "frames": report.frames, "seconds": report.seconds}
        if report.error:
            told["error"] = report.error
        event = "published" if report.status == "done" else report.status
        level = logging.ERROR if report.status in ("failed", "refused") else logging.INFO
        self._write(event, level, file=name, **told, **facts)

    def _span_facts(self, event: Event) -> dict[str, Any]:
        task = event.task
        facts = {
            "file": self._names.get(task.workdir, ""),
            "work": task.workdir,
            "track": task.track,
            "span": task.span,
        }
        host, colon, pid = self._workers.get(task.key, "").rpartition(":")
        return facts | ({"host": host, "pid": int(pid)} if colon else {})

    def _write(self, event: str, level: int = logging.INFO, **facts: Any) -> None:  # noqa: ANN401
        self._logger.log(level, event, extra={"facts": {"run": self._run, **facts}})


class _JsonLines(logging.Formatter):
    """A record as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        facts = {"time": moment, "level": record.levelname.lower(), "event": record.msg, **record.facts}  # type: ignore[attr-defined]
        return json.dumps(facts, ensure_ascii=False)


class _Handler(RotatingFileHandler):
    """A full disk must not stop a run, nor fill the terminal: it is told once."""

    def __init__(self, path: Path, on_trouble: Callable[[str], None], max_bytes: int, backups: int) -> None:
        super().__init__(path, maxBytes=max_bytes, backupCount=backups, encoding="utf-8")
        self._told = threading.Event()
        self.on_trouble = on_trouble

    def close(self) -> None:
        try:
            super().close()
        except OSError:  # what it still had to write does not fit either
            self._tell()

    def handleError(self, record: logging.LogRecord) -> None:
        self._tell()

    def _tell(self) -> None:
        if not self._told.is_set():
            self._told.set()
            self.on_trouble(
                f"--log {self.baseFilename}: a line could not be written; the run goes on, its log has gaps."
            )
