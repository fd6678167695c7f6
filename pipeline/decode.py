"""Decode: a Span -> exactly its frames, as planes. Damaged frames are replaced, so that timing holds whatever the file suffered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import av
import numpy as np
import torch

from pipeline import hardware
from pipeline.choice import first_line
from pipeline.deinterlace import deinterlaced
from pipeline.errors import ConversionError, SunvisorError
from pipeline.index import NO_PTS, VideoIndex, packets_for
from pipeline.packets import read_packets
from pipeline.planes import frame_planes
from pipeline.source import decoder_options, open_source
from pipeline.source_color import LAYOUTS
from pipeline.span import Span

NEIGHBOURS = 1
"""Frames that the deinterlacer looks at on either side of the one that it makes."""

REORDER_FRAMES = 16
"""A frame counts as lost once this many later ones have come out (the largest decoded picture buffer of H.264 and H.265)."""

B_IS_NO_REFERENCE = frozenset({"mpeg1video", "mpeg2video", "mpeg4"})
"""Codecs in which no picture refers to a B picture."""


class DecodingStopped(SunvisorError):
    """Nobody wants the frames any more."""


@dataclass(frozen=True)
class DecodedFrame:
    """One frame. pts: ticks of VideoIndex.time_base, one of its frame_pts.

    planes: 2-D uint8 or uint16 (codes as in the file), cropped to the visible size; read-only for the receiver, valid as long as held.
        On the GPU where NVDEC decoded them
    repeated: the frame was damaged or missing in the file, and this is the nearest good one
    """

    pts: int
    planes: tuple[torch.Tensor, ...]
    repeated: bool


@dataclass
class DecodeReport:
    """What went wrong while decoding a span. Filled in by `decode_span`; complete when its iterator is exhausted.

    repeated_pts: pts of frames (lead frames included) that were replaced by a neighbour
    damaged_packets: numbers of packets that the decoder refused, lead packets included
    unexpected_frames: frames that came out although the index knows no such frame; they are dropped
    no_nvdec: why NVDEC was asked for and not used; empty otherwise
    """

    repeated_pts: list[int] = field(default_factory=list)
    damaged_packets: list[int] = field(default_factory=list)
    unexpected_frames: int = 0
    no_nvdec: str = ""


def decode_span(
    path: Path,
    stream_index: int,
    index: VideoIndex,
    span: Span,
    *,
    deinterlace: bool,
    threads: int = 1,
    strict: bool = False,
    decoder: str = "software",
    report: DecodeReport | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[DecodedFrame]:
    """Yield exactly lead_in + frames + lead_out frames, in pts order, whatever state the packets are in.

    deinterlace: frames flagged as interlaced are deinterlaced (bwdif), one frame out for each in; one more frame on either
        side is decoded, so packets beyond the span's own may be read (see `packets_needed`)
    threads: decoder threads; results do not depend on it for undamaged streams, and 1 is the same each time for damaged ones too
    strict: a damaged or missing frame is an error
    decoder: "software", or "nvdec" (see pipeline.hardware); where NVDEC does not open or gives no first frame, software takes over
    should_stop: asked for each packet, those before the first frame included; true raises DecodingStopped
    Raises ConversionError: strict and damage; size or pixel format changes on the way; not one good frame to repeat; the file
    is no longer the one that was indexed. InputError: the file cannot be opened any more.
    """
    report = report if report is not None else DecodeReport()
    start, stop = span.first_frame - span.lead_in, span.first_frame + span.frames + span.lead_out
    before = min(NEIGHBOURS, start) if deinterlace else 0
    after = min(NEIGHBOURS, len(index.frame_pts) - stop) if deinterlace else 0
    seek_packet, end_packet = packets_needed(index, span, deinterlace=deinterlace)
    job = _Job(Path(path), stream_index, index, threads, strict, report, decoder=decoder, should_stop=should_stop)
    frames = job.filled(start - before, stop + after, seek_packet, end_packet)
    if deinterlace:
        frames = deinterlaced(frames, index.time_base, str(path))
    rank = start - before
    planes, last = (), None
    for frame, repeated in frames:
        if start <= rank < stop:
            if frame is not last:
                planes, last = frame_planes(frame) if frame.sw_format is None else hardware.gpu_planes(frame), frame
            pts = int(index.frame_pts[rank])
            if repeated:
                report.repeated_pts.append(pts)
            yield DecodedFrame(pts, planes, repeated)
        rank += 1
    if rank != stop + after:
        raise ConversionError(
            f"{path}: {rank - start + before} frames came out of span {span.number}, not {stop - start}."
        )


def packets_needed(index: VideoIndex, span: Span, *, deinterlace: bool) -> tuple[int, int]:
    """(seek_packet, end_packet) that decode_span reads: the span's own, or a little more when it deinterlaces."""
    if not deinterlace:
        return span.seek_packet, span.end_packet
    start, stop = span.first_frame - span.lead_in, span.first_frame + span.frames + span.lead_out
    before, after = min(NEIGHBOURS, start), min(NEIGHBOURS, len(index.frame_pts) - stop)
    seek, end = packets_for(index, span.first_frame, span.frames, span.lead_in + before, span.lead_out + after)
    return min(seek, span.seek_packet), max(end, span.end_packet)


