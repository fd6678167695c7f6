"""Are the streams that were not converted all there, packet for packet? In the output, or in a file beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Discard

from pipeline.bitstream_tags import nal_units
from pipeline.errors import InputError
from pipeline.heartbeat import beat
from pipeline.source import demux, ends_too_early

MATROSKA_TICK = Fraction(1, 1000)
EMPTY_SUBTITLE = b"\x00\x00"
PARAMETER_UNITS = {"h264": (0, 31, frozenset({7, 8, 9})), "hevc": (1, 63, frozenset({32, 33, 34, 35}))}
"""Codec -> where the type of a NAL unit stands in its first byte, and the types of parameter sets and access unit delimiters."""


@dataclass
class StreamPackets:
    """The packets of one stream in file order.

    digests: blake2b-128 of each payload without its framing: ADTS headers of AAC, start codes and parameter sets of H.264 and
        HEVC, which a muxer takes off when the stream enters mp4 or mkv
    pts: presentation time in `time_base` ticks, None where the file has none; end_pts: where the last packet ends, at least 0
    """

    index: int
    kind: str
    codec: str
    time_base: Fraction
    attached_pic: bool
    language: str | None
    digests: list[bytes] = field(default_factory=list)
    pts: list[int | None] = field(default_factory=list)
    end_pts: int = 0
    payload_bytes: int = 0
    payload_digest: bytes = b""
    timecode: str | None = None

    @property
    def name(self) -> str:
        """For people: stream 1 (audio aac, eng)."""
        language = f", {self.language}" if self.language and self.language != "und" else ""
        return f"stream {self.index} ({self.kind} {self.codec}{language})"

    def seconds(self, packet: int) -> Fraction | None:
        """Presentation time of a packet."""
        pts = self.pts[packet]
        return None if pts is None else pts * self.time_base


def open_video(path: Path, what: str) -> InputContainer:
    """Open a file for checking. Raises InputError with one sentence that says which of the two files (`what`) is not readable."""
    if not path.is_file():
        raise InputError(f"{path}: the {what} is not there; name an existing file.")
    try:
        if what == "output" and ends_too_early(path):
            raise InputError(
                f"{path}: the output cannot be opened (it ends too early); it is cut short: make it again."
            )
        return av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise InputError(
            f"{path}: the {what} cannot be opened ({error.strerror}); it is damaged, cut short or no video: make it again."
        ) from error


def read_packets(path: Path, what: str, *, to_the_end: bool = True, skip: Collection[int] = ()) -> list[StreamPackets]:
    """Read every packet of a file once and keep its digest and time. Memory: about 100 bytes a packet.

    to_the_end: a file that cannot be read to its end is an InputError; else what can be read counts (a cut source)
    skip: streams (indices) whose packets are not looked at
    """
    with open_video(path, what) as container:
        streams = [_describe(stream) for stream in container.streams]
        whole = [hashlib.blake2b(digest_size=16) for _ in streams]
        for index in skip:
            container.streams[index].discard = Discard.all
        try:
            for packet in demux(container):
                if not packet.size or packet.stream_index >= len(streams) or packet.stream_index in skip:
                    continue
                stream = streams[packet.stream_index]
                payload = memoryview(packet)
                if stream.kind == "subtitle" and bytes(payload) == EMPTY_SUBTITLE:
                    continue  # the gap between two texts, which mp4 writes as a sample and other containers do not
                stream.digests.append(_digest(stream, payload))
                stream.pts.append(packet.pts)
                if packet.pts is not None:
                    stream.end_pts = max(stream.end_pts, packet.pts + (packet.duration or 0))
                stream.payload_bytes += len(payload)
                whole[packet.stream_index].update(payload)
        except av.FFmpegError as error:
            if to_the_end:
                raise InputError(
                    f"{path}: the {what} cannot be read to its end ({error.strerror}); it is damaged or cut short."
                ) from error
        for stream, state in zip(streams, whole, strict=True):
            stream.payload_digest = state.digest()
            attachment = container.streams[stream.index]
            if stream.kind == "attachment":
                data = bytes(attachment.data)
                stream.digests, stream.pts = [hashlib.blake2b(data, digest_size=16).digest()], [None]
                stream.payload_bytes, stream.payload_digest = len(data), stream.digests[0]
    return streams


def _describe(stream: av.stream.Stream) -> StreamPackets:
    context = stream.codec_context
    codec = context.codec.canonical_name if context is not None else "unknown"
    attached = bool(stream.disposition & av.stream.Disposition.attached_pic)
    base = stream.time_base or MATROSKA_TICK
    timecode = stream.metadata.get("timecode") if stream.type == "data" else None
    return StreamPackets(stream.index, stream.type, codec, base, attached, stream.language, timecode=timecode)


def _digest(stream: StreamPackets, payload: memoryview) -> bytes:
    state = hashlib.blake2b(digest_size=16)
    units = _units(stream.codec, payload) if stream.codec in PARAMETER_UNITS and not stream.attached_pic else None
    for unit in units or []:
        state.update(len(unit).to_bytes(4, "big"))
        state.update(unit)
    if units is None:
        state.update(payload[_adts_header(stream.codec, payload) :])
    return state.digest()


def _units(codec: str, payload: memoryview) -> list[bytes] | None:
    """NAL units without parameter sets and delimiters; None when neither start codes nor 4-byte lengths frame the packet."""
    data = bytes(payload)
    units = list(nal_units(data))
    by_start_codes = data.startswith((b"\x00\x00\x01", b"\x00\x00\x00\x01"))
    if not by_start_codes and (sum(len(unit) + 4 for unit in units) != len(data) or not all(units)):
        return None
    shift, mask, left_out = PARAMETER_UNITS[codec]
    return [unit for unit in units if unit and unit[0] >> shift & mask not in left_out]


def _adts_header(codec: str, payload: memoryview) -> int:
    """Bytes of the ADTS header before an AAC packet (ISO/IEC 13818-7 clause 6.2), 0 when there is none."""
    if codec != "aac" or len(payload) < 7 or payload[0] != 0xFF or payload[1] & 0xF6 != 0xF0:
        return 0
    length = (payload[3] & 3) << 11 | payload[4] << 3 | payload[5] >> 5
    header = 7 if payload[1] & 1 else 9
    return header if length == len(payload) else 0


@dataclass(frozen=True)
class CopyFound:
    """What became of one stream of the source. place: the output's stream, or None when it is not there or not the same."""

    source: StreamPackets
    place: StreamPackets | None
    ok: bool
    detail: str


