"""Hardware: decoding on the GPU (NVDEC) where it is asked for and can be had, and what encodes there; each choice says why.

NVDEC gives the pixels of the standard for sound streams. For damaged ones it conceals errors in its own way and tells nobody, where the
software decoder lets us repeat the last good frame. So it decides bytes, is a result setting, and is off unless asked for.
"""

from __future__ import annotations

from pathlib import Path

import av
import torch
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from torch import Tensor

from pipeline.choice import Choice, first_line
from pipeline.color import PixelLayout
from pipeline.encode import HARDWARE, EncoderChoice

SHIFTS = {"nv12": 0, "p010le": 6, "p016le": 0}
"""Formats of NVDEC's 4:2:0 frames, and by how many bits their codes are shifted up."""

EXTRA_SURFACES = "8"
"""Beyond what the codec refers to: frames that decode.py holds back for repeating and reordering."""

OPENING_ERRORS = (av.FFmpegError, OSError, RuntimeError, ValueError)
"""What a driver, a GPU or a codec that will not do raises through PyAV (what it has not built is a RuntimeError too)."""


def choose_decoder(
    wanted: str, device: str, codec: str, layout: PixelLayout, size: tuple[int, int], deinterlace: bool
) -> Choice:
    """`taken` is "nvdec" or "software", for one video stream.

    wanted: `input.decoder`; codec: FFmpeg's name of the decoder; size: (width, height) in pixels
    """

    def software(reason: str) -> Choice:
        return Choice("decoder", "software", reason)

    if wanted == "software":
        return software("input.decoder=software")
    if device != "cuda":
        return software("frames are wanted on the CPU")
    if deinterlace:
        return software("deinterlacing works on the CPU")
    if layout.chroma != "420" or layout.bit_depth not in (8, 10) or size[0] % 2 or size[1] % 2:
        return software(
            f"{layout.chroma} of {layout.bit_depth} bits, {size[0]}x{size[1]}: only even 4:2:0 of 8 or 10 bits"
        )
    try:
        configurations = av.Codec(codec, "r").hardware_configs
    except ValueError:
        configurations = []
    if not any(one.device_type.name == "cuda" and one.is_supported for one in configurations):
        return software(f"this FFmpeg has no NVDEC for {codec}")
    try:
        _touch_gpu()
        av.CodecContext.create(codec, "r", _acceleration())
    except OPENING_ERRORS as error:
        return software(f"NVDEC does not open: {first_line(error)}")
    return Choice("decoder", "nvdec", "input.decoder=nvdec, and it opens here")


def encoder_used(choice: EncoderChoice) -> Choice:
    """The encoder of a plan, in the same words as all other choices."""
    where = "NVENC, from host memory" if choice.encoder in HARDWARE.values() else "software"
    return Choice("encoder", f"{choice.encoder} ({where})", choice.reason)


def open_on_gpu(path: Path) -> InputContainer:
    """Open a local file that `pipeline.source.open_source` has opened before, with its video decoded by NVDEC into GPU memory.

    Raises one of OPENING_ERRORS. That a stream's profile is not supported shows at its first packet only.
    """
    _touch_gpu()
    options = {"protocol_whitelist": "file"}
    return av.open(f"file:{path}", options=options, metadata_errors="replace", hwaccel=_acceleration())


def software_format(frame: av.VideoFrame) -> str:
    """The pixel format of a frame's codes, wherever they lie."""
    return frame.format.name if frame.sw_format is None else frame.sw_format.name


def gpu_planes(frame: av.VideoFrame) -> tuple[Tensor, Tensor, Tensor]:
    """Y, U, V of an NVDEC frame as 2-D uint8 or uint16 tensors on the GPU, complete when this returns.

    They are copies, made on the GPU: a frame that is held keeps one of the decoder's few surfaces.
    """
    # PyAV refuses a stream argument, which torch.from_dlpack gives to objects but not to capsules. FFmpeg decodes on the
    # default stream, so copies there come after it.
    luma, chroma = (torch.from_dlpack(plane.__dlpack__()) for plane in frame.planes)
    with torch.cuda.stream(torch.cuda.default_stream()):
        planes = split_planes(luma, chroma, SHIFTS[software_format(frame)])
    torch.cuda.default_stream().synchronize()
    return planes


def split_planes(luma: Tensor, chroma: Tensor, shift: int) -> tuple[Tensor, Tensor, Tensor]:
    """(H, W) and (H/2, W/2, 2), codes shifted up by `shift` bits -> Y, U, V, new contiguous tensors of the same dtype."""
    planes = (luma, chroma[..., 0], chroma[..., 1])
    if shift:
        return tuple((plane.to(torch.int32) >> shift).to(plane.dtype).contiguous() for plane in planes)
    return tuple(plane.clone(memory_format=torch.contiguous_format) for plane in planes)


def _acceleration() -> HWAccel:
    """NVDEC in PyTorch's own CUDA context: PyAV's default wants to set that context's flags, which is too late by now."""
    options: dict[str, object] = {"primary_ctx": "0", "current_ctx": "1"}
    return HWAccel("cuda", allow_software_fallback=False, options=options, is_hw_owned=True)


def _touch_gpu() -> None:
    """Make PyTorch's CUDA context current in this thread. Raises RuntimeError where there is no GPU."""
    torch.empty(1, device="cuda")
    torch.cuda.synchronize()
