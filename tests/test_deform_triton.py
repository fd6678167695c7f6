"""The Triton backend: in the interpreter, compiled for GPUs that are not here, on a GPU where there is one; and when it is chosen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.deform_conv import choose_backend, deform_conv2d, triton_launch

ROOT = Path(__file__).resolve().parents[1]
WIDTHS = (16, 32, 64)
CAPABILITIES = (80, 89, 90)
EVERY = {("bfloat16", capability, width) for capability in CAPABILITIES for width in WIDTHS}
"""For the type that networks run in."""
SOME = {("bfloat16", 80, 64), ("bfloat16", 89, 16), ("bfloat16", 90, 32), ("float32", 90, 64), ("float16", 80, 64)}
"""Every type, every width and every GPU."""


def run(arguments: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Python in the repository's root, one thread, with these environment variables and without TRITON_INTERPRET."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])} | variables
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    "which", ["not long", pytest.param("long", marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
def test_in_the_interpreter(which: str) -> None:
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", which, "tests/interpreted_deform.py"]
    child = run(words, TRITON_INTERPRET="1")
    assert child.returncode == 0, child.stdout + child.stderr
    assert "skipped" not in child.stdout


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(SOME, id="some"),
        pytest.param(EVERY - SOME, id="the others", marks=[pytest.mark.long, pytest.mark.timeout(900)]),
    ],
)
def test_compiles_without_spills(tmp_path: Path, wanted: set[tuple[str, int, int]]) -> None:
    """What the kernels need on each GPU, compiled afresh."""
    arguments = [str(value) for row in sorted(wanted) for value in row]
    child = run(["tests/compiled_deform.py", *arguments], TRITON_CACHE_DIR=str(tmp_path))
    assert child.returncode == 0, child.stderr
    compiled = json.loads(child.stdout)
    assert len(compiled) == 4 * len(wanted)
    for name, needs in compiled.items():
        assert needs["spilled"] == 0, (name, needs)
        assert needs["matrix"] and needs["wide_loads"], (name, needs)
        assert needs["shared"] <= 48 * 1024, (name, needs)  # two programs at least share a multiprocessor of 8.9


def test_without_triton_everything_else_works() -> None:
    code = """
