"""Cases of test_fused_color.py: the fused kernels beside pipeline.color on the CPU.

    TRITON_INTERPRET=1 python tests/fused_color_cases.py run        every case in Triton's interpreter
    python tests/fused_color_cases.py compile all                   every kernel for every GPU ahead of time, without a GPU
    python tests/fused_color_cases.py compile some                  every kernel for one GPU, together for all

Prints one JSON object. Triton reads TRITON_INTERPRET when it is imported, so the tests start a process for each. On a GPU the tests call
`run` in their own process.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline import chroma, color, fused_color, fused_light, light, transfer
from pipeline.color import ColorSpec, OutputSpec, PixelLayout
from pipeline.errors import InputError


@contextmanager
def exactly_rounded_roots() -> Iterator[None]:
    """pipeline.color's only operation that a CPU's torch does not round exactly (MKL's float32 square root) made exact."""
    original = torch.Tensor.sqrt_

    def exact(self: Tensor) -> Tensor:
        return self.copy_(self.double().sqrt())

    torch.Tensor.sqrt_ = exact
    try:
        yield
    finally:
        torch.Tensor.sqrt_ = original


@dataclass(frozen=True)
class UnpackCase:
    size: tuple[int, int, int]
    layout: str
    depth: int
    spec: tuple[str, str, str, str, str]
    encoding: str = "bt1886"


@dataclass(frozen=True)
class PackCase:
    size: tuple[int, int, int]
    out: tuple[str, float, float]
    first_frame: int
    light: str = "noise"


def _unpack_cases() -> dict[str, UnpackCase]:
    cases = {}
    for location in ("left", "center", "topleft", "top", "bottomleft", "bottom"):
        size = (2, 5, 7) if location == "left" else (1, 5, 7)
        cases[f"420-{location}"] = UnpackCase(size, "420", 8, ("bt709", "limited", "bt1886", "bt709", location))
    for number, layout in enumerate(("422", "444", "440", "411", "410", "gray")):
        location = ("center", "bottom")[number % 2]
        spec = (("bt601", "bt709", "bt2020")[number % 3], ("limited", "full")[number % 2], "srgb", "bt709", location)
        cases[layout] = UnpackCase((1, 6, 9), layout, 8, spec, "srgb")
    cases["10-bit, bt2020"] = UnpackCase((2, 4, 6), "420", 10, ("bt2020", "limited", "bt1886", "bt2020", "topleft"))
    cases["10-bit, full, linear"] = UnpackCase(
        (1, 4, 6), "420", 10, ("bt709", "full", "linear", "bt709", "left"), "linear"
    )
    cases["12-bit, bt601-525"] = UnpackCase((1, 3, 6), "422", 12, ("bt601", "limited", "bt1886", "bt601-525", "left"))
    cases["16-bit, bt601-625"] = UnpackCase((1, 3, 6), "444", 16, ("bt601", "limited", "srgb", "bt601-625", "left"))
    cases["rgb"] = UnpackCase((1, 3, 6), "444", 8, ("rgb", "full", "srgb", "bt709", "left"))
    cases["rgb, 16-bit, bt2020"] = UnpackCase((1, 3, 6), "444", 16, ("rgb", "limited", "linear", "bt2020", "left"))
    cases["one pixel"] = UnpackCase((1, 1, 1), "420", 8, ("bt709", "limited", "bt1886", "bt709", "center"))
    cases["one column, 410"] = UnpackCase((1, 5, 1), "410", 8, ("bt709", "limited", "bt1886", "bt709", "center"))
    cases["two programs across"] = UnpackCase((1, 2, 517), "420", 8, ("bt709", "limited", "bt1886", "bt709", "left"))
    return cases


UNPACK = _unpack_cases()
PACK = {
    "pq": PackCase((2, 11, 13), ("pq", 203.0, 1000.0), 0),
    "hlg": PackCase((2, 11, 13), ("hlg", 203.0, 1000.0), 7),
    "pq, one pixel": PackCase((1, 1, 1), ("pq", 203.0, 1000.0), 1),
    "pq, even, far frame": PackCase((1, 4, 6), ("pq", 100.0, 4000.0), (1 << 40) + 3),
    "hlg, negative frame": PackCase((1, 3, 6), ("hlg", 203.0, 800.0), -5),
    "pq, two programs each way": PackCase((1, 9, 261), ("pq", 203.0, 1000.0), 3, "ramp"),
    "pq, channels last": PackCase((1, 6, 5), ("pq", 203.0, 1000.0), 3, "channels_last"),
    "pq, not finite": PackCase((1, 6, 6), ("pq", 203.0, 1000.0), 3, "not finite"),
    "hlg, not finite": PackCase((1, 6, 6), ("hlg", 203.0, 1000.0), 3, "not finite"),
    "pq, many": PackCase((1, 24, 256), ("pq", 203.0, 1000.0), 11, "ramp"),
    "hlg, many": PackCase((1, 24, 256), ("hlg", 203.0, 1000.0), 11),
    "pq, black": PackCase((1, 4, 6), ("pq", 203.0, 1000.0), 3, "black"),
}
LIGHT = {
    "pq, noise": ("pq", (2, 6, 10)),
    "hlg, noise": ("hlg", (2, 6, 10)),
    "pq, flat": ("pq", (1, 4, 6)),
    "hlg, flat": ("hlg", (1, 4, 6)),
    "pq, two programs across": ("pq", (1, 2, 1030)),
}


def code_planes(case: UnpackCase) -> tuple[Tensor, ...]:
    """Every code of the depth: blacker than black, whiter than white, and colours outside any gamut."""
    n, height, width = case.size
    across, down = chroma.SUBSAMPLING[case.layout]
    sizes = [(n, height, width)] + [(n, -(-height // down), -(-width // across))] * 2
    generator = torch.Generator().manual_seed(len(case.layout) + case.depth + height * width)
    kind = torch.uint8 if case.depth == 8 else torch.uint16
    planes = (torch.randint(0, 1 << case.depth, size, generator=generator).to(kind) for size in sizes)
    return tuple(planes)[: 1 if case.layout == "gray" else 3]


def light_frames(case: PackCase) -> Tensor:
    """Linear light with negatives, values far above peak_nits, and what the case names."""
    n, height, width = case.size
    generator = torch.Generator().manual_seed(height * width)
    noise = torch.randn(n, 3, height, width, generator=generator)
    if case.light == "ramp":
        ramp = torch.linspace(-0.05, 1.7, height * width).view(1, 1, height, width) ** 3
        return ramp + 0.01 * noise
    if case.light == "black":
        return torch.zeros_like(noise)
    frames = noise.abs() ** 3 * noise.sign() + 0.3
    if case.light == "not finite":
        flat = frames.view(-1)
        flat[::5], flat[1::7], flat[2::11] = torch.nan, torch.inf, -torch.inf
    return frames.to(memory_format=torch.channels_last) if case.light == "channels_last" else frames


def packed_planes(name: str) -> tuple[Tensor, ...]:
    n, height, width = LIGHT[name][1]
    sizes = ((n, height, width), (n, height // 2, width // 2), (n, height // 2, width // 2))
    if "flat" in name:
        codes = (torch.full(size, code) for size, code in zip(sizes, (500, 512, 512), strict=True))
    else:
        generator = torch.Generator().manual_seed(5)
        codes = (torch.randint(4, 1020, size, generator=generator) for size in sizes)
    return tuple(plane.to(torch.uint16) for plane in codes)


def largest(a: Tensor, b: Tensor) -> float:
    return (a.double() - b.double()).abs().max().item()


def run_unpack(case: UnpackCase, device: str) -> dict[str, object]:
    planes, layout, spec = code_planes(case), PixelLayout(case.layout, case.depth), ColorSpec(*case.spec)
    there = tuple(plane.to(device) for plane in planes)
    alone = fused_color.unpack(there, layout, spec).cpu()
    linear, coded = (part.cpu() for part in fused_color.unpack_coded(there, layout, spec, case.encoding))
    expected = color.unpack(planes, layout, spec)
    with exactly_rounded_roots():
        exact = color.coded_signal(expected, case.encoding)
    return {
        "linear_same": torch.equal(linear, expected) and torch.equal(alone, expected),
        "coded_same": torch.equal(coded, exact),
        "coded_error": largest(coded, color.coded_signal(expected, case.encoding)),
        "lowest": linear.min().item(),
        "highest": linear.max().item(),
    }


def run_pack(case: PackCase, device: str) -> dict[str, object]:
    frames, out = light_frames(case), OutputSpec(*case.out)
    numbers = torch.arange(case.first_frame, case.first_frame + case.size[0])
    planes = [plane.cpu() for plane in fused_color.pack(frames.to(device), out, numbers)]
    with exactly_rounded_roots():
        exact = color.pack(frames, out, numbers)
    plain = color.pack(frames, out, numbers)
    return {
        "same": all(torch.equal(a, b) for a, b in zip(planes, exact, strict=True)),
        "shapes": [list(plane.shape) for plane in planes],
        "codes": sum(plane.numel() for plane in planes),
        "flipped": sum((a.int() != b.int()).sum().item() for a, b in zip(planes, plain, strict=True)),
        "largest": max(largest(a, b) for a, b in zip(planes, plain, strict=True)),
        "levels": [sorted(set(plane.int().view(-1).tolist())) for plane in planes] if case.light == "black" else [],
    }


def run_light(name: str, device: str) -> dict[str, object]:
    transfer_name, planes = LIGHT[name][0], packed_planes(name)
    there = tuple(plane.to(device) for plane in planes)
    counts = fused_light.histogram(*there, transfer_name).cpu()
    with exactly_rounded_roots():
        same = fused_light.measure(*there, transfer_name) == light.measure(*planes, transfer_name)
        if transfer_name == "pq":
            signal = color.hdr_maximum(*planes)
        else:
            signal = transfer.PQ_ENCODE.apply_(color.unpack_hdr(*planes, transfer_name).amax(dim=1))
    places = (signal * 14016).round().clamp(0, 14016).to(torch.int64).flatten(1)
    expected = torch.stack([torch.bincount(frame, minlength=14017) for frame in places])
    return {"same": same, "counts_same": torch.equal(counts.to(torch.int64), expected), "levels": counts.shape[1]}


def run_strides(device: str) -> dict[str, bool]:
    """Planes as decoders hand them over: cropped, with padded lines, with interleaved chroma (NV12, P010)."""
    generator = torch.Generator().manual_seed(9)
    spec, same = ColorSpec("bt709", "limited", "bt1886", "bt709", "left"), {}

    def check(name: str, planes: tuple[Tensor, ...], depth: int, dense: tuple[Tensor, ...], dense_depth: int) -> None:
        got = fused_color.unpack(planes, PixelLayout("420", depth), spec).cpu()
        wanted = color.unpack(tuple(plane.cpu() for plane in dense), PixelLayout("420", dense_depth), spec)
        same[name] = torch.equal(got, wanted)

    surface = torch.randint(0, 256, (1, 12, 16), dtype=torch.uint8, generator=generator).to(device)
    y, u, v = surface[:, :5, 3:12], surface[:, 8:11, 0:10:2], surface[:, 8:11, 1:10:2]
    check("NV12, cropped", (y, u, v), 8, tuple(plane.contiguous() for plane in (y, u, v)), 8)
    check("unlike strides", (y, u, v.contiguous()), 8, tuple(plane.contiguous() for plane in (y, u, v)), 8)
    codes = [torch.randint(0, 1024, size, generator=generator) for size in ((1, 4, 6), (1, 2, 3), (1, 2, 3))]
    shifted = tuple((plane << 6).to(torch.uint16).to(device) for plane in codes)
    check("P010 as 16 bits", shifted, 16, tuple((plane << 6).to(torch.uint16) for plane in codes), 16)
    linear = fused_color.unpack(shifted, PixelLayout("420", 16), spec).cpu()
    ten = color.unpack(tuple(plane.to(torch.uint16) for plane in codes), PixelLayout("420", 10), spec)
    same["P010 is 10 bits"] = largest(linear, ten) < 2e-6
    return same


def run_edges(device: str) -> dict[str, bool]:
    planes = tuple(torch.zeros(0, side, side, dtype=torch.uint8, device=device) for side in (4, 2, 2))
    spec, out = ColorSpec("bt709", "limited", "bt1886", "bt709", "left"), OutputSpec("pq", 203.0, 1000.0)
    none = fused_color.unpack(planes, PixelLayout("420", 8), spec)
    packed = fused_color.pack(none, out, torch.zeros(0, dtype=torch.int64))
    counts = fused_light.histogram(*packed, "pq")
    empty = none.shape == (0, 3, 4, 4) and packed[0].shape == (0, 4, 4) and packed[1].shape == (0, 2, 2)
    one = tuple(torch.zeros(1, side, side, dtype=torch.uint8, device=device) for side in (2, 1, 1))
    light_frame = torch.zeros(1, 3, 2, 2, device=device)
    layout, numbers = PixelLayout("420", 8), torch.zeros(1, dtype=torch.int64)
    bad = {
        "matrix": lambda: fused_color.unpack(one, layout, ColorSpec("x", "limited", "srgb", "bt709", "left")),
        "transfer": lambda: fused_color.unpack(one, layout, ColorSpec("bt709", "limited", "x", "bt709", "left")),
        "primaries": lambda: fused_color.unpack(one, layout, ColorSpec("bt709", "limited", "srgb", "x", "left")),
        "encoding": lambda: fused_color.unpack_coded(one, layout, spec, "x"),
        "planes": lambda: fused_color.unpack(one[:2], layout, spec),
        "output": lambda: fused_color.pack(light_frame, OutputSpec("x", 203.0, 1000.0), numbers),
        "numbers": lambda: fused_color.pack(light_frame, out, torch.zeros(2)),
        "dtype": lambda: fused_color.pack(light_frame.half(), out, numbers),
        "light": lambda: fused_light.histogram(*packed, "x"),
    }
    kinds = {"planes": ValueError, "numbers": ValueError, "dtype": ValueError}
    refused = {f"refuses {name}": raises(call, kinds.get(name, InputError)) for name, call in bad.items()}
    return {"no frames": empty and counts.shape == (0, 14017), **refused}


def raises(call: Callable[[], object], kind: type[Exception]) -> bool:
    try:
        call()
    except kind:
        return True
    return False


def run(device: str) -> dict[str, dict]:
    return {
        "backend": {"words": str(fused_color.backend(torch.device(device)))},
        "unpack": {name: run_unpack(case, device) for name, case in UNPACK.items()},
        "pack": {name: run_pack(case, device) for name, case in PACK.items()},
        "light": {name: run_light(name, device) for name in LIGHT},
        "strides": run_strides(device),
        "edges": run_edges(device),
    }


def compiled(which: str) -> dict[str, dict]:
    """Registers, stack and local memory of kernels for targets, by cuobjdump. which: "all" or "some", see above"""
    lazy = "triton" not in sys.modules
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from pipeline import fused_kernels

    unpack = {
        "KIND": "yuv", "ACROSS": 2, "DOWN": 2, "ACROSS_EIGHTHS": 0, "DOWN_EIGHTHS": 2, "DECODE": True, "CONVERT": True,
        "CODED": "curve", "BLOCK": fused_color.UNPACK_BLOCK, "luma_stride_w": 1, "chroma_stride_w": 1,
    }  # fmt: skip
    pack = {"HLG": False, "ROWS": fused_color.PACK_ROWS, "BLOCK": fused_color.PACK_BLOCK, "stride_w": 1}
    levels = {"LEVELS": 14016, "HLG": False, "BLOCK": fused_light.LIGHT_BLOCK}
    every = (80, 89, 90) if which == "all" else ()
    wanted = {
        "unpack": (fused_kernels.unpack_kernel, unpack, every or (80,)),
        "pack": (fused_kernels.pack_kernel, pack, every or (89,)),
        "pack, hlg": (fused_kernels.pack_kernel, {**pack, "HLG": True}, (90,)),
        "light": (fused_kernels.light_kernel, levels, every or (80,)),
        "light, hlg": (fused_kernels.light_kernel, {**levels, "HLG": True}, (90,)),
    }
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    found: dict[str, dict] = {"imports": {"triton_was_lazy": lazy}}
    for name, (kernel, constants, capabilities) in wanted.items():
        names = kernel.arg_names
        source = ASTSource(
            fn=kernel,
            signature={arg: "constexpr" if arg in constants else argument_type(arg) for arg in names},
            constexprs={(names.index(arg),): value for arg, value in constants.items()},
            attrs={
                (place,): [["tt.divisibility", 16]] for place, arg in enumerate(names) if argument_type(arg) != "fp32"
            },
        )
        for capability in capabilities:
            target = GPUTarget("cuda", capability, 32)
            kernel_binary = triton.compile(source, target=target, options=dict(fused_color.LAUNCH))
            with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                file.write(kernel_binary.asm["cubin"])
                file.flush()
                words = [str(tools / "cuobjdump"), "--dump-resource-usage", file.name]
                usage = subprocess.run(words, check=True, capture_output=True, text=True).stdout
            numbers = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
            inexact = sorted(
                set(re.findall(r"\b(?:fma|\w+(?:\.\w+)*\.(?:approx|ftz))[.\w]*", kernel_binary.asm["ptx"]))
            )
            found[f"{name}, sm_{capability}"] = {**numbers, "inexact": inexact}
    return found


def argument_type(name: str) -> str:
    if name in ("first", "second", "third"):
        return "*u8"
    if name in ("y", "u", "v"):
        return "*u16"
    if name in ("linear", "coded", "noise"):
        return "*fp32"
    if name.endswith("table") or name == "frame_numbers":
        return "*i64"
    if name == "histogram":
        return "*i32"
    whole = "stride" in name or name.endswith(("height", "width"))
    return "i32" if whole else "fp32"


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(run("cpu") if sys.argv[1] == "run" else compiled(sys.argv[2])))  # noqa: T201
