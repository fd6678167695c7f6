"""Floors: the least time that a frame can take on a device whose matrix rate and memory bandwidth were measured.

floor = sum over layers of max(FLOPs / matrix rate, bytes / bandwidth). A layer's bytes are what no program can avoid while layers
run one after another: each input read once, each weight read once, each output written once. What follows a convolution pixel by
pixel (bias, activation, pixel shuffle) is counted as part of it, at no cost; a sum with an earlier map costs one more reading of
that map. FLOPs are two a multiplication with its addition; biases and activations are not counted. The arithmetic of sampling
positions in a deformable convolution is not counted either, nor its traffic in the caches: its true floor lies higher.

    python -m bench.floors --bandwidth 4.3e12 --bf16 788e12 --fp32 67e12

prints floors for rates that are given; bench.gpu and bench.costs measure theirs. Needs torch, and the networks of `models`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models import registry
from models.blocks import SFT, PlainBlock
from models.convolution import Conv2d, Float32Conv2d
from models.dcdr_unet import DCRB
from models.hdrunet import SFTResidualBlock
from models.u_shape import UShape

TINY_PX = 64
"""Side of the picture that the network is run on to see its shapes; a multiple of every network's size multiple."""

ITEM_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
CHANNELS = 3
PIXEL_BYTES = 4 * CHANNELS
"""Of a picture in working space: three float32 channels."""

POSITION_BYTES = 4 * 3
"""Of one tap of a deformable convolution: two offsets and a mask, float32."""

SKIP_SCALES = (1.0, 1 / 4, 1 / 16)
DEEP_SKIP_SCALES = (1 / 16, 1 / 64, 1 / 256)
"""Areas of the maps that the U-shape reads a second time to add them, as shares of the picture's."""


@dataclass(frozen=True)
class Layer:
    """What one layer must do for one frame.

    name: the module's path in the network, with " (deform)" for a block's deformable convolution, or words for what is no module
    kind: "convolution", "deformable convolution" or "elementwise"
    precision: "fp32", "bf16" or "fp16": of its operands, and so which matrix rate counts
    """

    name: str
    kind: str
    precision: str
    flops: float
    bytes: float


@dataclass(frozen=True)
class Ceilings:
    """What a device was measured to do: bytes_per_second read plus written in a copy; flops_per_second of a large product, by precision."""

    bytes_per_second: float
    flops_per_second: dict[str, float]


def layer_seconds(layer: Layer, ceilings: Ceilings) -> float:
    """Floor of one layer. KeyError when its precision has no measured rate."""
    return max(layer.flops / ceilings.flops_per_second[layer.precision], layer.bytes / ceilings.bytes_per_second)


def floor_seconds(layers: Iterable[Layer], ceilings: Ceilings) -> float:
    """Floor of layers that run one after another."""
    return sum(layer_seconds(layer, ceilings) for layer in layers)


def network_layers(
    architecture: str, width: int, height: int, width_px: int, precision: str, sft: bool = False
) -> list[Layer]:
    """Layers of a network of `registry` on one frame, in the order in which they end.

    width: channels; height, width_px: of the frame, in pixels; precision: of the layers that are not float32 islands.
    Shapes are read from a run on a tiny picture; every map is the same fraction of the (padded) picture at all sizes.
    """
    network = registry.build(architecture, width, sft)
    multiple = registry.architecture(architecture).size_multiple
    area = (height + -height % multiple) * (width_px + -width_px % multiple)
    found: list[Layer] = []
    handles = [
        module.register_forward_hook(_recorder(module, name, precision, area, found))
        for name, module in network.named_modules()
        if isinstance(module, RECORDED)
    ]
    try:
        with torch.no_grad():
            network(torch.zeros(1, CHANNELS, TINY_PX, TINY_PX))
    finally:
        for handle in handles:
            handle.remove()
    sums = {"recode": 2, "sum of both networks": 3} if found else {}
    for name, maps in {**sums, "decode": 2}.items():
        found.append(Layer(name, "elementwise", "fp32", 0.0, float(maps * PIXEL_BYTES * height * width_px)))
    return found


