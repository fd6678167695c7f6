"""The network's two summands and their sum, and the feature maps of the last DCRB (figure 2 of the paper's supplement)."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from evaluation.figure_canvas import Cell, box_scale, fit_box, sheet
from evaluation.figure_network import Look, clipped_pixels
from evaluation.metrics import LUMA_709
from evaluation.tonemap import encode_srgb, exposure, tone_map

Array = np.ndarray
PANEL_PX, MAP_PX = (560, 700), (216, 324)
"""Width and largest height of a panel and of a feature map as drawn."""

MAPS_IN_A_ROW = 8
DARKER_STOPS = -2.0
TONE_CURVE = (
    "nothing changes up to 0.4 of SDR white; above, extended Reinhard (2002) on the largest channel, 16 times SDR white "
    "becomes display white; sRGB"
)
SUMMAND_NAMES = {"hdrunet": ("weight(I) * I", "base(I)")}
OUTLINE = (255, 60, 40)


def draw_summands(sdr: Array, seen: Look, architecture: str, caption: str) -> Array:
    """uint8 RGB. sdr: the SDR picture in the look's window, (h,w,3) linear light, SDR white = 1.0.

    Above tone-mapped, below plainly darker. The second summand is shown as the light that it adds to the first one's.
    """
    first, second = SUMMAND_NAMES.get(architecture, ("Net_T(I)", "Net_R(I)"))
    added = seen.summed - seen.tone
    lost = clipped_pixels(signal_of(sdr))
    cells = []
    for view, note in (
        (lambda light: tone_map(light, 1.0), "tone-mapped"),
        (lambda light: exposure(light, DARKER_STOPS, 1.0), f"{DARKER_STOPS:+.0f} stops"),
    ):
        panels = (
            ("I, the coded SDR input", view(sdr), ""),
            (first, view(seen.tone), ""),
            (f"{second}: light added", _signed(added, view), f"Mean change of light: {_where(np.abs(added), lost)}."),
            (f"{first} + {second}", view(seen.summed), f"Brightest: {seen.summed.max():.2f} times SDR white."),
        )
        last_row = note != "tone-mapped"
        cells.append(
            [
                Cell(fit_box(picture, *PANEL_PX), f"{label}, {note}", words if last_row else "")
                for label, picture, words in panels
            ]
        )
    told = (
        f"{caption} Upper row: exposure 0 stops, then the tone curve: {TONE_CURVE}. Lower row: exposure {DARKER_STOPS:+.0f} stops, "
        f"clipped at display white, no tone curve; sRGB. {second} is added in the network's output encoding; shown is the light of the sum "
        f"minus that of {first}, blue where it takes light away."
    )
    return sheet(cells, told)


def draw_features(sdr: Array, seen: Look, caption: str) -> Array:
    """uint8 RGB: every feature map of the last DCRB, those that tell the clipped region apart most first. sdr as above."""
    scale, window = seen.map_scale, seen.window
    maps = seen.inspection.features[0, :, : -(-window.height // scale), : -(-window.width // scale)].float().numpy()
    lost = clipped_pixels(signal_of(sdr))
    share = cv2.resize(lost.astype(np.float32), maps.shape[:0:-1], interpolation=cv2.INTER_AREA)
    inside, outside = share >= 0.5, share < 0.5
    told_apart = bool(inside.any() and outside.any())
    activity = np.zeros(len(maps))
    if told_apart:
        activity = np.array([(m[inside].mean() - m[outside].mean()) / max(float(m.std()), 1e-9) for m in maps])
    order = np.argsort(-np.abs(activity), kind="stable")
    outlined = tone_map(sdr, 1.0)
    contours, _ = cv2.findContours(lost.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(outlined, contours, -1, OUTLINE, max(1, round(0.7 / box_scale(sdr, *MAP_PX))))
    cells = [Cell(fit_box(outlined, *MAP_PX), "I, tone-mapped", f"Clipped: {lost.mean():.1%}, outlined.")]
    for number in order:
        low, high = float(maps[number].min()), float(maps[number].max())
        words = f"{low:.3g} to {high:.3g}" + (f"; clipped {activity[number]:+.2f} sd" if told_apart else "")
        cells.append(Cell(fit_box(_false_colour(maps[number], low, high), *MAP_PX), f"map {number}", words))
    rows = [cells[at : at + MAPS_IN_A_ROW] for at in range(0, len(cells), MAPS_IN_A_ROW)]
    ranking = (
        "First those whose mean inside the clipped region differs most from outside (the difference is given in standard deviations of the map)"
        if told_apart
        else "In the order of the network, as the clipped region is not part of the picture"
    )
    told = (
        f"{caption} The {len(maps)} feature maps of the last DCRB, counted from 0, at 1/{scale} of the picture's size. Each is normalised "
        f"by itself: dark blue is its least value, yellow its largest; both are below it. {ranking}."
    )
    return sheet(rows, told)


def signal_of(sdr: Array) -> Array:
    """(h,w,3) linear SDR light -> (h,w) largest channel of the signal in [0, 1], gamma 2.4 (BT.1886)."""
    return np.clip(sdr.max(-1), 0.0, 1.0) ** (1 / 2.4)


def _signed(added: Array, view: Callable[[Array], Array]) -> Array:
    """Light that is added as it looks; where luminance is taken away, blue by how much."""
    taken = np.maximum(-(added @ LUMA_709), 0.0)
    picture = view(np.maximum(added, 0.0))
    blue = np.stack([0.1 * taken, 0.3 * taken, 2.0 * taken], -1)
    return np.where((taken > 0)[..., None], encode_srgb(blue), picture)


def _where(change: Array, lost: Array) -> str:
    parts = [
        f"{change[mask].mean():.3g} {name}" for mask, name in ((lost, "clipped"), (~lost, "elsewhere")) if mask.any()
    ]
    return ", ".join(parts) + " (SDR white = 1)"


def _false_colour(values: Array, low: float, high: float) -> Array:
    level = (values - low) / (high - low) if high > low else np.full_like(values, 0.5)
    return cv2.applyColorMap(np.round(255 * level).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]
