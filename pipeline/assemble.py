"""Assemble: span files and all other streams of the source joined, packet by packet, into the final file.

No picture is decoded or encoded here. Times are the source's, exactly (Matroska: to the nearest millisecond); the same input
gives the same bytes. `faststart` (the index moved to the front) is left out on purpose: it writes the whole file a second time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import heapq
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import Flags, InputContainer, OutputContainer
from av.stream import Stream
from av.video.stream import VideoStream

from pipeline.boxes import complete_header, template_stream
from pipeline.codec_delay import delayed_template
from pipeline.copied_packets import CopiedPackets, StreamStart, movie_timescale, read_starts, shift_needed
from pipeline.errors import ConversionError
from pipeline.hdr10 import IN_PACKETS, ContentLight, MasteringDisplay, insert
from pipeline.moov import finish_moov
from pipeline.on_disk import sync
from pipeline.picture_geometry import read_geometry, shown_part
from pipeline.source import open_source
from pipeline.streams import COVER_CODECS, FORMATS, CopyPlan, add_copy, first_packets, kept_tags, sentence
from pipeline.track_packets import TrackPackets, TrackSpans

__all__ = ["AssembleReport", "TrackSpans", "assemble"]

DROPPED_TAGS = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder"})
INTERLEAVE_MICROSECONDS = 1_000_000


@dataclass
class AssembleReport:
    """What was written.

    shift_seconds: added to every time of every stream; 0 unless something that is shown lies before time 0 in the source
    packets: how many packets of each source stream went in (converted and copied), by source index
    output_streams: source index -> stream index in the output, for streams that have a track of their own there
    payloads: source index -> bytes and SHA-256 of all packets (or the picture, or the attachment) of a stream that was copied
    warnings: one sentence each
    """

    shift_seconds: Fraction = Fraction(0)
    packets: dict[int, int] = field(default_factory=dict)
    output_streams: dict[int, int] = field(default_factory=dict)
    payloads: dict[int, tuple[int, str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def assemble(
    source: Path,
    output_tmp: Path,
    tracks: list[TrackSpans],
    copies: list[CopyPlan],
    *,
    container: str,
    codec: str,
    mastering: MasteringDisplay | None,
    light: tuple[int, int] | None,
    provenance_key: str,
    provenance: dict[str, Any],
    least_shift: Fraction = Fraction(0),
) -> AssembleReport:
    """Write `output_tmp`, complete and on disk. The caller gives it its final name.

    copies: from `plan_copies`; container: "mp4", "mov" or "mkv"; codec: of the spans (encoder_choice.EncoderChoice)
    mastering, light (MaxCLL, MaxFALL in whole nits): HDR10 metadata for keyframe packets and container; None for HLG
    least_shift: seconds by which all times are moved at least (a proxy is moved as its result is)
    provenance: written as one JSON tag named `provenance_key`; "shift_seconds" (a fraction as text) is added to it
    Output streams stand in the source's order. Raises ConversionError naming file, stream and time; OSError (ENOSPC) when the
    disk is full. On any error no file is left.
    """
    with open_source(source) as opened:
        starts = read_starts(opened, [plan.stream for plan in copies if plan.action == "copy"])
    pictures = _read_covers(source, copies)
    shift = max(shift_needed(tracks, starts, container), least_shift)
    report = AssembleReport(shift, warnings=_warnings(tracks, copies, container, codec, shift))
    metadata = (mastering, ContentLight(*light) if light is not None else None)
    try:
        with open_source(source) as opened, contextlib.ExitStack() as held:
            join = _Join(opened, output_tmp, container, codec, metadata, shift, held)
            join.open(tracks, movie_timescale(tracks, starts, shift))
            join.add_streams(tracks, copies, starts, pictures)
            join.write_tags(provenance_key, provenance | {"shift_seconds": str(shift)})
            join.write_packets(report)
        if container != "mkv":
            languages = join.languages() if container == "mov" else {}
            finish_moov(output_tmp, [pictures[index] for index in sorted(pictures)], join.hidden, languages)
        sync(output_tmp)
    except BaseException:
        output_tmp.unlink(missing_ok=True)
        raise
    return report


class _Join:
    """One output file in the making. `held` closes, in the right order, what must stay open until the file is written."""

    def __init__(
        self,
        opened: InputContainer,
        path: Path,
        container: str,
        codec: str,
        metadata: tuple[MasteringDisplay | None, ContentLight | None],
        shift: Fraction,
        held: contextlib.ExitStack,
    ) -> None:
        self.opened, self.path, self.container, self.codec = opened, path, container, codec
        self.mastering, self.light = metadata
        self.shift, self.held = shift, held
        self.hidden: dict[int, tuple[int, int]] = {}
        self.payloads: dict[int, tuple[int, str]] = {}
        self.copied: CopiedPackets | None = None
        self.converted: dict[int, tuple[Stream, TrackPackets]] = {}
        self.scale = 0
        self.out: OutputContainer

    def open(self, tracks: list[TrackSpans], scale: int) -> None:
        """Open the output. Times stay as they are given, any tag name is kept, and an mp4's movie clock holds all starts exactly."""
        options = {"avoid_negative_ts": "disabled", "max_interleave_delta": str(INTERLEAVE_MICROSECONDS)}
        if self.container == "mkv":
            options["default_mode"] = "passthrough"
        else:
            options |= {"movflags": "use_metadata_tags", "movie_timescale": str(scale)}
            clocks = {spans.track.time_base_den for spans in tracks}
            if len(clocks) == 1:
                options["video_track_timescale"] = str(clocks.pop())
        self.scale = scale
        self.out = av.open(str(self.path), "w", format=FORMATS[self.container], options=options)
        self.out.flags |= Flags.bitexact.value

    def add_streams(
        self,
        tracks: list[TrackSpans],
        copies: list[CopyPlan],
        starts: dict[int, StreamStart],
        pictures: dict[int, tuple[str, bytes]],
    ) -> None:
        """Declare all streams in the source's order, with everything that a header says about them."""
        spans = {one.track.stream_index: one for one in tracks}
        self.payloads = {index: (len(data), hashlib.sha256(data).hexdigest()) for index, (_, data) in pictures.items()}
        actions = {plan.stream: plan.action for plan in copies}
        copied: dict[int, Stream] = {}
        for stream in self.opened.streams:
            action = actions.get(stream.index)
            if stream.index in spans:
                self._add_track(stream, spans[stream.index])
            elif action == "copy":
                copied[stream.index] = self._add_copy(stream, starts[stream.index])
            elif action == "attachment":
                name = stream.name or f"attachment{stream.index}"
                self.out.add_attachment(name, stream.mimetype or "application/octet-stream", stream.data)
                self.payloads[stream.index] = len(stream.data), hashlib.sha256(stream.data).hexdigest()
            elif stream.index in pictures and self.container == "mkv":
                codec, picture = pictures[stream.index]
                ending, mime = COVER_CODECS[codec]
                self.out.add_attachment(stream.metadata.get("filename", f"cover.{ending}"), mime, picture)
        self._keep_timecode(actions)
        self.copied = CopiedPackets(self.opened, copied, self.shift, strict=self.container != "mkv")

    def write_tags(self, key: str, provenance: dict[str, Any]) -> None:
        """File tags, chapters, and where the file comes from."""
        tags = self.opened.metadata
        self.out.metadata.update({name: text for name, text in tags.items() if name.lower() not in DROPPED_TAGS})
        self.out.metadata[key] = json.dumps(provenance, sort_keys=True, separators=(",", ":"))
        chapters = self.opened.chapters()
        for chapter in chapters:
            ticks = round(self.shift / chapter["time_base"])
            chapter["start"] += ticks
            chapter["end"] += ticks
        if chapters:
            self.out.set_chapters(chapters)

    def write_packets(self, report: AssembleReport) -> None:
        """Mux everything, merged by decode time: memory holds one span of each track and about a second of the rest."""
        feeds: list[Iterable[av.Packet]] = [_of_stream(packets, made) for made, packets in self.converted.values()]
        last = None
        try:
            self.out.start_encoding()
            for packet in heapq.merge(*feeds, self.copied, key=_seconds):
                last = packet
                self.out.mux_one(packet)
            self.out.close()
        except (av.FFmpegError, ValueError) as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(error.errno, os.strerror(error.errno), str(self.path)) from error
            where = "the header" if last is None else f"output stream {last.stream_index}, {_seconds(last):.3f} s"
            raise ConversionError(f"{self.path}: joining {self.opened.name} failed at {where} ({error}).") from error
        report.packets = {
            index: len(packets.pts) for index, (_, packets) in self.converted.items()
        } | self.copied.counts
        report.output_streams = {index: made.index for index, (made, _) in self.converted.items()}
        report.output_streams |= {index: made.index for index, made in self.copied.streams.items()}
        report.payloads = self.payloads | self.copied.payloads()
        report.warnings += self.copied.warnings

    def _keep_timecode(self, actions: dict[int, str]) -> None:
        """A timecode track is made again from the tag of a video track; where the source has it on no video, the first gets it."""
        made = [stream for stream, _ in self.converted.values()]
        codes = [self.opened.streams[index].metadata.get("timecode") for index, one in actions.items() if one == "tag"]
        if made and any(codes) and not any("timecode" in stream.metadata for stream in made):
            made[0].metadata["timecode"] = next(code for code in codes if code)

    def languages(self) -> dict[int, str]:
        """Languages of the output's tracks, by track id; FFmpeg numbers tracks from 1 in the order of the streams."""
        made = [stream for stream, _ in self.converted.values()] + list(self.copied.streams.values())
        return {stream.index + 1: stream.metadata["language"] for stream in made if "language" in stream.metadata}

    def _add_track(self, stream: VideoStream, spans: TrackSpans) -> None:
        track = spans.track
        geometry = read_geometry(stream)
        coded = self.held.enter_context(av.open(str(spans.files[0]))).streams.video[0]
        crop = None if spans.scaled else geometry.clap
        clap = shown_part(crop, (track.width, track.height), (coded.width, coded.height))
        holder, template = template_stream(coded, self.mastering, self.light, clap, self.container)
        self.held.callback(holder.close)
        made = self.out.add_stream_from_template(template, opaque=self.codec != "ffv1")
        made.metadata.clear()
        made.metadata.update(kept_tags(stream.metadata, encoded_anew=True))
        made.disposition = stream.disposition
        made.time_base = spans.time_base
        if self.container != "mkv" or _is_constant(spans):
            made.codec_context.framerate = track.rate
        if track.sample_aspect_ratio:
            made.codec_context.sample_aspect_ratio = track.sample_aspect_ratio
        if self.codec == "hevc" and self.container != "mkv":
            made.codec_context.codec_tag = "hvc1"
        if geometry.display_matrix is not None and not spans.scaled:
            made.set_display_matrix(geometry.display_matrix)
        elif track.rotation:
            made.set_display_rotation(track.rotation)
        complete_header(made, coded)
        packets = TrackPackets(spans, round(self.shift * track.time_base_den), self._keyframe_change())
        self.converted[stream.index] = made, packets

    def _keyframe_change(self) -> Callable[[bytes], bytes] | None:
        codec, mastering, light = self.codec, self.mastering, self.light
        if mastering is None or light is None or codec not in IN_PACKETS:
            return None
        return lambda payload: insert(codec, payload, mastering, light)

    def _add_copy(self, stream: Stream, start: StreamStart) -> Stream:
        """A copied stream, with what the source hides of its start (encoder priming) hidden again.

        Matroska: codec delay; its own is copied with the codec parameters. mp4 and mov: what lies before time 0 is hidden by the
        muxer; the hidden start of a track that begins later is noted for `finish_moov`.
        """
        hidden, first = start.hidden_seconds, start.first_seconds
        if not hidden or first is None or start.sample is None:
            return add_copy(self.out, stream)
        if self.container == "mkv" and start.audio and "matroska" not in self.opened.format.name:
            holder, template = delayed_template(stream, start.sample, float(hidden))
            self.held.callback(holder.close)
            return add_copy(self.out, stream, template)
        made = add_copy(self.out, stream)
        if self.container != "mkv" and first + self.shift > 0:
            self.hidden[made.index + 1] = round(hidden * start.output_den), round(hidden * self.scale)
        return made


