"""ISO base media boxes (ISO/IEC 14496-12): HDR10 boxes and clean aperture for the small init segment, and a reader for files.

FFmpeg's muxers write mdcv, clli and clap, or Matroska's equals, from the stream's side data, which PyAV cannot set. So a stream is
made whose side data came from boxes: a header without frames (about 1 kB) is muxed to memory, patched, and opened again. The
large final file is never patched.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from pipeline import moov
from pipeline.encoder_choice import LIMITED_RANGE, open_for_siting
from pipeline.errors import ConversionError
from pipeline.hdr10 import ContentLight, MasteringDisplay

CONTAINERS = ("mp4", "mov", "mkv")
TRACK_TO_ENTRIES = ("mdia", "minf", "stbl", "stsd")
VISUAL_ENTRY_BYTES = 86


@dataclass(frozen=True)
class Box:
    """One box within a buffer: `start` of its header, `body` after the header, `end`; bytes from the buffer's begin."""

    kind: str
    start: int
    body: int
    end: int


@dataclass(frozen=True)
class CleanAperture:
    """The part of the coded picture that is shown (clap, ISO/IEC 14496-12 12.1.4).

    width, height: in pixels
    x_offset, y_offset: centre of the shown part minus centre of the coded picture, in pixels
    """

    width: Fraction
    height: Fraction
    x_offset: Fraction
    y_offset: Fraction

    @classmethod
    def top_left(cls, shown: tuple[int, int], coded: tuple[int, int]) -> CleanAperture:
        """Show the first `shown` (width, height) pixels of `coded`: what padding at the right and the bottom calls for."""
        x_offset, y_offset = (Fraction(show - code, 2) for show, code in zip(shown, coded, strict=True))
        return cls(Fraction(shown[0]), Fraction(shown[1]), x_offset, y_offset)

    def payload(self) -> bytes:
        """32 bytes: width, height, horizontal and vertical offset as numerator and denominator, big-endian."""
        parts = (self.width, self.height, self.x_offset, self.y_offset)
        return b"".join(struct.pack(">iI", part.numerator, part.denominator) for part in parts)

    @classmethod
    def from_payload(cls, payload: bytes) -> CleanAperture:
        """Read what `payload` writes. Raises ConversionError when it is short or a denominator is 0."""
        if len(payload) < 32:
            raise ConversionError(f"The clap box holds {len(payload)} bytes; it takes 32.")
        numbers = struct.unpack(">iIiIiIiI", payload[:32])
        if 0 in numbers[1::2]:
            raise ConversionError("The clap box has a denominator of 0.")
        return cls(*(Fraction(numbers[i], numbers[i + 1]) for i in (0, 2, 4, 6)))


@dataclass(frozen=True)
class ColourBox:
    """colr of kind "nclx" or "nclc": code points of ITU-T H.273; full_range is None in nclc, which has no such flag."""

    kind: str
    primaries: int
    transfer: int
    matrix: int
    full_range: bool | None


@dataclass(frozen=True)
class TrackBoxes:
    """What the sample entry of one video track says. entry: its four-character code ("hvc1", "av01"); None: box absent."""

    entry: str
    mastering: MasteringDisplay | None
    light: ContentLight | None
    clap: CleanAperture | None
    colour: ColourBox | None


def template_stream(
    stream: VideoStream,
    mastering: MasteringDisplay | None,
    light: ContentLight | None,
    clap: CleanAperture | None,
    container: str,
) -> tuple[InputContainer, VideoStream]:
    """A stream like `stream` (of an open span file) whose parameters also carry the metadata given.

    Use: `holder, template = template_stream(...)`, then `made = out.add_stream_from_template(template, opaque=opaque)`, where `opaque`
    is False for FFV1, `complete_header(made, stream)`, mux, close `out`, and close `holder` last: the template lives in it. FFmpeg then
    writes mdcv + clli + clap (mp4, mov) or MasteringMetadata + MaxCLL + MaxFALL + PixelCrop (mkv). Keyframe packets of HEVC and AV1
    still need their SEI or OBU: see hdr10.insert.
    What a template does not carry, set on `made`: `made.codec_context.codec_tag = "hvc1"` for HEVC in mp4 and mov, rotation, and
    `made.codec_context.sample_aspect_ratio`, which AV1 needs (its bitstream has none; in mkv it is lost even so, as PyAV cannot set it).

    container: "mp4", "mov" or "mkv", the kind of file that the template is for. Raises ConversionError on another, and on AV1 for
    mov, which FFmpeg does not write.
    """
    if container not in CONTAINERS:
        raise ConversionError(f"No template for container {container!r}; legal containers: {', '.join(CONTAINERS)}.")
    if container == "mov" and stream.codec_context.codec.canonical_name == "av1":
        raise ConversionError("AV1 does not go into mov; use output.container=mp4 or mkv.")
    buffer = io.BytesIO()
    header = {"movflags": "empty_moov+default_base_moof", "video_track_timescale": str(stream.time_base.denominator)}
    kind = "mov" if stream.codec_context.codec.canonical_name == "prores" else "mp4"
    with av.open(buffer, "w", format=kind, options=header) as out:
        out.add_stream_from_template(stream, opaque=True)
        out.start_encoding()
    boxes = b""
    if mastering is not None:
        boxes += make_box("mdcv", mastering.payload())
    if light is not None:
        boxes += make_box("clli", light.payload())
    if clap is not None:
        boxes += make_box("clap", clap.payload())
    holder = av.open(io.BytesIO(append_to_sample_entry(buffer.getvalue(), boxes)))
    return holder, holder.streams.video[0]


