"""What bench/gpu.py measures: the engine, the network alone, the named baseline, one deformable convolution. Each gives a row."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from bench.ceilings import tf32
from bench.device_time import Clock, median_ms, module_ms
from bench.floors import Layer, network_layers, picture_layers
from bench.scattered import scattered_model
from models import checkpoints, registry
from models.convolution import Conv2d, conv2d, set_precision
from models.dcdr_unet import DCRB
from models.deform_conv import deform_conv2d
from models.model import PRECISIONS, Model
from pipeline import color
from pipeline.color import ColorSpec, OutputSpec, PixelLayout
from pipeline.cuda_engine import CudaEngine
from pipeline.cuda_graph import Graphed
from pipeline.engine import Engine

LAYOUT = PixelLayout("420", 8)
COLOR = ColorSpec("bt709", "limited", "bt1886", "bt709", "left")
OUT = OutputSpec("pq", 203.0, 1000.0)
STAGES = ("reconstruct", "grade")
DISTINCT_FRAMES = 8
ROUNDS = 3
MODULES_PATH = "models.dcdr_unet.deform_conv2d"
"""Where the blocks find the deformable convolution that they call."""

Planes = tuple[Tensor, ...]
Row = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """A frame's size in pixels. name: as in the tables."""

    name: str
    height: int
    width: int


PICTURES = {
    one.name: one for one in (Picture("720p", 720, 1280), Picture("1080p", 1080, 1920), Picture("2160p", 2160, 3840))
}


@dataclass(frozen=True)
class Setting:
    """One way to run: which network on which picture. size: "tiny", "small", "base", or a shipped checkpoint as "checkpoint:NAME"."""

    size: str
    picture: Picture
    precision: str = "bf16"
    architecture: str = "dcdr_unet"
    device: str = "cuda"

    @property
    def model(self) -> Model:
        """The network, made once a process."""
        return _model(self.size, self.architecture, self.device)

    def facts(self) -> Row:
        """What every row says of it."""
        spec = self.model.spec
        return {
            "network": self.size,
            "architecture": spec.architecture,
            "channels": spec.width,
            "sft": spec.sft,
            "picture": self.picture.name,
            "pixels": self.picture.height * self.picture.width,
            "precision": self.precision,
        }


@lru_cache(maxsize=2)
def _model(size: str, architecture: str, device: str) -> Model:
    kind, _, name = size.partition(":")
    return checkpoints.load(name, device) if kind == "checkpoint" else scattered_model(size, architecture, device)


