"""Learned sampling positions of the last DCRB, and what a pixel's value is made from, drawn on the picture."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from evaluation.figure_canvas import LABEL_SIZE, MARGIN, PAPER, Cell, box_scale, draw_text, fit_box, sheet, text_width
from evaluation.figure_choice import Point
from evaluation.figure_network import Sampling, Window, clipped_pixels
from evaluation.figure_summands import signal_of
from evaluation.tonemap import exposure

Array = np.ndarray
INSET_PX, OVERVIEW_TALLEST_PX = 312, 900
MASK_RADIUS_PX = 8.5
"""Radius of a position whose modulation mask is 1; areas are as the masks."""

HALF_SIDES_PX = (12, 90)
"""Least and largest half side of an inset, in pixels of the picture."""

BEYOND = (150, 150, 158)
"""What an inset shows outside the picture."""

AIM, PLAIN, HERE, EDGE = (255, 122, 0), (70, 130, 255), (0, 200, 90), (20, 20, 24)


@dataclass(frozen=True)
class Aimed:
    """What is known of one point: its sampling, and (window, shares) as `figure_network.influence` gives them."""

    point: Point
    sampling: Sampling
    influence: tuple[Window, Array]


@dataclass(frozen=True)
class Inset:
    """An enlarged square of the picture: pixels centre - half .. centre + half each way, INSET_PX wide when drawn."""

    x: int
    y: int
    half: int

    @property
    def zoom(self) -> float:
        """Drawn pixels per picture pixel."""
        return INSET_PX / (2 * self.half + 1)

    def place(self, position: Array) -> Array:
        """Picture pixels (..., 2), x and y, whole numbers being centres -> drawn pixels (..., 2), likewise."""
        return (np.asarray(position) - (self.x - self.half, self.y - self.half) + 0.5) * self.zoom - 0.5

    def cut(self, picture: Array, outside: float | tuple[int, int, int] = 0.0) -> Array:
        """That square of (H,W) or (H,W,3), enlarged; what lies beyond the picture has the value `outside`."""
        side = 2 * self.half + 1
        out = np.empty((side, side, *picture.shape[2:]), picture.dtype)
        out[:] = outside
        left, top = self.x - self.half, self.y - self.half
        rows = slice(max(top, 0), min(top + side, picture.shape[0]))
        columns = slice(max(left, 0), min(left + side, picture.shape[1]))
        out[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = picture[rows, columns]
        return cv2.resize(out, (INSET_PX, INSET_PX), interpolation=cv2.INTER_NEAREST)


def draw_offsets(sdr: Array, aimed: list[Aimed], caption: str) -> Array:
    """uint8 RGB. sdr: the whole SDR picture, (H,W,3) linear light, SDR white = 1.0; one pair of insets for each point."""
    picture, lost = exposure(sdr, 0.0, 1.0), clipped_pixels(signal_of(sdr))
    cells: list[Cell] = []
    for number, item in enumerate(aimed, 1):
        cells += [_positions(picture, lost, number, item), _influence(picture, number, item)]
    rows = [cells[at : at + 4] for at in range(0, len(cells), 4)]
    width = len(rows[0]) * (INSET_PX + MARGIN) - MARGIN
    told = (
        f"{caption} Left of each pair, the 9 places that the last DCRB samples for the pixel marked by a green cross: orange, their area as "
        "the modulation mask, with lines from the pixel; blue dots are the undeformed 3x3 kernel. A place is on the map of that block, "
        "whose pixels are squares of the picture; each sample also sees the 3x3 convolutions before it. Right of each pair, all blocks together: "
        "how much each pixel of the input counts for Net_R at the cross (gradient with all offsets and masks held fixed; brighter is more, "
        "logarithmic over a factor of 1000). SDR picture shown at exposure 0, no tone curve; sRGB."
    )
    return sheet([[_overview(picture, aimed, width)], *rows], told)


def positions_inset(item: Aimed) -> Inset:
    """The square around a point that shows its sampling positions, as far as HALF_SIDES_PX allow."""
    reach = np.abs(item.sampling.positions - (item.point.x, item.point.y)).max()
    return Inset(item.point.x, item.point.y, _half_side(float(reach) + 3))


def _half_side(wanted: float) -> int:
    least, largest = HALF_SIDES_PX
    return int(np.clip(np.ceil(wanted), least, largest)) if np.isfinite(wanted) else largest


def _overview(picture: Array, aimed: list[Aimed], width: int) -> Cell:
    scale = box_scale(picture, width, OVERVIEW_TALLEST_PX)
    out = fit_box(picture, width, OVERVIEW_TALLEST_PX)
    for number, item in enumerate(aimed, 1):
        at = (np.array([item.point.x, item.point.y]) + 0.5) * scale - 0.5
        half = max(6.0, positions_inset(item).half * scale)
        low, high = np.round(at - half).astype(int), np.round(at + half).astype(int)
        cv2.rectangle(out, low.tolist(), high.tolist(), EDGE, 3)
        cv2.rectangle(out, low.tolist(), high.tolist(), AIM, 1)
        label = str(number)
        wide = text_width(label, LABEL_SIZE) + 4
        left = int(high[0]) + 3 if high[0] + wide + 3 < width else int(low[0]) - wide - 3
        top = int(np.clip(low[1], 0, max(0, out.shape[0] - 20)))
        out[top : top + 20, max(left, 0) : max(left, 0) + wide] = PAPER
        draw_text(out, label, max(left, 0) + 2, top + 15, LABEL_SIZE)
    return Cell(out, "Points (boxes are the insets)")


def _positions(picture: Array, lost: Array, number: int, item: Aimed) -> Cell:
    inset, sampling, point = positions_inset(item), item.sampling, item.point
    out = np.ascontiguousarray(inset.cut(picture, BEYOND))
    here = inset.place(np.array([point.x, point.y]))
    for position in inset.place(sampling.positions):
        _line(out, here, position, EDGE, 2)
        _line(out, here, position, AIM, 1)
    for position in inset.place(sampling.plain):
        _disc(out, position, 2.0, PLAIN)
    for position, weight in zip(inset.place(sampling.positions), sampling.weights, strict=True):
        _disc(out, position, MASK_RADIUS_PX * float(np.sqrt(max(weight, 0.0))), AIM)
    _cross(out, here)
    away = np.hypot(*(sampling.positions - (point.x, point.y)).T)
    rounded = np.clip(np.round(np.nan_to_num(sampling.positions)), -1e6, 1e6).astype(int)
    within = ((rounded >= 0) & (rounded < (picture.shape[1], picture.shape[0]))).all(1)
    seen = np.zeros(len(rounded), bool)
    seen[within] = ~lost[rounded[within, 1], rounded[within, 0]]
    beyond = np.abs(sampling.positions - (point.x, point.y)).max(1) > inset.half + 0.5
    words = (
        f"x {point.x}, y {point.y}: {point.why}. Up to {away.max():.1f} px away; "
        f"{sampling.weights[seen].sum() / max(sampling.weights.sum(), 1e-9):.0%} of the masks' sum on pixels that are not clipped."
    )
    words += f" {int((~within).sum())} outside the picture (read as 0)." if not within.all() else ""
    words += f" {int(beyond.sum())} beyond this inset." if beyond.any() else ""
    return Cell(out, f"{number}. sampling positions", words)


def _influence(picture: Array, number: int, item: Aimed) -> Cell:
    window, shares = item.influence
    point = item.point
    local_x, local_y = point.x - window.left, point.y - window.top
    radii = radii_holding(shares, local_x, local_y, (0.5, 0.9))
    whole = np.zeros(picture.shape[:2], np.float32)
    whole[window.top : window.top + window.height, window.left : window.left + window.width] = shares / max(
        float(shares.max()), 1e-30
    )
    inset = Inset(point.x, point.y, _half_side(max(radii[1] * 1.3, positions_inset(item).half)))
    grey = inset.cut(picture, BEYOND).mean(-1, keepdims=True) * 0.35
    level = np.clip(1 + np.log10(np.maximum(inset.cut(whole), 1e-6)) / 3, 0, 1)
    heat = cv2.applyColorMap(np.round(255 * level).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    cover = np.sqrt(level)[..., None]
    out = np.ascontiguousarray(np.round(grey * (1 - cover) + heat * cover).astype(np.uint8))
    _cross(out, inset.place(np.array([point.x, point.y])))
    if not shares.any():
        words = "Net_R does not depend on the picture here."
    else:
        words = f"Half of it comes from within {radii[0]} px, 90 % from within {radii[1]} px (squares)."
    return Cell(out, f"{number}. where Net_R comes from", words)


def radii_holding(shares: Array, x: int, y: int, parts: tuple[float, ...]) -> list[int]:
    """For each part of 1, the least r such that the square of 2r + 1 pixels around (x, y) holds it; 0 where all shares are 0."""
    rows, columns = np.indices(shares.shape)
    away = np.maximum(np.abs(rows - y), np.abs(columns - x))
    held = np.cumsum(np.bincount(away.ravel(), weights=shares.ravel()))
    return [int(np.searchsorted(held, part * held[-1] * (1 - 1e-12))) if held[-1] > 0 else 0 for part in parts]


def _line(out: Array, start: Array, end: Array, colour: tuple[int, int, int], thick: int) -> None:
    ends = [tuple(np.round(np.clip(np.nan_to_num(p), -4000, 4000) * 16).astype(int).tolist()) for p in (start, end)]
    cv2.line(out, ends[0], ends[1], colour, thick, cv2.LINE_AA, 4)


def _disc(out: Array, centre: Array, radius: float, colour: tuple[int, int, int]) -> None:
    at = tuple(np.round(np.clip(np.nan_to_num(centre), -4000, 4000) * 16).astype(int).tolist())
    cv2.circle(out, at, round((max(radius, 1.0) + 1.0) * 16), EDGE, -1, cv2.LINE_AA, 4)
    cv2.circle(out, at, round(max(radius, 1.0) * 16), colour, -1, cv2.LINE_AA, 4)


def _cross(out: Array, centre: Array) -> None:
    at = tuple(np.round(centre).astype(int).tolist())
    cv2.drawMarker(out, at, EDGE, cv2.MARKER_CROSS, 15, 4, cv2.LINE_8)
    cv2.drawMarker(out, at, HERE, cv2.MARKER_CROSS, 13, 2, cv2.LINE_8)
