"""Burnt-in logos: bright shapes that never change, edge and all, while the picture as a whole moves.

A patch of sky between trees is as bright and as steady in its middle, but its edge comes and goes, and light that is reflected in the
windscreen has a soft one. A logo is told by both: a steady edge, and across it a step within a few pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.overlay_text import RISE, Piece, View, channels_of

Array = np.ndarray

LOGO_LEVEL = 200
"""A logo's level in codes, at least."""
CORE_CODES, EDGE_CODES = 2.5, 16.0
"""How far three quarters of a logo's pixels may vary (standard deviation, codes): those inside, and those on its edge. Measured on drawn logos in
virtual drives: up to 1.3 and 13. On what else is bright and steady in these drives and in real clips: from 2.9 or from 21 on."""
EDGE_STEP_SHARE = 0.75
"""Share of the edge across which the picture must fall by RISE within EDGE_PX in most pictures: 0.8 and more there, at most 0.6 elsewhere."""
EDGE_PX = 4
DARK_QUARTER = 4
"""What is usual at a pixel is its level in the darkest quarter of the pictures: behind a logo the scene is bright at times."""


def logos_of(pieces: list[Piece], view: View, pictures: Sequence[Array], number: int) -> list[tuple[Piece, Array]]:
    """Logos among the pieces of a view (0, 1, 2 as `look` gives them), and the pixels of each, (H,W) bool."""
    height = view.steady.shape[0]
    large = [
        piece
        for piece in pieces
        if piece.height >= max(10, height / 30) and piece.area >= (height / 40) ** 2 and piece.level >= LOGO_LEVEL
    ]
    found = []
    for piece in large:
        top, left = max(0, piece.top - EDGE_PX), max(0, piece.left - EDGE_PX)
        window = slice(top, piece.bottom + EDGE_PX), slice(left, piece.right + EDGE_PX)
        shape = _shape_of(piece, view.steady[window], top, left)
        if _is_logo(shape, np.stack([channels_of(picture[window])[number] for picture in pictures])):
            pixels = np.zeros(view.steady.shape, bool)
            pixels[window] = shape > 0
            found.append((piece, pixels))
    return found


def _is_logo(shape: Array, levels: Array) -> bool:
    """shape (h,w) uint8: 1 where the piece is; levels (K,h,w) uint8: the view's channel in every picture."""
    import cv2

    core = cv2.erode(shape, np.ones((3, 3), np.uint8), borderValue=0) > 0
    edge = (shape > 0) & ~core
    if not core.any():
        return False
    levels = np.sort(levels, axis=0)
    varies = levels.std(axis=0)
    usual = levels[len(levels) // DARK_QUARTER]
    beyond = np.where(cv2.dilate(shape, np.ones((3, 3), np.uint8)) > 0, 255, usual).astype(np.uint8)
    lowest = cv2.erode(beyond, np.ones((2 * EDGE_PX + 1,) * 2, np.uint8), borderValue=255)
    steps = usual[edge].astype(np.int16) - lowest[edge] >= RISE
    return bool(
        np.quantile(varies[core], 0.75) <= CORE_CODES
        and np.quantile(varies[edge], 0.75) <= EDGE_CODES
        and steps.mean() >= EDGE_STEP_SHARE
    )


def _shape_of(piece: Piece, steady: Array, top: int, left: int) -> Array:
    """The piece's own pixels in a window of the view that begins at (top, left): uint8, 0 or 1."""
    import cv2

    _, labels = cv2.connectedComponents(steady.astype(np.uint8), connectivity=8)
    within = labels[piece.top - top : piece.bottom - top, piece.left - left : piece.right - left]
    largest = int(np.bincount(within[within > 0]).argmax())
    return (labels == largest).astype(np.uint8)
