"""Flow: where the points of one frame are in another, and how much more light the camera let in there.

Optical flow is OpenCV's DIS (Kroeger, Timofte, Dai, Van Gool 2016: Fast Optical Flow using Dense Inverse Search) on small grey pictures.
Auto exposure moves the brightness that flow takes as constant, so the other picture's light is first divided by the ratio of the exposures,
and both are cut off at the level that both can show. The ratio is measured on well-exposed pixels: without motion first, then along it.
Saturated skies have no structure to follow; there the flow is continued from their surroundings.

One thread, tables, and sums in a fixed order: the same bits whatever the threads. OpenCV works in the host's memory, so a frame on a GPU
sends its small picture over; the rest of the frame stays there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.transfer import ENCODE, Curve

Array = np.ndarray

SIDE_PX = 480
"""Longest side of a small picture."""

LUMA_709 = (0.2126, 0.7152, 0.0722)
"""Shares of R, G and B in luminance (BT.709)."""

DARKEST_LIGHT, BRIGHTEST_LIGHT = 0.02, 0.85
"""Well exposed is a pixel whose luminance is above the first and whose largest channel is below the second (1.0 = SDR white): neither
noise nor near saturation."""

LEAST_SHARE = 0.01
"""Of a picture: with fewer well-exposed pixels than this two frames cannot be compared."""

LEAST_SIDE_PX = 32
"""Smallest side of a picture that DIS gets."""

STRUCTURE_PX, STRUCTURE_ENERGY = 7, 6400.0
"""Structure is the mean squared gradient (Sobel, 3x3, of 8-bit codes) over squares of that side; at that energy flow is half believed."""

SAME_CODES, OTHER_CODES = 5.0, 20.0
"""Mean difference of 8-bit codes along the motion, over the same squares, up to which flow is believed, and from which on it is not."""

FILL_WEIGHT = np.float32(0.1)
"""Weight of the surroundings' flow against flow that is believed wholly."""

STOPS = Curve(lambda light: torch.log2(light + 1e-4), 0, 1024.0, 16384, fourth_root=True)
"""Light -> stops, 0 at SDR white; anything below 1e-4 is about -13."""


@dataclass(frozen=True)
class Picture:
    """A frame at reduced size, on the CPU. light (h,w,3) float32, clipped to [0, 1]; luminance and largest (h,w): its luminance, and the mean
    of the full-size pixels' largest channels."""

    light: Array
    luminance: Array
    largest: Array


@dataclass(frozen=True)
class Motion:
    """From frame a to frame b. x, y (h,w) float32: where a's pixels are in b, in b's pixels; inside (h,w) bool: not beyond its edges.

    stops: log2 of b's exposure over a's. difference (h,w): largest difference of R, G and B, coded, exposure compensated, along the motion;
    comparable (h,w) bool: both are well exposed there. likeness: correlation of log mean luminance around there, 1 = the same picture.
    """

    x: Array
    y: Array
    inside: Array
    stops: float
    difference: Array
    comparable: Array
    likeness: float


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


def stops(light: Array) -> Array:
    """log2 of light of any shape, 1.0 = SDR white -> 0; new array."""
    return STOPS.apply_(torch.from_numpy(np.array(light, np.float32, order="C"))).numpy()


def make_picture(small: Tensor) -> Picture:
    """(4,h,w) on the CPU: R, G, B in [0, 1] and the largest channel, as `reduce` gives them."""
    light = np.ascontiguousarray(small[:3].permute(1, 2, 0).numpy())
    return Picture(light, luminance(small[:3]).numpy(), small[3].numpy().copy())


def well_exposed(luminance: Array, largest: Array) -> Array:
    """(h,w) bool: neither noise nor near saturation."""
    return (luminance > DARKEST_LIGHT) & (largest < BRIGHTEST_LIGHT)


