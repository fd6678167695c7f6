"""Status: what another terminal can say of a run, from its area and its work folders. Reads only."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

from pipeline.ledger import LEDGER_NAME, LOCK_NAME
from storage.urls import Url
from workers.area import AREA_NAME, Area, alive, find_area, process_lives
from workers.progress import clock

OWNER = re.compile(r"pid (?P<pid>\d+)(?: on (?P<host>\S+))? since (?P<since>.*)")
SHOWN_FAILURES = 20


def status(named: Path | Url, storage: Path | None = None) -> dict[str, Any]:
    """Facts on the runs at an output or a work folder, as plain data.

    drivers: what each driver says last, and whether it is `alive`; paused: has somebody asked for a pause
    storage: folder of workers.storage_folder, where the output lies in an object store
    work: for each work folder, who has it (or had it, on another machine) since when, and how many spans are done of how many
    Raises InputError where nothing is or was under way.
    """
    area = find_area(named, storage)
    drivers = [facts | {"alive": alive(facts)} for facts in area.statuses()]
    return {
        "place": str(named),
        "paused": area.paused,
        "drivers": drivers,
        "work": [_work(folder) for folder in _work_folders(area)],
    }


def is_over(facts: dict[str, Any]) -> bool:
    """No driver works there any more."""
    return not any(driver["alive"] for driver in facts["drivers"])


def status_text(facts: dict[str, Any], now: float) -> str:
    """The same for people. now: seconds since the epoch"""
    lines = []
    for driver in facts["drivers"]:
        lines += _driver_lines(driver, now)
    if facts["paused"]:
        lines.append(f"paused: nothing new begins; run_pipeline.py resume {facts['place']} lets it go on")
    for work in facts["work"]:
        host = f" on {work['host']}" if work["host"] else ""
        owner = f"pid {work['pid']}{host} since {work['since']}" if work["held"] else "nobody works on it"
        spans = "not planned yet" if work["spans"] is None else f"{work['spans_done']}/{work['spans']} spans done"
        lines.append(f"  {work['folder']}: {spans}; {owner}")
    if not lines:
        lines.append(f"{facts['place']}: nothing is under way there")
    return "\n".join(lines) + "\n"


def _driver_lines(driver: dict[str, Any], now: float) -> list[str]:
    files, state = driver["files"], driver["state"]
    if not driver["alive"] and driver["exit_code"] is None:
        state = "gone without a word (killed?); the same command goes on where it stopped"
    elif driver["exit_code"] is not None:
        state += f", exit code {driver['exit_code']}"
    eta = driver["eta_seconds"]
    guess = "~" if driver["frames_guessed"] else ""
    lines = [
        f"pid {driver['pid']} on {driver['host']}, since {clock(max(0.0, now - driver['since']))} ago: {state}",
        f"  files: {files['done']} done, {files['failed']} failed, {files['planning']} being planned, "
        f"{files['joining']} being joined, {files['waiting']} waiting, {files['all']} in all",
        f"  {driver['spans_done']}/{guess}{driver['spans']} spans, {driver['frames_done']}/{guess}{driver['frames']} frames, "
        f"{driver['frames_per_second']:.1f} fps on {driver['workers']} workers, ETA {'-' if eta is None else clock(eta)}",
    ]
    lines += [
        f"  now: {one['file']}: {one['spans_done']}/{one['spans']} spans, {one['frames_done']}/{one['frames']} frames"
        for one in driver["now"]
    ]
    lines += [f"  {_stored(one)}" for one in driver.get("storage", [])]
    failures = driver["failures"]
    lines += [f"  {one['status']}: {one['error']}" for one in failures[:SHOWN_FAILURES]]
    if len(failures) > SHOWN_FAILURES:
        lines.append(f"  and {len(failures) - SHOWN_FAILURES} more")
    return lines


def _stored(note: dict[str, Any]) -> str:
    """What is done in an object store."""
    text = f"{note['doing']} {note['where']}"
    text += f": {note['bytes'] / 1e6:.0f} of {note['of'] / 1e6:.0f} MB" if note["of"] else ""
    return f"{text}; {note['waiting']}" if note["waiting"] else text


def _work_folders(area: Area) -> list[Path]:
    """The work folder itself, or all below a folder of results."""
    if not area.own:
        return [area.folder]
    assert area.folder.name == AREA_NAME
    return sorted(path for path in area.folder.parent.rglob("*.work") if path.is_dir())


def _work(folder: Path) -> dict[str, Any]:
    owner = OWNER.match(_text(folder / LOCK_NAME))
    elsewhere = owner is not None and owner["host"] not in (None, socket.gethostname())
    try:
        plan = json.loads(_text(folder / "plan.json"))
        spans = sum(len(track["spans"]) for track in plan["tracks"])
    except (ValueError, KeyError, TypeError):
        spans = None
    return {
        "folder": str(folder),
        "pid": int(owner["pid"]) if owner else None,
        "host": owner["host"] if owner else None,
        "since": owner["since"] if owner else None,
        "held": elsewhere or bool(owner and process_lives(int(owner["pid"]))),  # of another machine it cannot be known
        "spans": spans,
        "spans_done": _text(folder / LEDGER_NAME).count("\n"),
    }


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
