"""The architectures, as an explicit list: what a caller must know about each, and how to build one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from models import dcdr_unet, hdrunet, neutral, u_shape
from models.blocks import PlainBlock
from models.encodings import ENCODINGS, INPUT_ENCODINGS

WIDTHS = {"tiny": 16, "small": 32, "base": 64}
"""Size name -> channels of the feature maps."""


@dataclass(frozen=True)
class Architecture:
    """A kind of network.

    builder: (width, sft, input_encoding, output_encoding) -> module with forward(coded) and parts(coded)
    widths, sft: the legal values of those arguments
    precisions: what it may run in, on some device; its float32 islands and its output stay float32
    size_multiple: a tile's position in the frame must be a multiple of it; sizes need not be (padded inside)
    halo_px: context around a tile beyond which a pixel has practically no influence
    value_range: of the input, the coded signal
    transfers: encodings that the input may have
    restores: whether a trained network of this kind restores highlights
    maps_alive: without and with sft, how many full-size maps of `width` channels the peak of memory amounts to (measured)
    """

    name: str
    builder: Callable[[int, bool, str, str], nn.Module]
    widths: tuple[int, ...]
    sft: tuple[bool, ...]
    precisions: tuple[str, ...]
    size_multiple: int
    halo_px: int
    value_range: tuple[float, float]
    transfers: tuple[str, ...]
    restores: bool
    maps_alive: tuple[int, int]


_DCDR_UNET = Architecture(
    name="dcdr_unet",
    builder=dcdr_unet.DCDRUNet,
    widths=(16, 32, 64),
    sft=(False, True),
    precisions=("fp32", "bf16", "fp16"),
    size_multiple=u_shape.SIZE_MULTIPLE,
    halo_px=dcdr_unet.HALO_PX,
    value_range=(0.0, 1.0),
    transfers=INPUT_ENCODINGS,
    restores=True,
    maps_alive=(8, 11),
)

ARCHITECTURES = (
    _DCDR_UNET,
    replace(
        _DCDR_UNET,
        name="dcdr_unet_deep",
        builder=partial(dcdr_unet.DCDRUNet, deep=True),
        size_multiple=u_shape.DEEP_SIZE_MULTIPLE,
        halo_px=dcdr_unet.DEEP_HALO_PX,
    ),
    replace(
        _DCDR_UNET,
        name="residual_unet",
        builder=partial(dcdr_unet.DCDRUNet, block=PlainBlock),
        halo_px=hdrunet.HALO_PX,
    ),
    Architecture(
        name="hdrunet",
        builder=hdrunet.HDRUNet,
        widths=(16, 32, 64),
        sft=(True,),
        precisions=("fp32", "bf16", "fp16"),
        size_multiple=u_shape.SIZE_MULTIPLE,
        halo_px=hdrunet.HALO_PX,
        value_range=(0.0, 1.0),
        transfers=INPUT_ENCODINGS,
        restores=True,
        maps_alive=(12, 12),
    ),
    Architecture(
        name="neutral",
        builder=neutral.Neutral,
        widths=(0,),
        sft=(False,),
        precisions=("fp32", "bf16", "fp16"),
        size_multiple=1,
        halo_px=0,
        value_range=(0.0, 1.0),
        transfers=INPUT_ENCODINGS,
        restores=False,
        maps_alive=(0, 0),
    ),
)


def architecture(name: str) -> Architecture:
    """The descriptor of that name. ValueError, with the legal names, when there is none."""
    for entry in ARCHITECTURES:
        if entry.name == name:
            return entry
    raise ValueError(f"unknown architecture {name!r}; legal are: {', '.join(entry.name for entry in ARCHITECTURES)}")


def build(
    name: str,
    width: int,
    sft: bool = False,
    input_encoding: str = "bt1886",
    output_encoding: str = "bt1886",
    seed: int = 0,
) -> nn.Module:
    """A fresh network in float32, channels_last, with initial weights drawn from `seed` (torch's generators are left as they were).

    Fresh networks are neutral: the output encodes exactly the SDR picture. ValueError for an argument that is not legal.
    """
    entry = architecture(name)
    _one_of(f"width of {name}", width, entry.widths)
    _one_of(f"sft of {name}", sft, entry.sft)
    _one_of("input_encoding", input_encoding, entry.transfers)
    _one_of("output_encoding", output_encoding, tuple(ENCODINGS))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = entry.builder(width, sft, input_encoding, output_encoding)
    return network.to(memory_format=torch.channels_last)


def _one_of(what: str, value: object, legal: tuple) -> None:
    if value not in legal:
        raise ValueError(f"{what} is {value!r}; legal are: {', '.join(map(str, legal))}")
