"""Packed 10-bit planes -> span file: which encoder, with which settings, and the proof that the file holds what went in.

A span file is an mp4 of one closed video, its first frame at time 0. Its bytes depend on the frames and the EncoderChoice
alone: every setting that an encoder would take from the number of cores is fixed here (docs/architecture.md says which).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import av
import torch
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext

from pipeline.errors import ConversionError, InputError

SOFTWARE = {"hevc": "libx265", "av1": "libsvtav1"}
HARDWARE = {"hevc": "hevc_nvenc", "av1": "av1_nvenc"}
CONTAINERS = ("auto", "mp4", "mov", "mkv")
TRANSFERS = {"pq": 16, "hlg": 18}
X265_PRESETS = tuple(
    ["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo"]
)
PRESETS = {
    "libx265": X265_PRESETS,
    "libsvtav1": tuple(str(number) for number in range(14)),
    "hevc_nvenc": tuple(f"p{number}" for number in range(1, 8)),
    "av1_nvenc": tuple(f"p{number}" for number in range(1, 8)),
}
CRF_RANGE = {"libx265": (0, 51), "libsvtav1": (1, 63), "hevc_nvenc": (1, 51), "av1_nvenc": (1, 63)}
DEFAULTS = {
    "libx265": (10, "veryfast"),
    "libsvtav1": (10, "6"),
    "hevc_nvenc": (17, "p5"),
    "av1_nvenc": (20, "p5"),
}
BT2020_PRIMARIES, BT2020_NCL, LIMITED_RANGE = 9, 9, 1
KEYFRAME_SECONDS = 2
X265_CTU_PX = 64
X265_SMALL_PICTURE = ":ctu=16:weightp=0:weightb=0"
"""x265 4.2 reads memory that it never wrote when a picture is one coding tree unit wide or high (valgrind names the weighted
reference pictures), so that bytes come out at random. Units of 16 pixels and no weighting: nothing is read that was not written."""
LUMA_TOLERANCE_CODES = 8.0
X265_MIN_WIDTH = 64
X265_REORDER_FRAMES = 2
SVT_LOG_ERRORS_ONLY = "1"


class OutputSettings(Protocol):
    """What `resolve_encoder` reads of the `output` section. crf and preset None: the encoder's transparent default."""

    transfer: str
    codec: str
    encoder: str
    crf: int | None
    preset: str | None
    container: str


@dataclass(frozen=True)
class EncoderChoice:
    """The encoder of one conversion, fully resolved; plain values, so that it goes through JSON and back.

    codec: "hevc" or "av1"
    encoder: FFmpeg's name, "libx265", "libsvtav1", "hevc_nvenc" or "av1_nvenc"
    crf: constant quality on the encoder's own scale, smaller is better
    preset: the encoder's own word for speed against size
    options: further options for the encoder that decide bytes and hold for any frame size and rate
    reason: why this encoder, for people; no part of str(), which names what decides the bytes
    """

    codec: str
    encoder: str
    crf: int
    preset: str
    options: dict[str, str]
    reason: str

    def __str__(self) -> str:
        more = "".join(f" {name}={value}" for name, value in sorted(self.options.items()))
        return f"{self.encoder} ({self.codec}) crf={self.crf} preset={self.preset}{more}"


def resolve_encoder(output: OutputSettings, device: str) -> EncoderChoice:
    """Settle `output.encoder=auto`, crf and preset for a run on `device` ("cpu", "cuda", "cuda:0" ...).

    auto is software on the CPU; on CUDA it is NVENC where opening NVENC works (A100, H100 and H200 have none), else software.
    Raises InputError on values that are not legal, and when an encoder asked for by name does not open here.
    """
    _check_legal("output.codec", output.codec, tuple(SOFTWARE))
    _check_legal("output.transfer", output.transfer, tuple(TRANSFERS))
    _check_legal("output.container", output.container, CONTAINERS)
    _check_legal("output.encoder", output.encoder, ("auto", *PRESETS))
    if (output.codec, output.container) == ("av1", "mov"):
        raise InputError("output.codec=av1 does not go into output.container=mov; legal values: auto, mp4, mkv.")
    encoder, reason = _pick_encoder(output.codec, output.encoder, device)
    crf, preset = DEFAULTS[encoder]
    if output.crf is not None:
        low, high = CRF_RANGE[encoder]
        if not low <= output.crf <= high:
            raise InputError(f"output.crf={output.crf} is not legal for {encoder}; legal values: {low} to {high}.")
        crf = output.crf
    if output.preset is not None:
        _check_legal(f"output.preset (for {encoder})", str(output.preset), PRESETS[encoder])
        preset = str(output.preset)
    return EncoderChoice(output.codec, encoder, crf, preset, _fixed_options(encoder), reason)


