"""Hardware: decoding on the GPU (NVDEC) where it is asked for and can be had, and encoding there (NVENC); each choice says why.

NVDEC gives the pixels of the standard for sound streams. For damaged ones it conceals errors in its own way and tells nobody, where the
software decoder lets us repeat the last good frame. So it decides bytes, is a result setting, and is off unless asked for.

NVENC takes frames from the host or from GPU memory. The codes are the same; from GPU memory they are not brought down first.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import av
import torch
from av.codec.context import Flags
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.video.frame import CudaContext
from torch import Tensor

from pipeline.batching import DeviceMemoryError
from pipeline.choice import Choice, first_line
from pipeline.color import PixelLayout
from pipeline.encoder_choice import HARDWARE, TRIAL_SIZE, EncoderChoice, trial_encoder
from pipeline.planes import frame_planes

SHIFTS = {"nv12": 0, "p010le": 6, "p016le": 0}
"""Formats of NVDEC's 4:2:0 frames, and by how many bits their codes are shifted up."""

EXTRA_SURFACES = "8"
"""Beyond what the codec refers to: frames that decode.py holds back for repeating and reordering."""

OPENING_ERRORS = (av.FFmpegError, OSError, RuntimeError, ValueError)
"""What a driver, a GPU or a codec that will not do raises through PyAV (what it has not built is a RuntimeError too)."""

HOST, GPU = "host memory", "GPU memory"
"""Where an encoder takes its frames from."""

PITCH_BYTES = 256
"""Rows of a P010 picture begin at multiples of it, as FFmpeg lays out its own on a GPU."""

SOFTWARE_DECODERS = {"hevc_nvenc": "hevc", "av1_nvenc": "libdav1d"}
TRIAL_TOLERANCE_CODES = 8.0
"""By how much a plane of the test picture may come back otherwise on average, of 1023; a plane in a wrong place is hundreds off."""


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
    where = "NVENC" if choice.encoder in HARDWARE.values() else "software"
    return Choice("encoder", f"{choice.encoder} ({where})", choice.reason)


def encoder_memory(choice: EncoderChoice) -> Choice:
    """Where a GPU's frames go to the encoder from: `taken` is GPU where NVENC proves that it takes them there, else HOST."""
    if choice.encoder not in HARDWARE.values():
        return Choice("frames to the encoder", HOST, f"{choice.encoder} runs on the CPU")
    trouble = _gpu_memory_trouble(choice.encoder)
    if trouble:
        return Choice("frames to the encoder", HOST, f"{choice.encoder} does not take them from the GPU: {trouble}")
    return Choice("frames to the encoder", GPU, f"{choice.encoder} gave a test picture back from there")


