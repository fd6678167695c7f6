"""Streams: what becomes of every stream of a source that is not converted, so that nothing is lost without a word.

Whether a container can hold a stream is not looked up in a table: each stream is tried alone, in memory, with its first packets,
and read back. What cannot be held is saved beside the output (pipeline/sidecars.py).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer, OutputContainer
from av.stream import Discard, Disposition, Stream

from pipeline.errors import ConversionError
from pipeline.moov import CHAPTERS, track_tags
from pipeline.source import demux, open_source

FORMATS = {"mp4": "mp4", "mov": "mov", "mkv": "matroska", "asf": "asf"}
"""Our container names -> FFmpeg's muxers. asf is for sidecars only."""

COVER_CODECS = {"mjpeg": ("jpg", "image/jpeg"), "png": ("png", "image/png"), "bmp": ("bmp", "image/bmp")}
"""Pictures that may be cover art in mp4, mov and mkv alike: file name ending and MIME type."""

TRIAL_PACKETS = 4
TRIAL_READ_BYTES = 64 << 20
"""How much of the source is read to find the first packets of its streams. A stream that starts later is tried by its header."""

MUXER_TAGS = re.compile(r"DURATION(-.*)?", re.IGNORECASE)
CODING_TAGS = re.compile(r"(encoder|BPS|NUMBER_OF_FRAMES|NUMBER_OF_BYTES|_STATISTICS_.*)(-.*)?", re.IGNORECASE)
"""Tags that the muxer writes itself, and tags that are true of the coding of a stream, not of what it shows."""


@dataclass(frozen=True)
class CopyPlan:
    """What becomes of one source stream that is not converted. Plain data.

    stream: index in the source
    kind: "video", "audio", "subtitle", "data", "attachment" or "unknown"
    codec: FFmpeg's name, or the four-letter tag of a track that FFmpeg has no name for
    action: "copy" (packet for packet into the output), "cover" (picture, kept as cover art), "attachment" (kept as such),
        "tag" (track that the muxer makes again: timecode, chapter names) or "sidecar" (saved beside the output)
    where: "output", or for a sidecar the end of its name: OUTPUT's stem plus this
    reason: one clause, why
    """

    stream: int
    kind: str
    codec: str
    action: str
    where: str
    reason: str


def plan_copies(source: Path, container: str, converted: set[int]) -> list[CopyPlan]:
    """Decide for every stream of `source` outside `converted` (stream indices) how it is kept. In stream order.

    container: "mp4", "mov" or "mkv"
    Raises InputError when the source cannot be opened.
    """
    with open_source(source) as opened:
        streams = [stream for stream in opened.streams if stream.index not in converted]
        with source.open("rb") as file:
            tags = track_tags(file)
        first = first_packets(opened, streams)
        return [_plan(stream, tags.get(stream.id, ""), first[stream.index], container) for stream in streams]


def _plan(stream: Stream, fourcc: str, packets: list[av.Packet], container: str) -> CopyPlan:
    codec = codec_of(stream, fourcc)

    def decided(action: str, where: str, reason: str) -> CopyPlan:
        return CopyPlan(stream.index, stream.type, codec, action, where, reason)

    if stream.type == "attachment":
        if container == "mkv":
            return decided("attachment", "output", "Matroska holds attachments")
        ending = Path(stream.name or "file.bin").suffix or ".bin"
        return decided("sidecar", _sidecar_name(stream, "attachment", ending), f"{container} holds no attachments")
    if is_cover(stream) and codec in COVER_CODECS:
        if packets:
            return decided("cover", "output", "cover art")
        return decided("cover", "output", "cover art without a picture; there is nothing to keep")
    if fourcc == CHAPTERS and stream.container.chapters():
        return decided("tag", "output", "names of the chapters, written again with them")
    if fourcc == "tmcd" and stream.metadata.get("timecode") and stream.frames <= 1:
        timecode = stream.metadata["timecode"]
        return decided("tag", "output", f"timecode {timecode}, kept as the tag from which {container} makes it again")
    refused = try_stream(stream, fourcc, packets, container)
    if refused is None:
        return decided("copy", "output", "packet for packet" if packets else "no packets near the start; track kept")
    for kind, ending, sidecar_container in (
        ("audio", ".mka", "mkv"),
        ("subtitle", ".mks", "mkv"),
        ("video", ".mkv", "mkv"),
        ("audio", ".mov", "mov"),
        ("audio", ".wma", "asf"),
        ("subtitle", ".mp4", "mp4"),
    ):
        if stream.type == kind and packets and try_stream(stream, fourcc, packets, sidecar_container) is None:
            return decided("sidecar", _sidecar_name(stream, codec, ending), refused)
    return decided("sidecar", _sidecar_name(stream, codec, ".bin"), refused)


def sentence(plan: CopyPlan) -> str | None:
    """The warning that a user should read about this stream; None when it is simply kept."""
    if plan.action != "sidecar":
        return None
    return (
        f"stream {plan.stream} ({plan.kind}, {plan.codec}): {plan.reason}; saved beside the output as *{plan.where}"
        f"{' with its times in a .json of the same name' if plan.where.endswith('.bin') else ''}."
    )


