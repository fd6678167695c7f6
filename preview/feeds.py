"""Feeds: the frame that is due now, of a file by the clock or of a live source. Those that nobody took in time are passed over."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Protocol

import torch

from pipeline.decode import DecodingStopped, decode_span
from pipeline.index import packets_for
from pipeline.span import Span
from preview.limits import AHEAD_BYTES, AHEAD_FRAMES
from preview.live import LiveSource
from preview.media import Planned

Planes = tuple[torch.Tensor, ...]
WAIT_SECONDS = 0.2
LATE_SECONDS = 0.5
"""Where the decoder is so far behind the clock, the clock waits for it: the video plays more slowly, but what is shown is not late."""


@dataclass(frozen=True)
class Due:
    """The frame to show now. window: planes of its neighbours and its own, in order; place: which of them it is; at: when it was due, by
    time.monotonic()"""

    number: int
    seconds: float
    window: list[Planes]
    place: int
    at: float


class Feed(Protocol):
    """What playing takes its frames from."""

    error: Exception | None
    ended: bool

    def newest(self, after: int, radius: int) -> Due | None:
        """The newest due frame with a number above `after`; None when there is none within WAIT_SECONDS, or the feed has ended."""

    def close(self) -> None:
        """Let go of the decoder."""


class VideoFeed:
    """A file from frame `first` to its end, by the wall clock."""

    def __init__(self, planned: Planned, first: int) -> None:
        self.error: Exception | None = None
        self.ended = self._decoded_all = self._closed = False
        self._planned = planned
        self._changed = threading.Condition()
        self._frames: dict[int, Planes] = {}
        self._next = first
        self._first = first
        self._total = planned.track.frames
        self._began: float | None = None
        self._thread = threading.Thread(target=self._decode, name="play decode", daemon=True)
        self._thread.start()

    def newest(self, after: int, radius: int) -> Due | None:
        until = time.monotonic() + WAIT_SECONDS
        with self._changed:
            while not self._closed and self.error is None:
                now = time.monotonic()
                wait = until - now
                due = self._due(now)
                ready = due if self._decoded_all else min(due, self._next - 1 - radius)
                if ready > after and ready in self._frames:
                    return self._give(ready, radius)
                if self._decoded_all and after >= self._total - 1:
                    if now >= self._time_of(self._total - 1) + self._last_seconds():
                        self.ended = True
                        return None
                    wait = min(wait, self._time_of(self._total - 1) + self._last_seconds() - now)
                elif self._began is not None and due + 1 < self._total and due <= after:
                    wait = min(wait, self._time_of(due + 1) - now)
                if now >= until:
                    return None
                self._changed.wait(max(wait, 0.001))
        return None

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._frames.clear()
            self._changed.notify_all()
        self._thread.join()

    def _give(self, number: int, radius: int) -> Due:
        near = [place for place in range(number - radius, number + radius + 1) if place in self._frames]
        window = [self._frames[place] for place in near]
        for place in [place for place in self._frames if place < number - radius]:
            del self._frames[place]
        self._changed.notify_all()
        return Due(number, self._planned.seconds(number), window, near.index(number), self._time_of(number))

    def _due(self, now: float) -> int:
        """Number of the frame that the clock stands at. A clock that the decoder cannot follow is put back."""
        if self._began is None:
            return self._first - 1
        pts, base = self._planned.index.frame_pts, float(self._planned.index.time_base)
        seconds = self._planned.seconds(self._first) + now - self._began
        due = int(pts.searchsorted(pts[0] + int(seconds / base), side="right")) - 1
        due = min(max(due, self._first), self._total - 1)
        behind = self._planned.seconds(due) - self._planned.seconds(max(self._first, self._next - 1))
        if not self._decoded_all and behind > LATE_SECONDS:
            self._began += behind
        return due

    def _time_of(self, number: int) -> float:
        began = self._began if self._began is not None else time.monotonic()
        return began + self._planned.seconds(number) - self._planned.seconds(self._first)

    def _last_seconds(self) -> float:
        return float(int(self._planned.index.frame_duration[-1]) * self._planned.index.time_base)

    def _decode(self) -> None:
        try:
            self._read()
        except DecodingStopped:
            return
        except Exception as error:  # noqa: BLE001 - told by whoever asks for the next frame
            with self._changed:
                self.error = error
                self._changed.notify_all()

    def _read(self) -> None:
        index, track, first = self._planned.index, self._planned.track, self._first
        count = self._total - first
        end_pts = int(index.frame_pts[-1] + index.frame_duration[-1])
        packets = packets_for(index, first, count, 0, 0)
        span = Span(0, int(index.frame_pts[first]), end_pts, first, count, 0, 0, *packets)
        frames = decode_span(
            self._planned.path,
            track.stream_index,
            index,
            span,
            deinterlace=track.deinterlace,
            threads=1,
            should_stop=lambda: self._closed,
        )
        for number, frame in enumerate(frames, first):
            most = max(4, min(AHEAD_FRAMES, AHEAD_BYTES // sum(plane.nbytes for plane in frame.planes)))
            with self._changed:
                self._frames[number] = frame.planes
                self._next = number + 1
                if self._began is None:
                    self._began = time.monotonic()
                self._changed.notify_all()
                while not self._closed and len(self._frames) > most and not self._is_late():
                    self._changed.wait(WAIT_SECONDS)
                while len(self._frames) > most + 1:
                    self._frames.pop(min(self._frames))
                if self._closed:
                    frames.close()
                    return
        with self._changed:
            self._decoded_all = True
            self._changed.notify_all()

    def _is_late(self) -> bool:
        """Has the oldest frame's time passed, and that of the newest too? Then decoding goes on, and the oldest are dropped."""
        return self._due(time.monotonic()) >= self._next


class LiveFeed:
    """The newest frame of a live source, which stays open when the feed is closed."""

    def __init__(self, live: LiveSource) -> None:
        self.error: Exception | None = None
        self.ended = self._closed = False
        self._live = live
        self._start: float | None = None

    def newest(self, after: int, radius: int) -> Due | None:
        frame = None if self._closed else self._live.newest(after, WAIT_SECONDS)
        if frame is None:
            return None
        self._start = frame.came if self._start is None else self._start
        return Due(frame.pts, frame.came - self._start, [frame.planes], 0, frame.came)

    def close(self) -> None:
        self._closed = True