def find_motion(a: Picture, b: Picture) -> Motion | None:
    """The motion from a to b, pictures of one size; None when too little of them is well exposed in both to say how their exposures compare."""
    good_a, good_b = (well_exposed(picture.luminance, picture.largest) for picture in (a, b))
    if not (_enough(good_a) and _enough(good_b)):
        return None
    guess = float(np.median(stops(b.luminance[good_b])) - np.median(stops(a.luminance[good_a])))
    grey_a, grey_b = (
        (_coded_alike(luma, scale, guess) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
        for luma, scale in ((a.luminance, 1.0), (b.luminance, 2.0**-guess))
    )
    x, y = _dense_flow(grey_a, grey_b)
    height, width = grey_a.shape
    inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    light = warp(b.light, x, y)
    largest = warp(b.largest, x, y)
    luma = luminance(torch.from_numpy(light).permute(2, 0, 1)).numpy()
    comparable = good_a & well_exposed(luma, largest) & inside
    if not _enough(comparable):
        return None
    stops_a, stops_b = (_mean_stops(values, comparable) for values in (a.luminance, luma))
    exposure = float(np.median(stops_b - stops_a))
    difference = np.abs(_coded_alike(a.light, 1.0, exposure) - _coded_alike(light, 2.0**-exposure, exposure)).max(-1)
    return Motion(x, y, inside, exposure, difference, comparable, _correlation(stops_a, stops_b))


def warp(picture: Array, x: Array, y: Array) -> Array:
    """picture (h,w) or (h,w,C) float32, read at x, y (h,w), linear between pixels, the edge repeated."""
    import cv2

    cv2.setNumThreads(1)
    return cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _dense_flow(grey_a: Array, grey_b: Array) -> tuple[Array, Array]:
    """Where a's pixels are in b, uint8 pictures of one size: x and y (h,w) float32, filled in where there is nothing to hold on to.

    The object that computes the flow is this call's own, because it keeps pictures. It needs pictures of some size: smaller ones are
    continued by their edge before it.
    """
    import cv2

    cv2.setNumThreads(1)
    height, width = grey_a.shape
    below, right = max(0, LEAST_SIDE_PX - height), max(0, LEAST_SIDE_PX - width)
    padded = [cv2.copyMakeBorder(grey, 0, below, 0, right, cv2.BORDER_REPLICATE) for grey in (grey_a, grey_b)]
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(*padded, None)[:height, :width]
    columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    flow = _filled(flow, _held(grey_a, grey_b, flow[..., 0] + columns, flow[..., 1] + rows))
    return flow[..., 0] + columns, flow[..., 1] + rows


def _held(grey_a: Array, grey_b: Array, x: Array, y: Array) -> Array:
    """How far flow can be believed, [0, 1]: where a has structure, b shows the same there, and it is inside of b."""
    import cv2

    height, width = grey_a.shape
    across, down = (cv2.Sobel(grey_a, cv2.CV_32F, *order, ksize=3) for order in ((1, 0), (0, 1)))
    side = (STRUCTURE_PX, STRUCTURE_PX)
    energy = cv2.boxFilter(across * across + down * down, -1, side)
    difference = cv2.boxFilter(np.abs(grey_a.astype(np.float32) - warp(grey_b.astype(np.float32), x, y)), -1, side)
    same = 1 - np.clip((difference - SAME_CODES) / np.float32(OTHER_CODES - SAME_CODES), 0, 1)
    inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    return (energy / (energy + np.float32(STRUCTURE_ENERGY)) * same * inside).astype(np.float32)


def _filled(flow: Array, held: Array) -> Array:
    """Flow (h,w,2) where it holds, and elsewhere that of the nearest surroundings that do: in saturated skies nothing else is known.

    A pyramid of weighted sums goes down until it is a few pixels; on the way up each level takes from the one below what it lacks.
    """
    import cv2

    levels = [np.dstack([flow * held[..., None], held])]
    while min(levels[-1].shape[:2]) > 2:
        levels.append(cv2.pyrDown(levels[-1]))
    value = levels[-1][..., :2] / (levels[-1][..., 2:] + np.float32(1e-6))
    for level in reversed(levels[:-1]):
        value = cv2.pyrUp(value, dstsize=level.shape[1::-1])
        value = (level[..., :2] + FILL_WEIGHT * value) / (level[..., 2:] + FILL_WEIGHT)
    return value


def _coded_alike(light: Array, scale: float, exposure: float) -> Array:
    """Light times scale, cut off at what two frames show whose exposures differ by that many stops, as SDR signal in [0, 1]; new array."""
    top = np.float32(min(1.0, 2.0**-exposure))
    shown = np.minimum(np.asarray(light, np.float32) * np.float32(scale), top)
    return ENCODE["bt1886"].apply_(torch.from_numpy(np.ascontiguousarray(shown))).numpy()


def _mean_stops(luminance: Array, comparable: Array) -> Array:
    """log2 of the mean luminance of the comparable pixels around each of them, (n,): reading between pixels smooths b's picture, and a finely
    mottled picture that is smoothed is brighter in its logarithm's median."""
    import cv2

    side = (STRUCTURE_PX, STRUCTURE_PX)
    counted, summed = (
        cv2.boxFilter(values, -1, side, borderType=cv2.BORDER_REPLICATE)[comparable]
        for values in (comparable.astype(np.float32), luminance * comparable)
    )
    return stops(summed / counted)


def _correlation(a: Array, b: Array) -> float:
    """Pearson's, with NumPy's own sums: those of a BLAS may follow its threads. 0 where one of them is flat."""
    a, b = (values.astype(np.float64) - values.mean(dtype=np.float64) for values in (a, b))
    power = float((a * a).sum() * (b * b).sum())
    return float((a * b).sum()) / power**0.5 if power > 0 else 0.0


def _enough(chosen: Array) -> bool:
    return int(np.count_nonzero(chosen)) >= max(1, LEAST_SHARE * chosen.size)
