"""HDR video for a browser: packed 10-bit frames -> fragmented MP4 for Media Source Extensions, as AV1 or HEVC, with little delay."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Self

import av
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from pipeline.boxes import CleanAperture, append_to_sample_entry, make_box
from pipeline.encode import X265_MIN_WIDTH
from pipeline.encoder_choice import (
    BT2020_NCL,
    BT2020_PRIMARIES,
    LIMITED_RANGE,
    SOFTWARE,
    SVT_LOG_ERRORS_ONLY,
    TRANSFERS,
    X265_CTU_PX,
    X265_SMALL_PICTURE,
)
from pipeline.engine import PackedFrame
from pipeline.errors import ConversionError, InputError
from pipeline.hdr10 import MasteringDisplay
from pipeline.priority import usual_priority
from preview import encoder_thread
from preview.codec_string import codec_string
from preview.encoder_thread import EncoderThread

FRAGMENT_FRAMES = 4
"""Frames in a fragment."""
KEY_FRAMES = 32
"""From key frame to key frame; every one begins a fragment."""
DELAY_FRAMES = 1
"""A fragment comes out with this many frames written after its last one: only then is it known how long that one is shown."""
AV1_CRF, HEVC_CRF = 15, 18
TIME_BASE = Fraction(1, 90_000)
MUXER = {
    "movflags": "empty_moov+default_base_moof+frag_every_frame+frag_discont+skip_trailer",
    "avoid_negative_ts": "disabled",
}
"""moof + mdat for each frame, at the time it was given (frag_discont: not counted from the first one), and no index at the end."""


@dataclass(frozen=True)
class Fragment:
    """One piece to append to a SourceBuffer, in order.

    init: True for the initialisation segment, which comes first and holds no frame
    data: else moof + mdat of each of its frames
    first_frame: how many frames had been written to this HdrVideo before the first of these
    seconds, duration_seconds: when it begins on the time line of `write`, and how long it is
    """

    init: bool
    data: bytes
    first_frame: int
    seconds: float
    duration_seconds: float


class EncoderStalled(ConversionError):
    """The encoder stands still and is given up: its memory and threads are lost to this process. Another one may do better."""


class HdrVideo:
    """One run of frames for one SourceBuffer. Another size, another transfer or a jump back in time takes a new one.

    width, height: of the picture in pixels; an odd one is coded even, as `color.pack` pads it, and a `clap` box says what is shown
    rate: nominal frames a second; settles the codec's level and how long the very last frame is shown, no other time
    transfer: "pq" or "hlg"; codec: "av1" (libsvtav1) or "hevc" (libx265, at least 64 pixels wide)
    peak_nits: of the display that the picture is made for, said in an `mdcv` box with PQ; threads: cores the encoder may use
    Raises InputError on what cannot be coded, ConversionError when the encoder does not open or too many stand still, and EncoderStalled as
    write() and close() may.
    """

    codec_string: str
    """What to ask MediaSource.isTypeSupported for, such as "av01.0.04M.10.0.112.09.16.09.0" (preview/codec_string.py)."""

    def __init__(
        self,
        width: int,
        height: int,
        rate: Fraction,
        transfer: str = "pq",
        codec: str = "av1",
        *,
        peak_nits: float = 1000.0,
        threads: int = 1,
    ) -> None:
        self._name = f"HDR video of {width}x{height} as {codec}"
        if codec not in SOFTWARE or transfer not in TRANSFERS or min(width, height) < 1 or rate <= 0:
            raise InputError(
                f"{self._name}, {transfer}, {rate} frames a second: legal are {', '.join(SOFTWARE)}, {', '.join(TRANSFERS)}, sizes and rates above 0."
            )
        if codec == "hevc" and width < X265_MIN_WIDTH:
            raise InputError(f"{self._name}: libx265 needs a width of {X265_MIN_WIDTH}; use av1.")
        if encoder_thread.too_many_lost():
            raise ConversionError(
                f"{encoder_thread.MOST_LOST} encoders stand still in this process; start the preview again for HDR video."
            )
        self._shown, self._shape = (height, width), (height + height % 2, width + width % 2)
        self._frame_ticks = max(1, round(1 / (rate * TIME_BASE)))
        self._written = self._sent = 0
        self._times: deque[int] = deque()  # ticks of the frames that have not been handed out
        self._done: deque[bytes] = deque()  # moof + mdat of those of them that are complete
        self._last_ticks = -1
        self._sink, self._file, self._stream, self._thread = _Sink(), None, None, EncoderThread()
        try:
            self._init: bytes | None = self._opened(codec, rate, transfer, threads, peak_nits)
        except BaseException:
            self.abandon()
            raise

    def _opened(self, codec: str, rate: Fraction, transfer: str, threads: int, peak_nits: float) -> bytes:
        """The initialisation segment of a new encoder."""
        height, width = self._shape
        with self._told("does not open"):
            self._file = av.open(self._sink, "w", format="mp4", options=MUXER)
            self._stream = self._file.add_stream(SOFTWARE[codec], rate=rate, time_base=TIME_BASE)
            _configure(self._stream.codec_context, codec, self._shape, rate, TRANSFERS[transfer], threads)
            self._thread.call(_start, self._file)
        init = self._sink.take()
        self.codec_string = codec_string(init)
        boxes = make_box("mdcv", MasteringDisplay(peak_nits).payload()) if transfer == "pq" else b""
        if self._shape != self._shown:
            boxes += make_box("clap", CleanAperture.top_left(self._shown[::-1], (width, height)).payload())
        return append_to_sample_entry(init, boxes)

    def write(self, frame: PackedFrame, pts_seconds: float) -> list[Fragment]:
        """Encode one frame, and return what is complete: with the first frame the initialisation segment, later FRAGMENT_FRAMES at a time.

        frame: planes of the coded size, on the CPU; they are read before this returns
        pts_seconds: when it is shown, 0 or more and after the one before; a frame is shown until the next one
        Raises ConversionError when the time does not rise, the size is another, the encoder fails, or after close().
        """
        ticks = round(pts_seconds / TIME_BASE)
        if self._file is None:
            raise ConversionError(f"{self._name}: it is closed; frame {self._written} needs a new one.")
        if ticks <= self._last_ticks:
            raise ConversionError(
                f"{self._name}: frame {self._written} at {pts_seconds:.5f} s does not come after the last one."
            )
        if tuple(frame.y.shape) != self._shape:
            raise ConversionError(
                f"{self._name}: frame {self._written} has {tuple(frame.y.shape)} luma rows and columns, not {self._shape}."
            )
        with self._told(f"failed at frame {self._written}"):
            height, width = self._shape
            picture = av.VideoFrame.from_dlpack(
                (frame.y, frame.u, frame.v), format="yuv420p10le", width=width, height=height
            )
            picture.pts, picture.time_base = ticks, TIME_BASE
            self._times.append(ticks)
            self._thread.call(self._mux, picture)
        self._written += 1
        self._last_ticks = ticks
        return [*self._initialisation(), *self._pieces(len(self._done) // FRAGMENT_FRAMES)]

    def close(self) -> list[Fragment]:
        """Finish, free the encoder and return the frames that are still on their way. A second call returns nothing."""
        if self._file is None or not self._written:
            self.abandon()
            return []
        try:
            with self._told(f"failed after frame {self._written}"):
                self._thread.call(self._mux, None)
                self._thread.call(self._file.close)
        finally:
            self.abandon()
        self._done.append(self._sink.take())
        if len(self._done) != len(self._times):
            raise ConversionError(f"{self._name}: {len(self._times)} frames are left and {len(self._done)} came out.")
        return self._pieces(-(-len(self._done) // FRAGMENT_FRAMES))

    def abandon(self) -> None:
        """Free the encoder at once; what is on its way is lost. Nothing to do after close()."""
        (file, stream), self._file, self._stream = (self._file, self._stream), None, None
        if file is not None:
            with suppress(TimeoutError):
                self._thread.call(_free, file, stream if self._times or self._written else None)
        self._thread.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()

    def _mux(self, picture: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(picture):
            packet.duration = self._frame_ticks
            self._file.mux(packet)
            if data := self._sink.take():  # of the packet before: FFmpeg takes its duration from this one's time
                self._done.append(data)

    def _initialisation(self) -> list[Fragment]:
        data, self._init = self._init, None
        return [] if data is None else [Fragment(True, data, 0, 0.0, 0.0)]

    def _pieces(self, count: int) -> list[Fragment]:
        """The next `count` fragments, of FRAGMENT_FRAMES or, at the end, of what there is."""
        pieces = []
        for _ in range(count):
            frames = min(FRAGMENT_FRAMES, len(self._done))
            data = b"".join(self._done.popleft() for _ in range(frames))
            times = [self._times.popleft() for _ in range(frames)]
            end = self._times[0] if self._times else times[-1] + self._frame_ticks
            seconds, duration = float(times[0] * TIME_BASE), float((end - times[0]) * TIME_BASE)
            pieces.append(Fragment(False, data, self._sent, seconds, duration))
            self._sent += frames
        return pieces

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except FFmpegError as error:
            raise ConversionError(f"{self._name} {what}: {error}.") from error
        except TimeoutError as error:
            why = f"the encoder stood still for {encoder_thread.STALL_SECONDS:g} s"
            raise EncoderStalled(f"{self._name} {what}: {why}.") from error


def _start(file: OutputContainer) -> None:
    with usual_priority():
        file.start_encoding()


def _free(file: OutputContainer, stream: VideoStream | None) -> None:
    with suppress(FFmpegError):  # also when it is told so already; SVT-AV1 complains on standard error when it is not
        for _ in stream.encode(None) if stream else ():
            pass
    with suppress(FFmpegError):
        file.close()


class _Sink:
    """What FFmpeg writes into; it does not seek in a fragmented file."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes) -> int:
        self._data += data
        return len(data)

    def take(self) -> bytes:
        """What has come since the last call."""
        data = bytes(self._data)
        self._data.clear()
        return data


