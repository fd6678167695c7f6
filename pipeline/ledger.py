"""Ledger: what is done. One JSON line a finished span, appended and synced, readable by people.

A line cut short by a kill is no line: the span is done again. The key of a line says what the span file holds, so a changed
source, setting or checkpoint never meets an old span.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.errors import InputError

LEDGER_NAME = "ledger.jsonl"
LOCK_NAME = "lock"


class Ledger:
    """The finished spans of one work folder."""

    def __init__(self, workdir: Path) -> None:
        self.path = workdir / LEDGER_NAME
        self._workdir = workdir

    def finished(self) -> dict[str, dict[str, Any]]:
        """Span key -> its ledger line, for every span whose file is there with the size that was noted."""
        if not self.path.exists():
            return {}
        lines: dict[str, dict[str, Any]] = {}
        for text in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue  # cut short by a kill; the span is done again
            file = self._workdir / line["file"]
            if file.exists() and file.stat().st_size == line["bytes"]:
                lines[line["key"]] = line
        return lines

    def append(self, line: dict[str, Any]) -> None:
        """Add a line; on return it is on disk. Starts on a new line even after one that was cut short."""
        with self.path.open("ab+") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(json.dumps(line, sort_keys=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


class WorkLock:
    """Only one driver at a time works on an output. The lock dies with its owner, however that ends (flock)."""

    def __init__(self, workdir: Path) -> None:
        self._path = workdir / LOCK_NAME
        self._file = self._path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            owner = self._file.read().strip() or "unknown"
            self._file.close()
            raise InputError(
                f"{workdir}: another Sunvisor is working on this output ({owner}); wait for it or stop it."
            ) from error
        self._file.truncate(0)
        self._file.write(f"pid {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        self._file.flush()

    def release(self) -> None:
        """Give the lock back."""
        if not self._file.closed:
            self._file.close()

    def __enter__(self) -> WorkLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