def p010_planes(y: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """10-bit planes -> the two planes of P010, (H, W) and (H / 2, W) uint16: ten bits at the top of sixteen, U and V by turns.

    y: (H, W), u, v: (H / 2, W / 2) uint16 codes 0 to 1023 on any device, H and W even. The new planes lie there in one piece of
    memory, the second right behind the first: FFmpeg tells NVENC only where the first begins and how long a row is.
    """
    height, width = y.shape
    pitch = -(-2 * width // PITCH_BYTES) * PITCH_BYTES // 2
    surface = torch.empty(height * 3 // 2, pitch, dtype=torch.int16, device=y.device)
    luma, chroma = surface[:height, :width], surface[height:, :width]
    # Shifts wrap in int16 to the bits that uint16 would have.
    for plane, place in ((y, luma), (u, chroma[:, 0::2]), (v, chroma[:, 1::2])):
        torch.bitwise_left_shift(plane.view(torch.int16), 6, out=place)
    return luma.view(torch.uint16), chroma.view(torch.uint16)


def gpu_frame(y: Tensor, u: Tensor, v: Tensor) -> av.VideoFrame:
    """Planes on a GPU as for `p010_planes`, complete -> a frame for NVENC there, complete too; the planes have been read by then.

    The frame's memory is its own. FFmpeg drops the frame when it takes the packet from NVENC; then the memory is used again. Raises
    DeviceMemoryError (transient) when the GPU has no memory for it.
    """
    surfaces = _surfaces(y.device)
    with torch.cuda.stream(surfaces.stream):
        try:
            with torch.cuda.use_mem_pool(surfaces.memory):
                planes = p010_planes(y, u, v)
        except torch.cuda.OutOfMemoryError as error:
            raise DeviceMemoryError(
                f"the GPU has no memory for a frame of the encoder ({first_line(error)}); use fewer workers.per_gpu."
            ) from error
        # NVENC reads on the default stream, which PyTorch's others do not wait for and which does not wait for them.
        surfaces.stream.synchronize()
        return av.VideoFrame.from_dlpack(planes, format="p010le", cuda_context=surfaces.context)


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


@dataclass(frozen=True)
class _Surfaces:
    """What `gpu_frame` makes frames with on one GPU, kept as long as the process.

    memory: FFmpeg registers a frame's address with NVENC and, when it comes again, takes the memory for the same. So what has been
        an encoder's frame must not go back to the driver; out of PyTorch's common memory it would where that runs short
    stream: one for all, because freed memory is used again on its own stream only
    context: PyTorch's own CUDA context, as FFmpeg knows it
    """

    memory: torch.cuda.MemPool
    stream: torch.cuda.Stream
    context: CudaContext


@functools.cache
def _surfaces(device: torch.device) -> _Surfaces:
    context = CudaContext(device_id=device.index, primary_ctx=False, current_ctx=True)
    return _Surfaces(torch.cuda.MemPool(), torch.cuda.Stream(device), context)


@functools.cache
def _gpu_memory_trouble(encoder: str) -> str:
    """Empty when an NVENC encoder gives back the test picture that it got in GPU memory, else what went wrong, on one line."""
    sent = _test_picture()
    try:
        _touch_gpu()
        frame = gpu_frame(*(plane.cuda() for plane in sent))
        frame.pts = 0
        opened = trial_encoder(encoder, on_gpu=True)
        opened.flags |= Flags.global_header
        packets = [*opened.encode(frame), *opened.encode(None)]
        decoder = av.CodecContext.create(SOFTWARE_DECODERS[encoder], "r")
        decoder.extradata = opened.extradata
        came = [one for packet in [*packets, None] for one in decoder.decode(packet)]
    except (*OPENING_ERRORS, BufferError, DeviceMemoryError, TypeError) as error:
        return first_line(error)
    if len(came) != 1 or (came[0].width, came[0].height) != TRIAL_SIZE:
        return f"{len(came)} pictures came back for one"
    for name, ours, theirs in zip("YUV", sent, frame_planes(came[0]), strict=True):
        difference = float((ours.float() - theirs.float()).abs().mean())
        if not difference <= TRIAL_TOLERANCE_CODES:
            return f"its {name} comes back {difference:.0f} codes off"
    return ""


def _test_picture() -> tuple[Tensor, Tensor, Tensor]:
    """Y, U, V of 10-bit codes that rise to the right, downwards and upwards, so that a plane in a wrong place shows."""
    width, height = TRIAL_SIZE
    y = torch.linspace(100, 900, width).expand(height, width)
    u = torch.linspace(200, 800, height // 2)[:, None].expand(height // 2, width // 2)
    return tuple(plane.to(torch.uint16).contiguous() for plane in (y, u, u.flip(0)))


def _acceleration() -> HWAccel:
    """NVDEC in PyTorch's own CUDA context: PyAV's default wants to set that context's flags, which is too late by now."""
    options: dict[str, object] = {"primary_ctx": "0", "current_ctx": "1"}
    return HWAccel("cuda", allow_software_fallback=False, options=options, is_hw_owned=True)


def _touch_gpu() -> None:
    """Make PyTorch's CUDA context current in this thread. Raises RuntimeError where there is no GPU."""
    torch.empty(1, device="cuda")
    torch.cuda.synchronize()
