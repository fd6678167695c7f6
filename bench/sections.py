"""Parts of a bench, each in a process of its own, in order of weight, under one limit of time.

A child writes its rows one by one, so what was measured before a crash or the end of its time is kept; a row that raises is written
with its error and the next one goes on. (A GPU that reads outside its memory takes the whole process with it: hence the processes.)
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CLOSING_SECONDS = 5.0
"""Before its time ends a child begins no further row."""

MESSAGE_CHARACTERS = 300

Row = dict[str, Any]
Work = Callable[[], Row]


@dataclass(frozen=True)
class Section:
    """A part of a bench. least_seconds: with less time left it is not begun; most_seconds: then it is stopped."""

    name: str
    least_seconds: float
    most_seconds: float


@dataclass
class Outcome:
    """rows: what children wrote; left_out: (row or section, why) for everything else."""

    rows: list[Row] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)


def run_rows(file: Path, planned: list[tuple[str, Work]], seconds: float) -> None:
    """In the child: do what is planned, row by row, until the time is over. `file` gets the plan and then a line a row."""
    end = time.monotonic() + seconds - CLOSING_SECONDS
    with file.open("w") as out:
        _say(out, {"plan": [name for name, _ in planned]})
        for name, work in planned:
            if time.monotonic() > end:
                return
            try:
                row = work()
            except Exception as error:  # noqa: BLE001 - it is the row's result, with its words
                row = {"error": describe(error)}
            _say(out, {"row": name, **row})


def describe(error: Exception) -> str:
    """An exception on one line, not too long."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MESSAGE_CHARACTERS]


def run_sections(
    sections: list[Section], command: Callable[[Section, Path, float], list[str]], folder: Path, seconds: float
) -> Outcome:
    """In the parent: run every section that there is time for, in order. command: (section, file, seconds) -> the child's words."""
    end = time.monotonic() + seconds
    outcome = Outcome()
    for section in sections:
        left = end - time.monotonic()
        if left < section.least_seconds:
            outcome.left_out.append(
                (section.name, f"{max(left, 0):.0f} s were left, it wants {section.least_seconds:.0f} s")
            )
            continue
        file, limit = folder / f"{section.name}.jsonl", min(left, section.most_seconds)
        began = time.monotonic()
        why = _run(command(section, file, limit), limit)
        rows, missing = _read(file)
        outcome.rows += [{"section": section.name, **row} for row in rows]
        outcome.left_out += [(f"{section.name}: {name}", why or "its time was over") for name in missing]
        if not rows and not missing:
            outcome.left_out.append((section.name, why or "it planned no row"))
        sys.stderr.write(f"{section.name}: {len(rows)} rows in {time.monotonic() - began:.0f} s {why}\n")
    return outcome


def _run(words: list[str], seconds: float) -> str:
    """Empty when the child ended well, else what became of it."""
    try:
        done = subprocess.run(words, timeout=seconds, capture_output=True, text=True, check=False)
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} s"
    if done.returncode == 0:
        return ""
    last = (done.stderr.strip().splitlines() or ["nothing on standard error"])[-1]
    return f"its process ended with {done.returncode}: {last}"[:MESSAGE_CHARACTERS]


def _read(file: Path) -> tuple[list[Row], list[str]]:
    """Rows that were written, and names of planned ones that were not."""
    lines = list(_lines(file))
    plan = lines[0]["plan"] if lines else []
    rows = lines[1:]
    written = {row["row"] for row in rows}
    return rows, [name for name in plan if name not in written]


def _lines(file: Path) -> Iterator[Row]:
    if file.exists():
        for line in file.read_text().splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:  # the process was ended in the middle of its last line
                return


def _say(out: Any, data: Row) -> None:  # noqa: ANN401 - a text file
    out.write(json.dumps(data) + "\n")
    out.flush()
