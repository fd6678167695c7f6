"""Before and after, crop by crop: SDR, HDR at several exposures, tone-mapped, and the truth where there is one."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from evaluation.figure_canvas import Cell, fit_box, sheet
from evaluation.figure_choice import Crop
from evaluation.figure_summands import TONE_CURVE
from evaluation.tonemap import exposure, tone_map

Array = np.ndarray
CELL_PX = (248, 300)
"""Largest width and height of a crop as drawn."""

STOPS = (0.0, -2.0, -4.0)
TRUTH_STOPS = -2.0


def draw_strips(sdr: Array, hdr: Array, truth: Array | None, crops: Sequence[Crop], caption: str) -> Array:
    """uint8 RGB, one row for each crop. sdr, hdr, truth: the whole picture, (H,W,3) linear light, SDR white = 1.0."""
    views = [("SDR", sdr, lambda light: exposure(light, 0.0, 1.0))]
    views += [(f"HDR, {_stops(s)}", hdr, lambda light, s=s: exposure(light, s, 1.0)) for s in STOPS]
    views.append(("HDR, tone-mapped", hdr, lambda light: tone_map(light, 1.0)))
    if truth is not None:
        views.append((f"truth, {_stops(TRUTH_STOPS)}", truth, lambda light: exposure(light, TRUTH_STOPS, 1.0)))
        views.append(("truth, tone-mapped", truth, lambda light: tone_map(light, 1.0)))
    rows, headings = [], []
    for crop in crops:
        rows.append(
            [
                Cell(fit_box(view(crop_of(light, crop)), *CELL_PX, cv2.INTER_CUBIC), label)
                for label, light, view in views
            ]
        )
        headings.append(f"{crop.label}  (x {crop.left}, y {crop.top}, {crop.width}x{crop.height})")
    told = (
        f"{caption} Exposures: a stop less is half the light; clipped at display white, no tone curve; at 0 stops SDR white is display white; sRGB. "
        f"Tone-mapped: {TONE_CURVE}."
    )
    return sheet(rows, told, headings)


def crop_of(picture: Array, crop: Crop) -> Array:
    """That piece of (H,W,...), not copied."""
    return picture[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]


def _stops(stops: float) -> str:
    return f"{stops:+.0f} stops" if stops else "0 stops"
