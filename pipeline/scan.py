"""Scan: read every packet of one video stream and make its VideoIndex."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer

from pipeline.errors import InputError
from pipeline.index import NO_PTS, VideoIndex, frame_durations
from pipeline.keyframes import is_clean_start
from pipeline.source import RAW_CONTAINERS, decoder_options, demux, open_source, segment_is_cut

TRIAL_FRAMES = 24
MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
PROGRESSIVE = (0, 1)
"""AVFieldOrder "unknown" and "progressive"."""
HIDES_FRAMES = frozenset({"vp8", "vp9", "av1"})
SAME_AGAIN_BYTES = 16
MAX_DELAY = 32
CUT_SECONDS = 0.02
"""Less than this, missing from a file that ends before its time, is the rounding of its clock and not a lost frame."""
PARTS_MISSING = "; add --salvage to convert the readable part"


@dataclass
class _Packets:
    """What the demuxer said of each packet, in its order. None: not said."""

    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    keyframe: list[bool] = field(default_factory=list)
    discard: list[bool] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    digest: list[bytes] = field(default_factory=list)
    duration: list[int] = field(default_factory=list)
    end_seconds: float = 0.0
    seen_seconds: float = 0.0
    error: str | None = None

    def drop_last(self) -> None:
        for values in (self.pts, self.dts, self.keyframe, self.discard, self.size, self.digest, self.duration):
            values.pop()


def scan(path: Path, stream_index: int, fps: Fraction | None, salvage: bool) -> VideoIndex:
    """See `index.build_index`."""
    with open_source(path) as container:
        if not 0 <= stream_index < len(container.streams) or container.streams[stream_index].type != "video":
            legal = ", ".join(str(stream.index) for stream in container.streams.video) or "none"
            raise InputError(f"{path}: stream {stream_index} is not a video stream; video streams are {legal}.")
        stream = container.streams[stream_index]
        raw = container.format.name in RAW_CONTAINERS
        if raw and (fps is None or fps <= 0):
            raise InputError(
                f"{path}: a raw {container.format.name} stream has no clock; say how many frames a second it has with --fps, "
                "for example --fps 20 or --fps 30000/1001."
            )
        time_base = Fraction(stream.time_base)
        packets, loss = _read(container, stream)
        context = stream.codec_context
        intra_only = bool(context is not None and context.codec.intra_only)
        doubtful = context is not None and (int(context.field_order) not in PROGRESSIVE or context.has_b_frames)
        streamed = container.format.name in {"mpegts", "mpeg"}
        faked = container.format.name == "avi" and not intra_only  # FFmpeg makes up pts in decode order for AVI
    if not packets.pts:
        raise InputError(f"{path}: video stream {stream_index} has no frames, so there is nothing to convert.")
    restamp = raw or faked or not _pts_usable(packets) or (streamed and _goes_back(packets))
    if not restamp and doubtful and not intra_only:
        restamp = not _frames_match(path, stream_index, packets)
    if not restamp:
        _hide_headless(path, stream_index, packets, streamed)
        pts = np.array(packets.pts, np.int64)
        discard = np.array(packets.discard, bool)
        frame_pts = np.sort(pts[~discard])
        last = packets.duration[int(np.argmax(np.where(discard, NO_PTS, pts)))] if len(frame_pts) else None
    else:
        order = display_order(path, stream_index, packets.size)
        if raw:
            time_base = Fraction(1, fps.numerator)
            stamps = np.arange(len(order), dtype=np.int64) * fps.denominator
            last = fps.denominator
        else:
            stamps = _sorted_dts(path, packets, order)
            last = None
        pts = np.full(len(packets.pts), NO_PTS, np.int64)
        pts[order] = stamps
        discard = pts == NO_PTS
        frame_pts = stamps
    if not len(frame_pts):
        raise InputError(
            f"{path}: video stream {stream_index} has no frame that is shown, so there is nothing to convert."
        )
    if loss is not None:
        first, end = (float(value * time_base) for value in (frame_pts[0], frame_pts[-1]))
        loss = f"the file is cut: its last good frame is at {end - first:.3f} s, {loss}"
        if not salvage:
            raise InputError(f"{path}: {loss}{PARTS_MISSING}.")
    return VideoIndex(
        pts=pts,
        keyframe=np.array(packets.keyframe, bool),
        discard=discard,
        size=np.array(packets.size, np.int64),
        digest=np.frombuffer(b"".join(packets.digest), np.uint8).reshape(-1, 16).copy(),
        frame_pts=frame_pts,
        frame_duration=frame_durations(frame_pts, last),
        time_base=time_base,
        restamped=restamp,
        loss=loss,
    )


def _read(container: InputContainer, stream: av.VideoStream) -> tuple[_Packets, str | None]:
    """Every packet of the stream, and what is missing of a cut file (None: nothing)."""
    packets = _Packets()
    codec = stream.codec_context.codec.canonical_name if stream.codec_context else ""
    declared: dict[int, int] = {}
    beyond: dict[int, int] = {}
    if container.format.name == MP4:
        size_bytes = container.size
        for other in container.streams:
            declared[other.index] = len(other.index_entries)
            beyond[other.index] = sum(entry.pos + entry.size > size_bytes for entry in other.index_entries)
    partial = False
    try:
        for packet in demux(container):
            if not packet.size:
                continue
            if packet.pts is not None and packet.time_base:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                packets.end_seconds = max(packets.end_seconds, end)
                if packet.stream.type in {"video", "audio"}:
                    packets.seen_seconds = max(packets.seen_seconds, end)
            if packet.stream_index != stream.index:
                continue
            data = memoryview(packet)
            packets.pts.append(packet.pts)
            packets.dts.append(packet.dts)
            packets.keyframe.append(packet.is_keyframe and is_clean_start(codec, data))
            packets.discard.append(packet.is_discard)
            packets.size.append(packet.size)
            packets.digest.append(hashlib.blake2b(data, digest_size=16).digest())
            packets.duration.append(packet.duration or 0)
            partial = packet.is_corrupt
    except av.FFmpegError as error:
        packets.error = str(error.strerror or error)
    if any(beyond.values()):
        if partial:
            packets.drop_last()
        total = declared[stream.index]
        missing = total - len(packets.pts)
        if not missing:
            return packets, f"and {sum(beyond.values())} packets of its other streams lie beyond its end"
        return packets, f"and {missing} of its {total} video packets are missing"
    if packets.error:
        return packets, f"then reading stops ({packets.error})"
    loss = _shortfall(container, packets, partial)
    if loss and partial:
        packets.drop_last()
    return packets, loss


def _shortfall(container: InputContainer, packets: _Packets, partial: bool) -> str | None:
    """What is missing at the end of a file without an index of its packets, judged by the length that its header claims."""
    if container.format.name == MP4:
        return "and its last packet is incomplete" if partial else None
    if container.format.name not in {"matroska,webm", "avi"} or not container.duration:
        return None
    claimed = container.duration / av.time_base
    # Matroska's duration counts from 0 for some writers, from the first frame for others: alone it proves only large losses.
    cut = container.format.name != "avi" and segment_is_cut(Path(container.name.removeprefix("file:")))
    missing = claimed - (packets.seen_seconds if cut else packets.end_seconds)
    if missing > max(0.5, 0.02 * claimed) or (partial and missing > 0) or (cut and missing > CUT_SECONDS):
        return f"and {missing:.3f} s of the {claimed:.3f} s that its header claims are missing"
    return None


def _pts_usable(packets: _Packets) -> bool:
    """Every packet has a pts and no two shown packets have the same one."""
    if any(pts is None for pts in packets.pts):
        return False
    shown = [pts for pts, discard in zip(packets.pts, packets.discard, strict=True) if not discard]
    return len(set(shown)) == len(shown)


def _goes_back(packets: _Packets) -> bool:
    """The decode times fall somewhere: recordings joined end to end, each with its own clock."""
    times = [dts for dts in packets.dts if dts is not None]
    return any(later < earlier for earlier, later in pairwise(times))


def _frames_match(path: Path, stream_index: int, packets: _Packets) -> bool:
    """Decode a little: do the first shown packets give their own frames, in the order of their pts?

    They do not when each packet is one field of a frame, nor when a recorder wrote decode times as presentation times.
    """
    first_shown = sorted(pts for pts, hidden in zip(packets.pts, packets.discard, strict=True) if not hidden)[
        :TRIAL_FRAMES
    ]
    frames, refused = _trial(path, stream_index, 2 * TRIAL_FRAMES + 16)
    got = [frame.pts for frame in frames if frame.pts in set(first_shown)]
    if got != sorted(got):
        return False
    # Frames lost to damage do not settle the question; every second one missing without any damage does.
    return refused or any(frame.is_corrupt for frame in frames) or len(got) > 0.7 * len(first_shown)


def _hide_headless(path: Path, stream_index: int, packets: _Packets, may_be_cut: bool) -> None:
    """Mark as not shown the frames at the very start that refer to pictures before the file's beginning.

    A recording cut out of a longer one can start so; no player shows them. may_be_cut: the container is one that can be cut
    anywhere (transport streams). In others only the leading pictures of the first keyframe are looked at, and a packet
    there that the decoder refuses is damage, to be concealed like any other.
    """
    if not any(packets.keyframe) or not (may_be_cut or packets.keyframe[0]):
        return
    first_key = packets.keyframe.index(True)
    headless = [
        number
        for number, pts in enumerate(packets.pts)
        if not packets.discard[number] and (number < first_key or pts < packets.pts[first_key])
    ]
    if not headless:
        return
    frames, refused = _trial(path, stream_index, max(headless) + TRIAL_FRAMES)
    if refused and not may_be_cut:
        return
    good = {frame.pts for frame in frames if not frame.is_corrupt}
    for number in headless:
        packets.discard[number] = packets.pts[number] not in good


def _trial(path: Path, stream_index: int, count: int) -> tuple[list[av.VideoFrame], bool]:
    """Frames of the first `count` packets as the decoder gives them, and whether it refused a packet."""
    frames: list[av.VideoFrame] = []
    refused = False
    with open_source(path) as container:
        stream = container.streams[stream_index]
        stream.codec_context.thread_count = 1
        stream.codec_context.options = decoder_options(stream.codec_context)
        for packet in islice(demux(container, stream), count):
            try:
                frames += stream.codec_context.decode(packet if packet.size else None)
            except av.FFmpegError:
                refused = True
    return frames, refused


def display_order(path: Path, stream_index: int, sizes: list[int]) -> np.ndarray:
    """int64 (F,): packet numbers in the order in which their frames come out of the decoder. Decodes the whole stream.

    Each packet is stamped with its number before decoding, so every frame names the packet that it came from. Packets that
    give no frame because they are damaged get their place too; packets that hold no frame of their own do not (second
    fields, MPEG-4's "same again" packets of a few bytes, hidden frames, pictures that refer to before the file's beginning).
    """
    order: list[int] = []
    refused: set[int] = set()
    with open_source(path) as container:
        stream = container.streams[stream_index]
        context = stream.codec_context
        context.thread_count = 1
        context.options = decoder_options(context)
        frame_each = int(context.field_order) in PROGRESSIVE and context.codec.canonical_name not in HIDES_FRAMES
        for number, packet in enumerate(
            islice((packet for packet in demux(container, stream) if packet.size), len(sizes))
        ):
            packet.pts = packet.dts = number
            try:
                order += [frame.pts for frame in context.decode(packet)]
            except av.FFmpegError:
                refused.add(number)
        for _ in range(MAX_DELAY):
            try:
                order += [frame.pts for frame in context.decode(None)]
                break
            except EOFError:
                break
            except av.FFmpegError:
                continue  # a damaged frame among the last ones; the others still come
    order = list(dict.fromkeys(pts for pts in order if pts is not None))
    seen = set(order)
    if not order:
        return np.array(order, np.int64)
    begin = min(seen) + 1
    while begin not in seen and begin < len(sizes) and begin not in refused:
        begin += 1
    for number in range(begin, len(sizes)):
        lost = number in refused or (frame_each and sizes[number] > SAME_AGAIN_BYTES)
        if number not in seen and lost:  # keep its time, and let decode_span fill it
            at = next((rank for rank, other in enumerate(order) if other > number), len(order))
            order.insert(at, number)
    return np.array(order, np.int64)


def _sorted_dts(path: Path, packets: _Packets, order: np.ndarray) -> np.ndarray:
    """Display times for frames without usable pts: the decode times of the packets that show frames, in rising order.

    Where the clock falls back (a second recording joined on) it is made to go on at the usual pace; a decode time that is
    missing or said twice is filled in from its neighbours.
    """
    numbers = np.sort(order)
    said = [dts for dts in packets.dts if dts is not None]
    gaps = [later - earlier for earlier, later in pairwise(said) if later > earlier]
    usual = sorted(gaps)[len(gaps) // 2] if gaps else 1
    known, times, offset = [], [], 0
    for number in numbers.tolist():
        if packets.dts[number] is None:
            continue
        time = packets.dts[number] + offset
        if times and time < times[-1]:
            offset += times[-1] + usual - time
            time = times[-1] + usual
        if not times or time > times[-1]:
            known.append(number)
            times.append(time)
    if len(known) == len(numbers):
        return np.array(times, np.int64)
    if len(known) < 2:
        raise InputError(
            f"{path}: its packets have neither presentation nor decoding times; remux it to mp4 or mkv first."
        )
    step = Fraction(times[-1] - times[0], known[-1] - known[0])
    before = [round(times[0] + (number - known[0]) * step) for number in numbers.tolist() if number < known[0]]
    within = numbers[(numbers >= known[0]) & (numbers <= known[-1])]
    after = [round(times[-1] + (number - known[-1]) * step) for number in numbers.tolist() if number > known[-1]]
    filled = [*before, *np.rint(np.interp(within, known, times)).astype(np.int64).tolist(), *after]
    ranks = np.arange(len(filled))
    return (np.maximum.accumulate(np.array(filled, np.int64) - ranks) + ranks).astype(np.int64)
