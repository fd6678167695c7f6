"""Packed 10-bit planes -> span file: which encoder, with which settings, and the proof that the file holds what went in.

A span file is an mp4 (of ProRes a mov) of one closed video, its first frame at time 0. Its bytes depend on the frames and the EncoderChoice
alone (pipeline/encoder_choice.py).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import torch
from av.error import FFmpegError

from pipeline.encoder_choice import HARDWARE, X265_MIN_WIDTH, EncoderChoice, color_tags, configure
from pipeline.errors import ConversionError, InputError
from pipeline.hardware import gpu_frame, p010_planes
from pipeline.heartbeat import beat
from pipeline.on_disk import sync
from pipeline.priority import usual_priority

LUMA_TOLERANCE_CODES = 8.0
X265_REORDER_FRAMES = 2


class SpanEncoder:
    """Writes one span file. A context manager; when the block raises, no file is left at `path`.

    path: a temporary name of the caller's; `publish` gives the final one
    width, height: even, in pixels
    time_base: 1/n seconds a tick, kept exactly in the file
    rate: nominal frames per second; sets the keyframe distance and rate control, never the timestamps
    sample_aspect_ratio: None is square
    transfer: "pq", "hlg" or "sdr" (BT.709)
    threads: cores the encoder may use; decides no byte
    on_gpu: frames come, and stay, in GPU memory (NVENC alone; see hardware.encoder_memory)
    Raises InputError below 64 pixels of width with libx265, ConversionError when the encoder does not take these settings, OSError
    (ENOSPC) when the disk is full.
    """

    def __init__(
        self,
        path: Path,
        choice: EncoderChoice,
        *,
        width: int,
        height: int,
        time_base: Fraction,
        rate: Fraction,
        sample_aspect_ratio: Fraction | None,
        transfer: str,
        threads: int,
        on_gpu: bool = False,
    ) -> None:
        if width % 2 or height % 2 or time_base.numerator != 1:
            raise ConversionError(f"{path}: {width}x{height} at time base {time_base}; even sizes and 1/n are needed.")
        if choice.encoder == "libx265" and width < X265_MIN_WIDTH:
            # Below 50 pixels x265 writes beyond its buffers (seen under MALLOC_CHECK_); its output is then random or broken.
            raise InputError(
                f"{path}: libx265 cannot encode {width}x{height}; it needs a width of {X265_MIN_WIDTH}, use output.codec=av1."
            )
        self.path, self.choice, self.width, self.height = path, choice, width, height
        self.time_base = time_base
        self.frames = self.packets = 0
        self._on_gpu, self._color_tags = on_gpu, color_tags(transfer)
        self._last_pts = -1
        self._durations: dict[int, int] = {}
        ticks = str(time_base.denominator)
        with _told(path, f"{choice} does not take {width}x{height} at {rate} frames per second"):
            options = {"video_track_timescale": ticks, "movie_timescale": ticks}
            self._file = av.open(str(path), "w", format=choice.span_container, options=options)
            try:
                self._stream = self._file.add_stream(choice.encoder, rate=rate, time_base=time_base)
                context = self._stream.codec_context
                configure(
                    context,
                    choice,
                    width=width,
                    height=height,
                    rate=rate,
                    transfer=transfer,
                    threads=threads,
                    on_gpu=on_gpu,
                )
                context.time_base = time_base
                if sample_aspect_ratio is not None:
                    context.sample_aspect_ratio = sample_aspect_ratio
                if not on_gpu:  # on a GPU the encoder opens with the first frame, and the file's header is written then
                    with usual_priority():
                        self._file.start_encoding()
            except BaseException:
                self._abandon()
                raise

    def write(self, y: torch.Tensor, u: torch.Tensor, v: torch.Tensor, pts: int, duration: int) -> None:
        """Encode one frame; frames come in rising pts.

        y: (height, width), u, v: (height / 2, width / 2) uint16 tensors, contiguous, codes 0 to 1023; for ProRes u and v are as high
            as y, for H.264 all are uint8. On the CPU they are read in place: leave them unchanged until the encoder is closed. On a GPU
            (on_gpu) they are complete, and read when this returns.
        pts, duration: ticks of time_base from the span's first frame
        Raises ConversionError when the encoder fails, DeviceMemoryError (transient) when the GPU has no memory for the frame.
        """
        if pts <= self._last_pts:
            raise ConversionError(f"{self.path}: frame {self.frames} has pts {pts}, not after {self._last_pts}.")
        self._last_pts = pts
        self._durations[pts] = duration
        with _told(self.path, f"{self.choice.encoder} failed at frame {self.frames}"):
            frame = self._frame(y, u, v)
            frame.pts, frame.time_base, frame.pict_type = pts, self.time_base, 0
            self._mux(frame)
        beat()
        self.frames += 1

    def close(self) -> None:
        """Finish the file and put it on the disk. Raises ConversionError when the encoder kept frames back, or got none."""
        try:
            with _told(self.path, f"{self.choice.encoder} failed after frame {self.frames}"):
                if self.frames:
                    self._mux(None)
                self._file.close()
            if not self.frames or self.packets != self.frames:
                raise ConversionError(f"{self.path}: {self.frames} frames went in and {self.packets} packets came out.")
            sync(self.path)
        except BaseException:
            self._abandon()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._abandon()

    def _frame(self, y: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> av.VideoFrame:
        if self._on_gpu:
            return gpu_frame(y, u, v)
        planes = p010_planes(y, u, v) if self.choice.encoder in HARDWARE.values() else (y, u, v)
        form = {"format": self.choice.pixel_format, "width": self.width, "height": self.height}
        frame = av.VideoFrame.from_dlpack(planes, **form)
        if self.choice.codec == "prores":  # its frame headers state the colours of the frames, not of the encoder
            frame.color_primaries, frame.color_trc, frame.colorspace = self._color_tags
        return frame

    def _mux(self, frame: av.VideoFrame | None) -> None:
        # With no more frames than it reorders, x265 never learns its delay and gives random decode times (4.2, Lookahead).
        too_short = frame is None and self.packets == 0 and self.frames <= X265_REORDER_FRAMES
        for packet in self._stream.codec_context.encode_lazy(frame):  # one by one: a flush may take minutes
            beat()
            packet.stream = self._stream
            if too_short:
                packet.dts = packet.pts
            packet.duration = self._durations.pop(packet.pts)
            self._file.mux(packet)
            self.packets += 1

    def _abandon(self) -> None:
        """Close and remove; what went wrong is already on its way to the caller."""
        with suppress(FFmpegError):
            self._file.close()
        self.path.unlink(missing_ok=True)


def check_span(path: Path, expected_pts: list[int], expected_mean_luma: list[float], *, threads: int = 1) -> None:
    """Decode a span file and compare: how many frames, every pts, and each frame's mean luma code (0 to 1023).

    The mean may differ by LUMA_TOLERANCE_CODES: encoding moves it by less than one code at the defaults, a wrong or broken frame
    by far more. Raises ConversionError at the first difference.
    """
    count = 0
    with _told(path, "the span file does not decode"), av.open(str(path)) as file:
        stream = file.streams.video[0]
        stream.thread_count = threads
        for frame in file.decode(stream):
            beat()
            if count == len(expected_pts):
                raise ConversionError(f"{path}: more than the {count} frames that were encoded come out.")
            if frame.pts != expected_pts[count]:
                raise ConversionError(f"{path}: frame {count} has pts {frame.pts}, not {expected_pts[count]}.")
            luma = float(torch.from_dlpack(frame.planes[0]).to(torch.float32).mean())
            if not abs(luma - expected_mean_luma[count]) <= LUMA_TOLERANCE_CODES:
                raise ConversionError(
                    f"{path}: frame {count} has mean luma {luma:.1f}, {expected_mean_luma[count]:.1f} was encoded."
                )
            count += 1
    if count != len(expected_pts):
        raise ConversionError(f"{path}: {count} frames come out, {len(expected_pts)} were encoded.")


def publish(partial: Path, final: Path) -> None:
    """Give a finished file its final name so that it survives a power cut: sync the file, rename, sync the folder."""
    sync(partial)
    partial.replace(final)
    sync(final.parent)


@contextmanager
def _told(path: Path, what: str) -> Iterator[None]:
    """FFmpeg's errors as ConversionError with the file's name; a full disk stays an OSError, which callers know how to tell."""
    try:
        yield
    except FFmpegError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise ConversionError(f"{path}: {what}: {error}.") from error