import sys
sys.modules["triton"] = None  # importing it fails from here on
import torch
from models.deform_conv import deform_conv2d
x, offset, weight = torch.ones(1, 4, 5, 5), torch.zeros(1, 18, 5, 5), torch.ones(4, 4, 3, 3)
assert deform_conv2d(x, offset, None, weight, None)[0, 0, 2, 2] == 36
"""
    child = run(["-c", code])
    assert child.returncode == 0, child.stderr


def test_a_cpu_tensor_is_refused() -> None:
    x, offset, weight = torch.zeros(1, 4, 5, 5), torch.zeros(1, 18, 5, 5), torch.zeros(4, 4, 3, 3)
    with pytest.raises(ValueError, match="the triton backend runs on CUDA only, not on cpu"):
        deform_conv2d(x, offset, None, weight, None, backend="triton")


def pretend(monkeypatch: pytest.MonkeyPatch, version: str | None, capability: tuple[int, int] | None) -> None:
    """A machine with that Triton and that GPU."""
    versions = {"triton": version, "torchvision": "0.26.0"}
    monkeypatch.setattr(triton_launch, "version_of", versions.get)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)


@pytest.mark.parametrize(
    ("version", "capability", "backend", "reason"),
    [
        ("3.6.0", (9, 0), "triton", "fused kernels, Triton 3.6.0"),
        ("3.9.1+git", (8, 0), "triton", "fused kernels"),
        ("3.10.0", (9, 0), "reference", "3.6 up to before 3.10"),
        ("3.5.1", (9, 0), "reference", "Triton is 3.5.1"),
        (None, (9, 0), "reference", "Triton is not installed"),
        ("3.6.0", (7, 5), "reference", "capability 7.5 is below 8.0"),
        ("3.6.0", None, "reference", "no CUDA device"),
    ],
)
def test_the_choice_says_why(
    monkeypatch: pytest.MonkeyPatch, version: str | None, capability: tuple[int, int] | None, backend: str, reason: str
) -> None:
    pretend(monkeypatch, version, capability)
    choice = choose_backend("cuda", torch.bfloat16, training=True)
    assert choice.backend == backend
    assert reason in str(choice)
    assert choice.version == (f"triton{version}" if backend == "triton" else "torchvision0.26.0")


def test_float64_stays_with_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "3.6.0", (9, 0))
    assert choose_backend("cuda:1", torch.float64, training=False).backend == "reference"
    assert choose_backend("cpu", torch.float32, training=False).backend == "fast"


@pytest.mark.parametrize("channels", [1, 3, 15, 16, 17, 24, 64, 100, 512])
@pytest.mark.parametrize("dtype", triton_launch.DTYPES)
def test_blocks_are_what_triton_takes(dtype: torch.dtype, channels: int) -> None:
    tables = (
        triton_launch.forward_blocks,
        triton_launch.sampled_gradient_blocks,
        triton_launch.weight_gradient_blocks,
    )
    for table in tables:
        blocks = table(dtype, channels, channels)
        for size in (blocks.rows * blocks.columns, blocks.channels, blocks.outputs):
            assert 16 <= size <= 128 and size & (size - 1) == 0


GPU_SHAPES = [(1, 64, 64, 67, 121, 1), (2, 16, 16, 33, 40, 1), (1, 24, 40, 31, 17, 2), (3, 32, 32, 64, 64, 4)]


def on_the_gpu(n: int, c: int, o: int, h: int, w: int, groups: int, dtype: torch.dtype) -> list[Tensor]:
    """x, offset, mask, weight, bias, residual, channels_last, with far offsets among them."""
    g = torch.Generator("cuda").manual_seed(n + c + h)
    new = {"generator": g, "device": "cuda"}
    x, offset = torch.randn(n, c, h, w, **new).to(dtype), torch.randn(n, 18 * groups, h, w, **new) * 3
    offset[:, :, ::7, ::5] *= 1e6
    mask, weight = torch.rand(n, 9 * groups, h, w, **new), (torch.randn(o, c, 3, 3, **new) / (3 * c**0.5)).to(dtype)
    bias, residual = torch.randn(o, **new).to(dtype), torch.randn(n, o, h, w, **new).to(dtype)
    maps = [t.contiguous(memory_format=torch.channels_last) for t in (x, offset, mask, weight)]
    return [*maps, bias, residual]


def convolve(tensors: list[Tensor], backend: str) -> Tensor:
    *most, residual = tensors
    return deform_conv2d(*most, residual=residual, backend=backend)


TOLERANCES = {torch.float32: 2e-5, torch.float16: 1.5e-3, torch.bfloat16: 1e-2}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", GPU_SHAPES)
def test_cuda_agrees_with_torchvision(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    results = []
    for backend, as_dtype in (("triton", dtype), ("reference", torch.float32)):
        tensors = [t.to(as_dtype) if i not in (1, 2) else t.clone() for i, t in enumerate(on_the_gpu(*shape, dtype))]
        tensors = [t.requires_grad_() for t in tensors]
        out = convolve(tensors, backend)
        out.float().backward(torch.linspace(-1, 1, out.numel(), device="cuda").view(out.shape))
        results.append([out.detach().float(), *(t.grad.float() for t in tensors)])
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).norm() / theirs.norm() < TOLERANCES[dtype]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_cuda_nan_offset_gives_nan_there_and_nowhere_else(dtype: torch.dtype) -> None:
    tensors = on_the_gpu(*GPU_SHAPES[0], dtype)
    tensors[1][0, 6, 4, 5] = torch.nan
    tensors[1][0, 0, 0, 0] = torch.inf
    bad = convolve(tensors, "triton").isnan()
    assert bad[0, :, 4, 5].all() and bad.sum() == bad.shape[1]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_cuda_bits_are_the_same_each_time_and_in_any_batch(dtype: torch.dtype) -> None:
    tensors = on_the_gpu(*GPU_SHAPES[3], dtype)
    together = convolve(tensors, "triton")
    assert torch.equal(together, convolve(tensors, "triton"))
    for i in range(3):
        one = [t if t is tensors[3] or t is tensors[4] else t[i : i + 1] for t in tensors]
        assert torch.equal(convolve(one, "triton"), together[i : i + 1])


@pytest.mark.gpu
def test_cuda_graphs_and_side_streams() -> None:
    tensors = on_the_gpu(*GPU_SHAPES[0], torch.bfloat16)
    expected = convolve(tensors, "triton")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        assert torch.equal(convolve(tensors, "triton"), expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = convolve(tensors, "triton")
    out.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, expected)


@pytest.mark.gpu
def test_cuda_auto_is_triton_and_compiles() -> None:
    assert choose_backend("cuda", torch.bfloat16, training=False).backend == "triton"
    tensors = on_the_gpu(*GPU_SHAPES[0], torch.bfloat16)
    compiled = torch.compile(lambda *t: convolve(list(t), "auto"), fullgraph=True)
    assert torch.equal(compiled(*tensors), convolve(tensors, "triton"))
