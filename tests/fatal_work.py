"""What workers.file_work does, for files whose name says what happens to the process that looks at them. Imports nothing heavy."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.verify_report import VerifyReport
from workers.apart import Compared, Inspected

if TYPE_CHECKING:
    from pipeline.planning import Asked


def act(path: Path) -> None:
    """Die, hang (and say who by writing it into the file), be surprised, refuse, or nothing."""
    kind = path.stem.split("_")[0]
    if kind == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "hang":
        path.write_text(str(os.getpid()))
        time.sleep(3600)
    if kind == "bug":
        raise IndexError("list index out of range")
    if kind == "bad":
        raise InputError(f"{path}: no video.")
    if kind == "slow":
        time.sleep(0.5)


def inspect_file(asked: Inspected) -> tuple[dict[str, Any], str]:
    act(asked.file)
    return {"path": str(asked.file)}, f"text of {asked.file}"


def verify_file(asked: Compared) -> VerifyReport:
    act(asked.source)
    return VerifyReport(str(asked.source), str(asked.output), asked.full, True, [])


def foresee_file(told: tuple[Asked, Path]) -> dict[str, Any]:
    act(told[0].source)
    return {"source": str(told[0].source)}
