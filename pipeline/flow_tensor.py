"""Flow made of tensors, for frames that stay on a GPU: Lucas and Kanade's method from coarse to fine, with neighbours that agree.

At each level of a pyramid b is read along the flow so far, and every pixel's flow takes the step that brings a's window nearest to it (Lucas
and Kanade 1981). The windows' mean difference does not count, so a window may be brighter; pixels that differ much and places beyond
b's edges weigh little. Along an edge a window says nothing: so before each step the flow is averaged with that around it, and the step moves
it as far as the window has something to say (as Bruhn, Weickert and Schnörr 2005 join local and global methods). Where there is nothing to
hold on to at all, the flow comes from the surroundings, at every level.

All pairs of one frame go through together, and nothing asks the GPU for an answer: the numbers of levels and steps depend on the picture's
size alone, and a median is a place in a sorted row. No operation adds with atomics: reading (`grid_sample`), windows (`avg_pool2d`), enlarging,
sorting and summing are reproducible forward (torch.use_deterministic_algorithms of PyTorch 2.15 names them for their gradients at most).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline import flow
from pipeline.flow import Motion, Picture
from pipeline.transfer import ENCODE

LEAST_SIDE_PX = 12
"""The pyramid goes down while the shorter side is at least this."""

FINEST = 1
"""Finest level on which flow is sought, 0 = the whole picture; its flow is enlarged from there."""

STEPS = 3
"""Steps at each level."""

GUESSES = 3
"""How often the ratio of the exposures is guessed without motion."""

WINDOW_PX = 9
"""Side of a pixel's window, and of the surroundings whose flow it is averaged with, at every level."""

NOISE_CODES = 8.0
"""Difference of 8-bit codes at which a pixel weighs half."""

LEAST_GRADIENT = 1.0
"""Mean squared gradient, of 8-bit codes a pixel, at which a window's own word counts half against the flow around it."""

LARGEST_STEP_PX = 1.5
"""Of one step, at its level."""


class Tensors:
    """See flow.Method. Tensors are wherever the frames are; the motions of all pairs are found at once."""

    def bring(self, small: Tensor) -> Tensor:
        return small

    def find_motions(self, a: Picture, others: Sequence[Picture]) -> Callable[[int], Motion]:
        return _find_motions(a, others).__getitem__

    def warp(self, maps: Tensor, motion: Motion) -> Tensor:
        return _read(maps[None], motion.x[None], motion.y[None])[0]

    def mean_around(self, maps: Tensor, side_px: int) -> Tensor:
        return _mean_around(maps[None], side_px)[0]


def _find_motions(a: Picture, others: Sequence[Picture]) -> list[Motion]:
    """The motion from a to each of the others. Inside, N is their number: a's maps are (1,...), theirs (N,...)."""
    light_a, luma_a, largest_a = (one[None] for one in (a.light, a.luminance, a.largest))
    light_b, luma_b, largest_b = (
        torch.stack([getattr(other, name) for other in others]) for name in ("light", "luminance", "largest")
    )
    good_a = flow.well_exposed(luma_a, largest_a)
    known = _enough(good_a) & _enough(flow.well_exposed(luma_b, largest_b))
    guess = _guess(luma_a, largest_a, luma_b, largest_b)
    grey_a, grey_b = (
        _coded_alike(luma[:, None], scale, guess) * 255
        for luma, scale in ((luma_a, torch.zeros_like(guess)), (luma_b, -guess))
    )
    x, y = _places(_dense_flow(grey_a, grey_b))
    inside = flow.inside(x, y)
    read = _read(torch.cat([light_b, largest_b[:, None]], dim=1), x, y)
    light, largest = read[:, :3], read[:, 3]
    luma = flow.luminance(light.transpose(0, 1))
    comparable = good_a & flow.well_exposed(luma, largest) & inside
    known = known & _enough(comparable)
    stops_a, stops_b = (_mean_stops(values, comparable) for values in (luma_a, luma))
    exposure = _known(_median(stops_b - stops_a, comparable), known)
    coded_a, coded_b = (
        _coded_alike(values, scale, exposure)
        for values, scale in ((light_a, torch.zeros_like(exposure)), (light, -exposure))
    )
    difference = (coded_a - coded_b).abs_().amax(dim=1)
    likeness = _correlation(stops_a, stops_b, comparable)
    fields = (x, y, inside, known, exposure, difference, _median(difference, comparable), likeness)
    return [Motion(*one) for one in zip(*fields, strict=True)]


