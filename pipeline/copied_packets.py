"""Copied packets: the streams that are not converted, put on the output's clock. Their bytes are never touched."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import av
from av.container import InputContainer
from av.stream import Stream

from pipeline.streams import demux_streams, first_packets
from pipeline.track_packets import TrackSpans

MAX_TIMESCALE = 2**31 - 1
MIN_MOVIE_TIMESCALE = 1000
MATROSKA_TIMESCALE = 1000


@dataclass(frozen=True)
class StreamStart:
    """How a copied stream begins.

    first_seconds: its first packet; None when it starts later than was looked
    hidden_seconds: how much of its start the source tells players to skip (encoder priming, edit list)
    source_den, output_den: ticks per second in the source, and in an mp4 (for audio the sample rate)
    sample: its first packet, None when not found; audio: the stream is audio
    """

    first_seconds: Fraction | None
    hidden_seconds: Fraction
    source_den: int
    output_den: int
    sample: av.Packet | None
    audio: bool


def read_starts(opened: InputContainer, streams: list[int]) -> dict[int, StreamStart]:
    """How each of these streams (indices) begins. Reads from the start of `opened`, which should not be used for more."""
    found = {}
    for index, packets in first_packets(opened, [opened.streams[index] for index in streams]).items():
        stream = opened.streams[index]
        source_den = stream.time_base.denominator
        rate = stream.codec_context.sample_rate if stream.type == "audio" else source_den
        times = [packet.pts * packet.time_base for packet in packets if packet.pts is not None]
        first, sample = min(times, default=None), next(iter(packets), None)
        hidden = _hidden(packets, rate)
        found[index] = StreamStart(first, hidden, source_den, rate or source_den, sample, stream.type == "audio")
    return found


def _hidden(packets: list[av.Packet], rate: int) -> Fraction:
    if packets and packets[0].has_sidedata("skip_samples"):
        return Fraction(struct.unpack_from("<I", bytes(packets[0].get_sidedata("skip_samples")))[0], rate)
    hidden = Fraction(0)
    for packet in packets:
        if not packet.is_discard:
            break
        hidden += (packet.duration or 0) * packet.time_base
    return hidden


def shift_needed(tracks: list[TrackSpans], starts: dict[int, StreamStart], container: str) -> Fraction:
    """Seconds to add to all times so that nothing that is shown or heard lies before time 0, which no output can say.

    The least amount that is a whole number of ticks of every stream, so that adding it rounds nothing. The hidden start of a
    stream may stay before 0: mp4 and mov hide it in any stream, Matroska in audio.
    """
    earliest = [int(spans.frame_pts[0]) * spans.time_base for spans in tracks]
    for start in starts.values():
        if start.first_seconds is None:
            continue
        hides = start.audio or container != "mkv"
        shown = start.first_seconds + (start.hidden_seconds if hides else 0)
        if shown <= -Fraction(1, start.source_den):
            earliest.append(shown)
    missing = -min(earliest)
    if missing <= 0:
        return Fraction(0)
    dens = [spans.track.time_base_den for spans in tracks]
    dens += [den for start in starts.values() for den in (start.source_den, start.output_den)]
    grid = math.gcd(*dens, *([MATROSKA_TIMESCALE] if container == "mkv" else []))
    return Fraction(math.ceil(missing * grid), grid)


def movie_timescale(tracks: list[TrackSpans], starts: dict[int, StreamStart], shift: Fraction) -> int:
    """Ticks per second of an mp4's movie clock, in which it says when a track starts: all starts are whole numbers in it.

    FFmpeg's default of 1000 would move a start by up to a millisecond. Falls back to the first track's clock when the exact
    one does not fit 31 bits.
    """
    scale = math.lcm(*(spans.track.time_base_den for spans in tracks))
    for start in starts.values():
        if start.first_seconds is None or start.first_seconds + shift > 0:
            scale = math.lcm(scale, start.output_den)
    if scale > MAX_TIMESCALE:
        scale = tracks[0].track.time_base_den
    return scale * max(1, -(-MIN_MOVIE_TIMESCALE // scale))


@dataclass
class _Clock:
    """Running state of one copied stream, in ticks of its output stream."""

    last_dts: int | None = None
    shown: bool = False
    moved: int = 0
    dropped: int = 0
    waiting: list[av.Packet] = field(default_factory=list)


class CopiedPackets:
    """All packets of some streams of an open source, with the times they have in the output, in the file's order.

    streams: source index -> output stream; the output's header must be written before the first packet is asked for
    shift: seconds added to every time; strict: the container wants every decode time later than the one before (mp4, mov)
    counts, payload_bytes, warnings: filled while iterating
    """

    def __init__(self, opened: InputContainer, streams: dict[int, Stream], shift: Fraction, *, strict: bool) -> None:
        self.opened, self.streams, self.shift, self.strict = opened, streams, shift, strict
        self.counts = dict.fromkeys(streams, 0)
        self.payload_bytes = dict.fromkeys(streams, 0)
        self._sums = {index: hashlib.sha256() for index in streams}
        self.warnings: list[str] = []
        self._clocks = {index: _Clock() for index in streams}

    def __iter__(self) -> Iterator[av.Packet]:
        for packet in demux_streams(self.opened, set(self.streams)):
            clock = self._clocks[packet.stream_index]
            if packet.is_discard and clock.shown:
                clock.dropped += 1
                continue
            clock.shown |= not packet.is_discard
            if packet.dts is None and packet.pts is not None and packet.stream.type == "video":
                clock.waiting.append(packet)
                continue
            yield from self._release(packet.stream_index, packet.dts)
            yield self._placed(packet, packet.dts)
        for index in self.streams:
            yield from self._release(index, None)
            self._note(index)

    def payloads(self) -> dict[int, tuple[int, str]]:
        """Bytes and SHA-256 of all payloads of each stream one after another, by source index. Ask once all are read."""
        return {index: (self.payload_bytes[index], state.hexdigest()) for index, state in self._sums.items()}

    def _release(self, index: int, known_dts: int | None) -> Iterator[av.Packet]:
        """Packets that had no decode time (the first of a Matroska video), counted back from the first that has one."""
        clock = self._clocks[index]
        waiting, clock.waiting = clock.waiting, []
        for place, packet in enumerate(waiting):
            back = (len(waiting) - place) * max(packet.duration or 1, 1)
            yield self._placed(packet, packet.pts if known_dts is None else min(known_dts - back, packet.pts))

    def _placed(self, packet: av.Packet, dts: int | None) -> av.Packet:
        made, clock = self.streams[packet.stream_index], self._clocks[packet.stream_index]
        out_base = made.time_base
        duration = self._duration(packet)
        dts = dts if dts is not None else packet.pts
        if dts is None:
            new_dts = clock.last_dts + 1 if clock.last_dts is not None else 0
        else:
            new_dts = round((dts * packet.time_base + self.shift) / out_base)
        new_pts = new_dts if packet.pts is None else round((packet.pts * packet.time_base + self.shift) / out_base)
        least = None if clock.last_dts is None else clock.last_dts + self.strict
        if least is not None and new_dts < least:
            new_dts, new_pts = least, max(new_pts, least)
            clock.moved += 1
        clock.last_dts = new_dts
        self.counts[packet.stream_index] += 1
        self.payload_bytes[packet.stream_index] += packet.size
        self._sums[packet.stream_index].update(packet)
        packet.stream = made
        packet.pts, packet.dts = new_pts, new_dts
        packet.duration = round(duration * packet.time_base / out_base)
        packet.time_base = out_base
        return packet

    def _duration(self, packet: av.Packet) -> int:
        """Source ticks. The last audio packet of an mp4 is cut to where the source's edit list ends the track."""
        stream = packet.stream
        duration = packet.duration or 0
        if stream.type == "audio" and "mov" in self.opened.format.name and stream.duration and packet.pts is not None:
            end = max(stream.start_time or 0, 0) + stream.duration
            if packet.pts < end < packet.pts + duration:
                return end - packet.pts
        return duration

    def _note(self, index: int) -> None:
        clock = self._clocks[index]
        if clock.moved:
            self.warnings.append(
                f"stream {index}: {clock.moved} packets had decode times out of order and were moved to the next free one."
            )
        if clock.dropped:
            self.warnings.append(
                f"stream {index}: {clock.dropped} packets that the source's edit list hides in mid-stream are left out."
            )
        if not self.counts[index]:
            self.warnings.append(f"stream {index}: holds no packets; there is nothing to keep but its name.")
