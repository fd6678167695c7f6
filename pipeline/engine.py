"""Engine: drives frames through unpack, the stages and pack on one device. On a GPU pipeline/cuda_engine.py keeps it busy.

Needs torch and numpy only. Which bytes come out depends on the plan and the numerics class, not on batches or threads.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from models.deform_conv import choose_backend
from models.model import Model
from pipeline import flow, frame_files, light
from pipeline.choice import Choice
from pipeline.color import ColorSpec, OutputSpec, PixelLayout, pack, unpack
from pipeline.errors import ConversionError, InputError
from pipeline.frame_stats import FrameStats, measure_frame, restored_share
from pipeline.heartbeat import beat
from pipeline.invented import invented
from pipeline.light import LightLevels
from pipeline.proxy import make_proxy, proxy_in
from pipeline.stages.deband import Deband
from pipeline.stages.denoise import Denoise
from pipeline.stages.grade import Grade
from pipeline.stages.guarded import Guarded
from pipeline.stages.reconstruct import Reconstruct, network_size
from pipeline.stages.temporal import Sample, Temporal

if TYPE_CHECKING:
    from pipeline.exclusion import Polygon
    from pipeline.overlay import OverlayBox


@dataclass(frozen=True)
class PackedFrame:
    """One frame ready for the encoder: 10-bit limited BT.2020 Y, U, V (uint16, contiguous), its light, and its mean Y code.

    The planes are on the CPU, or on the GPU where CudaEngine was asked to leave them there.
    """

    y: Tensor
    u: Tensor
    v: Tensor
    levels: LightLevels
    mean_luma: float
    mask: Tensor | None = None
    stats: FrameStats | None = None
    linear: Tensor | None = None
    proxy: tuple[Tensor, Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Kept:
    """What is kept of a frame for the temporal stage. sdr: (1,3,H,W) as recorded, its text as shown; sample: that stage's own; unpacked: as
    Restored has it."""

    sdr: Tensor
    sample: Sample
    unpacked: Tensor


@dataclass(frozen=True)
class Restored:
    """Frames before they are graded, (N,3,H,W) all. sdr: what counts as recorded; light: restored; unpacked: as they were read, which differs
    from `sdr` where burnt-in text is held."""

    sdr: Tensor
    light: Tensor
    unpacked: Tensor


class Engine:
    """Frames of one track, from decoded planes to packed 10-bit planes.

    model: a loaded checkpoint on `device`; stage_names: which stages run, in order; tile, scale: see Reconstruct
    options: keyword arguments of stages by their names, such as {"temporal": {"radius": 2}}
    boxes: where text is burnt in, which the network does not get to see; excluded: what stays as recorded
    beside: what frames come with: "mask" (pipeline/invented.py), "stats" (pipeline/frame_stats.py), a proxy's name (pipeline/proxy.py)

    Stages see one frame at a time, but for `temporal`, which sees `radius` more on either side. Without it, `process` does everything;
    with it, `sample` goes before that stage and `finish` from there on.
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
        options: Mapping[str, Mapping[str, Any]] | None = None,
        boxes: tuple[OverlayBox, ...] = (),
        excluded: tuple[Polygon, ...] = (),
        beside: frozenset[str] = frozenset(),
    ) -> None:
        self.device = torch.device(device)
        if self.device.type == "cuda":  # float32 means float32, and the same bytes each time
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        self.layout, self.color, self.out = layout, color, out
        told = {name: dict((options or {}).get(name, {})) for name in stage_names}
        self._reconstruct = Reconstruct(model, precision, tile, scale)
        makers: dict[str, Callable[[], nn.Module]] = {
            "denoise": lambda: Denoise(transfer=color.transfer, **told["denoise"]),
            "deband": lambda: Deband(layout, color),
            "reconstruct": lambda: (
                Guarded(boxes, excluded, self._reconstruct) if boxes or excluded else self._reconstruct
            ),
            "grade": lambda: Grade(out.white_nits, out.peak_nits, **told["grade"]),
        }
        self._flow = flow.choose_method(self.device)
        self.temporal = Temporal(**told["temporal"], method=self._flow.taken) if "temporal" in stage_names else None
        self.stages = nn.ModuleList(makers[name]() for name in stage_names if name in makers)
        restoring = len(self.stages) - ("grade" in stage_names)
        self._before, self._after = self.stages[:restoring], self.stages[restoring:]
        self._beside, self._proxy = beside, proxy_in(beside)
        self._model, self.precision, self._tile, self._scale = model, precision, tile, scale

    @property
    def choices(self) -> tuple[Choice, ...]:
        """What was decided for this device and why, for people."""
        return (self._flow,) if self.temporal else ()

    @property
    def redone_frames(self) -> int:
        """Frames whose network output was not finite and that were redone in float32, since the engine was made."""
        return self._reconstruct.redone_frames

    def frame_bytes(self, height: int, width: int) -> int:
        """Working memory of one frame in bytes, roughly: the network's, and a few copies of the frame in float32."""
        seen = network_size(height, width, self._scale)
        side = self._tile or max(seen)
        network = self._model.activation_bytes(min(side, seen[0]), min(side, seen[1]), self.precision)
        return network + 5 * 12 * height * width

    @property
    def radius(self) -> int:
        """Frames on either side that `finish` needs beside a frame's own."""
        return self.temporal.lead_in if self.temporal else 0

    def process(self, planes: list[tuple[Tensor, ...]], first_frame: int) -> list[PackedFrame]:
        """Restore, grade and pack consecutive frames, where no stage looks at neighbours.

        first_frame: number of the first one within the track (dither)
        """
        return self.deliver(self.restore(planes), first_frame)

    def restore(self, planes: list[tuple[Tensor, ...]]) -> Restored:
        """Decoded planes of some frames -> the frames restored, each for itself: not smoothed, not graded."""
        with torch.inference_mode():
            unpacked = self._unpacked(planes)
            return Restored(*self._restored(unpacked), unpacked)

    def sample(self, planes: tuple[Tensor, ...]) -> Kept:
        """Decoded planes of one frame -> what `finish` needs of it, for itself and for its neighbours."""
        return self.keep(self.restore([planes]))

    def keep(self, restored: Restored) -> Kept:
        """One restored frame -> the same as `sample`."""
        with torch.inference_mode():
            sample = self.temporal.sample(restored.sdr[0], restored.light[0])
            return Kept(restored.sdr, sample, restored.unpacked)

    def finish(self, window: Sequence[Kept], place: int, number: int) -> PackedFrame:
        """Smooth, grade and pack one frame.

        window: the samples of the frame and of up to `radius` neighbours on either side, in order; place: which of them is the frame
        number: the frame's within the track (dither)
        """
        return self.deliver(self.smooth(window, place), number)[0]

    def smooth(self, window: Sequence[Kept], place: int) -> Restored:
        """One frame of a window as for `finish`, smoothed and not graded."""
        with torch.inference_mode():
            frame = self.temporal([kept.sample for kept in window], place)
            return Restored(window[place].sdr, frame[None], window[place].unpacked)

    def deliver(self, restored: Restored, first_frame: int) -> list[PackedFrame]:
        """Grade and pack consecutive frames. first_frame: number of the first one within the track (dither)"""
        with torch.inference_mode():
            return self._finished(restored.sdr, restored.light, first_frame)

    def _unpacked(self, planes: list[tuple[Tensor, ...]]) -> Tensor:
        """Decoded planes of some frames -> (N,3,H,W) float32 linear light, SDR white = 1.0."""
        count = len(planes[0])
        stacked = tuple(self._upload(torch.stack([frame[plane] for frame in planes])) for plane in range(count))
        return unpack(stacked, self.layout, self.color)

    def _restored(self, sdr: Tensor) -> tuple[Tensor, Tensor]:
        """What counts as recorded, and the restored frames: the text that the guard holds below white was not put there by the network."""
        frames = sdr
        for stage in self._before:
            if isinstance(stage, Guarded):
                held, restored = stage.pair(frames)
                sdr, frames = sdr + (held - frames), restored
            else:
                frames = stage(frames)
            beat()
        return sdr, frames

    def _finished(self, sdr: Tensor, frames: Tensor, first_frame: int) -> list[PackedFrame]:
        """As `_restored` gives them, (N,3,H,W) both."""
        masks = invented(sdr, frames).cpu() if "mask" in self._beside else [None] * len(frames)
        shares = [restored_share(*pair) for pair in zip(sdr, frames, strict=True)] if "stats" in self._beside else []
        for stage in self._after:
            frames = stage(frames)
        linear = frames.cpu() if self._beside & frame_files.ENDINGS.keys() else [None] * len(frames)
        proxies = self._proxies(frames, first_frame)
        numbers = torch.arange(first_frame, first_frame + len(frames))
        y, u, v = (plane.cpu() for plane in pack(frames, self.out, numbers))
        transfer = self.out.transfer
        if shares:
            stats = [
                measure_frame(*one, transfer, restored_share=share) for *one, share in zip(y, u, v, shares, strict=True)
            ]
            levels = [one.levels for one in stats]
        else:
            levels, stats = light.measure(y, u, v, transfer), [None] * len(frames)
        return [
            PackedFrame(*planes, level, mean_luma(planes[0]), *beside)
            for *planes, level, beside in zip(
                y, u, v, levels, zip(masks, stats, linear, proxies, strict=True), strict=True
            )
        ]

    def _proxies(self, frames: Tensor, first_frame: int) -> list[tuple[Tensor, Tensor, Tensor] | None]:
        """Planes of the proxies of graded frames, on the CPU; None each where there are to be none."""
        if self._proxy is None:
            return [None] * len(frames)
        made = [make_proxy(frame, self._proxy, self.out, number) for number, frame in enumerate(frames, first_frame)]
        return [(y.cpu(), u.cpu(), v.cpu()) for y, u, v in made]

    def _upload(self, plane: Tensor) -> Tensor:
        if self.device.type == "cuda":
            return plane.pin_memory().to(self.device, non_blocking=True)
        return plane


def mean_luma(y: Tensor) -> float:
    """Mean code (0 to 1023) of a Y plane (H, W) uint16: what the decoded span file is compared with."""
    return float(luma_sum(y[None])) / y.numel()


def luma_sum(y: Tensor) -> Tensor:
    """Sums of the codes of Y planes, (N, H, W) uint16 of 0 to 1023 -> (N,) float64 on their device.

    They are exact up to 16384 pixels of width, a row in float32 and all rows in float64, so no order of summing changes them.
    """
    return y.float().sum(dim=2).double().sum(dim=1)


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
