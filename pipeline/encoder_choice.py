"""Which encoder a conversion takes, and with which settings; everything that decides the encoder's bytes is written down here.

Every setting that an encoder would take from the number of cores is fixed (docs/architecture.md says which).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import av
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext

from pipeline.errors import InputError
from pipeline.priority import usual_priority

SOFTWARE = {"hevc": "libx265", "av1": "libsvtav1", "prores": "prores_ks", "ffv1": "ffv1"}
HARDWARE = {"hevc": "hevc_nvenc", "av1": "av1_nvenc"}
CONTAINERS = {"hevc": ("mp4", "mov", "mkv"), "av1": ("mp4", "mkv"), "prores": ("mov", "mkv"), "ffv1": ("mkv",)}
"""Codec -> the containers that it goes into; the first is its own, which outputs in a folder get."""
TRANSFERS = {"pq": 16, "hlg": 18}
X265_PRESETS = tuple(
    ["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo"]
)
PRESETS = {
    "libx265": X265_PRESETS,
    "libsvtav1": tuple(str(number) for number in range(14)),
    "hevc_nvenc": tuple(f"p{number}" for number in range(1, 8)),
    "av1_nvenc": tuple(f"p{number}" for number in range(1, 8)),
    "prores_ks": ("hq", "422"),
    "ffv1": ("lossless",),
}
PRORES_PROFILES = {"hq": "hq", "422": "standard"}
"""Our word -> FFmpeg's, for Apple ProRes 422 HQ and ProRes 422."""
CRF_RANGE = {"libx265": (0, 51), "libsvtav1": (1, 63), "hevc_nvenc": (1, 51), "av1_nvenc": (1, 63)}
DEFAULTS = {
    "libx265": (10, "veryfast"),
    "libsvtav1": (10, "6"),
    "hevc_nvenc": (17, "p5"),
    "av1_nvenc": (20, "p5"),
    "prores_ks": (None, "hq"),
    "ffv1": (None, "lossless"),
}
BT2020_PRIMARIES, BT2020_NCL, BT709, LIMITED_RANGE = 9, 9, 1, 1
KEYFRAME_SECONDS = 2
X265_CTU_PX = 64
X265_MIN_WIDTH = 64
X265_SMALL_PICTURE = ":ctu=16:weightp=0:weightb=0"
"""x265 4.2 reads memory that it never wrote when a picture is one coding tree unit wide or high (valgrind names the weighted
reference pictures), so that bytes come out at random. Units of 16 pixels and no weighting: nothing is read that was not written."""
SVT_LOG_ERRORS_ONLY = "1"
FFV1_SLICES = 16
"""Of every picture; FFmpeg would take their number from that of the cores."""
FFV1_SLICED_PX = 16
"""Pictures that are less wide or high are one slice."""
PROXY_CRF, PROXY_PRESET = 20, "veryfast"
TRIAL_SIZE = (640, 368)
"""Width and height of the pictures that an encoder is tried with."""


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

    codec: "hevc", "av1", "prores" or "ffv1" (and "h264", for proxies alone)
    encoder: FFmpeg's name, "libx265", "libsvtav1", "hevc_nvenc", "av1_nvenc", "prores_ks" or "ffv1"
    crf: constant quality on the encoder's own scale, smaller is better; None for encoders without one
    preset: the encoder's own word for speed against size
    options: further options for the encoder that decide bytes and hold for any frame size and rate
    reason: why this encoder, for people; no part of str(), which names what decides the bytes
    """

    codec: str
    encoder: str
    crf: int | None
    preset: str
    options: dict[str, str]
    reason: str

    def __str__(self) -> str:
        more = "".join(f" {name}={value}" for name, value in sorted(self.options.items()))
        crf = "" if self.crf is None else f" crf={self.crf}"
        return f"{self.encoder} ({self.codec}){crf} preset={self.preset}{more}"

    @property
    def chroma(self) -> str:
        """Chroma layout that the encoder is given: "422" for ProRes, "420" for all others."""
        return "422" if self.codec == "prores" else "420"

    @property
    def pixel_format(self) -> str:
        """FFmpeg's name of what the encoder is given from the host's memory."""
        if self.encoder in HARDWARE.values():
            return "p010le"
        return "yuv420p" if self.codec == "h264" else f"yuv{self.chroma}p10le"

    @property
    def span_container(self) -> str:
        """What its span files are: "mp4", or "mov" for ProRes, which mp4 does not hold."""
        return "mov" if self.codec == "prores" else "mp4"


def resolve_encoder(output: OutputSettings, device: str) -> EncoderChoice:
    """Settle `output.encoder=auto`, crf and preset for a run on `device` ("cpu", "cuda", "cuda:0" ...).

    auto is software on the CPU; on CUDA it is NVENC where opening NVENC works (A100, H100 and H200 have none), else software.
    Raises InputError on values that are not legal, and when an encoder asked for by name does not open here.
    """
    _check_legal("output.codec", output.codec, tuple(SOFTWARE))
    _check_legal("output.transfer", output.transfer, tuple(TRANSFERS))
    _check_legal("output.container", output.container, ("auto", *CONTAINERS["hevc"]))
    _check_legal("output.encoder", output.encoder, ("auto", *PRESETS))
    check_container(output.codec, output.container)
    encoder, reason = _pick_encoder(output.codec, output.encoder, device)
    crf, preset = DEFAULTS[encoder]
    if output.crf is not None:
        if encoder not in CRF_RANGE:
            raise InputError(
                f"output.crf={output.crf}: {encoder} has no such setting; legal values for output.codec={output.codec}: null."
            )
        low, high = CRF_RANGE[encoder]
        if not low <= output.crf <= high:
            raise InputError(f"output.crf={output.crf} is not legal for {encoder}; legal values: {low} to {high}.")
        crf = output.crf
    if output.preset is not None:
        _check_legal(f"output.preset (for {encoder})", str(output.preset), PRESETS[encoder])
        preset = str(output.preset)
    return EncoderChoice(output.codec, encoder, crf, preset, _fixed_options(encoder), reason)


def configure(
    context: VideoCodecContext,
    choice: EncoderChoice,
    *,
    width: int,
    height: int,
    rate: Fraction,
    transfer: str,
    threads: int,
    on_gpu: bool = False,
) -> None:
    """Set up an encoder that is not open yet: everything but the time base and the sample aspect ratio.

    width, height: in pixels; rate: frames a second; transfer: "pq", "hlg", or "sdr" (BT.709); threads: cores it may use, which decides no byte
    on_gpu: its frames will lie in GPU memory (NVENC). It then opens with the first one, whose CUDA context PyAV takes over
    """
    context.width, context.height = width, height
    context.framerate = rate
    context.color_primaries, context.color_trc, context.colorspace = color_tags(transfer)
    context.color_range, context.pix_fmt = LIMITED_RANGE, choice.pixel_format
    context.gop_size = max(2, round(KEYFRAME_SECONDS * rate))
    location = "left" if transfer == "sdr" else "topleft"
    options = {**choice.options, "preset": choice.preset, "chroma_sample_location": location}
    if choice.encoder == "libx265":
        context.codec_tag = "hvc1"
        small = X265_SMALL_PICTURE if min(width, height) <= X265_CTU_PX else ""
        options |= {"crf": str(choice.crf), "x265-params": f"{options['x265-params']}:pools={threads}{small}"}
    elif choice.encoder == "libsvtav1":
        options |= {"crf": str(choice.crf), "svtav1-params": f"{options['svtav1-params']}:lp={min(threads, 6)}"}
        os.environ.setdefault("SVT_LOG", SVT_LOG_ERRORS_ONLY)
    elif choice.encoder == "libx264":
        options["crf"] = str(choice.crf)
    elif choice.encoder == "prores_ks":
        context.thread_type, context.thread_count = "SLICE", threads
        options["profile"] = PRORES_PROFILES[options.pop("preset")]
    elif choice.encoder == "ffv1":
        context.thread_type, context.thread_count, context.gop_size = "SLICE", threads, 1
        options["slices"] = _ffv1_slices(width, height)
        del options["preset"]
    else:
        if on_gpu:
            context.pix_fmt, context.sw_format = "cuda", "p010le"
        options |= {"cq": str(choice.crf), "b": "0"}
        if choice.codec == "hevc":
            context.codec_tag = "hvc1"
    context.options = options


def open_for_siting(context: VideoCodecContext) -> None:
    """Make an FFV1 stream's parameters, taken from a span file as an encoder's, say that chroma lies top left.

    FFV1 does not say it itself and PyAV cannot set it, so an encoder like that of the spans is opened, and encodes nothing.
    """
    context.pix_fmt, context.gop_size = "yuv420p10le", 1
    options = {"slices": _ffv1_slices(context.width, context.height), "chroma_sample_location": "topleft"}
    context.options = _fixed_options("ffv1") | options
    context.open(strict=False)


def _ffv1_slices(width: int, height: int) -> str:
    return str(FFV1_SLICES if min(width, height) >= FFV1_SLICED_PX else 1)


def trial_encoder(encoder: str, on_gpu: bool = False) -> VideoCodecContext:
    """An encoder with its default settings for pictures of TRIAL_SIZE, not open, to try whether it works on this machine.

    encoder, on_gpu: see EncoderChoice and `configure`. Raises ValueError when this FFmpeg does not know the encoder.
    """
    context = av.CodecContext.create(encoder, "w")
    crf, preset = DEFAULTS[encoder]
    codec = next(codec for codec in SOFTWARE if encoder in (SOFTWARE[codec], HARDWARE.get(codec)))
    choice = EncoderChoice(codec, encoder, crf, preset, _fixed_options(encoder), "")
    width, height = TRIAL_SIZE
    configure(context, choice, width=width, height=height, rate=Fraction(30), transfer="pq", threads=1, on_gpu=on_gpu)
    context.time_base = Fraction(1, 30)
    return context


def proxy_encoder(kind: str) -> EncoderChoice:
    """The encoder of a proxy: H.264 of 8 bits for "sdr", HEVC Main 10 for "hlg"."""
    codec, encoder = ("h264", "libx264") if kind == "sdr" else ("hevc", "libx265")
    return EncoderChoice(codec, encoder, PROXY_CRF, PROXY_PRESET, _fixed_options(encoder), f"an {kind} proxy")


def check_container(codec: str, container: str) -> None:
    """Raise InputError when the codec does not go into the container ("auto" is the output's name's to say)."""
    if container not in ("auto", *CONTAINERS[codec]):
        raise InputError(
            f"output.codec={codec} does not go into {container}; legal values of output.container: "
            f"{', '.join(('auto', *CONTAINERS[codec]))}."
        )


def color_tags(transfer: str) -> tuple[int, int, int]:
    """Primaries, transfer and matrix (ITU-T H.273) of an output whose transfer is "pq", "hlg" or "sdr" (BT.709)."""
    if transfer == "sdr":
        return BT709, BT709, BT709
    return BT2020_PRIMARIES, TRANSFERS[transfer], BT2020_NCL


def _check_legal(name: str, value: str, legal: tuple[str, ...]) -> None:
    if value not in legal:
        raise InputError(f"{name}={value} is not legal; legal values: {', '.join(legal)}.")


def _pick_encoder(codec: str, wanted: str, device: str) -> tuple[str, str]:
    """(FFmpeg's name, why)."""
    software, hardware = SOFTWARE[codec], HARDWARE.get(codec)
    if wanted != "auto":
        legal = ("auto", software) if hardware is None else ("auto", software, hardware)
        if wanted not in legal:
            raise InputError(
                f"output.encoder={wanted} does not make output.codec={codec}; legal values: {', '.join(legal)}."
            )
        trouble = _why_not_open(wanted)
        if trouble:
            raise InputError(
                f"output.encoder={wanted} does not open on this machine ({trouble}); use output.encoder=auto."
            )
        return wanted, "asked for by output.encoder"
    reason = f"output.encoder=auto on device {device}"
    if device.startswith("cuda") and hardware is not None:
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
        with usual_priority():
            trial_encoder(encoder).open()
    except (FFmpegError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def _fixed_options(encoder: str) -> dict[str, str]:
    """Options that decide bytes whatever the frame size and rate.

    x265: frame-threads, lookahead and wavefronts would follow the number of cores. info=0: its settings would be written into the
    stream. No HDR SEI here: the values are measured later and put in by hdr10.insert. SVT-AV1: keyframes close the group (2); its
    temporal filter is off because it changes keyframes, which costs 0.1 to 0.2 JOD that no crf buys back. x264: its macroblock tree
    gave other bytes each time for pictures of 192x128 (not with asm=0: it reads what it never wrote).
    """
    if encoder == "libx265":
        params = "frame-threads=2:lookahead-slices=0:lookahead-threads=0:wpp=1:pmode=0:pme=0:open-gop=0:repeat-headers=0:aud=0:info=0:log-level=none"
        return {"profile": "main10", "x265-params": params}
    if encoder == "libsvtav1":
        return {"svtav1-params": "irefresh-type=2:scd=0:enable-tf=0"}
    if encoder == "libx264":
        return {"profile": "high", "x264-params": "threads=1:lookahead-threads=1:mbtree=0"}
    if encoder == "ffv1":
        return {"level": "3", "coder": "range_def", "context": "1", "slicecrc": "1"}
    if encoder == "prores_ks":
        return {}
    options = {"rc": "vbr", "tune": "hq", "forced-idr": "1", "strict_gop": "1", "bf": "2", "b_ref_mode": "disabled"}
    return options | ({"profile": "main10"} if encoder == "hevc_nvenc" else {})
