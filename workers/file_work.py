"""File work: what is done to a whole file, planning it and joining it, in a process that may die of a hostile file.

As a script (`python -m workers.file_work`) it is such a process: one call comes in through standard input, its answer goes out.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
from dataclasses import dataclass
from typing import Any

from pipeline.convert import Joining, join
from pipeline.file_report import FileReport
from pipeline.planning import Asked, Planned
from pipeline.planning import plan_file as plan_here
from workers.span_worker import SpanError, describe_error, load_entry

PLAN_FILE = "workers.file_work:plan_file"
JOIN_FILE = "workers.file_work:join_file"
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Answer:
    """What came of a call: a value, or an error as a value."""

    value: Any = None
    error: SpanError | None = None


def plan_file(asked: Asked) -> Planned | FileReport:
    """See pipeline.planning; the indices stay in the work folder."""
    found = plan_here(asked)
    return found if isinstance(found, FileReport) else found.without_indices()


def join_file(joining: Joining) -> FileReport:
    """See pipeline.convert; with the report where it is asked for."""
    from reporting.conversion import report_conversion

    return join(joining, report_conversion)


def answer(entry: str, argument: object) -> Answer:
    """Call the function that `entry` names ("package.module:function"). Every exception comes back as a value."""
    try:
        return Answer(load_entry(entry)(argument))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - returned to the driver with its traceback, never lost
        return Answer(error=describe_error(error))


def main() -> None:
    """One call, in a process whose parent waits for it. It dies with its parent, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # whoever prints must not spoil the answer
        entry, argument = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent
        out.write(pickle.dumps(answer(entry, argument)))


if __name__ == "__main__":
    main()
