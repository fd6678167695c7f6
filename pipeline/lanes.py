"""Lanes: frames computed side by side on the CPU's cores, each by one thread, and handed on in order.

No thread waits for another inside a frame, so the bits do not depend on how many there are.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from pipeline.engine import Engine, Kept, PackedFrame
from pipeline.heartbeat import beat

BUDGET_BYTES = 1_500_000_000
SAMPLE_PIXEL_BYTES = 36
"""What a sample of the temporal stage keeps of a pixel: the frame before and after the network, and as read where text is held."""

Planes = tuple[torch.Tensor, ...]
Item = TypeVar("Item")


def lanes_that_fit(engine: Engine, height: int, width: int, threads: int) -> int:
    """How many frames of (height, width) to compute side by side: one a core, as far as memory goes; at least one."""
    samples = 2 * engine.radius + 1 if engine.radius else 0
    left = BUDGET_BYTES - samples * SAMPLE_PIXEL_BYTES * height * width
    return max(1, min(threads, left // max(engine.frame_bytes(height, width), 1)))


class Lanes:
    """Some threads that take an engine's frames in turn. seconds: how long each piece of work took.

    count: frames side by side; threads: torch's own threads inside each
    """

    def __init__(self, engine: Engine, count: int, threads: int) -> None:
        self._engine, self._count, self._threads = engine, count, threads
        self.seconds: list[float] = []

    def run(self, frames: Iterator[Planes], first: int, owned: range) -> Iterator[PackedFrame]:
        """Packed frames of the numbers in `owned`, in order.

        frames: planes of consecutive frames, the first of which is number `first` of the track; those outside `owned` are neighbours
            for the temporal stage
        """
        numbered = enumerate(frames, first)
        with ThreadPoolExecutor(self._count, "compute", torch.set_num_threads, (self._threads,)) as pool:
            work = self._alone(pool, numbered) if self._engine.radius == 0 else self._windows(pool, numbered, owned)
            waiting: deque[Future[PackedFrame]] = deque()
            for future in work:
                waiting.append(future)
                if len(waiting) > self._count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _alone(self, pool: ThreadPoolExecutor, frames: Iterator[tuple[int, Planes]]) -> Iterator[Future[PackedFrame]]:
        for number, planes in frames:
            yield pool.submit(self._timed, lambda one=planes, place=number: self._engine.process([one], place)[0])

    def _windows(
        self, pool: ThreadPoolExecutor, frames: Iterator[tuple[int, Planes]], owned: range
    ) -> Iterator[Future[PackedFrame]]:
        """A frame is finished when the samples of its neighbours are there; meanwhile `count` more are under way."""
        radius, samples = self._engine.radius, {}
        upcoming = owned.start
        for number, planes in frames:
            samples[number] = pool.submit(self._timed, lambda one=planes: self._engine.sample(one))
            if number >= upcoming + radius + self._count and upcoming in owned:
                yield self._finish(pool, samples, upcoming)
                upcoming += 1
        while upcoming in owned and upcoming in samples:
            yield self._finish(pool, samples, upcoming)
            upcoming += 1

    def _finish(self, pool: ThreadPoolExecutor, samples: dict[int, Future[Kept]], number: int) -> Future[PackedFrame]:
        """Start to finish a frame, and forget the samples that no later one needs."""
        radius = self._engine.radius
        near = [one for one in range(number - radius, number + radius + 1) if one in samples]
        window, place = [samples[one].result() for one in near], near.index(number)
        samples.pop(number - radius, None)
        return pool.submit(self._timed, lambda: self._engine.finish(window, place, number))

    def _timed(self, work: Callable[[], Item]) -> Item:
        started = time.monotonic()
        try:
            return work()
        finally:
            beat()
            self.seconds.append(time.monotonic() - started)