def complete_header(made: VideoStream, coded: VideoStream) -> None:
    """Give a stream that was made from a template what the span file `coded` cannot tell in its header. Call it last, before muxing.

    ProRes: which profile it is, and the limited range, which a mov has no place for; FFV1: where chroma lies. Raises ConversionError
    when this FFmpeg makes another FFV1 than wrote the span.
    """
    context, codec = made.codec_context, coded.codec_context.codec.canonical_name
    if codec == "prores":
        context.codec_tag, context.color_range = coded.codec_context.codec_tag, LIMITED_RANGE
    elif codec == "ffv1":
        open_for_siting(context)
        if context.extradata != coded.codec_context.extradata:
            raise ConversionError(
                f"{coded.container.name}: its FFV1 is set up otherwise than this FFmpeg does; remove the work folder and convert again."
            )


def make_box(kind: str, payload: bytes) -> bytes:
    """A box with its 8-byte header."""
    return struct.pack(">I4s", 8 + len(payload), kind.encode("latin-1")) + payload


def append_to_sample_entry(init: bytes, boxes: bytes) -> bytes:
    """The init segment with `boxes` at the end of its first video sample entry, every enclosing size corrected.

    An init segment holds no chunk offsets, so nothing else moves. Raises ConversionError when it has no video track.
    """
    path = _first_entry(init, 0)
    out = bytearray(init)
    for box in path:
        size = box.end - box.start + len(boxes)
        out[box.start : box.start + 4] = size.to_bytes(4, "big")
    out[path[-1].end : path[-1].end] = boxes
    return bytes(out)


def read_boxes(init: bytes, track: int = 0) -> TrackBoxes:
    """What the `track`-th video track's first sample entry says. `init`: bytes that hold the moov box, as of `read_moov`.

    Raises ConversionError when there is no such track or a box is damaged.
    """
    entry = _first_entry(init, track)[-1]
    found = {box.kind: init[box.body : box.end] for box in _walk(init, entry.start + VISUAL_ENTRY_BYTES, entry.end)}
    return TrackBoxes(
        entry.kind,
        MasteringDisplay.from_payload(found["mdcv"]) if "mdcv" in found else None,
        ContentLight.from_payload(found["clli"]) if "clli" in found else None,
        CleanAperture.from_payload(found["clap"]) if "clap" in found else None,
        _colour(found["colr"]) if "colr" in found else None,
    )


def read_moov(path: Path) -> bytes:
    """The moov box of an mp4 or mov file, with its header, read without touching the media data. ConversionError when it has none."""
    with path.open("rb") as file:
        found = moov.read_moov(file)
    if found is None:
        raise ConversionError(f"{path}: no moov box; the file is not a finished mp4 or mov.")
    return found[1]


def _walk(data: bytes, start: int, end: int) -> Iterator[Box]:
    """Boxes that lie one after another from start to end. Four zero bytes at the end (QuickTime) are passed over."""
    place = start
    while place + 8 <= end:
        size = int.from_bytes(data[place : place + 4], "big")
        body = place + 8
        if size == 1:
            size, body = int.from_bytes(data[place + 8 : place + 16], "big"), place + 16
        elif size == 0:
            size = end - place
        if size < body - place or place + size > end:
            raise ConversionError(f"Damaged box at byte {place} of {len(data)}: it claims {size} bytes.")
        yield Box(data[place + 4 : place + 8].decode("latin-1"), place, body, place + size)
        place += size


def _child(data: bytes, parent: Box, kind: str) -> Box:
    for box in _walk(data, parent.body, parent.end):
        if box.kind == kind:
            return box
    raise ConversionError(f"The {parent.kind} box at byte {parent.start} holds no {kind} box.")


def _first_entry(data: bytes, track: int) -> list[Box]:
    """moov, trak, mdia, minf, stbl, stsd and the first sample entry of the `track`-th video track."""
    top = next((box for box in _walk(data, 0, len(data)) if box.kind == "moov"), None)
    if top is None:
        raise ConversionError(f"No moov box in {len(data)} bytes.")
    number = 0
    for trak in _walk(data, top.body, top.end):
        if trak.kind != "trak":
            continue
        handler = _child(data, _child(data, trak, "mdia"), "hdlr")
        if data[handler.body + 8 : handler.body + 12] != b"vide":
            continue
        if number == track:
            path = [top, trak]
            for kind in TRACK_TO_ENTRIES:
                path.append(_child(data, path[-1], kind))
            entry = next(_walk(data, path[-1].body + 8, path[-1].end), None)
            if entry is None:
                raise ConversionError(f"The stsd box at byte {path[-1].start} holds no sample entry.")
            return [*path, entry]
        number += 1
    raise ConversionError(f"The file has {number} video tracks; there is no number {track}.")


def _colour(payload: bytes) -> ColourBox:
    kind = payload[:4].decode("latin-1")
    if kind not in ("nclx", "nclc") or len(payload) < (11 if kind == "nclx" else 10):
        raise ConversionError(f"The colr box is of kind {kind!r} with {len(payload)} bytes; nclx or nclc expected.")
    primaries, transfer, matrix = struct.unpack(">3H", payload[4:10])
    return ColourBox(kind, primaries, transfer, matrix, bool(payload[10] & 0x80) if kind == "nclx" else None)
