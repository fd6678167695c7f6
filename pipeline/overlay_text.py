"""Burnt-in text in pictures of one camera: which pixels stay text while the scene passes behind them, and which of them form lines.

Three views of a picture show three kinds of text: its least channel white text, the difference of its largest and least channel coloured
text, also before white, its largest channel bright text of any colour before dark. Each is searched by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.heartbeat import beat

Array = np.ndarray
Area = tuple[int, int, int, int]
"""left, top, right, bottom in pixels; the last two are one past the end."""

BRIGHT = 150
"""Codes (0 to 255) of the largest channel from which a pixel can be text that a network might brighten."""
RISE = 40
"""Codes by which text is above its ground."""
COLORFUL = 90
"""Largest less least channel of coloured text, in codes, at least."""
GROUND_BELOW, GROUND_COLORLESS = 215, 60
"""Text on a ground above these codes cannot be seen; such pictures say nothing about that pixel."""
STEADY, OFTEN, EVER = 0.7, 0.2, 0.06
"""Share of the pictures (in which it could be seen) that show text at a pixel: text that stays; digits that change; digits that come seldom,
which are looked for only where text was found."""
STEADY_CODES, OFTEN_CODES = 16.0, 25.0
"""Largest standard deviation of the level of such a pixel, in codes."""
MOVING_CODES = 8.0
"""A pixel that varies by more (standard deviation) shows a scene that moves."""
LINE_PIECES = 4
"""Pieces of one height that make a line of text."""


@dataclass(frozen=True)
class Piece:
    """A connected group of text pixels. level: mean code; area in pixels."""

    left: int
    top: int
    right: int
    bottom: int
    area: int
    level: float

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left


@dataclass(frozen=True)
class View:
    """What one view shows at each pixel over all pictures, (H,W). steady, often, ever: bool, see there, each within the next; level, calm: mean
    and standard deviation of its code where it is text."""

    steady: Array
    often: Array
    ever: Array
    level: Array
    calm: Array


def channels_of(picture: Array) -> tuple[Array, Array, Array]:
    """What the three views look at, of (...,3) uint8: least channel, largest less least, largest. (...) uint8 each."""
    bright, least = picture.max(axis=-1), picture.min(axis=-1)
    return least, bright - least, bright


def look(pictures: Sequence[Array], kernel_px: int) -> tuple[View, View, View]:
    """The views of white, coloured and bright text in pictures (H,W,3) uint8; strokes are narrower than kernel_px.

    In whole numbers up to the last, so that the order of the pictures does not matter.
    """
    import cv2

    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (kernel_px | 1,) * 2)
    sums = np.zeros((3, 4, *pictures[0].shape[:2]), np.int32)  # of each view: seen, text, its levels, their squares
    for picture in pictures:
        beat()
        least, color, bright = channels_of(picture)
        kinds = (
            (least, least, BRIGHT, GROUND_BELOW),
            (color, bright, COLORFUL, GROUND_COLORLESS),
            (bright, bright, BRIGHT, GROUND_BELOW),
        )
        for totals, (channel, measured, lowest, ground_below) in zip(sums, kinds, strict=True):
            ground = cv2.morphologyEx(channel, cv2.MORPH_OPEN, kernel)
            seen = ground <= ground_below
            text = seen & (bright >= BRIGHT) & (channel >= lowest) & (channel.astype(np.int16) - ground >= RISE)
            level = measured * text.astype(np.int32)
            for total, more in zip(totals, (seen, text, level, level * level), strict=True):
                total += more
    white, coloured, bright = (_view(*totals, len(pictures)) for totals in sums)
    return white, coloured, bright


def _view(seen: Array, text: Array, levels: Array, squares: Array, count: int) -> View:
    share = np.where(seen >= max(min(3, count), count // 5), text / np.maximum(seen, 1), 0)
    mean = levels / np.maximum(text, 1)
    calm = np.sqrt(np.maximum(squares / np.maximum(text, 1) - mean * mean, 0))
    again = (calm <= OFTEN_CODES) & (text >= min(2, count))
    steady = (share >= STEADY) & (calm <= STEADY_CODES)
    return View(steady, steady | again & (share >= OFTEN), steady | again & (share >= EVER), mean, calm)


def change_of(pictures: Sequence[Array]) -> Array:
    """Standard deviation of each pixel's largest channel over the pictures, in codes (H,W)."""
    total, squares = (np.zeros(pictures[0].shape[:2], np.int32) for _ in range(2))
    for picture in pictures:
        bright = picture.max(axis=2).astype(np.int32)
        total += bright
        squares += bright * bright
    return np.sqrt(np.maximum(squares / len(pictures) - (total / len(pictures)) ** 2, 0))


