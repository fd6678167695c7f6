"""Area: the folder through which another terminal sees a run and speaks to it.

It is OUTPUT/.sunvisor for a folder of results, OUTPUT.work for one file, and a folder below `workers.storage_folder` for a URL. In it: status.HOST.PID.json, written by each driver; the file
`pause`, there while nothing new may begin; and, for a folder, report.json and report.txt of the last batch.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.places import CONTAINERS, work_folder
from storage.cell import run_folder, storage_folder
from storage.urls import Url

AREA_NAME = ".sunvisor"
PAUSE_NAME = "pause"
REPORT_NAME = "report.json"
REPORT_TEXT_NAME = "report.txt"
STATUS_VERSION = 1
FINISHED = ("finished", "stopped")
"""States of a driver that is gone as it should be."""
SILENT_SECONDS = 60.0
"""A driver on another machine that has written nothing for so long is taken for dead."""


@dataclass(frozen=True)
class Area:
    """folder: where things lie; own: made here and kept (a folder of results), else it is a work folder, which comes and goes"""

    folder: Path
    own: bool

    @property
    def paused(self) -> bool:
        """Has somebody asked for a pause?"""
        return (self.folder / PAUSE_NAME).exists()

    def open(self) -> None:
        """A driver begins: make the folder, and forget what drivers left there that are gone, a pause among it.

        Raises InputError where the folder cannot be made.
        """
        if self.own:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(
                    f"{self.folder.parent}: cannot be written there ({error.strerror}); choose another output folder."
                ) from error
        for path in self.folder.glob("status.*.json"):
            if not alive(read_json(path)):
                path.unlink(missing_ok=True)
        if self.folder.is_dir() and not self.statuses():
            self.resume()

    def pause(self) -> None:
        """Ask the drivers to begin nothing new."""
        (self.folder / PAUSE_NAME).touch()

    def resume(self) -> None:
        """Take that back."""
        (self.folder / PAUSE_NAME).unlink(missing_ok=True)

    def write_status(self, facts: Mapping[str, Any]) -> None:
        """Write the status of this driver. Where that cannot be, since the work folder is gone or the disk full, the run goes on without."""
        path = self.folder / f"status.{socket.gethostname()}.{os.getpid()}.json"
        told = {"version": STATUS_VERSION, "host": socket.gethostname(), "pid": os.getpid(), "updated": time.time()}
        with contextlib.suppress(OSError):
            _write(path, json.dumps(told | dict(facts), indent=1) + "\n")

    def write_report(self, facts: Mapping[str, Any], text: str) -> None:
        """Leave the report of a batch, for programs and for people; in a work folder, nothing. Raises OSError."""
        if self.own:
            _write(self.folder / REPORT_NAME, json.dumps(facts, indent=1, default=str) + "\n")
            _write(self.folder / REPORT_TEXT_NAME, text)

    def statuses(self) -> list[dict[str, Any]]:
        """What all drivers say that are or were here, the latest last."""
        found = [facts for path in self.folder.glob("status.*.json") if (facts := read_json(path))]
        return sorted(found, key=lambda facts: facts["updated"])


def area_of(output: Path | Url, *, one_file: bool, storage: Path | None = None) -> Area:
    """The area of a run that writes `output`. one_file: that is the file itself; storage: where runs are kept that write into a store"""
    if isinstance(output, Url):
        return Area(run_folder(storage or storage_folder(None), output) / AREA_NAME, own=True)
    return Area(work_folder(output), own=False) if one_file else Area(output / AREA_NAME, own=True)


def find_area(named: Path | Url, storage: Path | None = None) -> Area:
    """The area that a person means: by the output's folder, file or URL, or by a work folder. Raises InputError where there is none.

    storage: where runs are kept that write into a store
    """
    if isinstance(named, Url):
        area = area_of(named, one_file=False, storage=storage)
        if not area.folder.is_dir():
            raise InputError(
                f"{named}: no run of this machine wrote or writes there ({area.folder} does not exist); name its --output, and its "
                "workers.storage_folder with --storage-folder."
            )
        return area
    by_name = named.suffix.lower() in CONTAINERS and not named.is_dir()
    area = Area(named, own=False) if named.suffix == ".work" else area_of(named, one_file=by_name)
    if not area.folder.is_dir():
        done = f"; {named} is there, complete" if by_name and named.is_file() else ""
        raise InputError(f"{named}: no conversion is or was under way there ({area.folder} does not exist{done}).")
    return area


def alive(status: Mapping[str, Any]) -> bool:
    """Does the driver that wrote this status still run? On another machine: has it said anything lately?"""
    if not status or status.get("state") in FINISHED:
        return False
    if status["host"] != socket.gethostname():
        return time.time() - status["updated"] < SILENT_SECONDS
    return process_lives(status["pid"])


def process_lives(pid: int) -> bool:
    """Is there such a process on this machine?"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where it is missing or none of ours."""
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) and facts.get("version") == STATUS_VERSION else {}


def _write(path: Path, text: str) -> None:
    """The file appears whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_text(text)
    partial.replace(path)
