"""What every figure is drawn with: words, and sheets of pictures with words above and below them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

Array = np.ndarray
MARGIN, CAPTION = 14, 34
PAPER, INK, FAINT = (250, 250, 248), (34, 34, 38), (120, 120, 126)
LABEL_SIZE, NOTE_SIZE = 0.52, 0.44
LINE_PX = {LABEL_SIZE: 21, NOTE_SIZE: 18}
"""Text size -> distance of its lines."""
FONT = cv2.FONT_HERSHEY_DUPLEX


@dataclass(frozen=True)
class Cell:
    """A picture, uint8 RGB (H,W,3), with a label above and notes below; both are wrapped to the picture's width."""

    picture: Array
    above: str = ""
    below: str = ""


def draw_text(
    canvas: Array, words: str, left: int, baseline: int, size: float, colour: tuple[int, int, int] = INK
) -> None:
    """Write on uint8 RGB (H,W,3), in place; what passes the edge is cut. The font is ASCII, so other letters become "?".

    Drawn twice as large and halved: Hershey letters are legible then.
    """
    words, thick = _ascii(words), _thickness(size)
    (width, height), _ = cv2.getTextSize(words, FONT, 2 * size, thick)
    mask = np.zeros((2 * ((2 * height + 8) // 2), 2 * ((width + 9) // 2)), np.uint8)
    cv2.putText(mask, words, (2, height + 2), FONT, 2 * size, 255, thick, cv2.LINE_AA)
    cover = cv2.resize(mask, (mask.shape[1] // 2, mask.shape[0] // 2), interpolation=cv2.INTER_AREA)[..., None] / 255.0
    top = baseline - (height + 2) // 2
    cover, top, left = cover[max(-top, 0) :, max(-left, 0) :], max(top, 0), max(left, 0)
    spot = canvas[top : top + cover.shape[0], left : left + cover.shape[1]]
    cover = cover[: spot.shape[0], : spot.shape[1]]
    spot[...] = np.round(spot * (1.0 - cover) + np.array(colour) * cover).astype(np.uint8)


def text_width(words: str, size: float) -> int:
    """Pixels across that `draw_text` covers."""
    (width, _), _ = cv2.getTextSize(_ascii(words), FONT, 2 * size, _thickness(size))
    return width // 2 + 4


def wrap(words: str, width: int, size: float) -> list[str]:
    """Lines of at most `width` pixels; a single longer word keeps a line of its own. "" gives no line."""
    lines: list[str] = []
    for word in words.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def box_scale(picture: Array, width: int, tallest: int) -> float:
    """By how much `fit_box` scales a picture (H,W,...)."""
    return min(width / picture.shape[1], tallest / picture.shape[0])


def fit_box(picture: Array, width: int, tallest: int, grown: int = cv2.INTER_NEAREST) -> Array:
    """Scale uint8 RGB (H,W,3) to that width, or to that height where it would be taller, and fill up with paper to its right.

    Averaged when it shrinks; when it grows, by OpenCV's method `grown`.
    """
    scale = box_scale(picture, width, tallest)
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    out = np.full((size[1], width, 3), PAPER, np.uint8)
    method = cv2.INTER_AREA if scale < 1 else grown
    out[:, : size[0]] = cv2.resize(np.ascontiguousarray(picture), size, interpolation=method)
    return out


def sheet(rows: Sequence[Sequence[Cell]], caption: str, headings: Sequence[str] = ()) -> Array:
    """Rows of cells on paper, uint8 RGB (H,W,3), with the caption below.

    headings: one for each row, set above it in full width; or none at all.
    """
    width = max(sum(cell.picture.shape[1] + MARGIN for cell in row) for row in rows) - MARGIN
    blocks = [_row(row, heading, width) for row, heading in zip(rows, headings or [""] * len(rows), strict=True)]
    blocks.append(_lines(wrap(caption, width, NOTE_SIZE), width, NOTE_SIZE, FAINT))
    gap = np.full((MARGIN, width, 3), PAPER, np.uint8)
    page = np.vstack([part for block in blocks for part in (gap, block)] + [gap])
    side = np.full((page.shape[0], MARGIN, 3), PAPER, np.uint8)
    return np.hstack([side, page, side])


def _row(row: Sequence[Cell], heading: str, width: int) -> Array:
    tops = [_lines(wrap(cell.above, cell.picture.shape[1], LABEL_SIZE), cell.picture.shape[1]) for cell in row]
    feet = [
        _lines(wrap(cell.below, cell.picture.shape[1], NOTE_SIZE), cell.picture.shape[1], NOTE_SIZE, FAINT)
        for cell in row
    ]
    head = _lines(wrap(heading, width, LABEL_SIZE), width)
    label_height = max(top.shape[0] for top in tops)
    height = max(c.picture.shape[0] + foot.shape[0] for c, foot in zip(row, feet, strict=True))
    out = np.full((head.shape[0] + label_height + height, width, 3), PAPER, np.uint8)
    out[: head.shape[0]] = head
    left, base = 0, head.shape[0] + label_height
    for cell, top, foot in zip(row, tops, feet, strict=True):
        right, under = left + cell.picture.shape[1], base + cell.picture.shape[0]
        out[base - top.shape[0] : base, left:right] = top
        out[base:under, left:right] = cell.picture
        out[under : under + foot.shape[0], left:right] = foot
        left = right + MARGIN
    return out


def _lines(lines: Sequence[str], width: int, size: float = LABEL_SIZE, colour: tuple[int, int, int] = INK) -> Array:
    step = LINE_PX[size]
    out = np.full((step * len(lines) + (6 if lines else 0), width, 3), PAPER, np.uint8)
    for number, line in enumerate(lines):
        draw_text(out, line, 0, step * (number + 1) - 3, size, colour)
    return out


def _thickness(size: float) -> int:
    return 1 if size < 0.6 else 2


def _ascii(words: str) -> str:
    return words.encode("ascii", "replace").decode()
