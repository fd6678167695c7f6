"""Schedule: which file is looked at next, and which span is handed out next. Pure: no clock, no processes.

Files are looked at longest first, so that nothing long is begun at the end. Spans of files that are begun go first, so that these finish
early; another file is begun only when those have nothing left to hand out. Within a file the longest span goes first.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

Place = tuple[int, int]
"""(track, span)."""


@dataclass
class _File:
    """spans: a heap of (-frames, place) that wait; begun: place in the order of beginning, None: no span was handed out yet"""

    name: str
    size: int
    spans: list[tuple[int, Place]] = field(default_factory=list)
    frames: int = 0
    begun: int | None = None


class Schedule:
    """Add files, ask for the next one to look at, tell what was found, ask for the next span.

    ahead: spans that shall be ready beyond those that are handed out (files are looked at until there are as many)
    lookers: how many files may be looked at at a time
    A file is told by its name, which is any text that no other file has.
    """

    def __init__(self, ahead: int, lookers: int) -> None:
        self.ahead = ahead
        self.lookers = lookers
        self._waiting: list[tuple[int, int, str]] = []
        self._order = 0
        self._looked_at: dict[str, int] = {}
        self._open: dict[str, _File] = {}
        self._begun = 0
        self._spans_seen = 0
        self._bytes_seen = 0

    def add(self, name: str, size: int) -> None:
        """A file to convert. size: in bytes, to guess how long it is"""
        heapq.heappush(self._waiting, (-size, self._order, name))
        self._order += 1

    @property
    def waiting(self) -> int:
        """How many files were not looked at yet."""
        return len(self._waiting)

    @property
    def ready(self) -> int:
        """How many spans can be handed out."""
        return sum(len(file.spans) for file in self._open.values())

    def next_file(self) -> str | None:
        """The file to look at now; None when enough is ready, or as many are being looked at as may be."""
        if not self._waiting or len(self._looked_at) >= self.lookers:
            return None
        if self.ready + sum(map(self._guess, self._looked_at.values())) >= self.ahead:
            return None
        size, _, name = heapq.heappop(self._waiting)
        self._looked_at[name] = -size
        return name

    def found(self, name: str, spans: Iterable[tuple[Place, int]], in_all: int) -> None:
        """A file was looked at. spans: (place, frames) of those to convert; in_all: how many it has"""
        size = self._looked_at.pop(name)
        heap = [(-frames, place) for place, frames in spans]
        heapq.heapify(heap)
        if heap:
            self._open[name] = _File(name, size, heap, -sum(frames for frames, _ in heap))
        self._spans_seen += in_all
        self._bytes_seen += size

    def put_back(self, name: str) -> None:
        """Looking at a file was stopped; it waits again."""
        self.add(name, self._looked_at.pop(name))

    def drop(self, name: str) -> None:
        """A file needs nothing more: it is refused, done or given up. Spans of it that wait are forgotten."""
        self._looked_at.pop(name, None)
        self._open.pop(name, None)

    def next_span(self) -> tuple[str, Place] | None:
        """(file, place) to hand out now; None when nothing is ready."""
        if not self._open:
            return None
        begun = [file for file in self._open.values() if file.begun is not None]
        if begun:
            file = min(begun, key=lambda one: one.begun or 0)
        else:
            file = max(self._open.values(), key=lambda one: one.frames)
            file.begun = self._begun
            self._begun += 1
        _, place = heapq.heappop(file.spans)
        if not file.spans:
            del self._open[file.name]
        return file.name, place

    def give_back(self, name: str, place: Place, frames: int) -> None:
        """A span that was handed out was not begun; it waits again, before all files that are begun later."""
        file = self._open.get(name)
        if file is None:
            file = self._open[name] = _File(name, 0, begun=-1)
        heapq.heappush(file.spans, (-frames, place))

    def _guess(self, size: int) -> int:
        """How many spans a file has, by those that were looked at; at least one."""
        return max(1, round(size * self._spans_seen / self._bytes_seen)) if self._bytes_seen else 1