def pieces_of(view: View) -> list[Piece]:
    """Connected steady pixels of a size that letters and logos have."""
    import cv2

    count, labels, boxes, _ = cv2.connectedComponentsWithStats(view.steady.astype(np.uint8), connectivity=8)
    levels = np.bincount(labels.ravel(), view.level.ravel(), count) / np.maximum(np.bincount(labels.ravel()), 1)
    height = view.steady.shape[0]
    pieces = []
    for number in range(1, count):
        left, top, across, down, area = (int(value) for value in boxes[number])
        if max(4, height / 100) <= down <= height / 4 and across <= height / 2 and area >= 4:
            pieces.append(Piece(left, top, left + across, top + down, area, float(levels[number])))
    return pieces


def lines_of(pieces: list[Piece], view: View) -> list[tuple[Area, int]]:
    """Areas of lines of text, digits that change included, and the height of their letters in pixels."""
    parent = list(range(len(pieces)))

    def root(number: int) -> int:
        while parent[number] != number:
            number = parent[number]
        return number

    for a, one in enumerate(pieces):
        for b in range(a):
            if _neighbours(one, pieces[b]):
                parent[root(a)] = root(b)
    groups: dict[int, list[Piece]] = {}
    for number, piece in enumerate(pieces):
        groups.setdefault(root(number), []).append(piece)
    letters = [_letters(group) for group in groups.values()]
    return [(_with_digits(bounds(group), view), group[0].height) for group in letters if group]


def _neighbours(one: Piece, other: Piece) -> bool:
    low, high = sorted((one.height, other.height))
    common = min(one.bottom, other.bottom) - max(one.top, other.top)
    gap = max(one.left, other.left) - min(one.right, other.right)
    return common >= 0.5 * low and high <= 2.2 * low and gap <= 1.8 * high and abs(one.level - other.level) <= 30


def _letters(group: list[Piece]) -> list[Piece]:
    """The pieces of one usual height on one base line, if there are enough of them; the first is of the usual height. Else none."""
    usual = sorted(piece.height for piece in group)[len(group) // 2]
    near = max(1.0, 0.2 * usual)
    base = float(np.median([piece.bottom for piece in group if abs(piece.height - usual) <= near]))
    alike = [
        piece
        for piece in group
        if abs(piece.height - usual) <= near and abs(piece.bottom - base) <= near and piece.width <= 4 * usual
    ]
    alike.sort(key=lambda piece: abs(piece.height - usual))
    left, _, right, _ = bounds(group)
    enough = len(alike) >= LINE_PIECES and len(alike) >= 0.5 * len(group) and right - left >= 2.5 * usual
    return alike if enough else []


def bounds(pieces: Sequence[Piece]) -> Area:
    """The smallest area that holds all pieces."""
    return (
        min(piece.left for piece in pieces),
        min(piece.top for piece in pieces),
        max(piece.right for piece in pieces),
        max(piece.bottom for piece in pieces),
    )


def _with_digits(area: Area, view: View) -> Area:
    """A line's area with the digits that change beside it: columns in which text was often seen, no further than two letters apart."""
    left, top, right, bottom = area
    px = bottom - top
    columns = view.often[max(0, top - 1) : bottom + 1].sum(axis=0) >= max(2, px // 6)
    for step in (1, -1):
        place = right if step > 0 else left - 1
        last = place
        while 0 <= place < len(columns) and abs(place - last) <= 2 * px:
            if columns[place]:
                last = place
                left, right = min(left, place), max(right, place + 1)
            place += step
    return left, top, right, bottom


def joined(areas: Sequence[tuple[Area, int, int]]) -> list[tuple[Area, int, int]]:
    """Areas, heights of their text and numbers of the view that shows it; those that overlap or nearly touch become one, of the first view."""
    done: list[tuple[Area, int, int]] = []
    for one in sorted(areas):
        at = 0
        while at < len(done):
            if _touch(one[0], done[at][0], max(one[1], done[at][1])):
                (left, top, right, bottom), px, view = done.pop(at)
                area = min(one[0][0], left), min(one[0][1], top), max(one[0][2], right), max(one[0][3], bottom)
                one, at = (area, max(one[1], px), min(one[2], view)), 0
            else:
                at += 1
        done.append(one)
    return done


def _touch(one: Area, other: Area, px: int) -> bool:
    """px: height of the larger text. Words of one line may be three heights apart, other areas half a height."""
    across = max(one[0], other[0]) - min(one[2], other[2])
    down = max(one[1], other[1]) - min(one[3], other[3])
    one_line = -down >= 0.7 * min(one[3] - one[1], other[3] - other[1])
    return down <= px // 2 and across <= (3 * px if one_line else px // 2)
