"""What figures show when the user names nothing: points where highlights cut into something, and the largest clipped regions."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from evaluation.figure_network import clipped_pixels
from pipeline.errors import InputError

Array = np.ndarray
CATEGORIES = ("thin line", "small structure", "car", "sky", "tree", "building")
"""Of the paper's figures 3 to 5 (supplement, section 4)."""

LEAST_SIDE_PX = 4
"""Of a crop that --strip names."""

THIN_PX = 9
"""A dark structure narrower than this, with clipped pixels on both sides, is a thin one."""

LINE_HALF_PX, LINE_TURNS = 10, 16
"""A line goes straight for so many pixels on both sides of a gap; directions looked at, evenly spaced over half a turn."""

DARK_ENOUGH = 0.25
"""Of the coded range: a line this much darker than the sky counts in full, as the darkest pole does."""

NEARLY_CLIPPED = 0.85
"""Coded signal from which a pixel may be the gap in a line: compression smears the line's rest into it."""


@dataclass(frozen=True)
class Crop:
    """A piece of a picture, in pixels, and what it shows."""

    label: str
    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Point:
    """A pixel, and why it is looked at."""

    x: int
    y: int
    why: str


def parse_point(text: str) -> Point:
    """ "X,Y" in pixels. InputError when it is not."""
    numbers = _numbers(text, 2)
    if numbers is None:
        raise InputError(f"--point {text}: not a point; write X,Y in pixels, for example 412,96.")
    return Point(numbers[0], numbers[1], "named point")


def parse_crop(text: str) -> Crop:
    """ "CATEGORY:X,Y,W,H" in pixels; "thin-line" and "thin_line" are "thin line". InputError when it is not one, or no legal category."""
    category, colon, place = text.rpartition(":")
    label = category.strip().lower().replace("-", " ").replace("_", " ")
    if colon and label not in CATEGORIES:
        raise InputError(f"--strip {text}: there is no category '{category}'; legal: {', '.join(CATEGORIES)}.")
    numbers = _numbers(place, 4)
    if not colon or numbers is None:
        raise InputError(f"--strip {text}: write CATEGORY:X,Y,W,H in pixels, for example 'thin line:400,80,120,60'.")
    return Crop(label, *numbers)


def check_crop(crop: Crop, size: tuple[int, int], title: str) -> None:
    """InputError when the crop is not all inside a picture of (height, width), or smaller than LEAST_SIDE_PX."""
    named = f"--strip {crop.label}:{crop.left},{crop.top},{crop.width},{crop.height}"
    if min(crop.width, crop.height) < LEAST_SIDE_PX:
        raise InputError(f"{named}: too small; legal: at least {LEAST_SIDE_PX} pixels each way.")
    if min(crop.left, crop.top) < 0 or crop.left + crop.width > size[1] or crop.top + crop.height > size[0]:
        raise InputError(f"{named}: reaches outside {title}, which is {size[1]}x{size[0]} pixels.")