def pictures_of(picture: Picture, device: str, count: int = DISTINCT_FRAMES) -> list[Planes]:
    """Random 8-bit 4:2:0 planes on the host, pinned where there is a GPU: (H, W), (H/2, W/2), (H/2, W/2) uint8."""
    chance = torch.Generator().manual_seed(2)
    sizes = [(picture.height, picture.width), *[(picture.height // 2, picture.width // 2)] * 2]
    made = []
    for _ in range(count):
        planes = (torch.randint(16, 236, size, dtype=torch.uint8, generator=chance) for size in sizes)
        made.append(tuple(plane.pin_memory() if device == "cuda" else plane for plane in planes))
    return made


def make_engine(setting: Setting) -> Engine:
    """The pipeline's engine on whole frames."""
    return Engine(
        model=setting.model,
        stage_names=STAGES,
        layout=LAYOUT,
        color=COLOR,
        out=OUT,
        precision=setting.precision,
        tile=0,
        device=setting.device,
    )


def _memory(device: str) -> Row:
    if device != "cuda":
        return {}
    return {"allocated_bytes": torch.cuda.max_memory_allocated(), "reserved_bytes": torch.cuda.max_memory_reserved()}


def _fresh_memory(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def engine_row(setting: Setting, seconds: float = 1.0, **options: Any) -> Row:  # noqa: ANN401 - CudaEngine's
    """The whole engine: planes on the host to packed planes on the host. Median of some rounds, each of about so many seconds."""
    _fresh_memory(setting.device)
    with contextlib.closing(CudaEngine(make_engine(setting), **options)) as driver:
        return {**_drive(driver, setting, seconds), "batch": options.get("batch_frames", 0)}


def _drive(driver: CudaEngine, setting: Setting, seconds: float) -> Row:
    frames = pictures_of(setting.picture, setting.device)

    def run(count: int) -> float:
        began = time.perf_counter()
        for _ in driver.stream(itertools.islice(itertools.cycle(frames), count), 0):
            pass
        return (time.perf_counter() - began) / count

    run(DISTINCT_FRAMES)  # compiles, records, allocates
    count = int(min(1000, max(2 * DISTINCT_FRAMES, seconds / run(DISTINCT_FRAMES))))
    rounds = [run(count) for _ in range(ROUNDS)]
    return {
        **setting.facts(),
        "ms": 1000 * statistics.median(rounds),
        "ms_rounds": [1000 * one for one in rounds],
        "choices": [str(choice) for choice in driver.choices],
        "redone_frames": driver.redone_frames,
        **_memory(setting.device),
    }


def compute_row(setting: Setting, graph: bool) -> Row:
    """Unpack, stages and pack on the device alone, one frame at a time, nothing copied: what the engine's time is held against."""
    _fresh_memory(setting.device)
    planes = tuple(plane[None].to(setting.device) for plane in pictures_of(setting.picture, setting.device, 1)[0])
    numbers = torch.zeros(1, dtype=torch.int64, device=setting.device)
    with contextlib.closing(CudaEngine(make_engine(setting))) as driver:

        def frame(*inputs: Tensor) -> Planes:
            return driver.packed(inputs[:-1], inputs[-1], 0)

        if not graph:
            spent = median_ms(lambda: frame(*planes, numbers), setting.device)
            return {**setting.facts(), "ms": spent, **_memory(setting.device)}
        stream = torch.cuda.Stream()
        recorded = Graphed(frame, (*planes, numbers), stream)
        with torch.cuda.stream(stream):
            spent = median_ms(lambda: recorded(*planes, numbers), setting.device)
        return {**setting.facts(), "ms": spent, **_memory(setting.device)}


def network_row(setting: Setting, batch: int) -> Row:
    """The network alone on a batch of coded frames on the device; ms is of one frame."""
    _fresh_memory(setting.device)
    make_engine(setting)  # sets PyTorch's switches as the product has them
    coded = torch.rand(batch, 3, setting.picture.height, setting.picture.width, device=setting.device)
    spent = median_ms(lambda: setting.model.restore(coded, setting.precision), setting.device)
    return {**setting.facts(), "batch": batch, "ms": spent / batch, **_memory(setting.device)}


def compiled_row(setting: Setting, wrapped: Callable[[], contextlib.AbstractContextManager]) -> Row:
    """The network under torch.compile, one coded frame; `wrapped`: what it is compiled and run inside of."""
    _fresh_memory(setting.device)
    network = own_network(setting)
    coded = torch.rand(1, 3, setting.picture.height, setting.picture.width, device=setting.device)
    with wrapped(), torch.no_grad():
        compiled = torch.compile(network)
        began = time.perf_counter()
        compiled(coded)
        Clock(setting.device).wait()
        compiling = time.perf_counter() - began
        return {
            **setting.facts(),
            "ms": median_ms(lambda: compiled(coded), setting.device),
            "compile_seconds": compiling,
        }


def own_network(setting: Setting) -> nn.Module:
    """The network in the setting's precision: a new module, nobody else's."""
    spec = setting.model.spec
    network = registry.build(spec.architecture, spec.width, spec.sft, spec.input_encoding, spec.output_encoding)
    network.load_state_dict(setting.model.network.state_dict())
    network = set_precision(network, PRECISIONS[setting.precision]).to(setting.device).eval()
    return network.to(memory_format=torch.channels_last)


def torchvision_deform(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    residual: Tensor | None = None,
) -> Tensor:
    """torchvision's kernel in the dtype of x, which it wants for everything, as somebody without a kernel of his own would call it."""
    from torchvision.ops import deform_conv2d as operator

    out = operator(x, offset.to(x.dtype), weight, bias, padding=weight.shape[-1] // 2, mask=mask.to(x.dtype))
    return out if residual is None else out + residual


@contextlib.contextmanager
def torchvision_eager(allow_tf32: bool = True) -> Iterator[None]:
    """The named baseline's world: torchvision's kernel in every block, TF32 for float32 products, PyTorch's defaults otherwise."""
    with mock.patch(MODULES_PATH, torchvision_deform), tf32(allow_tf32):
        yield


def baseline_row(setting: Setting) -> Row:
    """torchvision eager: one frame at a time on the default stream, from pinned planes to pinned planes, colour by pipeline.color."""
    _fresh_memory(setting.device)
    engine = make_engine(setting)
    frames = itertools.cycle(pictures_of(setting.picture, setting.device))
    down: list[Tensor] = []

    def frame() -> None:
        planes = tuple(plane[None].to(setting.device, non_blocking=True) for plane in next(frames))
        with torch.inference_mode():
            light = color.unpack(planes, LAYOUT, COLOR)
            for stage in engine.stages:
                light = stage(light)
            packed = color.pack(light, OUT, torch.zeros(1, dtype=torch.int64))
        if not down:
            down.extend(
                torch.empty(plane.shape, dtype=plane.dtype, pin_memory=setting.device == "cuda") for plane in packed
            )
        for host, plane in zip(down, packed, strict=True):
            host.copy_(plane, non_blocking=True)
        Clock(setting.device).wait()

    with torchvision_eager():
        return {**setting.facts(), "ms": median_ms(frame, setting.device, 1.0), **_memory(setting.device)}


def layers_row(setting: Setting) -> Row:
    """Milliseconds of every layer inside the network, launched one by one. A block's deformable convolution is what its other
    convolutions leave of the block, so sigmoid and sum are in it where they are not fused."""
    make_engine(setting)  # sets PyTorch's switches as the product has them
    network = own_network(setting)
    coded = torch.rand(1, 3, setting.picture.height, setting.picture.width, device=setting.device)
    with torch.no_grad():
        spent = module_ms(network, lambda m: isinstance(m, Conv2d | DCRB), lambda: network(coded), setting.device)
    for name, module in network.named_modules():
        if isinstance(module, DCRB):
            inside = sum(spent.get(f"{name}.{child}", 0.0) for child in ("aim", "conv"))
            spent[f"{name} (deform)"] = spent.pop(name) - inside
    return {**setting.facts(), "layers_ms": spent}


def deform_row(kind: str, picture: Picture, scale: int, channels: int, device: str) -> Row:
    """One deformable (or plain) 3x3 convolution on a map of the picture's size over `scale`, offsets of one pixel.

    kind: "auto bf16" (ours), "auto fp16", "torchvision fp16", "torchvision fp32" (TF32 on) or "plain bf16".
    """
    name, precision = kind.split()
    height, width = picture.height // scale, picture.width // scale
    dtype = PRECISIONS[precision]
    x = torch.randn(1, channels, height, width, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    positions = torch.randn(1, 27, height, width, device=device).contiguous(memory_format=torch.channels_last)
    offset, mask = positions[:, :18], positions[:, 18:].sigmoid()
    weight = (torch.randn(channels, channels, 3, 3, device=device) / 24).to(dtype)
    weight = weight.contiguous(memory_format=torch.channels_last)
    bias = torch.randn(channels, device=device).to(dtype)
    works = {
        "auto": lambda: deform_conv2d(x, offset, mask, weight, bias),
        "torchvision": lambda: torchvision_deform(x, offset, mask, weight, bias),
        "plain": lambda: conv2d(x, weight, bias, (1, 1), (1, 1)),
    }
    with torch.inference_mode(), tf32(True):
        spent = median_ms(works[name], device)
    return {"kind": kind, "map": f"{channels} x {height} x {width}", "pixels": height * width, "ms": spent}


def layers_of(row: Row) -> tuple[list[Layer], list[Layer]]:
    """Layers of the network and of the work around it, of a row that `Setting.facts` began."""
    picture = PICTURES[row["picture"]]
    network = network_layers(
        row["architecture"], row["channels"], picture.height, picture.width, row["precision"], row["sft"]
    )
    return network, picture_layers(picture.height, picture.width)
