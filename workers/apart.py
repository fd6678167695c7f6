"""Apart: calls about files that may be hostile, in processes of their own, waited for here. Imports nothing heavy itself.

A process that dies of a file costs that file one sentence.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from configs.schema import WorkersConfig
from pipeline.errors import ConversionError, InputError, SunvisorError
from workers.file_desk import Ended, FileDesk

TICK_SECONDS = 0.02
ATTEMPTS = 1
"""Nothing is lost when it fails, and who looks at files waits for the answer."""


@dataclass(frozen=True)
class Inspected:
    """What `inspect` asks. fps: of a raw stream; overlay: the picture to draw, None for none"""

    file: Path
    fps: Fraction | None = None
    overlay: Path | None = None


@dataclass(frozen=True)
class Compared:
    """What `verify` asks. full: decode every frame; folder: where a file may be made that stands for pictures"""

    source: Path
    output: Path
    full: bool
    folder: Path


def call_apart(entry: str, argument: object, file: Path, what: str) -> Any:  # noqa: ANN401
    """The answer to one call. file, what: for the sentence, such as "looked at".

    Raises what the call raised, InputError or ConversionError; ConversionError when its process died or something nobody foresaw went wrong.
    """
    (answer,) = call_each(entry, [(argument, file)], what, 1, WorkersConfig.stall_seconds)
    if isinstance(answer, SunvisorError):
        raise answer
    return answer


def call_each(
    entry: str, asked: Iterable[tuple[object, Path]], what: str, at_once: int, stall_seconds: float
) -> Iterator[Any]:
    """The answers to calls of one function in their order, or the errors, each as soon as it and those before it are there.

    asked: (its argument, the file that it is about); at_once: how many processes there may be; stall_seconds: see FileDesk
    """
    waiting = list(asked)
    answers: dict[int, Any] = {}
    begun = told = 0
    desk = FileDesk(ATTEMPTS, stall_seconds)
    try:
        while told < len(waiting):
            while begun < len(waiting) and desk.count(what) < at_once:
                desk.begin(what, str(begun), entry, waiting[begun][0])
                begun += 1
            for ended in desk.ended():
                answers[int(ended.key)] = _answer(ended, waiting[int(ended.key)][1])
            if told in answers:
                yield answers.pop(told)
                told += 1
            else:
                time.sleep(TICK_SECONDS)
    finally:
        desk.close()


def _answer(ended: Ended, file: Path) -> Any:  # noqa: ANN401
    error = ended.answer.error
    if error is None:
        return ended.answer.value
    if error.user_error:
        return InputError(error.message)
    if error.kind == "ConversionError":
        return ConversionError(error.message)
    if ended.deaths:
        why, *words = ended.deaths[-1].splitlines()
        _say(words)
        fate, cause = f"died ({why})", "the file is damaged, or memory is short"
        if error.kind == "Stalled":
            fate, cause = why, "the file is damaged, or a disk or network share does not answer"
        text = f"the process in which it was {ended.kind} {fate}; {cause}"
        return ConversionError(f"{file}: {text}.")
    _say(error.traceback.splitlines())
    return ConversionError(f"{file}: could not be {ended.kind} ({error.kind}: {error.message}).")


def _say(lines: list[str]) -> None:
    """What the process said last, for whoever wants to know more than the sentence."""
    sys.stderr.write("".join(f"{line}\n" for line in lines))
