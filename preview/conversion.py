"""Conversion: `convert` as a child process, for the page: start, pause, resume, cancel, and how far it is.

A process of its own, since Ctrl-C is how a conversion is paused, and a server that is killed must not take a span with it half-written.
Its standard error is a pipe to this end: when this end is gone, the next line that it writes ends it (workers/progress_lines.py).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from pipeline.errors import InputError

PROGRAM = Path(__file__).resolve().parents[1] / "run_pipeline.py"
DRAIN_SECONDS = 5.0
"""How long a closing server lets running spans finish; then they are broken off, and done again when the conversion is resumed."""
STOP_SECONDS = 15.0
"""How long a conversion that was told to stop may take to end Ray in order; then all its processes are killed."""
LAST_WORDS = 20
STARTING = "starting"
INTERRUPTED = frozenset({130, 143, -signal.SIGINT, -signal.SIGTERM, -signal.SIGKILL})
"""Exit codes of a conversion that was told to stop; the negative ones before it listens, or when it did not."""


class Conversion:
    """One source to one output with one set of settings. Its methods may be called by any thread and return at once, but for `close`.

    words: what `convert` is told to read; output: the file it writes; yaml: the text of a file for `--config`
    on_change: called with the new state at every change, in a thread of the conversion's own or the caller's, without any lock held
    overwrite: replace an output that was made with other settings
    """

    def __init__(
        self,
        words: Sequence[str],
        output: Path,
        yaml: str,
        on_change: Callable[[dict[str, Any]], object],
        *,
        overwrite: bool = False,
    ) -> None:
        self._words, self._output, self._yaml, self._overwrite = tuple(words), output, yaml, overwrite
        self._on_change = on_change
        self._lock = threading.RLock()
        self._process: subprocess.Popen[str] | None = None
        self._watcher: threading.Thread | None = None
        self._wanted = ""  # "pause" or "cancel", once the child has been told
        self._heard = False  # has the child said anything?
        self._closed = False
        self._state: dict[str, Any] = {
            "state": "idle",
            "output": str(output),
            "frames_done": 0,
            "frames": 0,
            "frames_per_second": 0.0,
            "eta_seconds": None,
            "text": "",
        }

    def state(self) -> dict[str, Any]:
        """As the message `conversion`: state is "idle", "running", "paused", "done" or "failed"; text says what is going on, or why it failed."""
        with self._lock:
            return dict(self._state)

    def start(self) -> None:
        """Start it, or start it again after it was cancelled, failed or done. Raises InputError while it runs or is paused."""
        self._launch({"idle", "failed", "done"}, "started")

    def resume(self) -> None:
        """Go on where it was paused: the same command again. Raises InputError unless it is paused."""
        self._launch({"paused"}, "resumed")

    def pause(self) -> None:
        """Let the running spans finish and begin no more; they are kept. Nothing to do twice. Raises InputError unless it runs."""
        with self._lock:
            if self._state["state"] != "running":
                raise InputError(f"{self._output}: the conversion is {self._state['state']} and cannot be paused.")
            if self._wanted:
                return
            self._state["text"] = "pausing" + ": the spans that are being converted are finished first" * self._heard
            self._drain()
        self._change()

    def cancel(self) -> None:
        """Stop at once. What is finished stays in the work folder, so that a later start goes on from there."""
        with self._lock:
            told = self._wanted == "cancel"
            running = self._process is not None
            self._wanted = "cancel"
            if running and not told:
                self._stop_now()
        if running:
            self._change(text="stopping")
        else:
            self._change(state="idle", frames_per_second=0.0, eta_seconds=None, text="")

    def close(self, drain_seconds: float = DRAIN_SECONDS) -> None:
        """End the child and wait for it: running spans get drain_seconds to finish, Ray STOP_SECONDS to end. No more changes are told."""
        with self._lock:
            self._closed = True
            watcher = self._watcher
            if self._process is not None and not self._wanted:
                self._drain()
        if watcher is None:
            return
        watcher.join(drain_seconds)
        with self._lock:
            self._stop_now()
        watcher.join(STOP_SECONDS + 5)

    def _launch(self, legal: set[str], done: str) -> None:
        with self._lock:
            if self._closed or self._state["state"] not in legal:
                raise InputError(f"{self._output}: the conversion is {self._state['state']} and cannot be {done}.")
            folder = tempfile.TemporaryDirectory(prefix="sunvisor_convert_")
            config = Path(folder.name) / "config.yaml"
            config.write_text(self._yaml)
            command = [sys.executable, str(PROGRAM), "convert", *self._words, "--output", str(self._output)]
            command += ["--config", str(config), "--progress", "json", "--json", *(["--overwrite"] * self._overwrite)]
            report = (Path(folder.name) / "report.json").open("w+")
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=report,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._wanted, self._heard = "", False
            self._state |= {"state": "running", "frames_per_second": 0.0, "eta_seconds": None, "text": STARTING}
            self._watcher = threading.Thread(
                target=self._watch, args=(self._process, folder, report), name="conversion"
            )
            self._watcher.start()
        self._change()

    def _watch(self, process: subprocess.Popen[str], folder: tempfile.TemporaryDirectory, report: IO[str]) -> None:
        """The thread: what the child says, until it ends; then what became of it."""
        last_words: deque[str] = deque(maxlen=LAST_WORDS)
        with folder, report, process:
            for line in process.stderr:
                self._hear(line.rstrip(), last_words)
            code = process.wait()
            report.seek(0)
            found = _json(report.read())
        with self._lock:
            self._process = None
        self._change(**self._ending(code, found, last_words))

    def _hear(self, line: str, last_words: deque[str]) -> None:
        """Take in one line of the child's."""
        facts = _json(line)
        if facts.get("is"):
            with self._lock:
                self._heard = True
        if facts.get("is") == "progress":
            if facts["frames"] == 0:
                return  # it still looks at the source; what was known before a pause stays
            told = {key: facts[key] for key in ("frames_done", "frames", "frames_per_second", "eta_seconds")}
            with self._lock:
                begun = facts["frames_per_second"] > 0 and self._state["text"] == STARTING
            self._change(**told, **({"text": ""} if begun else {}))
        elif facts.get("is") == "message":
            last_words.append(facts["text"])
            with self._lock:
                pausing = bool(self._wanted)
            if not pausing:
                self._change(text=facts["text"])
        elif line:
            last_words.append(line)

    def _ending(self, code: int, found: dict[str, Any], last_words: Sequence[str]) -> dict[str, Any]:
        """The changes of state that the child's end brings. found: its report, {} where it wrote none"""
        over: dict[str, Any] = {"frames_per_second": 0.0, "eta_seconds": None}
        files = found.get("files", [])
        if code == 0:
            frames = sum(file["frames"] for file in files)
            return over | {"state": "done", "frames_done": frames, "frames": frames, "text": f"done: {self._output}"}
        kept = sum(file["frames"] for file in files if file["status"] == "interrupted")
        over |= {"frames_done": kept} if kept else {}
        if code in INTERRUPTED and (self._wanted or code in (130, -signal.SIGINT)):
            if self._wanted == "cancel":
                return over | {"state": "idle", "text": "stopped; a new start with the same settings goes on from here"}
            return over | {"state": "paused", "text": "paused; what is converted is kept"}
        errors = [file["error"] for file in files if file.get("error")] or [found.get("error", "")]
        text = (
            " ".join(filter(None, errors))
            or f"convert ended with code {code}: {' '.join(last_words) or 'without a word'}"
        )
        return over | {"state": "failed", "text": text}

    def _change(self, **changes: Any) -> None:  # noqa: ANN401
        with self._lock:
            self._state |= changes
            state, closed = dict(self._state), self._closed
        if not closed:
            self._on_change(state)

    def _drain(self) -> None:
        """Ctrl-C lets the running spans finish. Before the child's first word it has begun none, and a Ctrl-C in the midst of its imports may
        be lost, or break one of them: SIGTERM ends it. Call it with the lock."""
        self._wanted = "pause"
        self._signal(signal.SIGINT if self._heard else signal.SIGTERM)

    def _stop_now(self) -> None:
        """SIGTERM breaks off the spans and ends Ray in order; who does not listen is killed with all it started. Call it with the lock."""
        if self._process is None:
            return
        self._signal(signal.SIGTERM)
        threading.Thread(target=_kill_later, args=(self._process,), name="conversion's end", daemon=True).start()

    def _signal(self, number: int) -> None:
        """To the child alone: its Ray is its own to end. Call it with the lock."""
        if self._process is not None:
            self._process.send_signal(number)


def _kill_later(process: subprocess.Popen[str]) -> None:
    """The child leads a session of its own, and its reaper tidies up what is left of Ray (workers/reaper.py)."""
    end = time.monotonic() + STOP_SECONDS
    while process.returncode is None and time.monotonic() < end:
        time.sleep(0.1)
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _json(line: str) -> dict[str, Any]:
    """The object on a line; {} when it is none."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