def find_copies(
    source: list[StreamPackets],
    output: list[StreamPackets],
    converted: set[int],
    *,
    shift: Fraction,
    matroska: bool,
    sidecars: list[Path],
    to_be_saved: Collection[int] = (),
    tags: Collection[str] = (),
) -> list[CopyFound]:
    """Look for every stream of the source that was not converted.

    shift: seconds by which the output's times were moved; matroska: the output counts in milliseconds
    sidecars: files beside the output that may hold a stream the container could not take
    to_be_saved: streams (indices) that the caller will save in such a file later
    tags: timecodes that the output states as a tag, from which players make the track again
    """
    free = list(output)
    found: list[CopyFound] = []
    missing: list[StreamPackets] = []
    for stream in source:
        if stream.index in converted:
            continue
        if not stream.digests:
            found.append(CopyFound(stream, None, True, f"{stream.name}: holds no packets, nothing to keep."))
            continue
        twin = next((other for other in free if other.kind == stream.kind and other.digests == stream.digests), None)
        if twin is None:
            missing.append(stream)
            continue
        free.remove(twin)
        found.append(_same_times(stream, twin, shift, matroska))
    for stream in missing:
        if stream.index in to_be_saved:
            found.append(CopyFound(stream, None, True, f"{stream.name}: is to be saved beside the output."))
        elif stream.timecode is not None and stream.timecode in tags:
            found.append(CopyFound(stream, None, True, f"{stream.name}: kept as the tag timecode={stream.timecode}."))
        else:
            found.append(_explain_missing(stream, free, sidecars))
    return sorted(found, key=lambda copy: copy.source.index)


