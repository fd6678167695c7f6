"""Engine: drives frames through unpack, the stages and pack on one device. On a GPU pipeline/cuda_engine.py keeps it busy.

Needs torch and numpy only. Which bytes come out depends on the plan and the numerics class, not on batches or threads.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from models.deform_conv import choose_backend
from models.model import Model
from pipeline import light
from pipeline.color import ColorSpec, OutputSpec, PixelLayout, pack, unpack
from pipeline.errors import ConversionError, InputError
from pipeline.light import LightLevels
from pipeline.stages.grade import Grade
from pipeline.stages.reconstruct import Reconstruct, network_size


@dataclass(frozen=True)
class PackedFrame:
    """One frame ready for the encoder: 10-bit limited BT.2020 Y, U, V (uint16, CPU, contiguous), its light, and its mean Y code."""

    y: Tensor
    u: Tensor
    v: Tensor
    levels: LightLevels
    mean_luma: float


class Engine:
    """Frames of one track, from decoded planes to packed 10-bit planes.

    model: a loaded checkpoint on `device`; stage_names: which stages run, in order; tile, scale: see Reconstruct
    """

    def __init__(
        self,
        *,
        model: Model,
        stage_names: tuple[str, ...],
        layout: PixelLayout,
        color: ColorSpec,
        out: OutputSpec,
        precision: str,
        tile: int,
        device: str,
        scale: float = 1.0,
    ) -> None:
        self.device = torch.device(device)
        if self.device.type == "cuda":  # float32 means float32, and the same bytes each time
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        self.layout, self.color, self.out = layout, color, out
        makers = {
            "reconstruct": lambda: Reconstruct(model, precision, tile, scale),
            "grade": lambda: Grade(out.white_nits, out.peak_nits),
        }
        self.stages = nn.ModuleList(makers[name]() for name in stage_names)
        self._model, self.precision, self._tile, self._scale = model, precision, tile, scale

    @property
    def redone_frames(self) -> int:
        """Frames whose network output was not finite and that were redone in float32, since the engine was made."""
        return sum(stage.redone_frames for stage in self.stages if isinstance(stage, Reconstruct))

    def frame_bytes(self, height: int, width: int) -> int:
        """Working memory of one frame in bytes, roughly: the network's, and a few copies of the frame in float32."""
        seen = network_size(height, width, self._scale)
        side = self._tile or max(seen)
        network = self._model.activation_bytes(min(side, seen[0]), min(side, seen[1]), self.precision)
        return network + 5 * 12 * height * width

    def working_space(self, planes: list[tuple[Tensor, ...]]) -> Tensor:
        """Decoded planes of some frames -> (N,3,H,W) float32 linear light after all stages, SDR white = 1.0."""
        count = len(planes[0])
        stacked = tuple(self._upload(torch.stack([frame[plane] for frame in planes])) for plane in range(count))
        with torch.inference_mode():
            frames = unpack(stacked, self.layout, self.color)
            for stage in self.stages:
                frames = stage(frames)
        return frames

    def process(self, planes: list[tuple[Tensor, ...]], first_frame: int) -> Iterator[PackedFrame]:
        """Restore, grade and pack consecutive frames. first_frame: number of the first one within the track (dither)."""
        frames = self.working_space(planes)
        with torch.inference_mode():
            numbers = torch.arange(first_frame, first_frame + len(planes))
            y, u, v = (plane.cpu() for plane in pack(frames, self.out, numbers))
            levels = light.measure(y, u, v, self.out.transfer)
        for number, level in enumerate(levels):
            yield PackedFrame(y[number], u[number], v[number], level, mean_luma(y[number]))

    def _upload(self, plane: Tensor) -> Tensor:
        if self.device.type == "cuda":
            return plane.pin_memory().to(self.device, non_blocking=True)
        return plane


def mean_luma(y: Tensor) -> float:
    """Mean code (0 to 1023) of a Y plane (H, W) uint16: what the decoded span file is compared with."""
    return float(y.float().mean())


def resolve_device(wanted: str) -> str:
    """`auto` -> "cuda" when torch sees a GPU, else "cpu". Raises InputError when CUDA is asked for and there is none."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("device=cuda: torch sees no CUDA device on this machine; use device=cpu or device=auto.")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def numerics_class(device: str = "auto") -> str:
    """Name of this machine's arithmetic: machines of the same name compute the same bytes, others need not.

    device: "cpu", "cuda", or "auto" for what resolve_device finds here
    """
    if resolve_device(device) == "cuda":
        deform = choose_backend("cuda", torch.bfloat16, False).version
        return f"cuda-{torch.cuda.get_device_name().replace(' ', '-')}-torch{torch.__version__}-{deform}"
    return f"{_processor()}-torch{torch.__version__}"


def check_numerics_class(planned: str, device: str) -> None:
    """Raise ConversionError when this machine's arithmetic is not the plan's."""
    here = numerics_class(device)
    if here != planned:
        raise ConversionError(
            f"this worker computes as {here}, the plan names {planned}; run it on a machine of that class, or delete the work folder to plan anew."
        )


def _processor() -> str:
    """Vendor and vector instructions: what oneDNN and MKL choose their kernels by."""
    facts: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, colon, value = line.partition(":")
            if not colon:
                break
            facts[key.strip()] = value.strip()
    flags = set(facts.get("flags", "").split())
    special = [flag for flag in ("avx512_bf16", "avx512_fp16", "amx_bf16") if flag in flags]
    vendor = facts.get("vendor_id", platform.machine())
    return "-".join(["cpu", vendor, torch.backends.cpu.get_cpu_capability(), *special])
