"""Lanes: order, windows and leads, whatever the number of threads; and spans that come out as an uncut run does."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.lanes import BUDGET_BYTES, Lanes, lanes_that_fit


class FakeEngine:
    """A frame is its number; a finished one is (number, the numbers it saw)."""

    def __init__(self, radius: int) -> None:
        self.radius = radius
        self.alive, self.most, self._lock = 0, 0, threading.Lock()

    def process(self, planes: list, number: int) -> list:
        assert planes == [number]
        return [(number, [number])]

    def sample(self, planes: int) -> int:
        time.sleep(0.0002 * (planes * 7 % 3))
        with self._lock:
            self.alive += 1
        return planes

    def finish(self, window: list, place: int, number: int) -> tuple:
        assert window[place] == number
        return number, list(window)

    def frame_bytes(self, height: int, width: int) -> int:
        return 100 * height * width


@given(
    radius=st.integers(0, 3),
    count=st.integers(1, 4),
    before=st.integers(0, 3),
    frames=st.integers(1, 9),
    after=st.integers(0, 3),
    start=st.integers(3, 20),
)
def test_each_frame_sees_its_neighbours_and_comes_out_once(
    radius: int, count: int, before: int, frames: int, after: int, start: int
) -> None:
    """before, after: neighbours that there are, fewer than the radius at a file's ends."""
    before, after = min(before, radius), min(after, radius)
    owned = range(start, start + frames)
    there = range(start - before, start + frames + after)
    lanes = Lanes(FakeEngine(radius), count, 1)
    found = list(lanes.run(iter(there), there.start, owned))
    wanted = [(n, [one for one in range(n - radius, n + radius + 1) if one in there]) for n in owned]
    assert found == wanted
    assert len(lanes.seconds) == (len(there) + frames if radius else frames)


def test_an_error_inside_a_frame_comes_out() -> None:
    engine = FakeEngine(1)
    engine.sample = lambda planes: 1 // 0
    with pytest.raises(ZeroDivisionError):
        list(Lanes(engine, 2, 1).run(iter(range(5)), 0, range(5)))


def test_lanes_fit_memory() -> None:
    engine = FakeEngine(0)
    assert lanes_that_fit(engine, 10, 10, 8) == 8
    side = int((BUDGET_BYTES / 250) ** 0.5)
    assert lanes_that_fit(engine, side, side, 8) == 2
    assert lanes_that_fit(FakeEngine(2), side, side, 8) == 1
    assert lanes_that_fit(SimpleNamespace(radius=0, frame_bytes=lambda *size: 1 << 50), 1, 1, 8) == 1
