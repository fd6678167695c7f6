"""The account of one conversion: looked up before it starts, settled when the output is written, saved beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.assemble import AssembleReport
from pipeline.moov import track_tags
from pipeline.prepare import Prepared
from pipeline.source import open_source
from pipeline.streams import CopyPlan
from pipeline.telemetry.companions import CompanionPlan, copy_companions, file_sum, plan_companions
from pipeline.telemetry.fixes import GpsFix
from pipeline.telemetry.found import find_boxes
from pipeline.telemetry.gpx import made_by_us, write_gpx
from pipeline.telemetry.keep import MOVED_SUFFIX, BoxPlan, plan_boxes, settle
from pipeline.telemetry.manifest import NEEDS_MANIFEST, Entry, manifest_path, write_manifest
from pipeline.telemetry.place import keep_boxes, save_boxes
from pipeline.telemetry.positions import has_position, positions
from pipeline.telemetry.tags import tag_entries

STREAM_OUTCOMES = {"copy": "kept", "cover": "kept", "attachment": "kept", "tag": "remade", "sidecar": "moved"}


@dataclass(frozen=True)
class Saved:
    """What was written beside an output. entries: the whole account; files: those that `save` wrote; warnings: one sentence each."""

    entries: list[Entry]
    files: list[Path]
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Account:
    """Everything in and beside a source, and what is to become of it.

    converted: codec of each stream that becomes HDR, by index; copies: of `plan_copies`
    track_ids, fourccs: stream index -> id of its track in the source, and its four-letter tag, for mp4 and mov
    """

    source: Path
    output: Path
    container: str
    converted: Mapping[int, str]
    copies: Sequence[CopyPlan]
    track_ids: Mapping[int, int]
    fourccs: Mapping[int, str]
    boxes: Sequence[BoxPlan]
    companions: Sequence[CompanionPlan]

    @property
    def moved_boxes(self) -> frozenset[str]:
        """SHA-256 of what will be saved beside the output."""
        return frozenset(plan.box.sha256 for plan in self.boxes if plan.outcome == "moved")

    @property
    def gpx_path(self) -> Path:
        """OUTPUT.gpx, or OUTPUT.extracted.gpx where somebody else's file has or gets that name."""
        path = self.output.with_name(self.output.stem + ".gpx")
        taken = any(plan.path.suffix.lower() == ".gpx" for plan in self.companions)
        if taken or (path.exists() and not made_by_us(path)):
            return path.with_name(self.output.stem + ".extracted.gpx")
        return path

    def planned(self) -> list[Entry]:
        """The account before there is an output."""
        entries = [*self._streams(None), *self._boxes(), *tag_entries(self.source, None, {}), *self._companions()]
        if has_position(self._positions()):
            entries.append(
                Entry("gpx", "positions", "GPS track", "made", self.gpx_path.name, "for maps and other tools")
            )
        return entries

    def keep(self, joined: AssembleReport, partial: Path) -> Account:
        """Put the boxes that are kept into the joined file, which has no final name yet. Returns the account as it is now settled."""
        if self.container == "mkv":
            return self
        settled = replace(self, boxes=settle(self.boxes, partial.stat().st_size))
        ids = {
            self.track_ids[index]: place + 1
            for index, place in joined.output_streams.items()
            if index in self.track_ids
        }
        keep_boxes(self.source, partial, settled.boxes, ids)
        return settled

    def save(self, joined: AssembleReport, partial: Path, *, always: bool) -> Saved:
        """Write boxes that are moved, companions, positions and the manifest beside the output, each complete or not at all.

        joined, partial: the joined file and its report; streams that were moved are saved already; always: a manifest in any case
        Raises ConversionError when the source cannot be read, OSError as writing does.
        """
        files = copy_companions(self.companions)
        moved = self.output.with_name(self.output.stem + MOVED_SUFFIX)
        files += [moved] if save_boxes(self.source, moved, self.boxes) else []
        entries = [*self._streams(joined), *self._boxes(), *tag_entries(self.source, partial, joined.output_streams)]
        entries += self._companions()
        gpx = self.gpx_path
        counts = write_gpx(gpx, self._positions())
        if counts:
            said = ", ".join(f"{count} from {name}" for name, count in counts.items())
            entries.append(
                Entry("gpx", "positions", said, "made", gpx.name, "for maps and other tools", *file_sum(gpx))
            )
            files.append(gpx)
        if always or any(entry.outcome in NEEDS_MANIFEST for entry in entries):
            files.append(write_manifest(self.source, self.output, entries))
        else:
            manifest_path(self.output).unlink(missing_ok=True)  # of an earlier output of this name
        return Saved(entries, files, list(warnings_of(entries)))

    def _streams(self, joined: AssembleReport | None) -> list[Entry]:
        entries = [
            Entry("stream", f"stream {index}", f"video ({codec})", "converted", "output", "it is HDR now")
            for index, codec in self.converted.items()
        ]
        for copy in self.copies:
            outcome = STREAM_OUTCOMES[copy.action]
            where, counted = copy.where, (None, None)
            if outcome == "moved":
                path = self.output.with_name(self.output.stem + copy.where)
                where = path.name
                counted = file_sum(path) if joined is not None else counted
            elif joined is not None:
                counted = joined.payloads.get(copy.stream, counted)
            name = self.fourccs.get(copy.stream, copy.codec) if copy.kind == "data" else copy.codec
            what = f"{copy.kind} ({name})"
            entries.append(Entry("stream", f"stream {copy.stream}", what, outcome, where, copy.reason, *counted))
        return sorted(entries, key=lambda entry: int(entry.name.split()[1]))

    def _boxes(self) -> list[Entry]:
        entries = []
        for plan in self.boxes:
            where = self.output.stem + plan.where if plan.outcome == "moved" else plan.where
            box = plan.box
            entries.append(
                Entry("box", box.name, box.what, plan.outcome, where, plan.reason, box.size, box.sha256, plan.at)
            )
        return entries

    def _companions(self) -> list[Entry]:
        return [
            Entry(
                "file",
                plan.path.name,
                "companion file",
                plan.outcome,
                plan.target.name,
                plan.reason,
                *file_sum(plan.path),
            )
            for plan in self.companions
        ]

    def _positions(self) -> Iterator[tuple[str, Iterator[GpsFix]]]:
        return positions(self.source, [plan.box for plan in self.boxes], self.copies, self.fourccs)


