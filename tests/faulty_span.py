"""What a worker is told to call by tests/test_faults.py: spans that go wrong as the file's name says, and are true ones else.

The first attempt at the first span of a file fails half way, and what it fails of may last as long as its process.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bench.fault_kinds import has_memory_groups, memory_group
from pipeline import span_job, span_parts

BEFORE = 3
"""Frames that are made before it goes wrong."""
_dead: list[str] = []


def run_span(workdir: str, track: int, span: int, **options: Any) -> dict[str, Any]:  # noqa: ANN401 - run_span's
    """See the module; arguments as in pipeline.span_job."""
    folder = Path(workdir)
    kind = folder.name.split(".")[0]
    attempts = folder.parent / f"{kind}.{span}.attempts"
    with attempts.open("a") as file:
        file.write(f"{os.getpid()}\n")
    first = span == 0 and attempts.read_text().count("\n") == 1
    real = span_parts.SpanCompute.run

    def failing(self: span_parts.SpanCompute, *args: object) -> Iterator[Any]:
        for number, frame in enumerate(real(self, *args)):
            if _dead:
                raise torch.AcceleratorError(_dead[0])
            if number == BEFORE and (first or (span == 0 and kind in LASTING)) and kind in WRONGS:
                if kind == "gpu_dead":
                    (folder.parent / "gpu_dead.lost").touch()
                WRONGS[kind]()
            yield frame

    span_parts.SpanCompute.run = failing
    try:
        return span_job.run_span(workdir, track, span, **options)
    finally:
        span_parts.SpanCompute.run = real


def starve() -> None:
    """The kernel kills this process for want of memory; where it cannot be made to, SIGKILL."""
    if has_memory_groups() and memory_group(os.getpid()) is not None:
        held = []
        while True:
            held.append(bytearray(b"1" * 1_000_000))
    os.kill(os.getpid(), signal.SIGKILL)


def gpu_memory() -> None:
    """What PyTorch raises when a GPU's memory is full."""
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def gpu_dead() -> None:
    """A CUDA error, after which every call in this process fails."""
    _dead.append("CUDA error: an illegal memory access was encountered")
    raise torch.AcceleratorError(_dead[0])


def poison() -> None:
    """A crash of a library."""
    os.write(2, b"last words of the decoder\n")
    os.abort()


LASTING = ("poison", "hungry")
"""Every attempt at their first span goes wrong."""
WRONGS = {"hungry": starve, "starve": starve, "gpu_memory": gpu_memory, "gpu_dead": gpu_dead, "poison": poison}
