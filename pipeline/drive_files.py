"""Drive files: the drive that a file on disk belongs to, and what its neighbours lend to smoothing.

Neighbours are looked for in the source's own folder, never among the other inputs, so a result does not depend on what else is converted.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import av

from pipeline.decode import DecodedFrame, DecodeReport, decode_span, packets_needed
from pipeline.drive import Drive, Heading, Picture, group_drives
from pipeline.drive_name import DriveName, read_name
from pipeline.errors import InputError, SunvisorError
from pipeline.index import VideoIndex, build_index, packets_for
from pipeline.neighbour import DrivePlace, Neighbour
from pipeline.plan import Track
from pipeline.probe import hdr_reason, probe, read_color
from pipeline.source import open_source
from pipeline.span import Span
from pipeline.track_maker import lead_limit

EARLIEST_YEAR = 2001
"""Clocks that were never set say 1904, 1970 or 2000."""
LONGEST_FILE_SECONDS = 3600.0
"""Files whose clocks are further apart are not opened, and so not joined."""


class _Unfit(Exception):
    """A neighbour cannot lend frames; the text says why."""


def drive_of(source: Path) -> Drive:
    """The drive of a video file, from the names and headers of its folder. Reads no pictures."""
    name = read_name(source.name)
    try:
        names = {file.name: read_name(file.name) for file in source.parent.iterdir() if file.is_file()}
    except OSError as error:
        why = f"its folder cannot be listed ({error.strerror})"
        return Drive((source.name,), why, why)
    same = {file: one for file, one in names.items() if one.camera == name.camera}
    drives = group_drives(_heading_of(source.parent / file) for file in _near(source.name, same))
    return next(drive for drive in drives if source.name in drive.names)


def _near(source: str, names: dict[str, DriveName]) -> list[str]:
    """Those of a camera's files that may belong to the source's drive by their names, so that few have to be opened."""
    ordered = sorted(names, key=lambda file: (names[file].place, file))
    at = ordered.index(source)
    begin, end = at, at + 1
    while begin > 0 and _close(names[ordered[begin - 1]], names[ordered[begin]]):
        begin -= 1
    while end < len(ordered) and _close(names[ordered[end - 1]], names[ordered[end]]):
        end += 1
    return ordered[begin:end]


def _close(one: DriveName, other: DriveName) -> bool:
    if one.clock is not None and other.clock is not None:
        return (other.clock - one.clock).total_seconds() <= LONGEST_FILE_SECONDS
    return not (one.chapters and other.chapters) or one.place[0] == other.place[0]


def _heading_of(path: Path) -> Heading:
    try:
        facts = path.stat()
    except OSError as error:
        return Heading(path.name, 0.0, None, (), error.strerror or "gone")
    return _heading(path, facts.st_size, facts.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _heading(path: Path, _size: int, _changed: int) -> Heading:
    """What the header says; kept, because each file of a drive looks at all of them."""
    try:
        with open_source(path) as container:
            videos = [
                one for one in container.streams.video if not one.disposition & av.stream.Disposition.attached_pic
            ]
            pictures = tuple(_picture(stream) for stream in videos)
            seconds = (container.duration or 0) / av.time_base
            if videos and videos[0].duration:
                seconds = float(videos[0].duration * videos[0].time_base)
            return Heading(
                path.name, seconds, _created(container.metadata), pictures, "" if videos else "no video in it"
            )
    except InputError as error:
        return Heading(path.name, 0.0, None, (), _plain(error, path))


def _picture(stream: av.VideoStream) -> Picture:
    context, rate = stream.codec_context, float(stream.average_rate or 0)
    if context is None:
        return Picture("unknown", 0, 0, "", rate)
    tags = (context.color_primaries, context.color_trc, context.colorspace, context.color_range)
    size = (context.width, context.height)
    return Picture(context.codec.canonical_name, *size, context.pix_fmt or "", rate, tuple(map(int, tags)))


def _created(metadata: dict[str, str]) -> datetime | None:
    """creation_time in UTC; None where it is missing, or of a clock that was never set."""
    try:
        when = datetime.fromisoformat(metadata.get("creation_time", ""))
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return when if when.year >= EARLIEST_YEAR else None


def _plain(error: SunvisorError, path: Path) -> str:
    """An error's sentence without the folder, as results must not depend on where files lie."""
    return str(error).removeprefix(f"{path}: ").replace(str(path), path.name).rstrip(".")