def _of_stream(packets: TrackPackets, made: Stream) -> Iterator[av.Packet]:
    for packet in packets:
        packet.stream = made
        yield packet


def _seconds(packet: av.Packet) -> float:
    return packet.dts * packet.time_base.numerator / packet.time_base.denominator


def _is_constant(spans: TrackSpans) -> bool:
    """One frame rate throughout, to the tick: only then may Matroska be told of it (DefaultDuration)."""
    return bool(np.ptp(np.diff(spans.frame_pts)) <= 1) if len(spans.frame_pts) > 1 else False


def _read_covers(source: Path, copies: list[CopyPlan]) -> dict[int, tuple[str, bytes]]:
    """Codec and bytes of every cover picture, by source index."""
    covers = {plan.stream: plan.codec for plan in copies if plan.action == "cover"}
    if not covers:
        return {}
    with open_source(source) as opened:
        found = first_packets(opened, [opened.streams[index] for index in covers])
        return {index: (covers[index], bytes(packets[0])) for index, packets in found.items() if packets}


def _warnings(
    tracks: list[TrackSpans], copies: list[CopyPlan], container: str, codec: str, shift: Fraction
) -> list[str]:
    said = [text for plan in copies if (text := sentence(plan)) is not None]
    if shift:
        said.append(
            f"the source starts before time 0, which {container} cannot say: all streams are shifted by {shift} s ({float(shift):.6f})."
        )
    if container == "mkv":
        shapes = {spans.track.sample_aspect_ratio for spans in tracks} - {None, Fraction(1)}
        if shapes and codec != "hevc":
            said.append(
                f"Matroska cannot be told here that pixels of {codec} have the shape {min(shapes)}: players show them square; "
                "output.codec=hevc or another container keeps it."
            )
        worst = max((_rounding(spans, shift) for spans in tracks), default=0.0)
        if worst > 0:
            said.append(
                f"Matroska counts in milliseconds: times are rounded to the nearest, by {worst:.3f} ms at most."
            )
    return said


def _rounding(spans: TrackSpans, shift: Fraction) -> float:
    """Milliseconds by which the frame of this track that suffers most is moved."""
    den = spans.track.time_base_den
    thousandths = (spans.frame_pts.astype(object) + round(shift * den)) * 1000
    rest = (thousandths % den).astype(np.float64) / den
    return float(np.minimum(rest, 1 - rest).max())
