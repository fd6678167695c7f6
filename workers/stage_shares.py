"""Stage shares: which part of a span's time each stage was busy, so that one sees what limits a run."""

from __future__ import annotations

from collections import deque
from typing import Any

WINDOW_SPANS = 64
"""Shares are of so many spans: the last ones."""


class StageShares:
    """Decode, compute and encode of a span overlap; the stage that is busy nearly all the time is the one that holds up the others."""

    def __init__(self) -> None:
        self._spans: deque[tuple[dict[str, float], float]] = deque(maxlen=WINDOW_SPANS)

    def add(self, result: dict[str, Any], seconds: float) -> None:
        """Take in a finished span. result: its ledger line; seconds: wall time of the attempt, from the worker's first to its last act"""
        busy = stage_seconds(result)
        if busy and seconds > 0:
            self._spans.append((busy, seconds))

    def shares(self) -> dict[str, float]:
        """Stage -> busy seconds for each second of the workers, 0 to 1; the busiest first. Empty before the first span."""
        spans = list(self._spans)
        total = sum(seconds for _, seconds in spans)
        stages = dict.fromkeys(stage for busy, _ in spans for stage in busy)
        found = {stage: min(1.0, sum(busy.get(stage, 0.0) for busy, _ in spans) / total) for stage in stages}
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def text(self) -> str:
        """'compute 91 % busy, encode 40 %, decode 12 %'; empty before the first span."""
        parts = [f"{stage} {share:.0%}".replace("%", " %") for stage, share in self.shares().items()]
        return ", ".join([f"{parts[0]} busy", *parts[1:]]) if parts else ""


def stage_seconds(result: dict[str, Any]) -> dict[str, float]:
    """Stage -> busy seconds of a ledger line, without the wall time that stands beside them."""
    return {stage: float(seconds) for stage, seconds in result.get("seconds", {}).items() if stage != "wall"}
