"""FileProcess: one call in a process of its own, whose parent waits for it. Imports nothing heavy itself."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from dataclasses import dataclass
from typing import Any

from pipeline import heartbeat
from pipeline.parent import end_with
from workers.pulse import write_stacks_into
from workers.span_worker import SpanError, describe_error, load_entry


@dataclass(frozen=True)
class Answer:
    """What came of a call: a value, or an error as a value."""

    value: Any = None
    error: SpanError | None = None


@dataclass(frozen=True)
class Death:
    """A process ended without an answer. why: in a line; words: what it left, such as its last output or the stacks of its threads"""

    why: str
    words: str = ""


def answer(entry: str, argument: object) -> Answer:
    """Call the function that `entry` names ("package.module:function"). Every exception comes back as a value."""
    try:
        function = load_entry(entry)
        heartbeat.beat_on_imports()
        heartbeat.beat()  # the first: from now on it is up, and must move
        return Answer(function(argument))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - returned to the driver with its traceback, never lost
        return Answer(error=describe_error(error))


def main() -> None:
    """Take a call from standard input, answer on standard output. Dies with its parent, and leaves Ctrl-C to it.

    Arguments: descriptors of the memory into which it beats (pipeline/heartbeat.py), and of that into which it writes its stacks; the
    parent's process id.
    """
    beats, stacks, parent = map(int, sys.argv[1:])
    heartbeat.share(beats)
    write_stacks_into(stacks)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(parent)
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # whoever prints must not spoil the answer
        entry, argument = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent
        out.write(pickle.dumps(answer(entry, argument)))