def _same_times(stream: StreamPackets, twin: StreamPackets, shift: Fraction, matroska: bool) -> CopyFound:
    tick = MATROSKA_TICK if matroska else twin.time_base
    if not matroska and stream.end_pts * stream.time_base + shift <= 0:
        # A cut file may end within its sound's priming, which is hidden: an mp4 or mov track of no length keeps no times.
        return CopyFound(
            stream, twin, True, f"{stream.name}: all {len(stream.pts)} packets are there, none to be heard."
        )
    worst, at = Fraction(0), 0
    for packet in range(len(stream.pts)):
        ours, theirs = stream.seconds(packet), twin.seconds(packet)
        if ours is None:
            continue
        if theirs is None:
            return CopyFound(stream, twin, False, f"{stream.name}: packet {packet} has lost its time.")
        off = abs(theirs - shift - ours)
        if off > worst:
            worst, at = off, packet
    count = len(stream.pts)
    if worst > tick:
        moment = float(stream.seconds(at) or 0)
        detail = f"{stream.name}: all {count} packets are there, but packet {at} at {moment:.3f} s is {float(worst) * 1000:.3f} ms off"
        return CopyFound(stream, twin, False, f"{detail}; {float(tick) * 1000:.3f} ms are allowed in this container.")
    exact = "at the same times" if worst == 0 else f"times rounded by at most {float(worst) * 1000:.3f} ms"
    return CopyFound(stream, twin, True, f"{stream.name}: {count} packets identical, {exact}.")


def _explain_missing(stream: StreamPackets, free: list[StreamPackets], sidecars: list[Path]) -> CopyFound:
    sidecar = next((path for path in sidecars if _holds(path, stream)), None)
    if sidecar is not None:
        return CopyFound(stream, None, True, f"{stream.name}: kept beside the output in {sidecar.name}.")
    wanted = set(stream.digests)
    near = [other for other in free if other.kind == stream.kind and wanted & set(other.digests)]
    if not near:
        where = "neither in the output nor in a file beside it"
        return CopyFound(stream, None, False, f"{stream.name}: {where}; its {len(stream.digests)} packets are lost.")
    other = max(near, key=lambda candidate: len(wanted & set(candidate.digests)))
    pairs = zip(stream.digests, other.digests, strict=False)
    first = next((n for n, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(stream.pts), len(other.pts)))
    moment = stream.seconds(first) if first < len(stream.pts) else None
    at = "" if moment is None else f" at {float(moment):.3f} s"
    detail = (
        f"{stream.name}: not the same packets: the source has {len(stream.digests)}, the output {len(other.digests)}"
    )
    return CopyFound(stream, None, False, f"{detail}; the first that differs is packet {first}{at}.")


def _holds(path: Path, stream: StreamPackets) -> bool:
    """Does a file hold a stream: as its whole content (a data dump, a picture), or as a stream of its own?"""
    if path.stat().st_size == stream.payload_bytes and _file_digest(path) == stream.payload_digest:
        return True
    try:
        inside = read_packets(path, "sidecar")
    except InputError:
        return False
    return any(other.digests == stream.digests for other in inside)


def _file_digest(path: Path) -> bytes:
    state = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        for block in _blocks(file):
            state.update(block)
    return state.digest()


def _blocks(file: object, size: int = 1 << 20) -> Iterator[bytes]:
    while block := file.read(size):  # type: ignore[attr-defined]
        beat()
        yield block


def files_beside(output: Path) -> list[Path]:
    """Files that carry the output's name and something after it, such as drive.mp4.stream3.bin or drive.stream3.mka."""
    if not output.parent.is_dir():
        return []
    names = (output.name + ".", output.stem + ".")
    return sorted(
        path
        for path in output.parent.iterdir()
        if path.is_file() and path.name != output.name and path.name.startswith(names)
    )