def _guess(luma_a: Tensor, largest_a: Tensor, luma_b: Tensor, largest_b: Tensor) -> Tensor:
    """Stops (N,) by which b's exposure is above a's, without motion: from the medians of the pixels that are well exposed. What is near
    saturation in one is not in the other, so the two are not of the same things at first; knowing the guess, they are chosen again."""
    stops_a, stops_b = flow.stops(luma_a), flow.stops(luma_b)
    guess = torch.zeros(len(luma_b), device=luma_b.device)
    for _ in range(GUESSES):
        scale = torch.exp2(-guess)[:, None, None]
        good_a = _exposed_alike(luma_a, largest_a, scale)
        good_b = _exposed_alike(luma_b, largest_b, 1 / scale)
        enough = _enough(good_a) & _enough(good_b)
        guess = torch.where(enough, _median(stops_b, good_b) - _median(stops_a, good_a), guess)
    return guess


def _exposed_alike(luminance: Tensor, largest: Tensor, scale: Tensor) -> Tensor:
    """(N,h,w) bool: well exposed here, and in a frame that shows this light as 1 / scale of it."""
    return flow.well_exposed(luminance, largest) & flow.well_exposed(luminance / scale, largest / scale)


def _dense_flow(grey_a: Tensor, grey_b: Tensor) -> Tensor:
    """Where a's pixels are in b, as a way to go in pixels: 8-bit codes (N,1,h,w) float32 -> (N,2,h,w), x first."""
    pyramid = [(grey_a, grey_b)]
    while min(pyramid[-1][0].shape[-2:]) >= LEAST_SIDE_PX:
        pyramid.append(tuple(_halved(grey) for grey in pyramid[-1]))
    finest = min(FINEST, len(pyramid) - 1)
    found = torch.zeros_like(pyramid[-1][1]).repeat(1, 2, 1, 1)
    for a, b in reversed(pyramid[finest:]):
        if found.shape[-2:] != a.shape[-2:]:
            found = _enlarged(found, a.shape[-2:]) * 2
        across, down = _gradient(a)
        sure = torch.ones_like(b)
        for _ in range(STEPS):
            found = _averaged(found, sure)
            step, sure = _step(a, b, across, down, found)
            found = found + step
        found = _filled(found, _held(a, b, across, down, found))
    for a, _ in reversed(pyramid[:finest]):
        found = _enlarged(found, a.shape[-2:]) * 2
    return _filled(found, _held(grey_a, grey_b, *_gradient(grey_a), found))


def _averaged(found: Tensor, sure: Tensor) -> Tensor:
    """Flow (N,2,h,w), each pixel's the mean of those around it, weighted by how sure (N,1,h,w) they are."""
    means = _mean_around(torch.cat([found * sure, sure], dim=1), WINDOW_PX)
    return means[:, :2] / (means[:, 2:] + 1e-6)


def _step(a: Tensor, b: Tensor, across: Tensor, down: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """The step of each pixel's flow (N,2,h,w) that makes its window of a most like b there, and how sure that is (N,1,h,w): the squared
    gradient in the direction that has least. a, b (N,1,h,w); across, down: a's gradient.

    Least squares of late + step * gradient less its mean over the window, weighted.
    """
    x, y = _places(found)
    late = _read(b, x, y) - a
    weight = flow.inside(x, y)[:, None] / (1 + ((late - _mean_around(late, WINDOW_PX)) / NOISE_CODES).square_())
    slopes = torch.cat([across, down], dim=1)
    ones = torch.ones_like(late)
    maps = [slopes * across * ones, down * down * ones, slopes * late, slopes * ones, late, ones]
    means = _mean_around(torch.cat(maps, dim=1) * weight, WINDOW_PX)
    xx, xy, yy, xt, yt, mean_x, mean_y, mean_t = (means[:, :-1] / (means[:, -1:] + 1e-3)).unbind(1)
    xx, xy, yy = xx - mean_x * mean_x + LEAST_GRADIENT, xy - mean_x * mean_y, yy - mean_y * mean_y + LEAST_GRADIENT
    xt, yt = xt - mean_x * mean_t, yt - mean_y * mean_t
    area = xx * yy - xy * xy
    step = torch.stack([xy * yt - yy * xt, xy * xt - xx * yt], dim=1) / area[:, None]
    return step.clamp_(-LARGEST_STEP_PX, LARGEST_STEP_PX), (area / (xx + yy))[:, None]


def _held(a: Tensor, b: Tensor, across: Tensor, down: Tensor, found: Tensor) -> Tensor:
    """How far flow can be believed, (N,1,h,w) in [0, 1]: where a has structure, b shows the same there, and it is inside of b."""
    x, y = _places(found)
    energy = (across * across + down * down) * 64  # as Sobel's operator counts
    maps = torch.cat([energy.expand_as(b), (a - _read(b, x, y)).abs_()], dim=1)
    energy, difference = _mean_around(maps, flow.STRUCTURE_PX).split(1, dim=1)
    same = 1 - ((difference - flow.SAME_CODES) / (flow.OTHER_CODES - flow.SAME_CODES)).clamp_(0, 1)
    return energy / (energy + flow.STRUCTURE_ENERGY) * same * flow.inside(x, y)[:, None]


def _filled(found: Tensor, held: Tensor) -> Tensor:
    """Flow (N,2,h,w) where it holds, and elsewhere that of the nearest surroundings that do."""
    levels = [torch.cat([found * held, held], dim=1)]
    while min(levels[-1].shape[-2:]) > 2:
        levels.append(_halved(levels[-1]))
    value = levels[-1][:, :2] / (levels[-1][:, 2:] + 1e-6)
    for level in reversed(levels[:-1]):
        value = _enlarged(value, level.shape[-2:])
        value = (level[:, :2] + flow.FILL_WEIGHT * value) / (level[:, 2:] + flow.FILL_WEIGHT)
    return value


def _places(found: Tensor) -> tuple[Tensor, Tensor]:
    """Flow (N,2,h,w) -> x and y (N,h,w) in b."""
    height, width = found.shape[-2:]
    columns = torch.arange(width, dtype=torch.float32, device=found.device)
    rows = torch.arange(height, dtype=torch.float32, device=found.device)[:, None]
    return found[:, 0] + columns, found[:, 1] + rows


def _read(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """maps (N,C,h,w) read at x, y (N,h,w), linear between pixels, the edge repeated -> (N,C,h,w)."""
    height, width = maps.shape[-2:]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _mean_around(maps: Tensor, side_px: int) -> Tensor:
    """Means of (N,C,h,w) over squares of that odd side, the edge repeated."""
    half = side_px // 2
    padded = F.pad(maps, (half, half, half, half), mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, (1, side_px), 1), (side_px, 1), 1)


def _gradient(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Codes a pixel across and down, (N,1,h,w) each: Sobel's operator over 8, the edge repeated."""
    around = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    across, down = around[..., 2:] - around[..., :-2], around[..., 2:, :] - around[..., :-2, :]
    return (
        (across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]) / 8,
        (down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]) / 8,
    )


