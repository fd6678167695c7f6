"""Vigil: asks the workers of a pool how they are, again and again, and knows which of them stand still."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from workers.crew import Worker
from workers.events import Progress
from workers.pulse import Pulse
from workers.watchdog import Watchdog

ASK_SECONDS = 0.5


class Vigil:
    """Watches workers while they start, once they have answered at all, and while they have a span. None of the methods waits.

    stall_seconds: how long one may stand still; 0 = for ever
    start_seconds: the least that one gets that has not said who it is: libraries as large as PyTorch are read in one piece
    """

    def __init__(self, stall_seconds: float, start_seconds: float) -> None:
        import ray

        self._ray = ray
        self._watchdog = Watchdog(stall_seconds)
        self._start_seconds = start_seconds
        self._next_ask = 0.0

    def look(self, workers: Sequence[Worker]) -> Iterator[Progress]:
        """Take in what was answered, and ask now and then. Call it all the time; it tells how far spans are."""
        self._watchdog.turn()
        for worker in workers:
            if worker.pulse is None and worker.task is None:
                self._watchdog.forget(worker)  # it is made anew, or not there yet
            if worker.asked is not None and self._ray.wait([worker.asked], timeout=0)[0]:
                asked, worker.asked = worker.asked, None
                try:
                    pulse = self._ray.get(asked)
                except self._ray.exceptions.RayError:
                    continue  # the worker died; its span's own answer says so
                yield from self._take(worker, pulse)
        self._ask(workers)

    def begin(self, worker: Worker) -> None:
        """A worker was given something to do: its time begins."""
        self._watchdog.forget(worker)
        self._watchdog.see(worker, worker.pulse)

    def stalled(self, workers: Sequence[Worker]) -> list[Worker]:
        """Those that have stood still for too long, each until it is being ended."""
        return [
            worker
            for worker in workers
            if worker.ending is None
            and not worker.lost
            and (worker.task is not None or worker.info is None)
            and self._watchdog.stands_still(worker, self._start_seconds if worker.info is None else 0.0)
        ]

    def _take(self, worker: Worker, pulse: Pulse) -> Iterator[Progress]:
        if worker.info is None and pulse != worker.pulse:
            worker.began = time.monotonic()  # it comes up, however slowly
        worker.pulse = pulse
        self._watchdog.see(worker, pulse)
        if worker.task is not None and worker.task.key == pulse.key and pulse.frames:
            yield Progress(worker.task, pulse.frames)

    def _ask(self, workers: Sequence[Worker]) -> None:
        now = time.monotonic()
        if now < self._next_ask:
            return
        self._next_ask = now + ASK_SECONDS
        for worker in workers:
            busy = worker.task is not None or worker.info is None or worker.pulse is None
            if busy and worker.asked is None and worker.started is not None and worker.ending is None:
                worker.asked = worker.started.ask()
