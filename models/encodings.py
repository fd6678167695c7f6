"""How numbers stand for light inside a network: four encodings, each a pair of functions on tensors.

Light is relative and linear, SDR white = 1.0, and may be negative (colours outside BT.709): every encoding is odd,
f(-v) = -f(v), and goes on above 1. All of them map 0 to 0 and 1 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LOG_MU = 100.0
"""mu of the `log` encoding: 1 % of white is at 0.15, white at 1, eight times white at 1.45."""


@dataclass(frozen=True)
class Encoding:
    """decode: code -> linear light; encode: its inverse. Both float32 in, float32 out, any shape."""

    decode: Callable[[Tensor], Tensor]
    encode: Callable[[Tensor], Tensor]


def _odd(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda v: torch.copysign(function(v.abs()), v)


def _srgb_decode(v: Tensor) -> Tensor:
    return torch.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055).pow(2.4))


def _srgb_encode(light: Tensor) -> Tensor:
    return torch.where(light <= 0.0031308, light * 12.92, 1.055 * light.pow(1 / 2.4) - 0.055)


ENCODINGS = {
    "linear": Encoding(lambda v: v, lambda light: light),
    # ITU-R BT.1886 Annex 1 with black at 0: L = V ** 2.4
    "bt1886": Encoding(_odd(lambda v: v.pow(2.4)), _odd(lambda light: light.pow(1 / 2.4))),
    # IEC 61966-2-1
    "srgb": Encoding(_odd(_srgb_decode), _odd(_srgb_encode)),
    # V = ln(1 + mu L) / ln(1 + mu)
    "log": Encoding(
        _odd(lambda v: torch.expm1(v * math.log1p(LOG_MU)) / LOG_MU),
        _odd(lambda light: torch.log1p(light * LOG_MU) / math.log1p(LOG_MU)),
    ),
}
"""Name -> encoding, for a network's output."""

INPUT_ENCODINGS = ("bt1886", "srgb")
"""The encodings that a network's input (the coded SDR signal) may have."""


SERIAL_ELEMENTS = 16384
"""Below PyTorch's grain size (32768), so that an operation on so many elements is never split among threads."""


def _steadily(function: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
    """`function`, elementwise, with the same bits for any number of threads (CPU, where nothing is being trained).

    PyTorch computes pow, exp and log with vector code, but the last few elements of each thread's share with scalar
    code that rounds otherwise (measured). So the work goes frame by frame, in blocks that no thread pool splits.
    """
    if v.device.type != "cpu" or torch.is_grad_enabled() or v.numel() == 0:
        return function(v)
    v = v.contiguous()
    out = torch.empty_like(v)
    frames = v.shape[0] if v.ndim == 4 else 1
    for source, target in zip(v.view(frames, -1), out.view(frames, -1), strict=True):
        for start in range(0, source.numel(), SERIAL_ELEMENTS):
            block = slice(start, start + SERIAL_ELEMENTS)
            target[block] = function(source[block])
    return out


def decode(code: Tensor, encoding: str) -> Tensor:
    """Code values -> linear light (SDR white = 1.0), float32. KeyError for a name that is not in ENCODINGS."""
    return code.float() if encoding == "linear" else _steadily(ENCODINGS[encoding].decode, code.float())


def encode(light: Tensor, encoding: str) -> Tensor:
    """Linear light (SDR white = 1.0) -> code values, float32. KeyError for a name that is not in ENCODINGS."""
    return light.float() if encoding == "linear" else _steadily(ENCODINGS[encoding].encode, light.float())


def recode(code: Tensor, source: str, target: str) -> Tensor:
    """Code values of one encoding -> those of another, float32; nothing is computed when both are the same."""
    return code.float() if source == target else encode(decode(code, source), target)
