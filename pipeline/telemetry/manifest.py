"""The manifest OUTPUT.streams.json: every stream, box, group of tags and companion file of a source, and what became of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.telemetry.whole import whole_file

SUFFIX = ".streams.json"
FORMAT = 1
OUTCOMES = {
    "converted": "a video that is HDR now",
    "kept": "in the output, unchanged",
    "remade": "in the output, written anew with the same meaning",
    "moved": "in a file beside the output, unchanged",
    "copied": "a file beside the source, now also beside the output",
    "made": "a file that was not there before, read out of the source",
    "padding": "zeros that mean nothing",
    "impossible": "not in the output and not beside it",
}
"""Every outcome and what it means."""

BESIDE = frozenset({"moved", "copied", "made"})
NEEDS_MANIFEST = BESIDE | {"impossible"}


@dataclass(frozen=True)
class Entry:
    """One thing and its fate.

    part: "stream", "box", "tags", "chapters", "file" or "gpx"; name: such as "stream 2" or "moov/udta/FIRM"; what: in words
    outcome: of OUTCOMES; where: "output", a place in it, or the name of a file beside it; reason: one clause, why
    bytes, sha256: of the thing itself, for a stream of all its packets one after another; None where there is nothing to count
    at: where it begins in the file beside the output
    """

    part: str
    name: str
    what: str
    outcome: str
    where: str
    reason: str
    bytes: int | None = None
    sha256: str | None = None
    at: int | None = None

    @property
    def fate(self) -> str:
        """A few words: kept; moved to drive_hdr.telemetry.bin."""
        beside = {
            "moved": f"moved to {self.where}",
            "copied": f"copied to {self.where}",
            "made": f"written as {self.where}",
        }
        return beside.get(self.outcome, self.outcome)

    def to_dict(self) -> dict[str, Any]:
        """Plain data without what is not known."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def manifest_path(output: Path) -> Path:
    """drive_hdr.mp4 -> drive_hdr.streams.json"""
    return output.with_name(output.stem + SUFFIX)


def write_manifest(source: Path, output: Path, entries: Iterable[Entry]) -> Path:
    """Write it under a temporary name, sync, rename. The same conversion gives the same bytes: no clock, no folders."""
    facts = {
        "format": FORMAT,
        "what": "Sunvisor: every stream, box, tag and companion file of the source, and what became of it.",
        "source": source.name,
        "output": output.name,
        "outcomes": OUTCOMES,
        "entries": [entry.to_dict() for entry in entries],
    }
    path = manifest_path(output)
    with whole_file(path) as partial:
        partial.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def read_manifest(path: Path) -> list[Entry] | None:
    """The entries of a manifest; None when there is none. Raises ValueError when it is not one of ours."""
    if not path.is_file():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        version = facts["format"]
        entries = [_entry(entry) for entry in facts["entries"]] if version == FORMAT else []
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is no manifest of Sunvisor") from error
    if version != FORMAT:
        raise ValueError(f"{path.name} is a manifest of another version")
    return entries


def _entry(facts: dict[str, Any]) -> Entry:
    """Raises TypeError or ValueError when a fact is missing, unknown or of another kind."""
    entry = Entry(**facts)
    texts = [entry.part, entry.name, entry.what, entry.outcome, entry.where, entry.reason]
    for text in texts if entry.sha256 is None else [*texts, entry.sha256]:
        if not isinstance(text, str):
            raise TypeError(f"{text!r} is no text")
        text.encode("utf-8")
    for number in (entry.bytes, entry.at):
        if number is not None and (type(number) is not int or not 0 <= number < 1 << 62):
            raise ValueError(f"{number!r} is no number of bytes")
    if entry.outcome in BESIDE and not re.fullmatch(rb"[^/\0]{1,255}", entry.where.encode("utf-8")):
        raise ValueError(f"{entry.where!r} is no name of a file beside the output")
    return entry