class SpanEncoder:
    """Writes one span file. A context manager; when the block raises, no file is left at `path`.

    path: a temporary name of the caller's; `publish` gives the final one
    width, height: even, in pixels
    time_base: 1/n seconds a tick, kept exactly in the file
    rate: nominal frames per second; sets the keyframe distance and rate control, never the timestamps
    sample_aspect_ratio: None is square
    transfer: "pq" or "hlg"
    threads: cores the encoder may use; decides no byte
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
        self._last_pts = -1
        self._durations: dict[int, int] = {}
        ticks = str(time_base.denominator)
        with _told(path, f"{choice} does not take {width}x{height} at {rate} frames per second"):
            options = {"video_track_timescale": ticks, "movie_timescale": ticks}
            self._file = av.open(str(path), "w", format="mp4", options=options)
            try:
                self._stream = self._file.add_stream(choice.encoder, rate=rate, time_base=time_base)
                context = self._stream.codec_context
                _configure(context, choice, width, height, rate, transfer, threads)
                context.time_base = time_base
                if sample_aspect_ratio is not None:
                    context.sample_aspect_ratio = sample_aspect_ratio
                self._file.start_encoding()
            except BaseException:
                self._abandon()
                raise

    def write(self, y: torch.Tensor, u: torch.Tensor, v: torch.Tensor, pts: int, duration: int) -> None:
        """Encode one frame; frames come in rising pts.

        y: (height, width), u, v: (height / 2, width / 2) uint16 CPU tensors, contiguous, codes 0 to 1023. They are read in place:
            leave them unchanged until the encoder is closed.
        pts, duration: ticks of time_base from the span's first frame
        """
        if pts <= self._last_pts:
            raise ConversionError(f"{self.path}: frame {self.frames} has pts {pts}, not after {self._last_pts}.")
        self._last_pts = pts
        self._durations[pts] = duration
        with _told(self.path, f"{self.choice.encoder} failed at frame {self.frames}"):
            frame = self._frame(y, u, v)
            frame.pts, frame.time_base, frame.pict_type = pts, self.time_base, 0
            self._mux(frame)
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
            _sync(self.path)
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
        size = {"width": self.width, "height": self.height}
        if self.choice.encoder in SOFTWARE.values():
            return av.VideoFrame.from_dlpack((y, u, v), format="yuv420p10le", **size)
        # P010: ten bits at the top of sixteen. Shifts wrap in int16 to the bits that uint16 would have.
        luma = (y.view(torch.int16) << 6).view(torch.uint16)
        chroma = (torch.stack((u.view(torch.int16), v.view(torch.int16)), dim=-1) << 6).view(torch.uint16)
        return av.VideoFrame.from_dlpack((luma, chroma), format="p010le", **size)

    def _mux(self, frame: av.VideoFrame | None) -> None:
        # With no more frames than it reorders, x265 never learns its delay and gives random decode times (4.2, Lookahead).
        too_short = frame is None and self.packets == 0 and self.frames <= X265_REORDER_FRAMES
        for packet in self._stream.encode(frame):
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
    _sync(partial)
    partial.replace(final)
    _sync(final.parent)


def _check_legal(name: str, value: str, legal: tuple[str, ...]) -> None:
    if value not in legal:
        raise InputError(f"{name}={value} is not legal; legal values: {', '.join(legal)}.")


def _pick_encoder(codec: str, wanted: str, device: str) -> tuple[str, str]:
    """(FFmpeg's name, why)."""
    if wanted != "auto":
        if wanted not in (SOFTWARE[codec], HARDWARE[codec]):
            raise InputError(
                f"output.encoder={wanted} does not make output.codec={codec}; legal values: auto, {SOFTWARE[codec]}, {HARDWARE[codec]}."
            )
        trouble = _why_not_open(wanted)
        if trouble:
            raise InputError(
                f"output.encoder={wanted} does not open on this machine ({trouble}); use output.encoder=auto."
            )
        return wanted, "asked for by output.encoder"
    software, hardware = SOFTWARE[codec], HARDWARE[codec]
    reason = f"output.encoder=auto on device {device}"
    if device.startswith("cuda"):
        trouble = _why_not_open(hardware)
        if not trouble:
            return hardware, f"{reason}, where NVENC opens"
        reason += f", where {hardware} does not open ({trouble})"
    trouble = _why_not_open(software)
    if trouble:
        raise InputError(f"{software} does not open in this PyAV ({trouble}); install the av wheel from the lock file.")
    return software, reason


def _why_not_open(encoder: str) -> str:
    """Empty when the encoder opens on this machine: FFmpeg lists NVENC whether or not there is one, so only opening tells."""
    try:
        context = av.CodecContext.create(encoder, "w")
        crf, preset = DEFAULTS[encoder]
        choice = EncoderChoice("", encoder, crf, preset, _fixed_options(encoder), "")
        _configure(context, choice, 640, 368, Fraction(30), "pq", 1)
        context.time_base = Fraction(1, 30)
        context.open()
    except (FFmpegError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def _fixed_options(encoder: str) -> dict[str, str]:
    """Options that decide bytes whatever the frame size and rate.

    x265: frame-threads, lookahead and wavefronts would follow the number of cores. info=0: its settings would be written into the
    stream. No HDR SEI here: the values are measured later and put in by hdr10.insert. SVT-AV1: keyframes close the group (2); its
    temporal filter is off because it changes keyframes, which costs 0.1 to 0.2 JOD that no crf buys back.
    """
    if encoder == "libx265":
        params = "frame-threads=2:lookahead-slices=0:lookahead-threads=0:wpp=1:pmode=0:pme=0:open-gop=0:repeat-headers=0:aud=0:info=0:log-level=none"
        return {"profile": "main10", "x265-params": params}
    if encoder == "libsvtav1":
        return {"svtav1-params": "irefresh-type=2:scd=0:enable-tf=0"}
    options = {"rc": "vbr", "tune": "hq", "forced-idr": "1", "strict_gop": "1", "bf": "2", "b_ref_mode": "disabled"}
    return options | ({"profile": "main10"} if encoder == "hevc_nvenc" else {})


def _configure(
    context: VideoCodecContext,
    choice: EncoderChoice,
    width: int,
    height: int,
    rate: Fraction,
    transfer: str,
    threads: int,
) -> None:
    """Everything but the time base and the sample aspect ratio."""
    context.width, context.height = width, height
    context.framerate = rate
    context.color_primaries, context.color_trc = BT2020_PRIMARIES, TRANSFERS[transfer]
    context.colorspace, context.color_range = BT2020_NCL, LIMITED_RANGE
    context.gop_size = max(2, round(KEYFRAME_SECONDS * rate))
    options = {**choice.options, "preset": choice.preset, "chroma_sample_location": "topleft"}
    if choice.encoder == "libx265":
        context.pix_fmt, context.codec_tag = "yuv420p10le", "hvc1"
        small = X265_SMALL_PICTURE if min(width, height) <= X265_CTU_PX else ""
        options |= {"crf": str(choice.crf), "x265-params": f"{options['x265-params']}:pools={threads}{small}"}
    elif choice.encoder == "libsvtav1":
        context.pix_fmt = "yuv420p10le"
        options |= {"crf": str(choice.crf), "svtav1-params": f"{options['svtav1-params']}:lp={min(threads, 6)}"}
        os.environ.setdefault("SVT_LOG", SVT_LOG_ERRORS_ONLY)
    else:
        context.pix_fmt = "p010le"
        options |= {"cq": str(choice.crf), "b": "0"}
        if choice.codec == "hevc":
            context.codec_tag = "hvc1"
    context.options = options


def _sync(path: Path) -> None:
    """fsync a file or a folder by name."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _told(path: Path, what: str) -> Iterator[None]:
    """FFmpeg's errors as ConversionError with the file's name; a full disk stays an OSError, which callers know how to tell."""
    try:
        yield
    except FFmpegError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise ConversionError(f"{path}: {what}: {error}.") from error
