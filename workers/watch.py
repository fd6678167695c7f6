"""Watch: files that come into folders while a batch runs. A file is taken when nobody has written to it for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from pipeline.errors import SunvisorError
from workers.jobs import Job

RESCAN_SECONDS = 3.0
STORE_RESCAN_SECONDS = 15.0
"""Of object stores: a listing takes a request for each thousand objects, and is paid for."""


@dataclass
class Stillness:
    """Tells which files have been the same for `seconds`; each once, and again when it has changed since. Pure."""

    seconds: float
    _seen: dict[str, tuple[Hashable, float]] = field(default_factory=dict)
    _taken: dict[str, Hashable] = field(default_factory=dict)

    def ready(self, stamps: Mapping[str, Hashable], now: float) -> list[str]:
        """The files to take now. stamps: file -> what changes when it is written to; now: in seconds, never going back"""
        self._seen = {
            name: self._seen[name] if name in self._seen and self._seen[name][0] == stamp else (stamp, now)
            for name, stamp in stamps.items()
        }
        still = [
            name
            for name, (stamp, since) in self._seen.items()
            if now - since >= self.seconds and self._taken.get(name) != stamp
        ]
        self._taken |= {name: stamps[name] for name in still}
        return still


class Watch:
    """Context manager that looks for new files in a thread of its own, as folders may be large and slow.

    find: lists all jobs there are; it may raise SunvisorError, which is told once
    rescan_seconds: between two looks
    still_seconds: how long nobody may have written to a file before it is taken
    clock: seconds, never going back; tell: shows one line of text
    """

    def __init__(
        self,
        find: Callable[[], list[Job]],
        still_seconds: float,
        clock: Callable[[], float],
        tell: Callable[[str], None],
        rescan_seconds: float = RESCAN_SECONDS,
    ) -> None:
        self._rescan_seconds = rescan_seconds
        self._find, self._clock, self._tell = find, clock, tell
        self._stillness = Stillness(still_seconds)
        self._new: SimpleQueue[Job] = SimpleQueue()
        self._told: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()

    def new_jobs(self) -> list[Job]:
        """What may be taken since the last time."""
        return [self._new.get() for _ in range(self._new.qsize())]

    def _look(self) -> None:
        while True:
            try:
                self.rescan()
            except (SunvisorError, OSError) as error:
                if str(error) not in self._told:
                    self._told.add(str(error))
                    self._tell(f"watching: {error}")
            if self._over.wait(self._rescan_seconds):
                return

    def rescan(self) -> None:
        """Look once."""
        jobs = {job.origin: job for job in self._find()}
        stamps = {name: stamp for name, job in jobs.items() if (stamp := _stamp(job)) is not None}
        for name in self._stillness.ready(stamps, self._clock()):
            self._new.put(jobs[name])


def _stamp(job: Job) -> Hashable | None:
    """Number, size and latest change of a job's files; None when one is gone or empty. Objects appear whole."""
    if job.remote is not None and job.remote.source is not None:
        return job.remote.pin if job.remote.size else None
    files = job.run.files if job.run is not None else (job.source,)
    try:
        facts = [file.stat() for file in files]
    except OSError:
        return None
    if not all(one.st_size for one in facts):
        return None
    return len(facts), sum(one.st_size for one in facts), max(one.st_mtime_ns for one in facts)
