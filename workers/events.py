"""Events: what a SpanPool tells its caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.errors import ConversionError, InputError
from workers.span_worker import SpanError, SpanTask


@dataclass(frozen=True)
class Done:
    """A span is converted; result is the entry's dict, seconds the wall time of the attempt that succeeded."""

    task: SpanTask
    result: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class Failed:
    """A span is given up after `attempts` attempts; log has every attempt's reason, traceback and the dead workers' last output."""

    task: SpanTask
    error: SpanError
    attempts: int
    log: str

    def exception(self) -> InputError | ConversionError:
        """The error to raise or to report for the video: InputError when the user can mend it."""
        return (InputError if self.error.user_error else ConversionError)(self.error.message)


@dataclass(frozen=True)
class Retrying:
    """An attempt failed and the span will be tried again; its frames count from 0 again."""

    task: SpanTask
    error: SpanError
    attempt: int


@dataclass(frozen=True)
class Progress:
    """A running span has finished this many of its frames; 0 when it has just begun: then worker says which one has it, as "host:pid"."""

    task: SpanTask
    frames: int
    worker: str = ""


Event = Done | Failed | Retrying | Progress
