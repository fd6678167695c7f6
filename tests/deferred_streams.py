"""Streams without a GPU: work is put off and done in any order that the events allow, so that a missing event shows in the bytes."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.cuda_streams import STREAMS


@dataclass
class DeferredEvent:
    """Fires when its stream comes so far; who waits for it drives all streams, in an order of chance."""

    streams: DeferredStreams
    fired: bool = False

    def synchronize(self) -> None:
        self.streams.run_until(lambda: self.fired)


class DeferredStreams:
    """A `pipeline.cuda_streams.Streams`. seed: of the order; waits: False ignores events, to see that a test would notice.

    full_at: numbers of the allocations on the device that find no memory
    """

    def __init__(self, seed: int, *, waits: bool = True, full_at: frozenset[int] = frozenset()) -> None:
        self._chance = random.Random(seed)
        self._waits, self._full_at = waits, full_at
        self._queues: dict[str, deque[Callable[[], bool]]] = {name: deque() for name in STREAMS}
        self._lock = threading.RLock()
        self.allocations = 0
        self.forgotten = 0
        self.free = 1 << 30

    def launch(self, stream: str, work: Callable[[], None]) -> None:
        def step() -> bool:
            work()
            return True

        self._append(stream, step)

    def record(self, stream: str) -> DeferredEvent:
        event = DeferredEvent(self)

        def step() -> bool:
            event.fired = True
            return True

        self._append(stream, step)
        return event

    def wait(self, stream: str, event: DeferredEvent) -> None:
        if self._waits:
            self._append(stream, lambda: event.fired)

    def synchronize(self) -> None:
        self.run_until(lambda: not any(self._queues.values()))

    def host(self, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return self._garbage(size, dtype)

    def device(self, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        self.allocations += 1
        if self.allocations - 1 in self._full_at:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate a test.")
        return self._garbage(size, dtype)

    def free_bytes(self) -> int:
        return self.free

    def forget(self) -> None:
        self.forgotten += 1

    def run_until(self, done: Callable[[], bool]) -> None:
        """Do steps in any order that the events allow until `done`."""
        with self._lock:
            while not done():
                ready = [name for name in STREAMS if self._queues[name]]
                assert ready, "waiting for an event that nothing will fire"
                self._chance.shuffle(ready)
                for name in ready:
                    if self._queues[name][0]():
                        self._queues[name].popleft()
                        break
                else:
                    raise AssertionError("the streams wait for each other")

    def _append(self, stream: str, step: Callable[[], bool]) -> None:
        with self._lock:
            self._queues[stream].append(step)

    @staticmethod
    def _garbage(size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        noise = torch.randint(0, 200, (*size, dtype.itemsize), dtype=torch.uint8)
        return noise.remainder(2).bool()[..., 0] if dtype == torch.bool else noise.view(dtype)[..., 0].contiguous()