def join_drive(source: Path, track: Track, overrides: dict[str, str]) -> tuple[DrivePlace, dict[str, VideoIndex]]:
    """Where a track stands in its drive, and the indices of those that lend it frames, by "before" and "after".

    source: the track's file; overrides: the user's words on colour, which count for its neighbours too
    """
    drive = drive_of(source)
    at = drive.names.index(source.name)
    wanted = {"before": at - 1, "after": at + 1}
    lent: dict[str, Neighbour | None] = {}
    why: dict[str, str] = {"before": drive.before, "after": drive.after}
    indices: dict[str, VideoIndex] = {}
    frames = min(track.radius, lead_limit(track.spans))
    for side, place in wanted.items():
        lent[side] = None
        if not 0 <= place < len(drive.names):
            continue
        path = source.parent / drive.names[place]
        try:
            lent[side], indices[side] = _neighbour(path.resolve(), side, track, overrides, frames)
            why[side] = ""
        except (_Unfit, SunvisorError) as error:
            why[side] = f"{path.name} lends nothing: {_plain(error, path.resolve())}"
    place = DrivePlace(at + 1, len(drive.names), lent["before"], lent["after"], why["before"], why["after"])
    return place, indices


def _neighbour(
    path: Path, side: str, track: Track, overrides: dict[str, str], frames: int
) -> tuple[Neighbour, VideoIndex]:
    """A file that lends `frames` frames at most. Raises _Unfit or SunvisorError when it cannot; decodes those few frames to know."""
    if frames == 0:
        raise _Unfit("the spans here are so short that smoothing beyond the file's end would be too much work")
    streams = {stream.index: stream for stream in probe(path).video_streams}
    stream = streams.get(track.stream_index)
    if stream is None:
        raise _Unfit(f"its stream {track.stream_index} is no video")
    if reason := hdr_reason(stream):
        raise _Unfit(f"it is HDR already ({reason})")
    if (stream.width, stream.height, stream.layout) != (track.width, track.height, track.layout):
        raise _Unfit(f"it is {stream.width}x{stream.height} {stream.pix_fmt}, unlike this file")
    if read_color(stream, overrides)[0] != track.color:
        raise _Unfit("its colours are read in another way than this file's")
    facts = path.stat()
    index = _index(path, stream.index, facts.st_size, facts.st_mtime_ns)
    if side == "before" and index.loss:
        raise _Unfit(index.loss)
    total = len(index.frame_pts)
    frames = min(frames, total)
    first = total - frames if side == "before" else 0
    end_pts = int(index.frame_pts[first + frames - 1] + index.frame_duration[first + frames - 1])
    packets = packets_for(index, first, frames, 0, 0)
    span = Span(0, int(index.frame_pts[first]), end_pts, first, frames, 0, 0, *packets)
    neighbour = Neighbour(str(path), stream.index, span, _packets_hash(index, span, track.deinterlace))
    if any(frame.repeated for frame in lent_frames(neighbour, index, track.deinterlace)):
        raise _Unfit(f"its {'last' if side == 'before' else 'first'} frames are damaged")
    return neighbour, index


def lent_frames(neighbour: Neighbour, index: VideoIndex, deinterlace: bool) -> Iterator[DecodedFrame]:
    """The frames that a neighbour lends, in order, decoded by the CPU.

    Raises ConversionError when its packets are not those of the index (it has changed), InputError when it is gone.
    """
    path = Path(neighbour.path)
    return decode_span(
        path, neighbour.stream_index, index, neighbour.span, deinterlace=deinterlace, report=DecodeReport()
    )


@functools.lru_cache(maxsize=4)
def _index(path: Path, stream: int, _size: int, _changed: int) -> VideoIndex:
    """A neighbour's index; kept, because the next file of a batch asks for it again."""
    return build_index(path, stream, None, True)


def _packets_hash(index: VideoIndex, span: Span, deinterlace: bool) -> str:
    first, end = packets_needed(index, span, deinterlace=deinterlace)
    state = hashlib.blake2b(digest_size=16)
    state.update(index.digest[first:end].tobytes())
    state.update(index.pts[first:end].tobytes())
    lent = index.frame_pts[span.first_frame : span.first_frame + span.frames]
    state.update(lent.tobytes())
    return state.hexdigest()
