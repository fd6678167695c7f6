"""Stage shares: the terminal says which stage holds up the others."""

from __future__ import annotations

import io

from workers.events import Done, Progress
from workers.progress import ProgressDisplay
from workers.span_worker import SpanTask
from workers.stage_shares import WINDOW_SPANS, StageShares


def line(decode: float, compute: float, encode: float) -> dict:
    return {"seconds": {"decode": decode, "compute": compute, "encode": encode, "wall": 99.0}}


def test_the_terminal_says_what_limits() -> None:
    shares = StageShares()
    assert shares.text() == ""
    shares.add({}, 1.0)
    assert shares.text() == ""
    shares.add(line(1.2, 9.1, 4.0), 10.0)
    assert shares.text() == "compute 91 % busy, encode 40 %, decode 12 %"
    task = SpanTask("k", "/w/a", 0, 0, 100, "class")
    stream, clock_now = io.StringIO(), [0.0]
    with ProgressDisplay(stream=stream, now=lambda: clock_now[0]) as display:
        display.add_video("/w/a", "a.mp4", 200, 2)
        display.show(Progress(task, 0))
        clock_now[0] = 10.0
        display.show(Done(task, line(1.2, 9.1, 4.0), 10.0))
    told = "0/1 videos, 100/200 frames, 1/2 spans, 10.0 fps, ETA 0:10, compute 91 % busy, encode 40 %, decode 12 %; now: a.mp4"
    assert stream.getvalue().splitlines() == [told]


def test_shares_forget_what_is_long_ago() -> None:
    shares = StageShares()
    shares.add(line(0.0, 10.0, 0.0), 10.0)
    for _ in range(WINDOW_SPANS):
        shares.add(line(10.0, 0.0, 0.0), 10.0)
    assert shares.shares()["decode"] == 1.0 and shares.shares()["compute"] == 0.0