def _configure(
    context: VideoCodecContext, codec: str, shape: tuple[int, int], rate: Fraction, transfer: int, threads: int
) -> None:
    """The fastest presets, each frame out before the next one goes in, key frames KEY_FRAMES apart and nowhere else."""
    context.height, context.width = shape
    context.pix_fmt, context.framerate, context.time_base = "yuv420p10le", rate, TIME_BASE
    context.color_primaries, context.color_trc = BT2020_PRIMARIES, transfer
    context.colorspace, context.color_range = BT2020_NCL, LIMITED_RANGE
    context.gop_size = KEY_FRAMES
    options = {"chroma_sample_location": "topleft"}
    if codec == "av1":
        os.environ.setdefault("SVT_LOG", SVT_LOG_ERRORS_ONLY)
        params = f"rtc=1:pred-struct=1:lookahead=0:irefresh-type=2:scd=0:enable-tf=0:lp={min(threads, 6)}"
        options |= {"preset": "12", "crf": str(AV1_CRF), "svtav1-params": params}
    else:
        context.codec_tag = "hvc1"
        params = (
            f"keyint={KEY_FRAMES}:min-keyint={KEY_FRAMES}:scenecut=0:open-gop=0:repeat-headers=0:info=0:log-level=none"
        )
        params += f":pools={threads}:frame-threads=1" + (X265_SMALL_PICTURE if min(shape) <= X265_CTU_PX else "")
        options |= {"preset": "ultrafast", "tune": "zerolatency", "profile": "main10", "crf": str(HEVC_CRF)}
        options |= {"x265-params": params}
    context.options = options
