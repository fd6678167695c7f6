"""Coded signal of working-space frames with its sign and what is above white, for stages that work on what the camera coded.

Tables and operations that round alike everywhere: the bits depend on the pixel alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline import transfer
from pipeline.errors import InputError
from pipeline.transfer import Curve

_HIGHEST_LIGHT = 7.0  # that of the highest signal which transfer.DECODE knows
_ENCODE = {
    "bt1886": Curve(transfer.bt1886_inverse, 0, _HIGHEST_LIGHT, 13312, fourth_root=True),
    "srgb": Curve(transfer.srgb_inverse, 0, _HIGHEST_LIGHT, 13312, fourth_root=True),
}


def check_transfer(name: str) -> None:
    """Raise InputError on a transfer that is not known."""
    if name != "linear" and name not in _ENCODE:
        raise InputError(f"transfer {name!r} is not known; legal are {', '.join(_ENCODE)}, linear.")


def encode(light: Tensor, name: str) -> Tensor:
    """Linear light, any shape, float32 -> coded signal, white = 1, odd (negatives keep their sign), up to 2.25. New tensor, contiguous."""
    if name == "linear":
        return light.clone(memory_format=torch.contiguous_format)
    size = light.abs().contiguous()
    return torch.copysign(_ENCODE[name].apply_(size), light)


def move(light: Tensor, signal: Tensor, change: Tensor, name: str) -> Tensor:
    """Light with `change` added to its coded `signal` (which is spent); new tensor. Where the change is 0 the light keeps its bits."""
    moved = signal.add_(change)
    if name != "linear":
        transfer.DECODE[name].apply_(moved)
    return torch.where(change == 0, light, moved)
