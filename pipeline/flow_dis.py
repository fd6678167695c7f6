"""Flow by OpenCV's DIS, on the CPU (Kroeger, Timofte, Dai, Van Gool 2016: Fast Optical Flow using Dense Inverse Search).

One thread, tables, and sums in a fixed order: the same bits whatever the threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline import flow
from pipeline.flow import Motion, Picture
from pipeline.transfer import ENCODE

Array = np.ndarray

LEAST_SIDE_PX = 32
"""Smallest side of a picture that DIS gets."""


class Dis:
    """See flow.Method. Tensors are on the CPU; motions are found when they are asked for."""

    def bring(self, small: Tensor) -> Tensor:
        return small.cpu()

    def find_motions(self, a: Picture, others: Sequence[Picture]) -> Callable[[int], Motion]:
        return lambda number: _find_motion(a, others[number])

    def warp(self, maps: Tensor, motion: Motion) -> Tensor:
        x, y = motion.x.numpy(), motion.y.numpy()
        return torch.stack([torch.from_numpy(_read(one.numpy(), x, y)) for one in maps])

    def mean_around(self, maps: Tensor, side_px: int) -> Tensor:
        return torch.stack([torch.from_numpy(_mean_around(one.numpy(), side_px)) for one in maps])


def _unknown(shape: torch.Size) -> Motion:
    nothing, none = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
    return Motion(nothing, nothing, none, none.any(), nothing.sum(), nothing, nothing.sum(), nothing.sum().double())


def _find_motion(a: Picture, b: Picture) -> Motion:
    good_a, good_b = (flow.well_exposed(one.luminance, one.largest).numpy() for one in (a, b))
    if not (_enough(good_a) and _enough(good_b)):
        return _unknown(a.luminance.shape)
    luma_a, luma_b = a.luminance.numpy(), b.luminance.numpy()
    guess = float(np.median(_stops(luma_b[good_b])) - np.median(_stops(luma_a[good_a])))
    grey_a, grey_b = (
        (_coded_alike(luma, scale, guess) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
        for luma, scale in ((luma_a, 1.0), (luma_b, 2.0**-guess))
    )
    x, y = _dense_flow(grey_a, grey_b)
    inside = _inside(x, y)
    light_a, light_b = (one.light.permute(1, 2, 0).numpy() for one in (a, b))
    light = _read(light_b, x, y)
    largest = torch.from_numpy(_read(b.largest.numpy(), x, y))
    luma = flow.luminance(torch.from_numpy(light).permute(2, 0, 1))
    comparable = good_a & flow.well_exposed(luma, largest).numpy() & inside
    if not _enough(comparable):
        return _unknown(a.luminance.shape)
    stops_a, stops_b = (_mean_stops(values, comparable) for values in (luma_a, luma.numpy()))
    exposure = float(np.median(stops_b - stops_a))
    difference = np.abs(_coded_alike(light_a, 1.0, exposure) - _coded_alike(light, 2.0**-exposure, exposure)).max(-1)
    median = float(np.median(difference[comparable]))
    places = (torch.from_numpy(one) for one in (x, y, inside))
    likeness = torch.tensor(_correlation(stops_a, stops_b), dtype=torch.float64)
    return Motion(
        *places,
        torch.tensor(True),
        torch.tensor(exposure),
        torch.from_numpy(difference),
        torch.tensor(median),
        likeness,
    )


def _read(picture: Array, x: Array, y: Array) -> Array:
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
    found = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(*padded, None)[:height, :width]
    columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    found = _filled(found, _held(grey_a, grey_b, found[..., 0] + columns, found[..., 1] + rows))
    return found[..., 0] + columns, found[..., 1] + rows


def _held(grey_a: Array, grey_b: Array, x: Array, y: Array) -> Array:
    """How far flow can be believed, [0, 1]: where a has structure, b shows the same there, and it is inside of b."""
    import cv2

    across, down = (cv2.Sobel(grey_a, cv2.CV_32F, *order, ksize=3) for order in ((1, 0), (0, 1)))
    side = (flow.STRUCTURE_PX, flow.STRUCTURE_PX)
    energy = cv2.boxFilter(across * across + down * down, -1, side)
    difference = cv2.boxFilter(np.abs(grey_a.astype(np.float32) - _read(grey_b.astype(np.float32), x, y)), -1, side)
    same = 1 - np.clip((difference - flow.SAME_CODES) / np.float32(flow.OTHER_CODES - flow.SAME_CODES), 0, 1)
    return (energy / (energy + np.float32(flow.STRUCTURE_ENERGY)) * same * _inside(x, y)).astype(np.float32)


def _filled(found: Array, held: Array) -> Array:
    """Flow (h,w,2) where it holds, and elsewhere that of the nearest surroundings that do: in saturated skies nothing else is known.

    A pyramid of weighted sums goes down until it is a few pixels; on the way up each level takes from the one below what it lacks.
    """
    import cv2

    levels = [np.dstack([found * held[..., None], held])]
    while min(levels[-1].shape[:2]) > 2:
        levels.append(cv2.pyrDown(levels[-1]))
    weight = np.float32(flow.FILL_WEIGHT)
    value = levels[-1][..., :2] / (levels[-1][..., 2:] + np.float32(1e-6))
    for level in reversed(levels[:-1]):
        value = cv2.pyrUp(value, dstsize=level.shape[1::-1])
        value = (level[..., :2] + weight * value) / (level[..., 2:] + weight)
    return value


def _coded_alike(light: Array, scale: float, exposure: float) -> Array:
    """Light times scale, cut off at what two frames show whose exposures differ by that many stops, as SDR signal in [0, 1]; new array."""
    top = np.float32(min(1.0, 2.0**-exposure))
    shown = np.minimum(np.asarray(light, np.float32) * np.float32(scale), top)
    return ENCODE["bt1886"].apply_(torch.from_numpy(np.ascontiguousarray(shown))).numpy()


def _mean_stops(luminance: Array, comparable: Array) -> Array:
    """log2 of the mean luminance of the comparable pixels around each of them, (n,): reading between pixels smooths b's picture, and a finely
    mottled picture that is smoothed is brighter in its logarithm's median."""
    counted, summed = (
        _mean_around(values, flow.STRUCTURE_PX)[comparable]
        for values in (comparable.astype(np.float32), luminance * comparable)
    )
    return _stops(summed / counted)


def _mean_around(values: Array, side_px: int) -> Array:
    import cv2

    cv2.setNumThreads(1)
    return cv2.boxFilter(values, -1, (side_px, side_px), borderType=cv2.BORDER_REPLICATE)


def _stops(light: Array) -> Array:
    return flow.stops(torch.from_numpy(light)).numpy()


def _inside(x: Array, y: Array) -> Array:
    return flow.inside(torch.from_numpy(x), torch.from_numpy(y)).numpy()


def _correlation(a: Array, b: Array) -> float:
    """Pearson's, with NumPy's own sums: those of a BLAS may follow its threads. 0 where one of them is flat."""
    a, b = (values.astype(np.float64) - values.mean(dtype=np.float64) for values in (a, b))
    power = float((a * a).sum() * (b * b).sum())
    return float((a * b).sum()) / power**0.5 if power > 0 else 0.0


def _enough(chosen: Array) -> bool:
    return int(np.count_nonzero(chosen)) >= max(1, flow.LEAST_SHARE * chosen.size)
