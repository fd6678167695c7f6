"""Flow: where the points of one frame are in another, and how much more light the camera let in there.

What both methods share: small pictures, what is found of a pair of them, and sizes. On the CPU the method is OpenCV's (pipeline/flow_dis.py), on a
GPU it is made of tensors (pipeline/flow_tensor.py). Both divide the other picture's light by the ratio of the exposures first, because auto
exposure moves the brightness that flow takes as constant, and cut both off at the level that both can show. The ratio is measured on
well-exposed pixels: without motion first, then along it. Saturated skies have no structure to follow; there the flow is continued from their
surroundings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pipeline.choice import Choice
from pipeline.transfer import Curve

SIDE_PX = 480
"""Longest side of a small picture."""

LUMA_709 = (0.2126, 0.7152, 0.0722)
"""Shares of R, G and B in luminance (BT.709)."""

DARKEST_LIGHT, BRIGHTEST_LIGHT = 0.02, 0.85
"""Well exposed is a pixel whose luminance is above the first and whose largest channel is below the second (1.0 = SDR white): neither
noise nor near saturation."""

LEAST_SHARE = 0.01
"""Of a picture: with fewer well-exposed pixels than this two frames cannot be compared."""

STRUCTURE_PX, STRUCTURE_ENERGY = 7, 6400.0
"""Structure is the mean squared gradient (Sobel, 3x3, of 8-bit codes) over squares of that side; at that energy flow is half believed."""

SAME_CODES, OTHER_CODES = 5.0, 20.0
"""Mean difference of 8-bit codes along the motion, over the same squares, up to which flow is believed, and from which on it is not."""

FILL_WEIGHT = 0.1
"""Weight of the surroundings' flow against flow that is believed wholly."""

STOPS = Curve(lambda light: torch.log2(light + 1e-4), 0, 1024.0, 16384, fourth_root=True)
"""Light -> stops, 0 at SDR white; anything below 1e-4 is about -13."""


@dataclass(frozen=True)
class Picture:
    """A frame at reduced size, where its method works. light (3,h,w) float32, clipped to [0, 1], in memory pixel by pixel; luminance and largest
    (h,w): its luminance, and the mean of the full-size pixels' largest channels. Nothing in it may be written to."""

    light: Tensor
    luminance: Tensor
    largest: Tensor


@dataclass(frozen=True)
class Motion:
    """From frame a to frame b. x, y (h,w) float32: where a's pixels are in b, in b's pixels; inside (h,w) bool: not beyond its edges.

    known () bool: there was enough to see in both; where it is False nothing else here means anything
    stops () float32: log2 of b's exposure over a's
    difference (h,w): largest difference of R, G and B, coded, exposure compensated, along the motion; median_difference (): its median over
        the pixels that are well exposed in both
    likeness () float64: correlation of log mean luminance around those pixels, 1 = the same picture
    """

    x: Tensor
    y: Tensor
    inside: Tensor
    known: Tensor
    stops: Tensor
    difference: Tensor
    median_difference: Tensor
    likeness: Tensor


class Method(Protocol):
    """A way of finding motion. It keeps nothing, so any thread may call it."""

    def bring(self, small: Tensor) -> Tensor:
        """(C,h,w) from wherever the frame is to where this method works."""

    def find_motions(self, a: Picture, others: Sequence[Picture]) -> Callable[[int], Motion]:
        """Number of one of `others` -> the motion from a to it. Pictures of one size, not all of which need be asked for."""

    def warp(self, maps: Tensor, motion: Motion) -> Tensor:
        """(C,h,w) float32 of frame b, read where a's pixels are in it, linear between pixels, the edge repeated."""

    def mean_around(self, maps: Tensor, side_px: int) -> Tensor:
        """Mean of (C,h,w) float32 over the square of that odd side around each pixel, the edge repeated."""


def choose_method(device: torch.device) -> Choice:
    """`taken` is "dis" or "tensor": how motion is found for frames of that device."""
    if device.type == "cpu":
        return Choice("optical flow", "dis", "OpenCV's DIS works on the CPU, where the frames are")
    return Choice("optical flow", "tensor", f"frames stay on the {device.type} device; OpenCV's DIS works on the CPU")


def reduction(height: int, width: int) -> int:
    """Whole number by which a frame's sides are divided so that the longer is at most SIDE_PX."""
    return -(-max(height, width) // SIDE_PX)


def reduce(maps: Tensor, factor: int) -> Tensor:
    """Mean of blocks of factor x factor pixels of (C,H,W), the last row and column repeated where they are not full -> (C,h,w)."""
    if factor == 1:
        return maps
    height, width = maps.shape[-2:]
    maps = torch.nn.functional.pad(maps[None], (0, -width % factor, 0, -height % factor), mode="replicate")[0]
    rows = maps[:, 0::factor].clone()
    for first in range(1, factor):
        rows.add_(maps[:, first::factor])
    out = rows[..., 0::factor].clone()
    for first in range(1, factor):
        out.add_(rows[..., first::factor])
    return out.div_(factor * factor)


def enlarge(small: Tensor, factor: int, height: int, width: int) -> Tensor:
    """(h,w) -> (height,width), linear between the middles of the blocks of `reduce`; flat beyond the outermost."""
    if factor == 1:
        return small
    for axis, length in ((0, height), (1, width)):
        place = (torch.arange(length, dtype=torch.float32, device=small.device) + 0.5).div_(factor).sub_(0.5)
        place.clamp_(0, small.shape[axis] - 1)
        low = place.to(torch.int64).clamp_(max=max(0, small.shape[axis] - 2))
        high = (low + 1).clamp_(max=small.shape[axis] - 1)
        part = place.sub_(low)[:, None] if axis == 0 else place.sub_(low)
        base = small.index_select(axis, low)
        small = small.index_select(axis, high).sub_(base).mul_(part).add_(base)
    return small


def luminance(light: Tensor) -> Tensor:
    """(3,...) linear BT.709 light -> its luminance (...), in a fixed order of sums."""
    red, green, blue = LUMA_709
    return (light[0] * red).add_(light[1] * green).add_(light[2] * blue)


def stops(light: Tensor) -> Tensor:
    """log2 of light of any shape, 1.0 = SDR white -> 0; new tensor."""
    return STOPS.apply_(light.clone(memory_format=torch.contiguous_format))


def make_picture(small: Tensor) -> Picture:
    """(4,h,w): R, G, B in [0, 1] and the largest channel, as `reduce` gives them."""
    light = small[:3].permute(1, 2, 0).contiguous().permute(2, 0, 1)
    return Picture(light, luminance(small[:3]), small[3].clone())


def well_exposed(luminance: Tensor, largest: Tensor) -> Tensor:
    """(...) bool: neither noise nor near saturation."""
    return (luminance > DARKEST_LIGHT) & (largest < BRIGHTEST_LIGHT)


def inside(x: Tensor, y: Tensor) -> Tensor:
    """(...,h,w) bool: which places are not beyond the edges of a picture of that size."""
    height, width = x.shape[-2:]
    return (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
