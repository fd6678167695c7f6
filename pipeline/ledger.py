"""Ledger: what is done. One JSON line a finished span, appended and synced, readable by people.

A line cut short by a kill is no line: the span is done again. The key of a line says what the span file holds, so a changed
source, setting or checkpoint never meets an old span.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from pipeline.errors import InputError

LEDGER_NAME = "ledger.jsonl"
LOCK_NAME = "lock"


def files_of(line: dict[str, Any]) -> dict[str, int]:
    """Name -> size in bytes of a ledger line's files: the span's video, and what is written beside it."""
    beside = {one["file"]: one["bytes"] for one in line.get("beside", {}).values()}
    return {line["file"]: line["bytes"], **beside}


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
            if all(self._is_there(name, size) for name, size in files_of(line).items()):
                lines[line["key"]] = line
        return lines

    def _is_there(self, name: str, size_bytes: int) -> bool:
        file = self._workdir / name
        return file.exists() and file.stat().st_size == size_bytes

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
    """Only one driver at a time works on an output. The lock dies with its owner, however that ends (flock).

    Makes the work folder when it is not there. Raises InputError while another driver holds it.
    """

    def __init__(self, workdir: Path) -> None:
        self._workdir = workdir
        self._path = workdir / LOCK_NAME
        while (file := self._locked()) is None:
            pass  # the owner before us has just removed its folder
        self._file = file
        self._file.truncate(0)
        self._file.write(f"pid {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        self._file.flush()

    def release(self) -> None:
        """Give the lock back."""
        if not self._file.closed:
            self._file.close()

    def remove_folder(self) -> None:
        """Remove the work folder and give the lock back. The lock goes last, so that nobody works in a folder that vanishes."""
        for path in self._workdir.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path != self._path:
                path.unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)
        self.release()
        with contextlib.suppress(OSError):  # the next driver is in there already
            self._workdir.rmdir()

    def _locked(self) -> TextIO | None:
        """The lock file, locked; None when it, or its folder, was removed under our hands."""
        self._workdir.mkdir(parents=True, exist_ok=True)
        try:
            file = self._path.open("a+")
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            file.close()
            raise InputError(
                f"{self._workdir}: another Sunvisor is working on this output ({owner}); wait for it or stop it."
            ) from error
        if self._is_current(file):
            return file
        file.close()
        return None

    def _is_current(self, file: TextIO) -> bool:
        """True when the path still names the file that is open."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False

    def __enter__(self) -> WorkLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
