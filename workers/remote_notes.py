"""Remote notes: what processes that fetch and publish say in their cells, for people and for the status."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from storage.cell import Remote, read_note


class RemoteNotes:
    """tell: shows a sentence; each time that something new is waited for, and when that is over"""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell
        self._waiting: dict[str, str] = {}
        self.now: list[dict[str, Any]] = []

    def look(self, under_way: Iterable[Remote]) -> None:
        """Read the notes of what is being fetched and published; `now` has them afterwards."""
        self.now = [note for remote in under_way if (note := read_note(remote.cell))]
        for note in self.now:
            where, waiting = str(note.get("where")), str(note.get("waiting", ""))
            if waiting and waiting != self._waiting.get(where):
                self._tell(waiting)
            elif self._waiting.get(where) and not waiting:
                self._tell(f"{where}: the store answers again")
            self._waiting[where] = waiting
