"""The engine for GPUs. Without one: its order of work under every legal order of its streams. With one: bits, graphs, memory."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from configs.schema import load_config
from models import registry
from models.deform_conv import Choice as Backend
from models.deform_conv import deform_conv2d
from models.model import Model, ModelSpec
from pipeline import convert as conversions
from pipeline import cuda_engine, engine_maker, fused_color, span_job
from pipeline import engine as engines
from pipeline.batching import DeviceMemoryError
from pipeline.choice import Choice
from pipeline.color import ColorSpec, OutputSpec, PixelLayout
from pipeline.cuda_engine import CudaEngine
from pipeline.cuda_streams import CudaStreams, DeformWatch, compute_stream
from pipeline.engine import Engine, PackedFrame
from pipeline.hardware import GPU, HOST
from tests.clips import make_clip
from tests.deferred_streams import DeferredStreams

HEIGHT, WIDTH = 34, 52
FIRST = 1000


@dataclass
class SociableSpec:
    halo_px: int = 16
    input_encoding: str = "bt1886"


@dataclass
class Sociable:
    """A network whose bits depend on everything that a careless engine could change: a frame's neighbours in the call, its place
    among them, and how many they are. Frames whose first pixel is black come out not finite in bf16."""

    spec: SociableSpec = field(default_factory=SociableSpec)
    sizes: list[int] = field(default_factory=list)

    def restore(self, coded: Tensor, precision: str) -> Tensor:
        if precision == "fp32":
            return coded.pow(2.4) * 1.5
        self.sizes.append(len(coded))
        place = torch.arange(len(coded)).view(-1, 1, 1, 1)
        light = coded.pow(2.4) * (1 + 0.01 * place + 0.1 * len(coded)) + coded.mean() * 0.2
        return light.masked_fill((coded[:, :1, :1, :1] == 0).expand_as(light), torch.nan)

    def activation_bytes(self, height: int, width: int, precision: str) -> int:
        return 12 * height * width


def make_engine(
    model: object, device: str = "cpu", precision: str = "bf16", layout: str = "420", chroma: str = "420"
) -> Engine:
    return Engine(
        model=model,
        stage_names=("reconstruct", "grade"),
        layout=PixelLayout(layout, 8),
        color=ColorSpec("bt709", "limited", "bt1886", "bt709", "left"),
        out=OutputSpec("pq", 203.0, 1000.0, chroma),
        precision=precision,
        tile=0,
        device=device,
    )


def noise_frames(count: int, height: int = HEIGHT, width: int = WIDTH, black: frozenset[int] = frozenset()) -> list:
    chance = torch.Generator().manual_seed(3)
    sizes = [(height, width), *[(-(-height // 2), -(-width // 2))] * 2]
    frames = []
    for number in range(count):
        planes = tuple(torch.randint(40, 200, size, dtype=torch.uint8, generator=chance) for size in sizes)
        if number in black:
            planes[0][:2, :2] = 16
            for plane in planes[1:]:
                plane[:2, :2] = 128
        frames.append(planes)
    return frames


def same(one: PackedFrame, other: PackedFrame) -> bool:
    planes = all(torch.equal(getattr(one, name), getattr(other, name)) for name in "yuv")
    return planes and (one.levels, one.mean_luma) == (other.levels, other.mean_luma)


def by_hand(frames: list, compute_frames: int) -> list[PackedFrame]:
    """What must come out: the plain engine on compute batches, the last one filled up by repetition."""
    engine, out = make_engine(Sociable()), []
    for start in range(0, len(frames), compute_frames):
        group = frames[start : start + compute_frames]
        filled = group + [group[-1]] * (compute_frames - len(group))
        out += list(engine.process(filled, FIRST + start))[: len(group)]
    return out


@settings(max_examples=25)
@given(
    count=st.integers(1, 12),
    compute_frames=st.integers(1, 3),
    multiple=st.integers(1, 3),
    seed=st.integers(0, 1 << 16),
    full_at=st.frozensets(st.integers(0, 80), max_size=1),
    black=st.frozensets(st.integers(0, 11), max_size=2),
    stay=st.booleans(),
)
def test_bytes_depend_on_neither_batch_nor_memory_nor_the_order_of_streams(
    count: int,
    compute_frames: int,
    multiple: int,
    seed: int,
    full_at: frozenset[int],
    black: frozenset[int],
    stay: bool,
) -> None:
    frames = noise_frames(count, black=black)
    streams = DeferredStreams(seed, full_at=full_at if multiple > 1 else frozenset())
    model = Sociable()
    engine = CudaEngine(
        make_engine(model),
        threads=2,
        compute_frames=compute_frames,
        batch_frames=compute_frames * multiple,
        make_streams=lambda on_default: streams,
    )
    got = list(engine.stream(iter(frames), FIRST, stay))
    wanted = by_hand(frames, compute_frames)
    assert len(got) == count
    assert all(same(one, other) for one, other in zip(got, wanted, strict=True))
    assert set(model.sizes) == {compute_frames}, "the network saw another shape"
    engine.close()


def run_deferred(frames: list, *, waits: bool, seed: int, spans: int = 1, stay: bool = False) -> list[PackedFrame]:
    streams = DeferredStreams(seed, waits=waits)
    engine = CudaEngine(make_engine(Sociable()), threads=2, batch_frames=2, make_streams=lambda on_default: streams)
    out = list(itertools.chain.from_iterable(engine.stream(iter(frames), FIRST, stay) for _ in range(spans)))
    engine.close()
    return out


@pytest.mark.parametrize("stay", [False, True])
def test_without_events_the_bytes_would_be_wrong(stay: bool) -> None:
    """So the test above would notice a missing one."""
    frames = noise_frames(6)
    wanted = by_hand(frames, 1)

    def right(waits: bool, seed: int) -> bool:
        got = run_deferred(frames, waits=waits, seed=seed, stay=stay)
        return all(same(one, other) for one, other in zip(got, wanted, strict=True))

    assert all(right(True, seed) for seed in range(4))
    assert not all(right(False, seed) for seed in range(4))


def test_memory_is_made_once_a_shape_and_used_for_the_next_span() -> None:
    streams = DeferredStreams(0)
    engine = CudaEngine(make_engine(Sociable()), batch_frames=2, make_streams=lambda on_default: streams)
    frames = noise_frames(5)
    wanted = by_hand(frames, 1)
    for _ in range(3):
        assert all(same(one, other) for one, other in zip(engine.stream(frames, FIRST), wanted, strict=True))
    once = streams.allocations
    assert once == 4 * (3 + 1 + 5), "four slots, each of three planes, numbers, and y, u, v, the flags and the sums"
    larger = noise_frames(2, 40, 60)
    assert all(same(one, other) for one, other in zip(engine.stream(larger, FIRST), by_hand(larger, 1), strict=True))
    assert streams.allocations == 2 * once
    assert list(engine.stream([], 0)) == []
    engine.close()


class CountingStreams(DeferredStreams):
    """Notes what memory of the host it is asked for."""

    def __init__(self) -> None:
        super().__init__(3)
        self.hosted: list[tuple[int, ...]] = []

    def host(self, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        self.hosted.append(size)
        return super().host(size, dtype)


def test_of_frames_that_stay_only_a_flag_and_a_sum_come_down() -> None:
    streams, frames = CountingStreams(), noise_frames(5, black=frozenset({2}))
    engine = CudaEngine(make_engine(Sociable()), batch_frames=2, make_streams=lambda on_default: streams)
    wanted = by_hand(frames, 1)
    for stay, down in ((True, 2), (False, 5), (True, 2)):
        streams.hosted.clear()
        assert all(same(*pair) for pair in zip(engine.stream(frames, FIRST, stay), wanted, strict=True))
        assert len(streams.hosted) == 4 * (3 + 1 + down), "three planes and the numbers go up"
    engine.close()


@pytest.mark.parametrize("stay", [False, True])
def test_frames_belong_to_the_receiver(stay: bool) -> None:
    frames = noise_frames(9)
    got = run_deferred(frames, waits=True, seed=1, stay=stay)
    assert len({plane.data_ptr() for frame in got for plane in (frame.y, frame.u, frame.v)}) == 3 * len(frames)
    assert all(plane.is_contiguous() for frame in got for plane in (frame.y, frame.u, frame.v))


def test_odd_sizes_and_full_chroma() -> None:
    frames = noise_frames(3, 33, 51)
    streams = DeferredStreams(5)
    engine = CudaEngine(make_engine(Sociable()), make_streams=lambda on_default: streams)
    assert all(same(*pair) for pair in zip(engine.stream(frames, FIRST), by_hand(frames, 1), strict=True))
    engine.close()


def test_chroma_as_prores_takes_it() -> None:
    """4:2:2 comes out as the plain engine makes it, and the kernels, which know 4:2:0 alone, say no."""
    frames, plain = noise_frames(3, 32, 50), make_engine(Sociable(), chroma="422")
    engine = CudaEngine(make_engine(Sociable(), chroma="422"), make_streams=lambda on_default: DeferredStreams(5))
    wanted = [plain.process([frame], FIRST + number)[0] for number, frame in enumerate(frames)]
    got = list(engine.stream(frames, FIRST))
    assert all(same(*pair) for pair in zip(got, wanted, strict=True)) and got[0].u.shape == (32, 25)
    assert "no kernels for 422" in str(engine.choices[0])
    engine.close()
    with pytest.raises(ValueError, match="4:2:0"):
        fused_color.pack(torch.zeros(1, 3, 4, 4), OutputSpec("pq", 203.0, 1000.0, "422"), torch.arange(1))


def test_stopping_half_way_leaves_nothing_on_the_way() -> None:
    streams = DeferredStreams(2)
    engine = CudaEngine(make_engine(Sociable()), batch_frames=2, make_streams=lambda on_default: streams)
    frames = noise_frames(12)
    half = engine.stream(frames, FIRST)
    next(half)
    half.close()
    wanted = by_hand(frames, 1)
    assert all(same(one, other) for one, other in zip(engine.stream(frames, FIRST), wanted, strict=True))
    engine.close()


@pytest.mark.parametrize("compute_frames", [1, 2, 3])
def test_a_frame_that_is_only_flagged_is_redone_and_counted_once(compute_frames: int) -> None:
    frames = noise_frames(7, black=frozenset({0, 5, 6}))
    engine = CudaEngine(
        make_engine(Sociable()),
        compute_frames=compute_frames,
        batch_frames=6,
        make_streams=lambda on_default: DeferredStreams(4),
    )
    wanted = by_hand(frames, compute_frames)
    assert all(same(one, other) for one, other in zip(engine.stream(frames, FIRST), wanted, strict=True))
    assert engine.redone_frames == 3
    engine.close()


def test_its_choices_are_printed_with_reasons() -> None:
    streams = DeferredStreams(0, full_at=frozenset({9}))
    engine = CudaEngine(make_engine(Sociable()), make_streams=lambda on_default: streams)
    assert engine.choices == ()
    list(engine.stream(noise_frames(2), FIRST))
    text = "\n".join(map(str, engine.choices))
    for words in (
        "colour: torch (",
        "deformable convolution: fast (",
        "compute stream: side (",
        "CUDA graph: eager (a cpu",
        "frames a batch: 8 (",
    ):
        assert words in text
    assert "batch after running out of memory: 4 (halved 1 times)" in text
    engine.close()


def with_fused_colour() -> None:
    """In a process where Triton interprets its kernels: what the fused kernels and the ring make together."""
    frames = noise_frames(3, 18, 26)
    engine = CudaEngine(make_engine(Sociable()), batch_frames=2, make_streams=lambda on_default: DeferredStreams(6))
    got = list(engine.stream(frames, FIRST))
    assert "colour: triton" in str(engine.choices[0]), engine.choices[0]
    assert all(same(*pair) for pair in zip(got, by_hand(frames, 1), strict=True))
    engine.close()


def test_fused_colour_and_light_give_the_same_bytes_and_levels() -> None:
    words = [sys.executable, "-c", "from tests.test_engine_cuda import with_fused_colour as run; run()"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_engine_is_imported_on_a_bare_machine() -> None:
    missing = ("av", "ray", "omegaconf", "kornia", "cv2")
    words = f"import sys; sys.modules.update(dict.fromkeys({missing})); import pipeline.cuda_engine"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class FakeCuda(CudaStreams):
    """Passes for the real ones where nothing is launched."""

    compute = None

    def __init__(self) -> None:
        self.forgotten = 0

    def synchronize(self) -> None:
        pass

    def forget(self) -> None:
        self.forgotten += 1


@pytest.mark.parametrize(
    "error", [torch.cuda.OutOfMemoryError("no memory\nmore"), RuntimeError("capture unsafe\nmore")]
)
def test_a_graph_that_cannot_be_recorded_is_done_without(error: RuntimeError, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = CudaEngine(make_engine(Sociable()))
    engine._fused = True
    side, streams = compute_stream(False), FakeCuda()
    monkeypatch.setattr(cuda_engine, "Graphed", lambda *_: "graph")
    assert engine._choose_graph(side, streams, (), torch.zeros(1)).taken == "recorded"
    assert engine._choose_graph(compute_stream(True), streams, (), torch.zeros(1)).taken == "eager"

    def fail(*_: object) -> None:
        raise error

    engine._graph = None
    monkeypatch.setattr(cuda_engine, "Graphed", fail)
    choice = engine._choose_graph(side, streams, (), torch.zeros(1))
    assert choice.taken == "eager" and engine._graph is None and streams.forgotten == 1
    assert str(choice) == f"CUDA graph: eager (recording failed: {str(error).splitlines()[0]})"
    engine._graphs = False
    assert "switched off" in str(engine._choose_graph(side, streams, (), torch.zeros(1)))
    engine.close()


def test_no_memory_for_one_frame_is_told() -> None:
    class Huge(Sociable):
        def restore(self, coded: Tensor, precision: str) -> Tensor:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    engine = CudaEngine(make_engine(Huge()), make_streams=lambda on_default: DeferredStreams(0))
    with pytest.raises(DeviceMemoryError, match=r"no memory for 1 frame\(s\) of \(52, 34\)"):
        list(engine.stream(noise_frames(2), FIRST))
    engine.close()


def network(width: int = 16, precision_seed: int = 0, device: str = "cpu") -> Model:
    """A DCDR-UNet whose silent layers speak, so that every kernel decides bits."""
    torch.manual_seed(precision_seed)
    spec = ModelSpec("dcdr_unet", width, False, "bt1886", "linear", 1.0, True, "none", "none")
    built = registry.build(spec.architecture, width, sft=False, input_encoding="bt1886", output_encoding="linear")
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.abs().max() == 0:
                parameter.normal_(0, 0.02)
    return Model(built, spec, device)


def test_torchvisions_kernel_is_seen_and_sends_the_network_to_the_default_stream() -> None:
    x, offset = torch.rand(1, 4, 6, 6), torch.zeros(1, 18, 6, 6)
    weight = torch.rand(4, 4, 3, 3)
    for backend, seen in (("reference", True), ("fast", False)):
        with torch.inference_mode(), DeformWatch() as watch:
            deform_conv2d(x, offset, None, weight, None, backend=backend)
        assert watch.seen is seen
        assert compute_stream(seen).taken == ("default" if seen else "side")
    assert "9513" in str(compute_stream(True))


def test_a_network_served_by_torchvision_asks_for_the_default_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    from models.deform_conv import operator

    asked = []

    def make(on_default: bool) -> DeferredStreams:
        asked.append(on_default)
        return DeferredStreams(0)

    frames = noise_frames(1)
    for backend in ("fast", "reference"):
        monkeypatch.setattr(operator, "serving_backend", lambda *key, taken=backend: taken)
        engine = CudaEngine(make_engine(network(), precision="fp32"), make_streams=make)
        list(engine.stream(frames, FIRST))
        engine.close()
    assert asked == [False, True]


@pytest.mark.parametrize("stay", [False, True])
def test_a_span_comes_out_the_same_by_way_of_the_ring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stay: bool
) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=13, width=96, height=64)
    conversion = conversions.start(source, tmp_path / "out.mp4", load_config(None, None, ["model=neutral"]))
    track, span = conversion.pending[0]
    made: list[CudaEngine] = []

    def on_gpu(plan: object, number: int, threads: int = 1) -> CudaEngine:
        made.append(CudaEngine(plain(plan, number), make_streams=lambda on_default: DeferredStreams(9)))
        return made[-1]

    def run(should_stop: Callable[[], bool] = lambda: False) -> dict:
        told: list[int] = []
        line = span_job.run_span(
            str(conversion.workdir), track, span, threads=1, on_frames=told.append, should_stop=should_stop
        )
        assert told == list(range(1, 14))
        return line

    plain = span_job.engine_for
    one = run()
    wanted = (conversion.workdir / one["file"]).read_bytes()
    (conversion.workdir / one["file"]).unlink()
    monkeypatch.setattr(span_job, "engine_for", on_gpu)
    if stay:
        monkeypatch.setattr(span_job, "encoder_memory", lambda choice: Choice("frames to the encoder", GPU, "a test"))
    other = run()
    assert (conversion.workdir / other["file"]).read_bytes() == wanted
    assert "engine" not in one and any("frames a batch" in line for line in other["engine"])
    assert any(line.startswith(f"frames to the encoder: {GPU if stay else HOST} (") for line in other["engine"])
    assert made[-1]._stay is stay
    assert {name: one[name] for name in ("levels", "key", "frames")} == {
        name: other[name] for name in ("levels", "key", "frames")
    }
    asked = iter([False, False, False])
    with pytest.raises(span_job.SpanStopped):
        run(lambda: next(asked, True))
    for engine in made:
        engine.close()
    conversion.close()


def test_one_engine_is_kept_for_the_next_span_and_closed_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_maker, "_engine", lambda *settings: make_engine(Sociable()))
    monkeypatch.setattr(engine_maker, "_kept", {})
    closed: list[CudaEngine] = []
    monkeypatch.setattr(CudaEngine, "close", lambda engine: closed.append(engine))
    first = engine_maker._cuda_engine("a", "1", "cuda", (), 2)
    assert engine_maker._cuda_engine("a", "1", "cuda", (), 2) is first and not closed
    second = engine_maker._cuda_engine("b", "2", "cuda", (), 2)
    assert second is not first and closed == [first]


def test_the_arithmetic_of_a_gpu_is_named_with_what_computes_the_deformable_convolution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H200")
    names = set()
    for version in ("triton3.6.0", "triton3.9.0", "torchvision0.26.0"):
        monkeypatch.setattr(engines, "choose_backend", lambda *key, version=version: Backend("any", version, ""))
        names.add(engines.numerics_class("cuda"))
    assert len(names) == 3
    assert f"cuda-NVIDIA-H200-torch{torch.__version__}-triton3.9.0" in names


# What only a GPU can show.


def gpu_engine(model: Model, precision: str = "bf16", **options: object) -> CudaEngine:
    return CudaEngine(make_engine(model, "cuda", precision), **options)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gpu_bytes_depend_on_neither_batch_nor_graph_nor_streams(precision: str) -> None:
    model, frames = network(64, device="cuda"), noise_frames(11, 180, 320)
    ways = [
        {"batch_frames": 1, "graphs": False, "overlap": False},
        {"batch_frames": 1},
        {"batch_frames": 2, "graphs": False},
        {"batch_frames": 4},
        {"batch_frames": 8, "overlap": False},
        {},
    ]
    results = []
    for way in ways:
        engine = gpu_engine(model, precision, **way)
        results.append(list(engine.stream(frames, FIRST)))
        results.append(list(engine.stream(frames, FIRST)))
        engine.close()
    for other in results[1:]:
        assert all(same(*pair) for pair in zip(results[0], other, strict=True))


@pytest.mark.gpu
def test_gpu_bytes_survive_running_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, frames = network(32, device="cuda"), noise_frames(20, 180, 320)
    engine = gpu_engine(model, batch_frames=8)
    wanted = list(engine.stream(frames, FIRST))
    engine.close()
    tight = gpu_engine(model, batch_frames=8)
    calls, compute = itertools.count(), tight._compute

    def sometimes_full(planes: tuple, numbers: Tensor, first: int) -> tuple:
        if next(calls) in (3, 12):
            torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
        return compute(planes, numbers, first)

    monkeypatch.setattr(tight, "_compute", sometimes_full)
    assert all(same(*pair) for pair in zip(tight.stream(frames, FIRST), wanted, strict=True))
    assert "halved 2 times" in str(tight.choices[-1])
    tight.close()


@pytest.mark.gpu
def test_gpu_agrees_with_the_cpu() -> None:
    frames = noise_frames(5)
    engine = gpu_engine(network(16, device="cuda"), "fp32")
    ours = list(engine.stream(frames, FIRST))
    theirs = list(make_engine(network(16), precision="fp32").process(frames, FIRST))
    for one, other in zip(ours, theirs, strict=True):
        for name in "yuv":
            difference = (getattr(one, name).int() - getattr(other, name).int()).abs()
            assert difference.float().mean() < 0.01 and difference.max() <= 2
    engine.close()


@pytest.mark.gpu
def test_gpu_graph_is_recorded_where_triton_serves() -> None:
    engine = gpu_engine(network(16, device="cuda"))
    list(engine.stream(noise_frames(3), FIRST))
    text = "\n".join(map(str, engine.choices))
    if "colour: triton" in text and "compute stream: side" in text:
        assert "CUDA graph: recorded" in text
    else:
        assert "CUDA graph: eager" in text
    engine.close()


@pytest.mark.gpu
def test_gpu_frames_that_are_on_the_gpu_already_give_the_same_bytes() -> None:
    frames = noise_frames(5)
    engine = gpu_engine(network(16, device="cuda"))
    wanted = list(engine.stream(frames, FIRST))
    there = [tuple(plane.cuda() for plane in planes) for planes in frames]
    torch.cuda.synchronize()
    assert all(same(*pair) for pair in zip(engine.stream(there, FIRST), wanted, strict=True))
    engine.close()


@pytest.mark.gpu
def test_gpu_frames_that_stay_there_have_the_same_bytes() -> None:
    frames = noise_frames(9, 180, 320)
    engine = gpu_engine(network(16, device="cuda"))
    wanted = list(engine.stream(frames, FIRST))
    got = list(engine.stream(frames, FIRST, stay=True))
    assert all(plane.is_cuda for frame in got for plane in (frame.y, frame.u, frame.v))
    down = [PackedFrame(one.y.cpu(), one.u.cpu(), one.v.cpu(), one.levels, one.mean_luma) for one in got]
    assert all(same(*pair) for pair in zip(down, wanted, strict=True))
    engine.close()
