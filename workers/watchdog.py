"""Watchdog: who has stood still for how long, by a clock that does not jump and with no blame for the time in which nobody watched."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

LONGEST_TURN_SECONDS = 10.0


class Watchdog:
    """Pure: it is told what is seen, and kills nobody.

    limit_seconds: how long somebody may stand still; 0 = for ever
    now: seconds of a clock that never jumps
    A watcher that was itself held up (a laptop asleep, a driver stopped by SIGSTOP) saw nothing of what the others did meanwhile, and they
    may have been held up with it: then everybody's time begins anew.
    """

    def __init__(self, limit_seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self.limit_seconds = limit_seconds
        self._now = now
        self._longest_turn = min(LONGEST_TURN_SECONDS, limit_seconds / 2)
        self._last_turn = now()
        self._awake_since = self._last_turn
        self._seen: dict[Hashable, tuple[object, float]] = {}

    def turn(self) -> None:
        """Call it again and again, at least every second, before asking anything."""
        now = self._now()
        if now - self._last_turn > self._longest_turn:
            self._awake_since = now
        self._last_turn = now

    def see(self, who: Hashable, state: object) -> None:
        """What was seen of somebody. Seen for the first time, or otherwise than before, it has just moved."""
        known = self._seen.get(who)
        if known is None or known[0] != state:
            self._seen[who] = state, self._now()

    def still_seconds(self, who: Hashable) -> float:
        """How long it has not moved; 0 for whom was never seen."""
        if who not in self._seen:
            return 0.0
        return self._now() - max(self._seen[who][1], self._awake_since)

    def stands_still(self, who: Hashable, least_seconds: float = 0.0) -> bool:
        """Too long? least_seconds: allow it at least that much."""
        return self.limit_seconds > 0 and self.still_seconds(who) > max(self.limit_seconds, least_seconds)

    def forget(self, who: Hashable) -> None:
        """What it does from now on is something new."""
        self._seen.pop(who, None)
