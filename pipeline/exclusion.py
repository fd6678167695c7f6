"""Exclusion: parts of the picture that belong to the car and not to the scene, as polygons. They keep the SDR picture.

Boxes and polygons are given by hand; the bonnet can be found: its upper edge crosses the whole picture low down and stays where it is in
keyframes of the whole file, while the scene above it moves. Lane markings stay too, but do not cross the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.errors import InputError
from pipeline.overlay_text import MOVING_CODES

Array = np.ndarray
Polygon = tuple[int, ...]
"""x1, y1, x2, y2, ... in pixels of the visible picture; pixels on its border are in it."""

LEAST_PICTURES = 8
MOVING_SHARE = 0.15
"""The camera moves if so much of the picture changes by more than MOVING_CODES (standard deviation over the pictures)."""
SMALL_WIDTH = 480
LOWEST = 0.65
"""The edge lies below this share of the picture's height."""
SLOPE, BENT = 2, 1.0
"""Rows that the edge may rise or fall by from one column of the small picture to the next, and what each costs (codes)."""
HIGHER = 0.02
"""What a row further up is worth (codes)."""
EDGE_CODES, EDGE_SHARE = 2.0, 0.8
"""How steep the edge is, the same way up or down in two thirds of the pictures and more (codes a row of the small picture), and at how many of its
columns at least. In the two of the five real clips that show a bonnet it is 0.93 and 0.94 of them, in the others and in virtual drives at most 0.58."""
CORNERS = 33
"""Points of the found polygon's upper edge."""


def find_bonnet(frames: Sequence[Array]) -> Polygon | None:
    """The bonnet, or None where there is none or the camera stands still. Depends on the pictures alone, not on their order.

    frames: (H,W,3) uint8 pictures of one size, as for `find_overlays`
    """
    import cv2

    if len(frames) < LEAST_PICTURES:
        return None
    height, width = frames[0].shape[:2]
    down = max(8, round(height * SMALL_WIDTH / width))
    small = np.stack([cv2.resize(frame, (SMALL_WIDTH, down), interpolation=cv2.INTER_AREA) for frame in frames])
    gray = np.sort(small.astype(np.int16).sum(axis=3), axis=0)  # sorted: sums do not depend on the order
    if (gray.astype(np.float32).std(axis=0) / 3 > MOVING_CODES).mean() < MOVING_SHARE:
        return None
    first = round(down * LOWEST)
    gray = small[:, first - 1 :].astype(np.int32).sum(axis=3)
    slope = np.sort(gray[:, 2:] - gray[:, :-2], axis=0)  # row r: at row first + r, three channels and two rows together
    few = len(slope) // 6
    steep = np.maximum(np.maximum(slope[few], -slope[-1 - few]), 0) / 6
    upper = HIGHER * np.arange(len(steep), 0, -1)[:, None]  # of edges alike, the one above: below it are reflections
    path = _strongest_path(np.minimum(steep, 2 * EDGE_CODES) + upper)
    if (steep[path, np.arange(SMALL_WIDTH)] >= EDGE_CODES).mean() < EDGE_SHARE:
        return None
    columns = np.linspace(0, SMALL_WIDTH - 1, CORNERS).round().astype(int)
    x = (columns * (width - 1) / (SMALL_WIDTH - 1)).round().astype(int)
    y = ((path[columns] + first + 0.5) * height / down).round().astype(int).clip(0, height - 1)
    corners = [*zip(x, y, strict=True), (width - 1, height - 1), (0, height - 1)]
    return tuple(int(value) for corner in corners for value in corner)


def _strongest_path(steep: Array) -> Array:
    """Rows (W,) of the path from the left to the right of steep (h,w) with the largest sum."""
    rows, columns = steep.shape
    came = np.zeros((rows, columns), np.int64)
    best = steep[:, 0].astype(np.float64)
    for column in range(1, columns):
        wide = np.pad(best, SLOPE, constant_values=-np.inf)
        choices = np.stack([wide[step : step + rows] - BENT * abs(step - SLOPE) for step in range(2 * SLOPE + 1)])
        came[:, column] = choices.argmax(axis=0) + np.arange(rows) - SLOPE
        best = choices.max(axis=0) + steep[:, column]
    path = np.empty(columns, np.int64)
    path[-1] = best.argmax()
    for column in range(columns - 1, 0, -1):
        path[column - 1] = came[path[column], column]
    return path


def by_hand(
    boxes: Sequence[Sequence[int]], polygons: Sequence[Sequence[int]], width: int, height: int
) -> tuple[Polygon, ...]:
    """What a user gave as polygons. Raises InputError for one that is none or reaches out of the picture."""
    given: list[Polygon] = []
    for box in boxes:
        if len(box) != 4 or min(box[2:]) < 1 or min(box[:2]) < 0 or box[0] + box[2] > width or box[1] + box[3] > height:
            raise InputError(
                f"exclude.boxes: {list(box)} does not fit; legal is [x, y, width, height] within the picture's {width}x{height} pixels."
            )
        left, top, across, below = (int(value) for value in box)
        right, bottom = left + across - 1, top + below - 1
        given.append((left, top, right, top, right, bottom, left, bottom))
    for polygon in polygons:
        inside = all(0 <= value < (width, height)[place % 2] for place, value in enumerate(polygon))
        if len(polygon) < 6 or len(polygon) % 2 or not inside:
            raise InputError(
                f"exclude.polygons: {list(polygon)} does not fit; legal is [x1, y1, x2, y2, x3, y3, ...] within the picture's {width}x{height} pixels."
            )
        given.append(tuple(int(value) for value in polygon))
    return tuple(given)


def draw(frame: Array, polygons: Sequence[Polygon]) -> Array:
    """A copy of frame (H,W,3) uint8 R, G, B with each polygon outlined."""
    import cv2

    drawn = np.ascontiguousarray(frame).copy()
    thick = max(1, frame.shape[0] // 360)
    for polygon in polygons:
        cv2.polylines(drawn, [np.array(polygon, np.int32).reshape(-1, 2)], True, (0, 255, 255), thick)
    return drawn
