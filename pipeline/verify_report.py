"""What verify found: a list of checks, each with a verdict and the numbers behind it in plain words."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. detail: what was found, in words and numbers, whether it passed or not."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class VerifyReport:
    """Is the output a true conversion of the source? full: every frame was decoded, not only those around the spans' borders."""

    source: str
    output: str
    full: bool
    ok: bool
    checks: list[Check]

    @property
    def failed(self) -> list[Check]:
        """The checks that did not pass."""
        return [check for check in self.checks if not check.ok]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        return dataclasses.asdict(self)
