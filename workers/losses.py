"""Losses: how often in a row a Ray of our own was lost, and when that is enough."""

from __future__ import annotations

from pipeline.errors import ConversionError
from workers.cluster import RayLost


class RayLosses:
    """most: how many Rays may be lost without a span done in between. given_up: why no other is started, once there were more"""

    def __init__(self, most: int) -> None:
        self.given_up: ConversionError | None = None
        self._most = most
        self._in_a_row = 0

    def span_done(self) -> None:
        """It does work: what is lost from now on is counted anew."""
        self._in_a_row = 0

    def is_enough(self, lost: RayLost) -> bool:
        """Count one more. Was it one too many?"""
        self._in_a_row += 1
        if self._in_a_row > self._most:
            self.given_up = ConversionError(
                f"{lost}, {self._in_a_row} times in a row without a span done in between: run the same command again, finished spans are kept."
            )
        return self.given_up is not None
