"""Probe: what a video file says of itself (`*_from_header`) and what its first frames say (`*_from_content`)."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
from av.container import InputContainer

from pipeline import source_color
from pipeline.color import ColorSpec, PixelLayout
from pipeline.errors import InputError
from pipeline.source import (
    MAX_SIDE,
    PLAYLISTS,
    RAW_CONTAINERS,
    check_container,
    decoder_options,
    demux,
    open_source,
)

PROBE_FRAMES = 6
PROBE_PACKETS = 400

_log_lock = threading.Lock()


@dataclass(frozen=True)
class StreamInfo:
    """One stream of a file. Fields after `metadata` are None, 0 or False for streams that are not video.

    kind: "video", "audio", "subtitle", "data" or "attachment"; codec: FFmpeg's name, None when it knows none
    attached_pic: cover art (a video stream of one still picture)
    time_base: seconds per tick; start_pts_from_header: ticks, None when the header says none
    width, height: pixels shown (bitstream crop applied, rotation not); pix_fmt: FFmpeg's name, from the first decoded frame
    layout: shape of the planes, None when the pixel format is not supported
    *_tag: as found in the first decoded frame, else in the header; None: unspecified
    sample_aspect_ratio: None when unspecified; rotation_degrees: as `VideoFrame.rotation`, what `set_display_rotation` takes
    avg_frame_rate_from_header: a claim only, None when absent; interlaced_from_content: a flag of any of the first frames
    """

    index: int
    kind: str
    codec: str | None
    codec_tag: str
    attached_pic: bool
    language: str | None
    time_base: Fraction | None
    start_pts_from_header: int | None
    frames_from_header: int
    metadata: dict[str, str]
    width: int = 0
    height: int = 0
    pix_fmt: str | None = None
    layout: PixelLayout | None = None
    primaries_tag: str | None = None
    transfer_tag: str | None = None
    matrix_tag: str | None = None
    range_tag: str | None = None
    chroma_location_tag: str | None = None
    sample_aspect_ratio: Fraction | None = None
    rotation_degrees: int = 0
    avg_frame_rate_from_header: Fraction | None = None
    interlaced_from_content: bool = False


@dataclass(frozen=True)
class VideoInfo:
    """A video file: its container and streams. Times in seconds; sizes in bytes."""

    path: Path
    container: str
    size_bytes: int
    duration_seconds_from_header: float | None
    start_seconds_from_header: float | None
    chapters: int
    metadata: dict[str, str]
    streams: tuple[StreamInfo, ...]

    @property
    def video_streams(self) -> tuple[StreamInfo, ...]:
        """The streams that can be converted: moving pictures, cover art left out. Never empty."""
        return tuple(stream for stream in self.streams if stream.kind == "video" and not stream.attached_pic)

    @property
    def has_no_clock(self) -> bool:
        """True for bare bitstreams (raw .h264, .hevc ...): `build_index` needs their frame rate (--fps)."""
        return self.container in RAW_CONTAINERS


def probe(path: Path) -> VideoInfo:
    """Read the header and decode the first frames of every video stream. Reads local files only.

    Raises InputError: no such file, a folder, empty, no video, truncated mp4 without moov, audio only, no decodable frame,
    unsupported container, codec, pixel format or size.
    """
    path = Path(path)
    with open_source(path) as container:
        moving = [stream for stream in container.streams.video if not _is_attached_pic(stream)]
        if not moving and container.format.name not in PLAYLISTS | {"tty"}:
            found = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            only = "only audio" if found == "audio" else f"no video stream (found: {found})"
            raise InputError(f"{path}: this file holds {only}; there is no picture to convert.")
        check_container(path, container)
        chroma_tags = _chroma_location_tags(container)
        header = {
            "container": container.format.name,
            "size_bytes": path.stat().st_size,
            "duration_seconds_from_header": None if container.duration is None else container.duration / av.time_base,
            "start_seconds_from_header": None if container.start_time is None else container.start_time / av.time_base,
            "chapters": len(container.chapters()),
            "metadata": dict(container.metadata),
        }
        plain = {stream.index: _plain(stream) for stream in container.streams}
    streams = []
    for index, fields in plain.items():
        if fields["kind"] == "video" and not fields["attached_pic"]:
            fields |= _video_fields(path, index, chroma_tags.get(index))
        streams.append(StreamInfo(**fields))
    return VideoInfo(path=path, streams=tuple(streams), **header)


def hdr_reason(stream: StreamInfo) -> str | None:
    """Why this video is already HDR, in plain words, or None when it is SDR (see `source_color.hdr_reason`)."""
    bits = stream.layout.bit_depth if stream.layout else 8
    return source_color.hdr_reason(stream.transfer_tag, stream.primaries_tag, stream.codec_tag, bits, stream.matrix_tag)


def read_color(stream: StreamInfo, overrides: dict[str, str | None] | None = None) -> tuple[ColorSpec, dict[str, str]]:
    """How the codes of this video become light, and for each field the reason in plain words, for the printed plan.

    overrides: {"matrix": ..., "range": ..., "transfer": ..., "primaries": ..., "chroma_location": ...}; None or "auto": by policy.
    Raises InputError: illegal override, or a tag that has no counterpart.
    """
    return source_color.resolve_color(
        name=f"stream {stream.index}",
        codec=stream.codec or "unknown",
        pix_fmt=stream.pix_fmt or "unknown",
        height=stream.height,
        primaries_tag=stream.primaries_tag,
        transfer_tag=stream.transfer_tag,
        matrix_tag=stream.matrix_tag,
        range_tag=stream.range_tag,
        chroma_location_tag=stream.chroma_location_tag,
        overrides=overrides or {},
    )


def _is_attached_pic(stream: av.stream.Stream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _codec_tag(context: av.codec.context.CodecContext | None) -> str:
    """Four letters, or as many bytes in hex where they are no letters (AVI and NUT number some codecs)."""
    if context is None:
        return ""
    try:
        return context.codec_tag
    except UnicodeDecodeError as error:
        return error.object.hex()


def _plain(stream: av.stream.Stream) -> dict:
    """The fields that every kind of stream has."""
    context = stream.codec_context
    known = stream.type in {"video", "audio", "subtitle", "data", "attachment"}
    tag = _codec_tag(context)
    return {
        "index": stream.index,
        "kind": stream.type if known else "data",
        "codec": context.codec.canonical_name if context is not None else None,
        "codec_tag": "" if tag.strip("\x00") == "" else tag,
        "attached_pic": stream.type == "video" and _is_attached_pic(stream),
        "language": stream.metadata.get("language"),
        "time_base": stream.time_base,
        "start_pts_from_header": stream.start_time,
        "frames_from_header": getattr(stream, "frames", 0) or 0,
        "metadata": dict(stream.metadata),
    }


def _video_fields(path: Path, index: int, chroma_location_tag: str | None) -> dict:
    """The fields of a video stream, from its header and its first decoded frames."""
    with open_source(path) as container:
        stream = container.streams[index]
        context = stream.codec_context
        if context is None:
            raise InputError(
                f"{path}: the codec of video stream {index} is unknown to FFmpeg; convert the file to H.264 first."
            )
        context.thread_count = 1
        context.options = decoder_options(context)
        codec = context.codec.canonical_name
        _check_size(path, index, context.width, context.height)
        frames = _first_frames(container, stream)
        if not frames:
            raise InputError(
                f"{path}: video stream {index} ({codec}) has no frame that can be decoded, so there is nothing to convert."
            )
        first = frames[0]
        pix_fmt = first.format.name
        if pix_fmt not in source_color.LAYOUTS:
            legal = ", ".join(source_color.LAYOUTS)
            raise InputError(f"{path}: pixel format '{pix_fmt}' of stream {index} is not supported; legal are {legal}.")
        _check_size(path, index, first.width, first.height)

        def tag(names: dict[int, str], of_frame: int, of_header: int) -> str | None:
            return names.get(int(of_frame)) or names.get(int(of_header))

        return {
            "width": first.width,
            "height": first.height,
            "pix_fmt": pix_fmt,
            "layout": source_color.LAYOUTS[pix_fmt],
            "primaries_tag": tag(source_color.PRIMARIES_NAMES, first.color_primaries, context.color_primaries),
            "transfer_tag": tag(source_color.TRANSFER_NAMES, first.color_trc, context.color_trc),
            "matrix_tag": tag(source_color.MATRIX_NAMES, first.colorspace, context.colorspace),
            "range_tag": tag(source_color.RANGE_NAMES, first.color_range, context.color_range),
            "chroma_location_tag": chroma_location_tag,
            "sample_aspect_ratio": _known(stream.sample_aspect_ratio),
            "rotation_degrees": first.rotation,
            "avg_frame_rate_from_header": _known(stream.average_rate),
            "interlaced_from_content": any(frame.interlaced_frame for frame in frames),
        }


def _known(value: Fraction | None) -> Fraction | None:
    return Fraction(value) if value else None


def _check_size(path: Path, index: int, width: int, height: int) -> None:
    if max(width, height) > MAX_SIDE:
        raise InputError(
            f"{path}: video stream {index} is {width}x{height}; at most {MAX_SIDE} pixels a side are supported."
        )


def _first_frames(container: InputContainer, stream: av.VideoStream) -> list[av.VideoFrame]:
    """Up to PROBE_FRAMES frames from the start; damaged packets are passed over."""
    frames: list[av.VideoFrame] = []
    try:
        for packet in islice(demux(container, stream), PROBE_PACKETS):
            try:
                frames += stream.codec_context.decode(packet if packet.size else None)
            except av.error.InvalidDataError:
                continue  # a damaged packet; decode_span counts and reports it when the frames are wanted
            if len(frames) >= PROBE_FRAMES or not packet.size:
                break
    except av.FFmpegError:
        return frames  # the file ends here; build_index finds out where and says so
    return frames


def _chroma_location_tags(container: InputContainer) -> dict[int, str]:
    """Chroma siting of each stream as the header says it; PyAV has no property for it, FFmpeg's printed description has.

    The description is made by FFmpeg's log at level VERBOSE, so logging is switched on for that one call.
    """
    with _log_lock:
        level = av.logging.get_level()
        av.logging.set_libav_level(av.logging.VERBOSE)
        av.logging.set_level(av.logging.VERBOSE)
        try:
            text = container.dumps_format()
        finally:
            av.logging.set_level(level)
            av.logging.set_libav_level(av.logging.INFO)
    return chroma_location_words(text)


def chroma_location_words(description: str) -> dict[int, str]:
    """Chroma siting of each stream whose header says it, by the stream's index, from FFmpeg's printed description."""
    tags: dict[int, str] = {}
    for line in description.splitlines():
        found = re.match(r"\s*Stream #0:(\d+).*?: Video: (.*)", line)
        if not found:
            continue
        # "yuv420p(tv, bt709, progressive, topleft)": the siting is the last word of the brackets after the pixel format
        for inside in re.findall(r"\(([^()]*)\)", found[2]):
            for word in inside.split(", "):
                if word in source_color.CHROMA_LOCATIONS:
                    tags[int(found[1])] = word
    return tags
