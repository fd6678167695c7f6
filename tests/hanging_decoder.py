"""Spans whose decoder hangs, for the watchdog. All that is needed is imported with it, while its worker starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import span_job, span_parts
from tests.hanging import wait_for_ever


def run_span(workdir: str, track: int, span: int, **options: Any) -> dict[str, Any]:  # noqa: ANN401 - run_span's
    """pipeline.span_job's, with a decoder that hangs after three frames: once in the batch, and each time in a file named poison."""
    real = span_parts.decode_span

    def decode_span(path: Path, *args: object, **kwargs: object) -> Iterator[Any]:
        for number, frame in enumerate(real(path, *args, **kwargs)):
            if number == 3 and (path.stem == "poison" or _first(Path(workdir).parent / "hung")):
                wait_for_ever()
            yield frame

    span_parts.decode_span = decode_span
    try:
        return span_job.run_span(workdir, track, span, **options)
    finally:
        span_parts.decode_span = real


def _first(mark: Path) -> bool:
    """Is this the first process that asks?"""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
