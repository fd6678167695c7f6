"""Track packets: the span files of one video track read as one stream, with exact times and one clock for decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from pipeline.errors import ConversionError
from pipeline.heartbeat import beat
from pipeline.plan import Track


@dataclass(frozen=True)
class TrackSpans:
    """What a converted track is joined from.

    track: its plan; output times are in ticks of 1 / track.time_base_den seconds
    files: span files in order, one video stream each; their times count from their first frame
    frame_pts, frame_duration: int64 (F,) output ticks (VideoIndex's times `track.ticks`), before any shift
    scaled: the picture is smaller than the source's (a proxy), so a crop counted in the source's pixels does not hold
    """

    track: Track
    files: tuple[Path, ...]
    frame_pts: np.ndarray
    frame_duration: np.ndarray
    scaled: bool = False

    @property
    def time_base(self) -> Fraction:
        """Seconds per output tick; the numerator is 1."""
        return Fraction(1, self.track.time_base_den)


class TrackPackets:
    """Packets of one track in decode order. Holds one span at a time, so memory does not grow with the video.

    spans: the track; shift: output ticks added to every time
    change: maps a keyframe's bytes to what is written instead (HDR10 messages); None leaves all as they are
    Raises ConversionError when a span file is damaged, differs in its codec set-up from the first, or does not hold
    exactly the frames of the plan.
    """

    def __init__(self, spans: TrackSpans, shift: int = 0, change: Callable[[bytes], bytes] | None = None) -> None:
        self.spans, self.change = spans, change
        self.pts = spans.frame_pts.astype(np.int64) + shift
        if len(spans.files) != len(spans.track.spans):
            raise ConversionError(
                f"track of stream {spans.track.stream_index}: {len(spans.files)} span files for {len(spans.track.spans)} spans."
            )
        depths = []
        extradata = None
        for number in range(len(spans.files)):
            packets, here = self._read(number)
            extradata = here if extradata is None else extradata
            if here != extradata:
                raise ConversionError(
                    f"{spans.files[number]}: the encoder set-up differs from the first span's; remove the work folder and convert again."
                )
            ranks = self._ranks(packets, number)
            depths.append(int((np.arange(len(ranks)) - ranks).max()))
        self.depth = max(depths)

    def __iter__(self) -> Iterator[av.Packet]:
        for number, span in enumerate(self.spans.track.spans):
            packets, _ = self._read(number)
            for place, (packet, rank) in enumerate(zip(packets, self._ranks(packets, number), strict=True)):
                frame = span.first_frame + int(rank)
                payload = bytes(packet)
                if packet.is_keyframe and self.change is not None:
                    payload = self.change(payload)
                joined = av.Packet(payload)
                joined.pts = int(self.pts[frame])
                joined.dts = self._dts(span.first_frame + place)
                joined.duration = int(self.spans.frame_duration[frame])
                joined.time_base = self.spans.time_base
                joined.is_keyframe = packet.is_keyframe
                yield joined

    def _dts(self, place: int) -> int:
        """Decode time of the packet at `place` in decode order: the pts `depth` frames earlier, so never after its own pts."""
        if place >= self.depth:
            return int(self.pts[place - self.depth])
        step = int(np.diff(self.pts).min()) if len(self.pts) > 1 else 1
        return int(self.pts[0]) - (self.depth - place) * step

    def _read(self, number: int) -> tuple[list[av.Packet], bytes]:
        """All packets of a span file and its codec set-up."""
        path = self.spans.files[number]
        beat()
        try:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                packets = [packet for packet in container.demux(stream) if packet.size]
                return packets, stream.codec_context.extradata or b""
        except (av.FFmpegError, OSError, IndexError) as error:
            raise ConversionError(
                f"{path}: span file cannot be read ({error}); remove it and convert again."
            ) from error

    def _ranks(self, packets: list[av.Packet], number: int) -> np.ndarray:
        """For each packet in decode order its place in display order within the span; checks every time against the plan."""
        span, path = self.spans.track.spans[number], self.spans.files[number]
        if len(packets) != span.frames or any(packet.pts is None for packet in packets):
            raise ConversionError(f"{path}: holds {len(packets)} frames with times, the plan says {span.frames}.")
        den = self.spans.track.time_base_den
        ticks = [packet.pts * packet.time_base * den for packet in packets]
        first = min(ticks)
        order = np.argsort(np.array([float(tick - first) for tick in ticks]), kind="stable")
        wanted = self.spans.frame_pts[span.first_frame : span.first_frame + span.frames]
        for place, want in zip(order, wanted, strict=True):
            if ticks[place] - first != int(want) - int(wanted[0]):
                seconds = float(int(want) * self.spans.time_base)
                raise ConversionError(
                    f"{path}: stream {self.spans.track.stream_index}: the frame of {seconds:.6f} s is {float((ticks[place] - first) / den):.6f} s "
                    f"after the span's start instead of {float((int(want) - int(wanted[0])) * self.spans.time_base):.6f} s."
                )
        ranks = np.empty(len(packets), np.int64)
        ranks[order] = np.arange(len(packets))
        return ranks
