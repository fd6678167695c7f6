"""Tags and chapters: what a source says in words, and whether the output says it too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.assemble import DROPPED_TAGS
from pipeline.source import open_source
from pipeline.streams import CODING_TAGS, MUXER_TAGS
from pipeline.telemetry.manifest import Entry

VENDOR = "vendor_id"
"""Which program made the old coding (a field of mp4's sample entries)."""

UNKNOWN_LANGUAGE = ("language", "und")
"""ISO 639-2's word for a language that nobody named: the same as no tag."""


@dataclass(frozen=True)
class Words:
    """file: tags of the file; streams: tags of each stream; chapters: their titles. Names in lower case, as Matroska writes them in capitals.

    tracks: the number of each stream's track
    """

    file: dict[str, str] = field(default_factory=dict)
    streams: list[dict[str, str]] = field(default_factory=list)
    chapters: list[str] = field(default_factory=list)
    tracks: list[int] = field(default_factory=list)


def read_words(path: Path) -> Words:
    """Raises InputError when the file cannot be opened."""
    with open_source(path) as opened:
        return Words(
            _lower(opened.metadata),
            [_lower(stream.metadata) for stream in opened.streams],
            [chapter["metadata"].get("title", "") for chapter in opened.chapters()],
            [stream.id or stream.index + 1 for stream in opened.streams],  # Matroska has none, and keeps every track
        )


def tag_entries(source: Path, result: Path | None, places: Mapping[int, int]) -> list[Entry]:
    """One entry for each group of tags and each fate. result: the finished file, None before there is one; places: source stream -> output stream."""
    ours = read_words(source)
    theirs = read_words(result) if result is not None else ours
    by_track = dict(zip(theirs.tracks, theirs.streams, strict=True))  # a track without a packet is not read back
    entries = _group("file tags", ours.file, theirs.file, frozenset(ours.file) & DROPPED_TAGS)
    for index, words in enumerate(ours.streams):
        if result is not None and index not in places:
            continue
        own = {name for name in words if name == VENDOR or MUXER_TAGS.fullmatch(name) or CODING_TAGS.fullmatch(name)}
        said = theirs.file.items() & words.items()  # Matroska has one date for the whole file
        there = dict(said) | (words if result is None else by_track.get(places[index] + 1, {}))
        entries += _group(f"tags of stream {index}", words, there, frozenset(own))
    if ours.chapters:
        same = ours.chapters == theirs.chapters
        fate = (
            ("kept", "output", "with their names and times") if same else ("impossible", "", "they come back changed")
        )
        entries.append(Entry("chapters", "chapters", f"{len(ours.chapters)} chapters", *fate))
    return entries


def _group(name: str, ours: Mapping[str, str], theirs: Mapping[str, str], own: frozenset[str]) -> list[Entry]:
    """own: names of tags that are about the old file or its coding."""
    entries = []
    kept = sorted(tag for tag in ours if tag not in own and theirs.get(tag) == ours[tag])
    if kept:
        entries.append(Entry("tags", name, ", ".join(kept), "kept", "output", "the same text"))
    if own:
        why = "they are about the old file and its coding; the output states its own"
        entries.append(Entry("tags", name, ", ".join(sorted(own)), "remade", "output", why))
    for tag in sorted(ours.keys() - own - set(kept)):
        why = f"the output says {theirs[tag]!r}" if tag in theirs else "the output's container keeps no such tag"
        entries.append(Entry("tags", name, tag, "impossible", "", f"{why}; the source says {ours[tag]!r}"))
    return entries


def _lower(tags: Mapping[str, str]) -> dict[str, str]:
    lower = {name.lower(): text for name, text in tags.items()}
    return {name: text for name, text in lower.items() if (name, text) != UNKNOWN_LANGUAGE}
