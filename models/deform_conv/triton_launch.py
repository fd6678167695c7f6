"""How the Triton kernels are launched: which machines can, and block sizes from a fixed table.

The table decides by type and channels alone. It is not tuned at run time, because blocks of another size may be compiled to
another matrix instruction, and two workers of one numerics class must compute the same bits. `triton_tune` times
others on a GPU, for people who write a better table. Every entry compiles without register spills for compute capability 8.0, 8.9 and 9.0.
"""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass

import torch

OLDEST_TRITON, FIRST_UNTRIED_TRITON = (3, 6), (3, 10)
"""Versions of Triton that the kernels are written for: from the first, up to but without the second."""

OLDEST_CAPABILITY = (8, 0)
"""CUDA compute capability from which there are bfloat16 matrix instructions."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Types of maps and weights that the kernels compute."""

WEIGHT_PROGRAMS = 1024
"""Programs to aim for in the gradient of the weights: each sums over its own part of the pixels. Eight a multiprocessor of an H200."""


@dataclass(frozen=True)
class Blocks:
    """One kernel's launch: a program has rows x columns output pixels, `channels` at a time and `outputs`; warps and pipeline stages."""

    rows: int
    columns: int
    channels: int
    outputs: int
    warps: int
    stages: int = 1

    def arguments(self) -> dict[str, int]:
        """As keyword arguments of the kernels."""
        return {
            "BLOCK_Y": self.rows,
            "BLOCK_X": self.columns,
            "BLOCK_C": self.channels,
            "BLOCK_O": self.outputs,
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


def forward_blocks(dtype: torch.dtype, group_channels: int, outputs: int) -> Blocks:
    """32 channels at a time leave 128 registers a thread: four programs share a multiprocessor and hide each other's waits."""
    if dtype == torch.float32:
        return Blocks(8, 8, 16, _block(outputs, 64), 8)
    return Blocks(8, 8, _block(group_channels, 32), _block(outputs, 128), 4)


def sampled_gradient_blocks(dtype: torch.dtype, group_channels: int, outputs: int) -> Blocks:
    """Of the gradients of the map, and of offset and mask. Few channels: these stay in registers with what they are multiplied with."""
    if dtype == torch.float32:
        return Blocks(8, 8, 16, 16, 8)
    return Blocks(8, 8, 16, _block(outputs, 64), 4)


def weight_gradient_blocks(dtype: torch.dtype, group_channels: int, outputs: int) -> Blocks:
    """A square of weights, 64 x 64 at most (32 x 32 in float32), over 64 pixels at a time."""
    if dtype == torch.float32:
        return Blocks(8, 8, _block(group_channels, 32), _block(outputs, 32), 4)
    channels = _block(group_channels, 64)
    return Blocks(8, 8, channels, _block(outputs, 64), 4 if channels == 16 else 8)


def weight_gradient_parts(blocks: int, squares: int) -> int:
    """Into how many parts the pixels are divided. blocks: of weights; squares: of pixels in the batch."""
    return max(1, min(squares, WEIGHT_PROGRAMS // blocks))


def version_of(package: str) -> str | None:
    """The installed version, as "3.6.0", without importing the package; None where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def why_unusable(device: str | torch.device) -> str | None:
    """Why the Triton kernels cannot run on a CUDA device, in words; None where they can."""
    version = version_of("triton")
    if version is None:
        return "Triton is not installed"
    number = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if not OLDEST_TRITON <= number < FIRST_UNTRIED_TRITON:
        return f"Triton is {version}, and the kernels are for {_dotted(OLDEST_TRITON)} up to before {_dotted(FIRST_UNTRIED_TRITON)}"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if torch.version.hip is not None:
        return "this torch is for AMD"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_CAPABILITY:
        return f"compute capability {_dotted(capability)} is below {_dotted(OLDEST_CAPABILITY)}"
    return None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


def _block(size: int, most: int) -> int:
    """The power of two that holds `size`, from 16 (the least that a matrix instruction takes) to `most`."""
    return min(most, max(16, 1 << (size - 1).bit_length()))