def _halved(maps: Tensor) -> Tensor:
    """(N,C,h,w) -> half its size rounded up: means of 2x2 pixels."""
    return F.avg_pool2d(maps, 2, ceil_mode=True, count_include_pad=False)


def _enlarged(maps: Tensor, size: torch.Size) -> Tensor:
    """What `_halved` made small, to the size it had: linear between the middles of the 2x2 pixels."""
    double = F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
    return double[..., : size[0], : size[1]]


def _coded_alike(light: Tensor, stops: Tensor, exposure: Tensor) -> Tensor:
    """Light (N or 1,C,h,w) raised by `stops` (N,), cut off at what two frames show whose exposures differ by `exposure` (N,) stops, as SDR signal
    in [0, 1]; new tensor."""
    top = torch.exp2(-exposure).clamp_(max=1)[:, None, None, None]
    shown = torch.minimum(light * torch.exp2(stops)[:, None, None, None], top)
    return ENCODE["bt1886"].apply_(shown.contiguous())


def _mean_stops(luminance: Tensor, comparable: Tensor) -> Tensor:
    """log2 of the mean luminance (N,h,w) of the comparable pixels around each of them; elsewhere it means nothing."""
    maps = torch.stack([comparable.float(), luminance * comparable], dim=1)
    counted, summed = _mean_around(maps, flow.STRUCTURE_PX).unbind(1)
    return flow.stops(summed / counted.clamp(min=1e-6))


def _median(values: Tensor, chosen: Tensor) -> Tensor:
    """Median of the chosen ones of each map, (N,h,w) -> (N,); where none is chosen it is infinite."""
    row = torch.where(chosen, values, torch.inf).flatten(1).sort(dim=1).values
    count = chosen.flatten(1).sum(dim=1, keepdim=True)
    middle = torch.cat([(count - 1).clamp_(min=0) // 2, count // 2], dim=1).clamp_(max=row.shape[1] - 1)
    return row.gather(1, middle).mean(dim=1)


def _correlation(a: Tensor, b: Tensor, comparable: Tensor) -> Tensor:
    """Pearson's over the comparable pixels of each map, (N,h,w) -> (N,) float64; 0 where one of them is flat."""
    weight = comparable.flatten(1).double()
    count = weight.sum(dim=1, keepdim=True).clamp_(min=1)
    rows = [values.flatten(1).double() for values in (a, b)]
    a, b = ((row - (row * weight).sum(dim=1, keepdim=True) / count) * weight for row in rows)
    power = (a * a).sum(dim=1) * (b * b).sum(dim=1)
    return torch.where(power > 0, (a * b).sum(dim=1) / power.clamp(min=1e-30).sqrt(), 0)


def _enough(chosen: Tensor) -> Tensor:
    """(N,h,w) bool -> (N,) bool."""
    return chosen.flatten(1).sum(dim=1) >= max(1, flow.LEAST_SHARE * chosen[0].numel())


def _known(values: Tensor, known: Tensor) -> Tensor:
    """Values (N,), 0 where nothing is known."""
    return torch.where(known, values, 0)
