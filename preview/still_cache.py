"""Still cache: what a tab keeps of frames, within a share of what all tabs together may keep."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from preview.limits import STILL_BYTES


class Budget:
    """total_bytes: what all caches together may hold. For any thread."""

    def __init__(self, total_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._caches: set[StillCache] = set()
        self._lock = threading.Lock()

    def join(self, cache: StillCache) -> None:
        """One more shares it; the others give up what is over their new shares."""
        with self._lock:
            self._caches.add(cache)
            others = self._caches - {cache}
        for other in others:
            other.trim()

    def leave(self, cache: StillCache) -> None:
        """One less."""
        with self._lock:
            self._caches.discard(cache)

    def share_bytes(self) -> int:
        """What each may hold."""
        with self._lock:
            return self._total_bytes // max(1, len(self._caches))


SHARED = Budget(STILL_BYTES)


class StillCache:
    """Things by key; those that were not asked for longest are forgotten first. least: how many are kept whatever they need. For any thread."""

    def __init__(self, least: int, budget: Budget = SHARED) -> None:
        self._least, self._budget = least, budget
        self._kept: OrderedDict[tuple, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._budget.join(self)

    def get(self, key: tuple) -> Any:  # noqa: ANN401
        """What was kept under a key; None when it is not there any more."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            self._kept.move_to_end(key)
            return found[0]

    def keep(self, key: tuple, item: Any, size_bytes: int) -> None:  # noqa: ANN401
        """Keep it, and forget what there is no room for any more."""
        with self._lock:
            self._kept[key] = item, size_bytes
            self._kept.move_to_end(key)
        self.trim()

    def trim(self) -> None:
        """Come back to the share that there is by now."""
        share_bytes = self._budget.share_bytes()
        with self._lock:
            while len(self._kept) > self._least and sum(size for _, size in self._kept.values()) > share_bytes:
                self._kept.popitem(last=False)

    def close(self) -> None:
        """Let go of all, and of the share."""
        self._budget.leave(self)
        with self._lock:
            self._kept.clear()
