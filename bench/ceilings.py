"""What a GPU can do at best: how fast it copies, and how fast it multiplies matrices in each precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bench.device_time import median_ms
from bench.floors import Ceilings

COPY_BYTES = 1 << 32
HOST_BYTES = 1 << 28
MATRIX_SIDE = 8192
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "tf32": torch.float32}


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether float32 convolutions and products on CUDA may use TF32; everything else as PyTorch has it by default."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark)
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    cudnn.deterministic = cudnn.benchmark = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before


def copy_rate(device: str, size: int = COPY_BYTES) -> float:
    """Bytes a second of a copy within the device, read plus written."""
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / (median_ms(lambda: target.copy_(source), device) / 1000)


def host_rates(device: str, size: int = HOST_BYTES) -> dict[str, float]:
    """Bytes a second between pinned host memory and the device: up, down, and each way while both go on."""
    pinned = torch.device(device).type == "cuda"
    hosts = [torch.ones(size, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]
    devices = [torch.ones(size, dtype=torch.uint8, device=device) for _ in range(2)]

    def up() -> None:
        devices[0].copy_(hosts[0], non_blocking=True)

    def down() -> None:
        hosts[1].copy_(devices[1], non_blocking=True)

    def both() -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        up()
        with torch.cuda.stream(side):
            down()
        torch.cuda.current_stream().wait_stream(side)

    works = {"up": up, "down": down, **({"both": both} if pinned else {})}
    return {name: size / (median_ms(work, device) / 1000) for name, work in works.items()}


def matrix_rate(precision: str, device: str, side: int = MATRIX_SIDE) -> float:
    """FLOPs a second of a large product of random matrices. precision: "bf16", "fp16", "fp32" or "tf32"."""
    with tf32(precision == "tf32"):
        left, right = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
        return 2 * side**3 / (median_ms(lambda: left @ right, device) / 1000)


def measured(rows: list[dict]) -> Ceilings | None:
    """The ceilings among a bench's rows; None when the needed ones are missing."""
    rates = {row["precision"]: row["flops_per_second"] for row in rows if "flops_per_second" in row}
    copies = [
        row["bytes_per_second"]
        for row in rows
        if row.get("row") == "copy within the device" and "bytes_per_second" in row
    ]
    return Ceilings(copies[0], rates) if copies and {"bf16", "fp32"} <= rates.keys() else None
