"""pipeline.fused_color and fused_light: the Triton kernels against pipeline.color and pipeline.light on the CPU.

Tolerance: none. The kernels do the oracle's operations in its order, each rounded by itself, so they must give its bits; only the
oracle's square roots, which MKL does not round exactly, are made exact for that (fused_color_cases.exactly_rounded_roots). Beside the
oracle as it is, coded signals may differ by two last bits, and one code in a thousand by one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import fused_color_cases as cases
import pytest
import torch

from pipeline import color, fused_color, fused_light, light
from pipeline.color import ColorSpec, OutputSpec, PixelLayout

pytestmark = pytest.mark.timeout(600)  # two child processes of about 15 CPU seconds each, on machines that may be busy

CODED_TOLERANCE = 2.4e-7
"""Two last bits of a float32 just below 1."""
FLIPPED_SHARE = 1e-3
BT709 = ColorSpec("bt709", "limited", "bt1886", "bt709", "left")
PQ = OutputSpec("pq", 203.0, 1000.0)


def child(*words: str, cache: Path, **variables: str) -> dict[str, dict]:
    """What fused_color_cases.py prints in a process of its own."""
    kept = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, cases.__file__, *words],
        env={**kept, "OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(cache), **variables},
        capture_output=True,
        text=True,
        timeout=560,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    return child("run", cache=tmp_path_factory.mktemp("triton"), TRITON_INTERPRET="1")


@pytest.fixture(scope="module")
def on_cuda() -> dict[str, dict]:
    return cases.run("cuda")


def check_unpack(found: dict[str, object]) -> None:
    assert found["linear_same"] and found["coded_same"]
    assert found["coded_error"] <= CODED_TOLERANCE


def check_pack(found: dict[str, object], size: tuple[int, int, int]) -> None:
    n, height, width = size
    high, wide = (height + 1) // 2, (width + 1) // 2
    assert found["shapes"] == [[n, 2 * high, 2 * wide], [n, high, wide], [n, high, wide]]
    assert found["same"]
    assert found["flipped"] <= max(
        1, FLIPPED_SHARE * found["codes"]
    )  # a small picture's share may be less than one code
    assert found["largest"] <= 1


@pytest.mark.parametrize("name", cases.UNPACK)
def test_unpack_has_the_oracles_bits(interpreted: dict[str, dict], name: str) -> None:
    check_unpack(interpreted["unpack"][name])


def test_unpack_cases_reach_below_black_and_above_white(interpreted: dict[str, dict]) -> None:
    found = interpreted["unpack"]["two programs across"]
    assert found["lowest"] < -0.5 and found["highest"] > 1.2


@pytest.mark.parametrize("name", cases.PACK)
def test_pack_has_the_oracles_codes(interpreted: dict[str, dict], name: str) -> None:
    check_pack(interpreted["pack"][name], cases.PACK[name].size)


def test_dithered_black_is_one_code(interpreted: dict[str, dict]) -> None:
    assert interpreted["pack"]["pq, black"]["levels"] == [[64], [512], [512]]


@pytest.mark.parametrize("name", cases.LIGHT)
def test_light_levels_are_equal(interpreted: dict[str, dict], name: str) -> None:
    assert interpreted["light"][name] == {"same": True, "counts_same": True, "levels": 14017}


def test_decoders_strides_and_edges(interpreted: dict[str, dict]) -> None:
    assert [name for part in ("strides", "edges") for name, good in interpreted[part].items() if not good] == []
    assert interpreted["backend"]["words"] == "colour by triton: the kernels compile and run here"


@pytest.mark.parametrize(("which", "count"), [("some", 5), pytest.param("all", 11, marks=pytest.mark.long)])
def test_compiled_ahead_without_spills_or_inexact_arithmetic(tmp_path: Path, which: str, count: int) -> None:
    """sm_80, sm_89, sm_90: no local memory, and no instruction that would round otherwise than the oracle."""
    compiled = child("compile", which, cache=tmp_path)
    assert compiled.pop("imports") == {"triton_was_lazy": True}
    assert len(compiled) == count
    for name, found in compiled.items():
        assert found["STACK"] == found["LOCAL"] == 0, name
        assert 0 < found["REG"] <= 128, name
        assert found["inexact"] == [], name


def test_without_kernels_the_work_is_done_by_torch() -> None:
    assert str(fused_color.backend(torch.device("cpu"))) == "colour by torch: a cpu has no fused kernels"
    planes, layout = cases.code_planes(cases.UNPACK["420-left"]), PixelLayout("420", 8)
    linear = color.unpack(planes, layout, BT709)
    assert torch.equal(fused_color.unpack(planes, layout, BT709), linear)
    both = fused_color.unpack_coded(planes, layout, BT709, "srgb")
    assert torch.equal(both[0], linear) and torch.equal(both[1], color.coded_signal(linear, "srgb"))
    packed = fused_color.pack(linear, PQ, torch.arange(2))
    assert all(torch.equal(a, b) for a, b in zip(packed, color.pack(linear, PQ, torch.arange(2)), strict=True))
    assert fused_light.measure(*packed, "pq") == light.measure(*packed, "pq")


def fresh_backend() -> fused_color.Backend:
    return fused_color.backend.__wrapped__(torch.device("cpu"))


def test_a_triton_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(fused_color, "interpreting", lambda: True)
    monkeypatch.setattr(fused_color, "_unpack", fail)
    assert fresh_backend() == fused_color.Backend("torch", "Triton does not work here (Failed to find C compiler.)")
    monkeypatch.setitem(sys.modules, "triton.errors", None)
    assert fresh_backend().reason.startswith("triton cannot be imported (")


@pytest.mark.gpu
def test_cuda_has_the_oracles_bits(on_cuda: dict[str, dict]) -> None:
    assert on_cuda["backend"]["words"] == "colour by triton: the kernels compile and run here"
    for found in on_cuda["unpack"].values():
        check_unpack(found)
    for name, found in on_cuda["pack"].items():
        check_pack(found, cases.PACK[name].size)
    assert all(found["same"] and found["counts_same"] for found in on_cuda["light"].values())
    assert all(on_cuda["strides"].values()) and all(on_cuda["edges"].values())


@pytest.mark.gpu
def test_cuda_graph_reads_new_planes_and_frame_numbers_and_never_waits() -> None:
    layout, case = (
        PixelLayout("420", 8),
        cases.UnpackCase((2, 270, 480), "420", 8, ("bt709", "limited", "bt1886", "bt709", "left")),
    )
    source = cases.code_planes(case)
    planes = tuple(torch.zeros_like(plane, device="cuda") for plane in source)
    numbers = torch.zeros(2, dtype=torch.int64, device="cuda")

    def work() -> tuple[torch.Tensor, ...]:
        linear, coded = fused_color.unpack_coded(planes, layout, BT709, "bt1886")
        packed = fused_color.pack(linear, PQ, numbers)
        return linear, coded, *packed, fused_light.histogram(*packed, "pq")

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = work()
    for plane, wanted in zip(planes, source, strict=True):
        plane.copy_(wanted)
    numbers.copy_(torch.tensor([5, 6]))
    graph.replay()
    torch.cuda.synchronize()
    linear = color.unpack(source, layout, BT709)
    with cases.exactly_rounded_roots():
        expected = (linear, color.coded_signal(linear, "bt1886"), *color.pack(linear, PQ, torch.tensor([5, 6])))
    assert all(torch.equal(got.cpu(), want) for got, want in zip(results[:5], expected, strict=True))
    assert fused_light.levels(results[5].cpu()) == light.measure(*expected[2:], "pq")


@pytest.mark.gpu
def test_cuda_work_follows_the_current_stream() -> None:
    layout, source = PixelLayout("420", 8), cases.code_planes(cases.UNPACK["420-left"])
    planes = tuple(torch.zeros_like(plane, device="cuda") for plane in source)
    there = tuple(plane.to("cuda") for plane in source)
    fused_color.unpack(planes, layout, BT709)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)
        for plane, wanted in zip(planes, there, strict=True):
            plane.copy_(wanted)
        linear = fused_color.unpack(planes, layout, BT709)
    side.synchronize()
    assert torch.equal(linear.cpu(), color.unpack(source, layout, BT709))
