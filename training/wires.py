"""Wires: drawn power lines and poles for views of scenes, whose own texture is too coarse to hold any.

Thin dark things against a blown-out sky are what over-exposure takes first: each pixel that a wire fills by half still clips.
"""

from __future__ import annotations

import cv2
import numpy as np

Array = np.ndarray
FINE = 4
"""Wires are drawn this many times larger, then averaged, so that a pixel holds the share that the wire covers."""

POINTS = 48
FRACTION_BITS = 4  # of cv2's coordinates
WIRE_TO_MEDIAN = (0.05, 0.5)
"""Light of a wire, relative to the picture's median."""


def draw_wires(light: Array, rng: np.random.Generator) -> Array:
    """Scene light (H, W, 3) float32 -> the same with one to six wires, half of the time with a pole or two, in front of it."""
    height, width = light.shape[:2]
    canvas = np.zeros((height * FINE, width * FINE), np.uint8)
    bundle = _along_the_road if rng.random() < 0.6 else _across_the_road
    for points, widths_px in bundle(height, width, int(rng.integers(1, 7)), rng):
        _stroke(canvas, points, widths_px)
    if rng.random() < 0.5:
        for _ in range(rng.integers(1, 3)):
            _stroke(canvas, *_pole(height, width, rng))
    cover = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)[..., None] / 255
    dark = np.float32(np.median(light) * np.exp(rng.uniform(*np.log(WIRE_TO_MEDIAN))))
    return light * (1 - cover) + dark * cover


Stroke = tuple[Array, Array]
"""Points (P, 2) as x, y in pixels, and the width in pixels at each."""


def _along_the_road(height: int, width: int, count: int, rng: np.random.Generator) -> list[Stroke]:
    """Wires that run away from the camera to one point near the horizon, ever thinner, sagging between poles."""
    far = np.array([width * rng.uniform(0.2, 0.8), height * rng.uniform(0.4, 0.6)])
    near = np.array([width * rng.uniform(-0.2, 1.2), height * rng.uniform(-0.8, -0.1)])
    apart = np.array([width * rng.uniform(-0.12, 0.12), height * rng.uniform(-0.1, 0.1)])
    thickest_px, spans = rng.uniform(1.0, 3.0) * height / 270, rng.integers(1, 4)
    strokes = []
    for number in range(count):
        way = 1 - np.geomspace(1.0, 0.04, POINTS)  # even steps as seen: far things crowd
        points = near + number * apart + way[:, None] * (far - near - number * apart)
        sag = np.abs(np.sin(np.pi * spans * way)) * (1 - way) * rng.uniform(0.02, 0.06) * height
        points[:, 1] += sag
        strokes.append((points, np.maximum(thickest_px * (1 - way), 0.25)))
    return strokes


def _across_the_road(height: int, width: int, count: int, rng: np.random.Generator) -> list[Stroke]:
    """Wires from side to side, nearly level, alike in sag and thickness."""
    x = np.linspace(-0.05, 1.05, POINTS)
    left, right = rng.uniform(0.0, 0.45, 2)
    gap, sag, thick_px = rng.uniform(0.015, 0.06), rng.uniform(0.0, 0.12), rng.uniform(0.4, 2.0) * height / 270
    strokes = []
    for number in range(count):
        y = left + (right - left) * x + sag * 4 * x * (1 - x) + number * gap
        points = np.stack([x * width, y * height], axis=1)
        strokes.append((points, np.full(POINTS, thick_px)))
    return strokes


def _pole(height: int, width: int, rng: np.random.Generator) -> Stroke:
    """Upright, from above the horizon to below it."""
    x, thick_px = width * rng.uniform(0, 1), rng.uniform(1.5, 8) * height / 270
    points = np.array([[x, height * rng.uniform(-0.1, 0.35)], [x, height * rng.uniform(0.5, 0.7)]])
    return points, np.full(2, thick_px)


def _stroke(canvas: Array, points: Array, widths_px: Array) -> None:
    """Draw white segments; what is thinner than a fine pixel is drawn as grey as it covers."""
    fixed = np.round(points * FINE * (1 << FRACTION_BITS)).astype(np.int64).clip(-(1 << 24), 1 << 24)
    for start, end, width_px in zip(fixed[:-1], fixed[1:], widths_px[1:], strict=True):
        fine = float(width_px) * FINE
        level = round(255 * min(1.0, fine))
        ends = (int(start[0]), int(start[1])), (int(end[0]), int(end[1]))
        cv2.line(canvas, *ends, level, max(1, round(fine)), cv2.LINE_AA, FRACTION_BITS)