def try_stream(stream: Stream, fourcc: str, packets: list[av.Packet], container: str) -> str | None:
    """Mux the stream alone, in memory, and read it back. None when it comes back the same, else why not."""
    refusal = f"{container} cannot hold it"
    buffer = io.BytesIO()
    try:
        with av.open(buffer, "w", format=FORMATS[container]) as out:
            copy = add_copy(out, stream)
            out.start_encoding()
            for packet in packets:
                clone = clone_packet(packet)
                clone.stream = copy
                out.mux_one(clone)
    except (av.FFmpegError, ValueError) as error:
        return f"{refusal} ({getattr(error, 'strerror', None) or error})"
    if not packets:
        return None
    try:
        with av.open(io.BytesIO(buffer.getvalue())) as again:
            tag = track_tags(buffer).get(again.streams[0].id, "")
            back = [bytes(packet) for packet in again.demux() if packet.size]
            if not _same_codec(codec_of(again.streams[0], tag), codec_of(stream, fourcc)):
                return f"{refusal} (it comes back as another kind of track)"
            if stream.type == "data" and fourcc and tag != fourcc:
                return f"{refusal} (its tag '{fourcc}' comes back as '{tag}')"
    except (av.FFmpegError, IndexError) as error:
        return f"{refusal} (it cannot be read back: {error})"
    if stream.type in ("audio", "video") and len(back) >= len(packets):
        return None  # ADTS and Annex B framing is taken off by the muxer, so the bytes need not be the same
    sent = [bytes(packet) for packet in packets]
    return None if _in_order(sent, back) or b"".join(sent) == b"".join(back) else f"{refusal} (its packets change)"


def _same_codec(one: str, other: str) -> bool:
    """mp4 has one code for all layers of MPEG audio; each of its frames says which layer it is."""
    return one == other or {one, other} <= {"mp1", "mp2", "mp3"}


def _in_order(sent: list[bytes], back: Iterable[bytes]) -> bool:
    """True when all of `sent` are in `back` in this order; mp4 puts empty samples between subtitles."""
    rest = iter(back)
    return all(any(packet == other for other in rest) for packet in sent)


def add_copy(out: OutputContainer, stream: Stream, template: Stream | None = None) -> Stream:
    """Add a stream like `stream` to `out`: codec parameters, disposition, language and other tags, a time base 1/n.

    template: where the codec parameters come from instead of `stream` itself
    Raises ValueError or av.FFmpegError when the muxer does not know the codec.
    """
    copy = out.add_stream_from_template(stream if template is None else template, opaque=True)
    copy.metadata.clear()
    copy.metadata.update(kept_tags(stream.metadata))
    copy.disposition = stream.disposition
    if stream.time_base:
        copy.time_base = Fraction(1, stream.time_base.denominator)
    if stream.type == "video" and stream.average_rate:
        copy.codec_context.framerate = stream.average_rate
    return copy


def kept_tags(tags: dict[str, str], *, encoded_anew: bool = False) -> dict[str, str]:
    """Stream tags without those that the muxer writes itself and, for a converted stream, those about its old coding."""
    return {
        key: value
        for key, value in tags.items()
        if not MUXER_TAGS.fullmatch(key) and not (encoded_anew and CODING_TAGS.fullmatch(key))
    }


def clone_packet(packet: av.Packet, payload: bytes | None = None) -> av.Packet:
    """A packet of its own with the same times, flags and side data, and the same bytes unless `payload` is given."""
    clone = av.Packet(bytes(packet) if payload is None else payload)
    clone.pts, clone.dts, clone.duration = packet.pts, packet.dts, packet.duration
    clone.time_base = packet.time_base
    clone.is_keyframe = packet.is_keyframe
    for side_data in packet.iter_sidedata():
        clone.set_sidedata(side_data)
    return clone


def is_cover(stream: Stream) -> bool:
    """True for a picture that belongs to the file, not to a moment of it."""
    return stream.type == "video" and bool(stream.disposition & Disposition.attached_pic)


def codec_of(stream: Stream, fourcc: str) -> str:
    """FFmpeg's codec name; the four-letter tag or "unknown" when there is none."""
    name = stream.codec_context.codec.canonical_name if stream.codec_context is not None else None
    if name is None and stream.type == "data":
        name = stream.name
    return name if name not in (None, "none") else (fourcc or "unknown")


def first_packets(container: InputContainer, streams: list[Stream]) -> dict[int, list[av.Packet]]:
    """Up to TRIAL_PACKETS first packets of each stream, by stream index. Reads at most TRIAL_READ_BYTES of packets."""
    found: dict[int, list[av.Packet]] = {stream.index: [] for stream in streams}
    waiting = {stream.index for stream in streams if stream.type != "attachment"}
    budget = TRIAL_READ_BYTES
    for packet in demux_streams(container, waiting):
        kept = found[packet.stream_index]
        if len(kept) < TRIAL_PACKETS:
            kept.append(packet)
        stream = container.streams[packet.stream_index]
        if len(kept) == TRIAL_PACKETS or is_cover(stream):
            waiting.discard(packet.stream_index)
        budget -= packet.size + 1024
        if budget < 0 or not waiting:
            break
    return found


def demux_streams(container: InputContainer, streams: set[int]) -> Iterator[av.Packet]:
    """All packets of some streams (indices) in the file's order. In mp4 and mov the others are not even read from the disk.

    Raises ConversionError naming file and time when reading fails part-way.
    """
    if not streams:
        return
    if "mov" in container.format.name:
        for stream in container.streams:
            if stream.index not in streams:
                stream.discard = Discard.all
    seconds = Fraction(0)
    try:
        for packet in demux(container, *(container.streams[index] for index in sorted(streams))):
            if not packet.size:
                continue
            if packet.pts is not None:
                seconds = packet.pts * packet.time_base
            yield packet
    except av.FFmpegError as error:
        raise ConversionError(
            f"{container.name}: reading the streams to be copied failed after {float(seconds):.3f} s ({error}); "
            "check the file with `inspect`, or copy it again."
        ) from error


def _sidecar_name(stream: Stream, codec: str, ending: str) -> str:
    return f".stream{stream.index}.{re.sub(r'[^A-Za-z0-9_-]', '_', codec)}{ending}"
