"""Overlays: where a camera burnt clock, speed, place or logo into its picture, found from keyframes of the whole file.

Text moves with the camera while the scene passes behind it: a pixel of it is bright, part of a narrow structure, and of the same level in
picture after picture. Several such pieces of one height in a row make a line of text; digits that change are found beside those that stay. A
single piece counts (as a logo) only where it is very steady, its sharp edge included. Where the camera stands still everything
is steady, and nothing is found: then boxes can be given by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.errors import InputError
from pipeline.overlay_logos import logos_of
from pipeline.overlay_text import MOVING_CODES, Area, View, bounds, change_of, joined, lines_of, look, pieces_of
from pipeline.stages.overlay import CONTEXT_PX, cover_of, darkness_of, fill, kernel_px, spread

Array = np.ndarray

MOVING_SHARE = 0.15
"""The camera moves if so much of the picture changes by more than MOVING_CODES."""
LEAST_PICTURES = 4
OFTEN_COVERED, OUTLINED = 0.94, 0.7
"""Quantile over the pictures of how much of a pixel is text, or is darker than its ground: seldom digits count, chance darkness does not."""
OUTLINE_SEEN = (0.35, 0.75)
"""Darkening that is none, and one that is wholly outline."""
SIGNAL_POWER = 1.2
"""Code of BT.1886 (0 to 1) to the power 1.2 is the square root of its light."""


@dataclass(frozen=True)
class OverlayBox:
    """Where text is, in pixels of the visible picture, and what it looks like; plain data.

    x, y: of the upper left corner; width, height: 1 and more
    red, green, blue: the text's colour, as the square root of linear light (0 to 1)
    text_px: about the height of the text
    text, outline: width * height hex digits, row by row: how much of each pixel is ever covered by text, by its dark outline (f = wholly)
    fixed: a logo: its map holds in every picture, nothing else is looked for
    """

    x: int
    y: int
    width: int
    height: int
    red: float
    green: float
    blue: float
    text_px: int
    text: str
    outline: str
    fixed: bool = False


def find_overlays(frames: Iterable[Array]) -> tuple[OverlayBox, ...]:
    """Burnt-in text and logos of a file, from the top down. Depends on the pictures alone, not on their order.

    frames: (H,W) or (H,W,3) uint8 pictures of one size, coded as BT.1886; pipeline.overlay_pictures gives them. Fewer than LEAST_PICTURES,
    or a camera that stands still: nothing is found.
    """
    pictures = [_three_channels(frame) for frame in frames]
    if len(pictures) < LEAST_PICTURES:
        return ()
    change = change_of(pictures)
    if (change > MOVING_CODES).mean() < MOVING_SHARE:
        return ()
    lines: list[tuple[Area, int, int]] = []
    logos: list[tuple[Area, int, int]] = []
    shapes = np.zeros(change.shape, bool)
    views = look(pictures, max(7, change.shape[0] // 16))
    for number, view in enumerate(views):
        pieces = pieces_of(view)
        lines += [(*found, number) for found in lines_of(pieces, view)]
        for piece, shape in logos_of(pieces, view, pictures, number):
            logos.append((bounds([piece]), piece.height, number))
            shapes |= shape
    lines = [(area, px, _clearest(area, views)) for area, px, _ in joined(lines)]
    logos = [logo for logo in joined(logos) if not any(_within(logo[0], line[0]) for line in lines)]
    boxes = [_described(_padded(area, px, change.shape), px, pictures, number) for area, px, number in lines]
    boxes += [_described(_padded(area, px, change.shape), px, pictures, number, shapes) for area, px, number in logos]
    return tuple(sorted((box for box in boxes if "f" in box.text), key=lambda box: (box.y, box.x)))


def boxes_by_hand(boxes: Sequence[Sequence[int]], frames: Iterable[Array]) -> tuple[OverlayBox, ...]:
    """Boxes that a user gave, [x, y, width, height] each, with what the pictures (as for `find_overlays`) show in them.

    Raises InputError for a box that is none or lies outside the picture.
    """
    pictures = [_three_channels(frame) for frame in frames]
    height, width = pictures[0].shape[:2]
    described = []
    for box in boxes:
        if len(box) != 4 or min(box[2:]) < 1 or min(box[:2]) < 0 or box[0] + box[2] > width or box[1] + box[3] > height:
            raise InputError(
                f"overlay.boxes: {list(box)} does not fit; legal is [x, y, width, height] within the picture's {width}x{height} pixels."
            )
        left, top, across, down = (int(value) for value in box)
        described.append(
            _described((left, top, left + across, top + down), min(down, max(8, height // 12)), pictures, None)
        )
    return tuple(described)


def draw(frame: Array, boxes: Sequence[OverlayBox]) -> Array:
    """A copy of frame (H,W,3) uint8 R, G, B with a frame of one or more pixels around each box."""
    import cv2

    drawn = np.ascontiguousarray(frame).copy()
    thick = max(1, frame.shape[0] // 360)
    for box in boxes:
        corner = box.x + box.width - 1, box.y + box.height - 1
        cv2.rectangle(drawn, (box.x, box.y), corner, (255, 0, 255), thick)
    return drawn


def _three_channels(frame: Array) -> Array:
    if frame.dtype != np.uint8 or frame.ndim not in (2, 3):
        raise ValueError(f"pictures are (H,W) or (H,W,3) uint8, not {frame.shape} {frame.dtype}")
    return np.repeat(frame[..., None], 3, axis=2) if frame.ndim == 2 else frame


def _clearest(area: Area, views: Sequence[View]) -> int:
    """Number of the view that shows most text in an area; the first of those that show about as much."""
    left, top, right, bottom = area
    shown = [int(view.steady[top:bottom, left:right].sum()) for view in views]
    return next(number for number, count in enumerate(shown) if count >= 0.8 * max(shown))


def _within(one: Area, other: Area) -> bool:
    return one[0] >= other[0] and one[1] >= other[1] and one[2] <= other[2] and one[3] <= other[3]


def _padded(area: Area, px: int, shape: tuple[int, ...]) -> Area:
    """Room for the outline, the codec's smear, and a letter more on either side."""
    up, side = max(5, px // 3), max(6, px)
    left, top, right, bottom = area
    return max(0, left - side), max(0, top - up), min(shape[1], right + side), min(shape[0], bottom + up)


def _described(area: Area, px: int, pictures: list[Array], view: int | None, shapes: Array | None = None) -> OverlayBox:
    """The box of an area with colour and maps from all pictures. view: number of the one that shows its text; None: the one that shows most.
    shapes: (H,W) bool, the pixels that logos consist of, for an area of logos; else text is looked for."""
    left, top, right, bottom = area
    first_y, first_x = max(0, top - CONTEXT_PX), max(0, left - CONTEXT_PX)
    crops = np.stack([picture[first_y : bottom + CONTEXT_PX, first_x : right + CONTEXT_PX] for picture in pictures])
    inner = slice(top - first_y, bottom - first_y), slice(left - first_x, right - first_x)
    ever = np.zeros(crops.shape[1:3], np.float32)
    strokes, color = _strokes(crops, px, view)
    ever[inner] = strokes[inner] if shapes is None else shapes[top:bottom, left:right]
    text_at = torch.from_numpy(ever)[None, None]
    near, hole = spread(text_at, 1), spread(text_at, 3)
    target = torch.from_numpy(color).view(1, 3, 1, 1)
    covers, shades = [], []
    for crop in crops:
        signal = torch.from_numpy(crop).permute(2, 0, 1)[None].float().div_(255).pow_(SIGNAL_POWER)
        around = fill(signal, hole)
        for (share, seen), gate, kept in (
            (cover_of(signal, around, target), near, covers),
            (darkness_of(signal, around), hole, shades),
        ):
            kept.append(torch.where(seen >= 1, share * gate, torch.nan)[0, 0].numpy()[inner])
    text, outline = _usual(covers, OFTEN_COVERED), _usual(shades, OUTLINED)
    outline = ((outline - OUTLINE_SEEN[0]) / (OUTLINE_SEEN[1] - OUTLINE_SEEN[0])).clip(0, 1) * (text < 0.5)
    if (outline >= 0.5).sum() < 0.25 * (text >= 0.5).sum():
        outline *= 0
    return OverlayBox(
        left,
        top,
        right - left,
        bottom - top,
        *(round(float(value), 3) for value in color),
        px,
        _hex_digits(text),
        _hex_digits(outline),
        fixed=shapes is not None,
    )


def _strokes(crops: Array, px: int, number: int | None) -> tuple[Array, Array]:
    """Where crops (K,h,w,3) ever show text (bool (h,w)), and its colour (float32 (3,), as in OverlayBox; white where there is none)."""
    views = look(crops, kernel_px(px))
    view = views[number] if number is not None else max(views, key=lambda one: int(one.steady.sum()))
    where = view.steady if view.steady.any() else view.often
    if not where.any():
        return view.ever, np.ones(3, np.float32)
    core = where & (view.level >= np.quantile(view.level[where], 0.7))
    codes = np.median(crops[:, core].reshape(-1, 3), axis=0)
    return view.ever, ((codes / 255) ** SIGNAL_POWER).astype(np.float32)


def _usual(values: list[Array], quantile: float) -> Array:
    """Quantile over pictures of what was seen in them (nan: not seen); 0 where nothing ever was."""
    stack = np.stack(values)
    stack[:, np.isnan(stack).all(axis=0)] = 0
    return np.nanquantile(stack, quantile, axis=0)


def _hex_digits(cover: Array) -> str:
    return "".join(f"{int(level):x}" for level in np.rint(cover * 15).ravel())
