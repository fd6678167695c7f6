"""Time on a device: events on the GPU's own clock, or the host's clock where there is no GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

WARM_UPS = 2
LEAST_RUNS, MOST_RUNS = 5, 200


class Clock:
    """Marks on a device's current stream. device: "cuda" or "cpu"."""

    def __init__(self, device: str) -> None:
        self.cuda = torch.device(device).type == "cuda"

    def mark(self) -> torch.cuda.Event | float:
        """A place in the stream, or the time now."""
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def wait(self) -> None:
        """Until the device has done everything that it was given."""
        if self.cuda:
            torch.cuda.synchronize()

    def milliseconds(self, start: torch.cuda.Event | float, end: torch.cuda.Event | float) -> float:
        """Between two marks; call `wait` first."""
        if isinstance(start, float) and isinstance(end, float):
            return 1000 * (end - start)
        return start.elapsed_time(end)  # type: ignore[union-attr]


def median_ms(work: Callable[[], object], device: str, seconds: float = 0.5) -> float:
    """Median milliseconds of one call, over about so many seconds of calls after some to warm up."""
    clock = Clock(device)
    for _ in range(WARM_UPS):
        work()
    clock.wait()
    began = time.monotonic()
    work()
    clock.wait()
    runs = int(min(MOST_RUNS, max(LEAST_RUNS, seconds / max(time.monotonic() - began, 1e-6))))
    marks = []
    for _ in range(runs):
        start = clock.mark()
        work()
        marks.append((start, clock.mark()))
    clock.wait()
    return statistics.median(clock.milliseconds(*pair) for pair in marks)


def module_ms(
    network: nn.Module, watched: Callable[[nn.Module], bool], work: Callable[[], object], device: str, runs: int = 5
) -> dict[str, float]:
    """Path of every watched module -> median milliseconds of its forward, children and the gaps between launches included."""
    clock = Clock(device)
    seen: dict[str, list[tuple]] = {}
    work()
    with _hooks(network, watched, clock, seen):
        for _ in range(runs):
            work()
        clock.wait()
    return {name: statistics.median(clock.milliseconds(*pair) for pair in pairs) for name, pairs in seen.items()}


@contextmanager
def _hooks(
    network: nn.Module, watched: Callable[[nn.Module], bool], clock: Clock, seen: dict[str, list[tuple]]
) -> Iterator[None]:
    handles = []
    for name, module in network.named_modules():
        if not watched(module):
            continue
        starts: list = []

        def before(_m: nn.Module, _inputs: object, starts: list = starts) -> None:
            starts.append(clock.mark())

        def after(_m: nn.Module, _inputs: object, _output: object, name: str = name, starts: list = starts) -> None:
            seen.setdefault(name, []).append((starts.pop(), clock.mark()))

        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
