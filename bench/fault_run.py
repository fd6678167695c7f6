"""A `convert` in a process of its own, to be disturbed: what belongs to it, how far it is, and what it has left behind."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from bench.process_tree import title
from tests.processes import usual_environment

ROOT = Path(__file__).resolve().parents[1]
MARK = "SUNVISOR_FAULT_RUN"
CLOCK_NAME = "clock"
"""File in the temporary folder with the seconds by which the clock of a run is wrong (bench/jumping_clock)."""
WORDS = (
    "model=neutral",
    "temporal.radius=0",
    "span.target_seconds=0.6",
    "span.min_seconds=0.3",
    "output.preset=ultrafast",
)
LIMIT_SECONDS = 900.0
"""A run that takes longer stands still."""


class Run:
    """`run_pipeline.py convert SOURCE --output OUTPUT --json`, in a session and with a temporary folder of its own.

    words: settings and flags; environment: added to ours
    """

    def __init__(
        self, source: Path, output: Path, scratch: Path, *words: str, environment: dict[str, str] | None = None
    ) -> None:
        self.output, self.scratch, self.mark = output, scratch, uuid.uuid4().hex
        scratch.mkdir(exist_ok=True)
        clean = usual_environment()
        clean |= {"TMPDIR": str(scratch), "OMP_NUM_THREADS": "1", MARK: self.mark} | (environment or {})
        clean |= {"PYTHONPATH": str(ROOT / "bench" / "jumping_clock"), "SUNVISOR_CLOCK": str(scratch / CLOCK_NAME)}
        command = [sys.executable, str(ROOT / "run_pipeline.py"), "convert", str(source), "--output", str(output)]
        self.out, self.err = scratch / f"{self.mark}.out", scratch / f"{self.mark}.err"
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [*command, "--json", *WORDS, *words],
                cwd=ROOT,
                env=clean,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self.began = time.monotonic()

    @property
    def over(self) -> bool:
        """Has the driver ended?"""
        return self.process.poll() is not None

    def family(self) -> list[int]:
        """Live processes of this run."""
        return [pid for pid in _all_pids() if self._owns(pid)]

    def find(self, kind: str) -> list[int]:
        """Processes of a kind: driver, worker, planner, joiner, raylet, gcs."""
        if kind == "driver":
            return [] if self.over else [self.process.pid]
        return [pid for pid in _all_pids() if kind_of(pid) == kind and self._owns(pid)]

    def _owns(self, pid: int) -> bool:
        """By the mark in its environment or, as Ray's processes write their titles over that, by files open in our folder."""
        folder = Path(f"/proc/{pid}")
        with contextlib.suppress(OSError):
            if (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                marked = f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes()
                return marked or any(_leads_into(link, self.scratch) for link in (folder / "fd").iterdir())
        return False

    def progress(self) -> tuple[int, int]:
        """How many outputs are there, and how many spans the ledgers of the others name."""
        if not self.output.is_dir():
            return 0, 0
        spans = 0
        for ledger in self.output.glob("*.work/ledger.jsonl"):
            with contextlib.suppress(OSError):
                spans += ledger.read_bytes().count(b"\n")
        return sum(1 for path in self.output.iterdir() if path.suffix in (".mp4", ".mkv", ".mov")), spans

    def wait(self, seconds: float = LIMIT_SECONDS) -> int | None:
        """The exit code, negative for a signal; None when the run stands still: then it is killed."""
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill_all()
            return None

    def kill_all(self) -> None:
        """SIGKILL for everything that belongs to it, at once."""
        for pid in self.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def report(self) -> dict[str, Any]:
        """What it printed; empty where it came to none."""
        text = self.out.read_text()
        return json.loads(text) if text.strip() else {}

    def survivors(self, seconds: float = 30.0) -> list[str]:
        """Titles of its processes that are still there so long after its end."""
        deadline = time.monotonic() + seconds
        while (left := self.family()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return [f"{pid} {title(pid)[:80]}" for pid in left]


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def kind_of(pid: int) -> str:
    """Which part a process has in a run; empty for others."""
    name = title(pid)
    program = name.split(" ")[0].rsplit("/", 1)[-1]
    if name.startswith(("ray::SpanWorker", "ray::StreamWorker")):
        return "worker"
    if program in ("raylet", "gcs_server"):
        return program.removesuffix("_server")
    if name.startswith(("ray::answer", "ray::FileActor.run")) or "workers.file_process" in name:
        return "joiner" if _joins(pid) else "planner"
    return ""


def _joins(pid: int) -> bool:
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if ".work/final." in str(link.readlink()):
                    return True
    return False


def _leads_into(link: Path, folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return str(link.readlink()).startswith(f"{folder}{os.sep}")
    return False


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder of results, by name; the area of `status` is left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and name.parts[0] != ".sunvisor":
            found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
