"""Mask: how much of each pixel came from the network instead of the camera, as a small lossless video beside the result.

Lossless H.264 in mp4, 8 bits, full range, the mask as luma and no colour: frame for frame the result's frames, at the same times. FFV1
would do as well, but few players take it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.container import Flags
from av.error import FFmpegError
from torch import Tensor

from pipeline.errors import ConversionError
from pipeline.heartbeat import beat

SUFFIX = ".mask.mp4"
FULL_RANGE = 2
LOSSLESS = {
    "qp": "0",
    "preset": "veryfast",
    "bf": "0",
    "forced-idr": "1",
    "x264-params": "threads=1:lookahead-threads=1",
}
"""Without B pictures packets come in the order of display."""


def mask_path(output: Path, track: int = 0) -> Path:
    """drive_hdr.mp4 -> drive_hdr.mask.mp4; of a second converted video stream drive_hdr.1.mask.mp4"""
    return output.with_name(output.stem + (f".{track}" if track else "") + SUFFIX)


class MaskWriter:
    """Writes a mask video. A context manager; when the block raises, no file is left at `path`.

    width, height: in pixels; time_base: 1/n seconds a tick; rate: for players' display
    """

    def __init__(self, path: Path, *, width: int, height: int, time_base: Fraction, rate: Fraction) -> None:
        self.path = path
        self._durations: dict[int, int] = {}
        ticks = str(time_base.denominator)
        try:
            self._file = _open(path, ticks)
            self._stream = self._file.add_stream("libx264", rate=rate, time_base=time_base)
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "gray"
            self._stream.codec_context.color_range = FULL_RANGE
            self._stream.options = LOSSLESS
            self._stream.codec_context.time_base = time_base
        except FFmpegError as error:
            raise ConversionError(f"{path}: a mask of {width}x{height} cannot be written ({error}).") from error

    def write(self, mask: Tensor, pts: int, duration: int) -> None:
        """mask: (H, W) uint8 on the CPU, or a pixel less where the coded size is even; pts, duration: ticks."""
        high, wide = self._stream.height - mask.shape[0], self._stream.width - mask.shape[1]
        picture = np.pad(mask.numpy(), ((0, high), (0, wide)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "gray")
        frame.pts, frame.time_base = pts, self._stream.codec_context.time_base
        self._durations[pts] = duration
        self._mux(frame)

    def _mux(self, frame: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            packet.duration = self._durations.pop(packet.pts)
            self._file.mux(packet)
            beat()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._mux(None)
        finally:
            with suppress(FFmpegError):
                self._file.close()
            if kind is not None:
                self.path.unlink(missing_ok=True)


def join_masks(files: Sequence[Path], starts: Sequence[int], target: Path) -> None:
    """One mask video of those of all spans, packet by packet. starts: ticks from the output's time 0 to each span's first frame.

    Raises ConversionError when a span's file cannot be read.
    """
    try:
        with av.open(str(files[0])) as first:
            template = first.streams.video[0]
            with _open(target, str(template.time_base.denominator)) as out:
                made = out.add_stream_from_template(template)
                made.time_base = template.time_base
                for file, start in zip(files, starts, strict=True):
                    _append(file, start, out, made)
    except FFmpegError as error:
        raise ConversionError(f"{target}: joining the masks failed ({error}).") from error


def _append(file: Path, start: int, out: av.container.OutputContainer, made: av.VideoStream) -> None:
    with av.open(str(file)) as opened:
        for packet in opened.demux(opened.streams.video[0]):
            if packet.pts is not None:
                packet.pts = packet.dts = packet.pts + start
                packet.stream = made
                out.mux_one(packet)
                beat()


def _open(path: Path, ticks: str) -> av.container.OutputContainer:
    options = {"video_track_timescale": ticks, "movie_timescale": ticks, "avoid_negative_ts": "disabled"}
    file = av.open(str(path), "w", format="mp4", options=options)
    file.flags |= Flags.bitexact.value
    return file