@dataclass
class _Job:
    """One way through a piece of a stream."""

    path: Path
    stream_index: int
    index: VideoIndex
    threads: int
    strict: bool
    report: DecodeReport
    shape: tuple | None = None
    header: tuple | None = None
    decoder: str = "software"
    should_stop: Callable[[], bool] | None = None

    def filled(self, start: int, stop: int, seek: int, end: int) -> Iterator[tuple[av.VideoFrame, bool]]:
        """The frames of ranks start..stop-1, each once: (frame, repeated). Gaps are filled with the last good frame."""
        good: av.VideoFrame | None = None
        held = 0  # damaged frames at the very start, waiting for the next good one
        for rank, frame in self.ranked(start, stop, seek, end):
            if rank < start:
                good = frame or good
                continue
            if frame is None:
                if self.strict:
                    raise ConversionError(self.damage(rank))
                if good is None:
                    held += 1
                else:
                    yield good, True
                continue
            for _ in range(held):
                yield frame, True
            held, good = 0, frame
            yield frame, False
        if held:
            good = self.elsewhere(seek, end)
            for _ in range(held):
                yield good, True

    def ranked(self, start: int, stop: int, seek: int, end: int) -> Iterator[tuple[int, av.VideoFrame | None]]:
        """(rank, frame) in display order: good frames before `start` as they come, then each of start..stop-1; None: damaged."""
        frame_pts = self.index.frame_pts
        trusted = int(self.index.pts[seek])
        pending: dict[int, av.VideoFrame | None] = {}
        upcoming = start
        for frame in self.decoded(seek, end):
            pts = frame.pts
            rank = int(np.searchsorted(frame_pts, pts)) if pts is not None else len(frame_pts)
            known = rank < len(frame_pts) and int(frame_pts[rank]) == pts
            if not known:
                self.report.unexpected_frames += pts is None or not self._is_discarded(pts)
                continue
            damaged = frame.is_corrupt
            if rank < start:
                if not damaged and pts >= trusted:
                    self.check_shape(frame)
                    yield rank, frame
                continue
            if rank >= stop:
                continue
            if rank < upcoming or rank in pending:
                self.report.unexpected_frames += 1
                continue
            if not damaged:
                self.check_shape(frame)
            pending[rank] = None if damaged else frame
            while upcoming in pending or len(pending) > REORDER_FRAMES:
                yield upcoming, pending.pop(upcoming, None)
                upcoming += 1
        while upcoming < stop:
            yield upcoming, pending.pop(upcoming, None)
            upcoming += 1

    def decoded(self, seek: int, end: int) -> Iterator[av.VideoFrame]:
        """Frames as the decoder gives them for the packets seek..end-1; each is stamped with the index's pts of its packet."""
        with open_source(self.path) as container:
            context = container.streams[self.stream_index].codec_context
            self.header = (context.width, context.height, LAYOUTS.get(context.pix_fmt or ""))
            if self.decoder == "software":
                yield from self.decoded_by(container, seek, end, {})
                return
        with ExitStack() as stack:
            frames = self.decoded_on_gpu(stack, seek, end)
            if frames is not None:
                yield from frames
                return
        self.decoder = "software"
        yield from self.decoded(seek, end)

    def decoded_on_gpu(self, stack: ExitStack, seek: int, end: int) -> Iterator[av.VideoFrame] | None:
        """The same by NVDEC, from a container that is closed with `stack`; None, and the reason in the report, where that cannot begin."""
        refused = len(self.report.damaged_packets)
        try:
            container = stack.enter_context(hardware.open_on_gpu(self.path))
            frames = self.decoded_by(container, seek, end, {"extra_hw_frames": hardware.EXTRA_SURFACES})
            head = next(frames, None)
            if head is not None:
                hardware.gpu_planes(head)
                return chain([head], frames)
            self.report.no_nvdec = "it gives no frame of this stream"
        except hardware.OPENING_ERRORS as error:
            self.report.no_nvdec = f"it does not open: {first_line(error)}"
        del self.report.damaged_packets[refused:]
        return None

    def decoded_by(
        self, container: av.container.InputContainer, seek: int, end: int, options: dict[str, str]
    ) -> Iterator[av.VideoFrame]:
        """The same by the decoder of an open container."""
        stream = container.streams[self.stream_index]
        context = stream.codec_context
        context.thread_count = max(1, self.threads)
        if self.threads > 1:
            context.thread_type = "AUTO"
        context.options = decoder_options(context) | options
        # B pictures that lead the first keyframe in display order, and that nothing refers to, are left out: MPEG-4's
        # decoder takes its field clock from the first B picture, and skips good ones when that one had no past.
        leading_before = int(self.index.pts[seek]) if context.codec.canonical_name in B_IS_NO_REFERENCE else NO_PTS
        for number, packet in read_packets(self.path, container, stream, self.index, seek, end):
            if self.should_stop is not None and self.should_stop():
                raise DecodingStopped(f"{self.path}: decoding was broken off.")
            if packet.pts is not None and packet.pts < leading_before:
                continue
            try:
                yield from context.decode(packet)
            except av.error.MemoryError:
                raise
            except av.FFmpegError:
                self.report.damaged_packets.append(number)
        for _ in range(REORDER_FRAMES + max(1, self.threads)):
            try:
                yield from context.decode(None)
                return
            except EOFError:
                return
            except av.error.MemoryError:
                raise
            except av.FFmpegError:
                self.report.damaged_packets.append(end - 1)

    def elsewhere(self, seek: int, end: int) -> av.VideoFrame:
        """A good frame from outside a piece that has none: the last one before it, else the first one after it."""
        keys = np.flatnonzero(self.index.keyframe)
        quiet = _Job(self.path, self.stream_index, self.index, 1, False, DecodeReport(), self.shape)
        quiet.should_stop = self.should_stop
        for begin in keys[keys < seek][::-1]:
            frames = [frame for frame in quiet.decoded(int(begin), seek) if not frame.is_corrupt]
            if frames:
                return frames[-1]
        for begin in keys[keys >= end]:
            following = keys[keys > begin]
            until = int(following[0]) if len(following) else len(self.index.pts)
            for frame in quiet.decoded(int(begin), until):
                if not frame.is_corrupt:
                    return frame
        raise ConversionError(f"{self.path}: not one frame of stream {self.stream_index} can be decoded.")

    def check_shape(self, frame: av.VideoFrame) -> None:
        """Every frame has the size and pixel format of the first one."""
        shape = _shape(frame)
        if self.shape is None:
            # The header tells what the file begins with, but not always rightly: then its first frame does.
            self.shape = shape if shape[:3] == self.header else self.first_shape() or shape
        if shape[2] is None or shape != self.shape:
            width, height = self.shape[:2]
            raise ConversionError(
                f"{self.path}: the video changes at {self.seconds(frame.pts):.3f} s to {frame.width}x{frame.height} "
                f"{frame.format.name} from {width}x{height}; cut the file there and convert the parts one by one."
            )

    def first_shape(self) -> tuple | None:
        """Shape of the first good frame of the stream, None when the first packets give none."""
        beginning = _Job(self.path, self.stream_index, self.index, 1, False, DecodeReport())
        frames = beginning.decoded(0, min(len(self.index.pts), 2 * REORDER_FRAMES))
        return next((_shape(frame) for frame in frames if not frame.is_corrupt), None)

    def damage(self, rank: int) -> str:
        pts = int(self.index.frame_pts[rank])
        packet = int(np.flatnonzero(self.index.pts == pts)[-1])
        return (
            f"{self.path}: the frame at {self.seconds(pts):.3f} s (packet {packet} of stream {self.stream_index}) is damaged; "
            "convert without --strict to repeat the last good frame in its place."
        )

    def seconds(self, pts: int) -> float:
        """Time since the first frame."""
        return float((pts - int(self.index.frame_pts[0])) * self.index.time_base)

    def _is_discarded(self, pts: int) -> bool:
        return bool(np.any(self.index.discard & (self.index.pts == pts)))


def _shape(frame: av.VideoFrame) -> tuple:
    """What must not change within a stream: width, height, PixelLayout (None: not supported) and range."""
    return frame.width, frame.height, LAYOUTS.get(hardware.software_format(frame)), int(frame.color_range)
