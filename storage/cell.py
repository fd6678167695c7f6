"""Cell: the folder on a local or shared disk where one conversion from or to an object store is worked on.

CELL/in holds the fetched source under its own name with its companions, CELL/out the output and its work folder until they are published,
and CELL/note.json what is being fetched or published. The same source and output always meet in the same cell, so a stopped run goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from storage.urls import Url

NOTE_NAME = "note.json"
NOTE_SECONDS = 0.5
PUBLISHED_ALREADY = "beside.json"
"""In a cell: what was fetched into CELL/out, since it lies beside the output already."""


def storage_folder(setting: str | None) -> Path:
    """Where cells lie: the setting `workers.storage_folder`, or a folder of the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(setting).expanduser() if setting else cache / "sunvisor" / "storage").resolve()


def run_folder(storage: Path, output: Url) -> Path:
    """Where status and reports of runs lie that write to this output."""
    return storage / "runs" / _hash(f"{output.scheme}://{output.path}")


@dataclass(frozen=True)
class Remote:
    """What of a conversion lies in an object store.

    cell: its folder; source: where the source is, None: on a disk; output: where the output goes, None: onto a disk
    size, pin: of the source when it was listed
    """

    cell: Path
    source: Url | None = None
    output: Url | None = None
    size: int = 0
    pin: str = ""

    @property
    def local_source(self) -> Path:
        """Where the source is fetched to."""
        assert self.source is not None
        return self.cell / "in" / self.source.name

    @property
    def local_output(self) -> Path:
        """Where the output is made."""
        assert self.output is not None
        return self.cell / "out" / self.output.name

    def url_of(self, path: Path) -> Url:
        """Where a file goes that is made beside the output."""
        assert self.output is not None
        return self.output.parent.join(path.relative_to(self.cell / "out").as_posix())

    def named(self, text: str) -> str:
        """A text for people: with URLs for places in the cell, but for logs and work folders, which stay there."""
        if self.source is not None:
            text = text.replace(f"{self.cell}/in/", str(self.source.parent))
        if self.output is not None:
            stays = rf"(?!{re.escape(self.output.name)}\.(?:work|error\.log))"
            folder = str(self.output.parent)
            text = re.sub(rf"{re.escape(str(self.cell))}/out/{stays}", lambda _: folder, text)
        return text

    def named_all(self, facts: Any) -> Any:  # noqa: ANN401 - plain data
        """The same for every text in plain data (lists and dicts)."""
        if isinstance(facts, str):
            return self.named(facts)
        if isinstance(facts, list):
            return [self.named_all(one) for one in facts]
        if isinstance(facts, dict):
            return {key: self.named_all(value) for key, value in facts.items()}
        return facts

    def make(self) -> None:
        """Make the cell. Raises InputError where it cannot be made."""
        try:
            self.cell.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            for name in ("in", "out"):
                (self.cell / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{self.cell}: cannot be written there ({error.strerror}); name another folder with workers.storage_folder."
            ) from error

    def drop_source(self) -> None:
        """The fetched source is needed no more."""
        shutil.rmtree(self.cell / "in", ignore_errors=True)

    def tidy(self) -> None:
        """Remove what nobody needs of a conversion that is over; a cell with logs or unpublished work stays."""
        with contextlib.suppress(OSError):  # nothing of it may be there, nor a folder that it could be in
            (self.cell / NOTE_NAME).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (self.cell / "in").rmdir()
        with contextlib.suppress(OSError):
            (self.cell / "out").rmdir()
            (self.cell / PUBLISHED_ALREADY).unlink(missing_ok=True)
            self.cell.rmdir()


def cell_of(storage: Path, source: str, output: str) -> Path:
    """The cell of a conversion. source, output: URL, or absolute path"""
    return storage / "cells" / _hash(f"{source}\n{output}")


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=12).hexdigest()


class Note:
    """Says in a cell how far it is; read by the driver, which may be on another machine.

    what: "fetching" or "publishing"; where: the URL
    """

    def __init__(
        self, cell: Path, what: str, where: Url, size: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = cell / NOTE_NAME
        self._facts: dict[str, Any] = {"doing": what, "where": str(where), "bytes": 0, "of": size, "waiting": ""}
        self._clock = clock
        self._next = 0.0

    def add(self, count: int) -> None:
        """So many bytes more."""
        self._facts["bytes"] += count
        self._write()

    def waiting(self, text: str) -> None:
        """What is waited for; empty: for nothing any more."""
        self._facts["waiting"] = text
        self._next = 0.0
        self._write()

    def _write(self) -> None:
        now = self._clock()
        if now >= self._next:
            self._next = now + NOTE_SECONDS
            with contextlib.suppress(OSError):  # a note that cannot be written holds up nothing
                self._path.write_text(json.dumps(self._facts))


def read_note(cell: Path) -> dict[str, Any]:
    """What is being done in a cell; empty when nothing is."""
    try:
        facts = json.loads((cell / NOTE_NAME).read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
