"""Crew: the workers of a pool. Dead ones are started anew, and there are more or fewer as the cluster grows or shrinks."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from workers.actors import ActorMaker, Started
from workers.elastic import Elastic
from workers.pulse import Ending, Pulse
from workers.span_worker import SpanTask, WorkerInfo

RESTART_PAUSE_SECONDS = 0.5
RESIZE_SECONDS = 3.0
LOOK_SECONDS = 10.0


@dataclass(eq=False)
class Worker:
    """The pool's view of one worker: it says hello (info is None until then), is idle, or runs one task.

    started: None while it waits to be started again; began: when it was made or, after that, when it was last seen well, or coming up
    retry_at: when it is started again; look_at: when to see whether it is there at all
    kills: how many processes the kernel had killed for want of memory when its task began
    ref: the answer that is waited for, to hello() or run(); asked: that to pulse(); pulse: the last one
    ending: it stood still, and is being ended
    """

    started: Started | None = None
    info: WorkerInfo | None = None
    task: SpanTask | None = None
    ref: Any = None
    asked: Any = None
    pulse: Pulse | None = None
    ending: Ending | None = None
    failed_starts: int = 0
    retry_at: float = 0.0
    look_at: float = 0.0
    lost: bool = False
    trouble: str = ""
    kills: int = 0
    began: float = field(default_factory=time.monotonic)


class Crew:
    """Workers, each started when it is made. None of the methods waits; all run in one thread.

    elastic: asked every few seconds how many there shall be; None = always as many
    retries: how often in a row a worker may fail to start; start_seconds: how long there may be none at all
    losses: why workers were given up for good, in order, each once
    """

    def __init__(
        self, maker: ActorMaker, count: int, *, elastic: Elastic | None, retries: int, start_seconds: float
    ) -> None:
        self.losses: dict[str, None] = {}
        self._maker, self._elastic, self._retries, self._start_seconds = maker, elastic, retries, start_seconds
        self._next_resize = time.monotonic() + RESIZE_SECONDS
        self.workers = [self._start(Worker()) for _ in range(count)]

    def tend(self, open_spans: int) -> None:
        """Start those anew whose time has come, and have as many as there is room for. Call it all the time."""
        self._resize(open_spans)
        now = time.monotonic()
        alone = all(worker.info is None for worker in self.workers)
        for worker in self.workers:
            if worker.lost:
                continue
            if worker.started is None and now >= worker.retry_at:
                self._start(worker)
            elif worker.started is None and alone and self.is_late(worker):
                self._lose_late(worker)
            elif worker.started is not None and self._is_silent(worker) and now >= worker.look_at:
                worker.look_at = now + LOOK_SECONDS
                self._take_silence(worker, alone)

    def is_late(self, worker: Worker) -> bool:
        """It should have come up by now. Where others work it may come later still, when there is room for it."""
        return worker.info is None and time.monotonic() - worker.began > self._start_seconds

    def renew(self, worker: Worker, trouble: str) -> None:
        """End what is left of a worker; it is started anew soon, later each time that it does not come up."""
        if worker.info is not None:
            worker.began = time.monotonic()
        else:
            worker.failed_starts += 1
        worker.trouble, worker.info, worker.asked, worker.ref = trouble, None, None, None
        worker.pulse, worker.ending = None, None
        worker.retry_at = time.monotonic() + RESTART_PAUSE_SECONDS * 4 ** max(0, worker.failed_starts - 1)
        self._end(worker)
        if worker.failed_starts >= self._retries:
            self.lose(worker, f"A worker could not start: {trouble}")

    def renew_hung(self, worker: Worker, trouble: str) -> None:
        """The same for one that hung; the next one gets the whole time to start."""
        worker.began = time.monotonic()
        self.renew(worker, trouble)

    def has_others(self, worker: Worker) -> bool:
        """Would the work go on without it?"""
        return any(one is not worker and one.info is not None and not one.lost for one in self.workers)

    def lose(self, worker: Worker, reason: str) -> None:
        """Give a worker up for good; the others go on."""
        worker.lost, worker.ref = True, None
        self.losses[reason] = None
        self._end(worker)

    def end(self) -> None:
        """End all of them now."""
        for worker in self.workers:
            self._end(worker)
        if self._elastic is not None:
            self._elastic.close()

    def _take_silence(self, worker: Worker, alone: bool) -> None:
        """A worker has not said a word for so long: make it anew where it is there; where it is not, others are all that may be waited for."""
        assert worker.started is not None
        if worker.started.is_up():
            self.renew_hung(worker, f"it was there and said nothing for {self._start_seconds:.0f} s")
        elif alone:
            self._lose_late(worker)

    def _is_silent(self, worker: Worker) -> bool:
        """It should have come up by now, and has not said a word. One that has is watched by the pool (workers/vigil.py)."""
        return worker.pulse is None and self.is_late(worker)

    def _lose_late(self, worker: Worker) -> None:
        self.lose(worker, f"A worker did not start within {self._start_seconds:.0f} s. {worker.trouble}".strip())

    def _start(self, worker: Worker) -> Worker:
        """For the first time, or in the place of one that has ended."""
        worker.started = self._maker.start()
        worker.asked = worker.started.ask()
        worker.ref = worker.started.actor.hello.remote()
        return worker

    def _end(self, worker: Worker) -> None:
        if worker.started is not None:
            worker.started.end()
            worker.started = None

    def _resize(self, open_spans: int) -> None:
        """Only such go as have not come up: those of a node that left."""
        if self._elastic is None or time.monotonic() < self._next_resize:
            return
        self._next_resize = time.monotonic() + RESIZE_SECONDS
        more = self._elastic.wanted(open_spans) - len(self.workers)
        waiting = [worker for worker in self.workers if worker.info is None and not worker.lost]
        surplus = waiting[: max(0, -more)]
        for worker in surplus:
            self._end(worker)
        kept = [worker for worker in self.workers if worker not in surplus]
        self.workers = [*kept, *(self._start(Worker()) for _ in range(more))]