def picture_layers(height: int, width_px: int, in_bytes: float = 1.5, out_bytes: float = 3.0) -> list[Layer]:
    """What the engine does to one frame around the network, each group as one pass over the picture.

    in_bytes, out_bytes: of a pixel of the decoded and the packed planes (8-bit and 10-bit 4:2:0).
    """
    work = {
        "unpack to linear light": in_bytes + PIXEL_BYTES,
        "coded signal": 2 * PIXEL_BYTES,
        "light above white added back": 3 * PIXEL_BYTES,
        "grade": 2 * PIXEL_BYTES,
        "pack to dithered 10 bits": PIXEL_BYTES + out_bytes,
        "light levels": out_bytes,
    }
    return [Layer(name, "elementwise", "fp32", 0.0, size * height * width_px) for name, size in work.items()]


RECORDED = (Conv2d, DCRB, PlainBlock, SFTResidualBlock, SFT, UShape)
"""Modules that stand for layers of their own, besides what is in them."""


def _recorder(module: nn.Module, name: str, precision: str, area: int, found: list[Layer]) -> Callable[..., None]:
    """A forward hook that appends the module's layer. area: pixels of the padded frame."""

    def pixels(map_: Tensor) -> float:
        """Of this map in the frame. (Net_T's border of one pixel is left out.)"""
        down = round(TINY_PX / map_.shape[2])
        return area / (down * down)

    def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        item = ITEM_BYTES[precision]
        if isinstance(module, Conv2d):
            own = "fp32" if isinstance(module, Float32Conv2d) else precision
            written = module.out_channels * pixels(output)
            elements = module.in_channels * pixels(inputs[0]) + written + module.weight.numel()
            flops = 2 * module.weight[0].numel() * written
            found.append(Layer(name, "convolution", own, flops, ITEM_BYTES[own] * elements))
        elif isinstance(module, DCRB):
            weight = module.deform.weight
            here = pixels(output)
            taps = weight[0, 0].numel()
            maps = weight.shape[1] + 2 * weight.shape[0]  # what is sampled; what it is added to; the sum
            size = item * (maps * here + weight.numel()) + POSITION_BYTES * taps * here
            found.append(
                Layer(f"{name} (deform)", "deformable convolution", precision, 2 * weight.numel() * here, size)
            )
        elif isinstance(module, UShape):
            scales = SKIP_SCALES + (DEEP_SKIP_SCALES if module.deep_scales is not None else ())
            size = item * module.conv_full_in.out_channels * area * sum(scales)
            found.append(Layer(f"{name} (skips)", "elementwise", precision, 0.0, size))
        else:
            maps = 4 if isinstance(module, SFT) else 1  # features, scale, shift, result; or the block's input, added
            size = float(item * maps * output.shape[1] * pixels(output))
            found.append(Layer(name, "elementwise", precision, 0.0, size))

    return hook


def table(ceilings: Ceilings) -> str:
    """Markdown: floors of DCDR-UNet in bfloat16, a network and a picture a row, and of the work around it."""
    lines = [
        "| network | picture | GFLOP | floor of the network, ms | floor of the rest, ms | frames a second at most |",
        "|---|---|---|---|---|---|",
    ]
    for architecture in ("dcdr_unet", "dcdr_unet_deep"):
        for size, width in registry.WIDTHS.items():
            for height, width_px in ((720, 1280), (1080, 1920), (2160, 3840)):
                layers = network_layers(architecture, width, height, width_px, "bf16")
                network = 1000 * floor_seconds(layers, ceilings)
                rest = 1000 * floor_seconds(picture_layers(height, width_px), ceilings)
                work = sum(layer.flops for layer in layers) / 1e9
                cells = (
                    f"{size}, {architecture}",
                    f"{width_px}x{height}",
                    f"{work:.0f}",
                    f"{network:.2f}",
                    f"{rest:.2f}",
                )
                lines.append(f"| {' | '.join(cells)} | {1000 / (network + rest):.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Floors for given rates.")
    parser.add_argument("--bandwidth", type=float, required=True, help="bytes a second, read plus written")
    parser.add_argument("--bf16", type=float, required=True, help="FLOPs a second of a bfloat16 product")
    parser.add_argument("--fp32", type=float, required=True, help="FLOPs a second of a float32 product, without TF32")
    args = parser.parse_args()
    sys.stdout.write(table(Ceilings(args.bandwidth, {"bf16": args.bf16, "fp32": args.fp32})))


if __name__ == "__main__":
    main()