def account_of(prepared: Prepared, copies: Sequence[CopyPlan]) -> Account:
    """Look at everything in and beside the source of a conversion. Writes nothing. Raises InputError when the source cannot be opened."""
    source, output, container = prepared.source, prepared.output, prepared.plan.container
    tracks = {track.stream_index for track in prepared.plan.tracks}
    converted = {stream.index: stream.codec for stream in prepared.info.streams if stream.index in tracks}
    own = set(converted) | {copy.stream for copy in copies if copy.action == "copy"}
    with open_source(source) as opened:
        is_mp4 = "mov" in opened.format.name
        track_ids = {stream.index: stream.id for stream in opened.streams} if is_mp4 else {}
    with source.open("rb") as file:
        tags = track_tags(file) if is_mp4 else {}
    fourccs = {index: tags[one] for index, one in track_ids.items() if one in tags}
    found = find_boxes(source) if is_mp4 else []
    boxes = plan_boxes(found, container, {track_ids[index] for index in own if index in track_ids})
    return Account(
        source, output, container, converted, copies, track_ids, fourccs, boxes, plan_companions(source, output)
    )


def warnings_of(entries: Iterable[Entry]) -> Iterable[str]:
    """What a user should read without opening the manifest: boxes and files that are moved or impossible, and tags that are lost."""
    moved = [entry for entry in entries if entry.part == "box" and entry.outcome == "moved"]
    if moved:
        names = ", ".join(dict.fromkeys(entry.name for entry in moved[:8])) + (" and more" if len(moved) > 8 else "")
        yield f"camera data that the output cannot hold ({names}) are saved beside it in {moved[0].where}."
    for entry in entries:
        if entry.outcome == "impossible":
            yield f"{entry.name} ({entry.what}): {entry.reason}."
