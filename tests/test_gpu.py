"""What only a CUDA device can show: the engine there agrees with the CPU's, whatever the batch."""

from __future__ import annotations

import pytest
import torch

from models import checkpoints
from pipeline.color import ColorSpec, OutputSpec, PixelLayout
from pipeline.engine import Engine

pytestmark = pytest.mark.gpu


def make_engine(device: str) -> Engine:
    return Engine(
        model=checkpoints.load("neutral", device),
        stage_names=("reconstruct", "grade"),
        layout=PixelLayout("420", 8),
        color=ColorSpec("bt709", "limited", "bt1886", "bt709", "left"),
        out=OutputSpec("pq", 203.0, 1000.0),
        precision="fp32",
        tile=0,
        device=device,
    )


def noise_frames(count: int) -> list[tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(3)
    sizes = [(48, 64), (24, 32), (24, 32)]
    return [
        tuple(torch.randint(16, 236, size, dtype=torch.uint8, generator=generator) for size in sizes)
        for _ in range(count)
    ]


def test_cuda_packs_what_the_cpu_packs_within_one_code() -> None:
    frames = noise_frames(5)
    ours = list(make_engine("cuda").process(frames, 0))
    theirs = list(make_engine("cpu").process(frames, 0))
    for one, other in zip(ours, theirs, strict=True):
        for plane in "yuv":
            difference = getattr(one, plane).int() - getattr(other, plane).int()
            assert difference.abs().max() <= 1


def test_cuda_bytes_do_not_depend_on_batches() -> None:
    frames = noise_frames(5)
    engine = make_engine("cuda")
    together = list(engine.process(frames, 0))
    for number, frame in enumerate(frames):
        alone = next(iter(engine.process([frame], number)))
        assert all(torch.equal(getattr(alone, plane), getattr(together[number], plane)) for plane in "yuv")
