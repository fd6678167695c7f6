"""What became of one file, as plain data for people and for --json."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class FileReport:
    """What became of one file. status: "done", "already done", "planned", "failed", "refused" or "interrupted".

    streams: of plan_copies; account: every stream, box, tag and companion file (pipeline.telemetry.manifest.Entry); beside: files written
    """

    source: str
    output: str
    status: str
    frames: int = 0
    spans_done: int = 0
    spans_reused: int = 0
    seconds: float = 0.0
    max_cll_nits: int | None = None
    max_fall_nits: int | None = None
    restores_highlights: bool = False
    stages: list[str] = field(default_factory=list)
    repeated_frames: int = 0
    redone_in_float32: int = 0
    streams: list[dict[str, Any]] = field(default_factory=list)
    account: list[dict[str, Any]] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: str | None = None
    exit_code: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        return dataclasses.asdict(self)


def exit_code_of(reports: Iterable[FileReport]) -> int:
    """Of several files: 1 when one failed, else 2 when one was refused, else 0."""
    codes = {report.exit_code for report in reports}
    return 1 if 1 in codes else max(codes, default=0)