def largest_clipped_regions(signal: Array, count: int = 4) -> list[Crop]:
    """Crops around the largest clipped regions of (H, W) largest coded channel, named 'clipped region 1' and so on, with some
    surroundings. Regions below 0.02 % of the picture do not count, so the list may be empty."""
    height, width = signal.shape
    mask = cv2.morphologyEx(clipped_pixels(signal).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    _, _, boxes, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    found = sorted(boxes[1:], key=lambda box: -box[cv2.CC_STAT_AREA])
    least_area = max(4, 0.0002 * height * width)
    return [
        _around(box, number, height, width)
        for number, box in enumerate(found[:count], 1)
        if box[cv2.CC_STAT_AREA] >= least_area
    ]


def busiest_centre(signal: Array, side: int) -> tuple[int, int]:
    """(x, y) of the middle of the square of `side` pixels that holds most clipped pixels; of the picture when none is clipped."""
    mask = clipped_pixels(signal).astype(np.float32)
    if not mask.any():
        return signal.shape[1] // 2, signal.shape[0] // 2
    sums = cv2.boxFilter(mask, cv2.CV_32F, (side, side), borderType=cv2.BORDER_CONSTANT)
    y, x = np.unravel_index(int(np.argmax(sums)), sums.shape)
    return int(x), int(y)


def strongest_points(signal: Array, count: int = 4) -> list[Point]:
    """Pixels of (H, W) largest coded channel where highlights cut into something, well apart, at most `count`.

    Half of them at structures thinner than THIN_PX inside the clipped region, gaps in thin lines first; the others at the strongest
    edges of the clipped region. All are clipped or (gaps) nearly so, the kind that has to be restored. With nothing clipped, the strongest edges of
    the picture; in a flat picture none.
    """
    signal = np.ascontiguousarray(signal, np.float32)
    mask = clipped_pixels(signal)
    soft = cv2.GaussianBlur(signal, (0, 0), 1.0)
    edges = np.hypot(cv2.Sobel(soft, cv2.CV_32F, 1, 0) / 8, cv2.Sobel(soft, cv2.CV_32F, 0, 1) / 8)
    apart = max(8, round(0.08 * float(np.hypot(*signal.shape))))
    if not mask.any():
        return _peaks(edges, count, apart, "strongest edge (nothing is clipped)", [])
    around = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), THIN_PX)
    closed = cv2.morphologyEx(signal, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (THIN_PX, THIN_PX)))
    dark = np.minimum(closed - signal, DARK_ENOUGH) / DARK_ENOUGH * (closed >= 0.9) * around**2
    gaps = np.where(signal >= NEARLY_CLIPPED, _gaps(dark), 0)
    points = _peaks(gaps, count // 2, apart, "gap in a thin structure", [])
    beside = np.where(mask, cv2.GaussianBlur(dark, (0, 0), 2.0), 0)
    points = _peaks(beside, count // 2 - len(points), apart, "beside a thin structure", points)
    return _peaks(np.where(mask, edges, 0), count - len(points), apart, "edge of the clipped region", points)


def _gaps(dark: Array) -> Array:
    """(H, W) darkness of thin structures, 0 to 1 -> how surely a straight line runs on both sides of each pixel, 0 to 1: the largest
    over directions of the lesser of the mean darkness on either side."""
    best = np.zeros_like(dark)
    for turn in np.arange(LINE_TURNS) * np.pi / LINE_TURNS:
        means = []
        for way in (1, -1):
            kernel = np.zeros((2 * LINE_HALF_PX + 1, 2 * LINE_HALF_PX + 1), np.float32)
            end = LINE_HALF_PX + way * LINE_HALF_PX * np.array([np.cos(turn), np.sin(turn)])
            cv2.line(kernel, (LINE_HALF_PX, LINE_HALF_PX), np.round(end).astype(int).tolist(), 1.0, 1)
            means.append(cv2.filter2D(dark, cv2.CV_32F, kernel / kernel.sum(), borderType=cv2.BORDER_CONSTANT))
        np.maximum(best, np.minimum(*means), out=best)
    return best


def _peaks(score: Array, count: int, apart: int, why: str, taken: list[Point]) -> list[Point]:
    """`taken` and up to `count` more: the highest scores, at least `apart` pixels from all others."""
    score, points = score.copy(), list(taken)
    for point in taken:
        cv2.circle(score, (point.x, point.y), apart, 0.0, -1)
    least = max(0.01, 0.1 * float(score.max()))
    for _ in range(count):
        y, x = np.unravel_index(int(np.argmax(score)), score.shape)
        if score[y, x] < least:
            break
        points.append(Point(int(x), int(y), why))
        cv2.circle(score, (int(x), int(y)), apart, 0.0, -1)
    return points


def _around(box: Array, number: int, height: int, width: int) -> Crop:
    """The box with a quarter more on each side, no narrower than 1 : 2.5 either way, and no smaller than 1/12 of the width."""
    least = min(max(24, width // 12), width, height)
    w, h = (int(max(1.5 * box[k], least)) for k in (cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT))
    w, h = min(max(w, int(h / 2.5)), width), min(max(h, int(w / 2.5)), height)
    middle_x = box[cv2.CC_STAT_LEFT] + box[cv2.CC_STAT_WIDTH] / 2
    middle_y = box[cv2.CC_STAT_TOP] + box[cv2.CC_STAT_HEIGHT] / 2
    left, top = int(np.clip(middle_x - w / 2, 0, width - w)), int(np.clip(middle_y - h / 2, 0, height - h))
    return Crop(f"clipped region {number}", left, top, w, h)


def _numbers(text: str, count: int) -> list[int] | None:
    parts = text.split(",")
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        return None
    return numbers if len(numbers) == count else None
