"""The picture of a comparison: SDR, HDR and truth side by side, and below them a darker crop that shows the highlights."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from evaluation.figure_canvas import CAPTION, FAINT, INK, MARGIN, PAPER, draw_text
from evaluation.tonemap import exposure, tone_map
from pipeline.errors import InputError

Array = np.ndarray
FRAME_COLOUR = (255, 190, 40)


def brightest_window(truth: Array, share: float = 0.34) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) of the window, `share` of the frame's width, that holds the brightest area of (H,W,3) light."""
    height, width = truth.shape[:2]
    w, h = int(width * share), int(height * share)
    spread = cv2.GaussianBlur(np.minimum(truth.max(-1).astype(np.float32), 50.0), (0, 0), width / 60)
    y, x = np.unravel_index(int(np.argmax(spread)), spread.shape)
    x0, y0 = int(np.clip(x - w // 2, 0, width - w)), int(np.clip(y - h // 2, 0, height - h))
    return x0, y0, x0 + w, y0 + h


def compare(
    sdr: Array, hdr: Array, truth: Array, white_nits: float = 203.0, stops: float = -2.0, note: str = ""
) -> Array:
    """The comparison as uint8 RGB. sdr, hdr, truth: light in nits (H,W,3), BT.709 primaries, of the same frame.

    Above: the SDR as it is shown, the HDR and the truth tone-mapped. Below: a window around the brightest part of the truth, enlarged,
    with the exposure lowered by `stops`. What the SDR lost is flat grey there.
    """
    height, width = truth.shape[:2]
    x0, y0, x1, y1 = brightest_window(truth / white_nits)
    scale = width / (x1 - x0)
    below = round((y1 - y0) * scale)
    canvas = np.empty((4 * MARGIN + 3 * CAPTION + height + below, 3 * width + 4 * MARGIN, 3), np.uint8)
    canvas[:] = PAPER
    tops = (MARGIN + CAPTION, 2 * MARGIN + 2 * CAPTION + height)
    views = (
        ("SDR, as recorded", sdr, exposure(sdr, 0.0, white_nits)),
        ("HDR10 result, tone-mapped", hdr, tone_map(hdr, white_nits)),
        ("Truth, tone-mapped", truth, tone_map(truth, white_nits)),
    )
    for column, (label, light, picture) in enumerate(views):
        left = MARGIN + column * (width + MARGIN)
        draw_text(canvas, label, left, tops[0] - 10, 0.62, INK)
        picture = picture.copy()
        cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), FRAME_COLOUR, 1)
        canvas[tops[0] : tops[0] + height, left : left + width] = picture
        crop = exposure(light[y0:y1, x0:x1], stops, white_nits)
        canvas[tops[1] : tops[1] + below, left : left + width] = cv2.resize(
            crop, (width, below), interpolation=cv2.INTER_CUBIC
        )
        draw_text(canvas, f"{label.split(',')[0]}, {stops:+.0f} stops", left, tops[1] - 10, 0.62, INK)
    if note:
        draw_text(canvas, note, MARGIN, tops[1] + below + CAPTION - 10, 0.52, FAINT)
    return canvas


def save_png(picture: Array, path: Path) -> None:
    """Write uint8 RGB (H,W,3). Raises InputError when the file cannot be written."""
    ok, data = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    if not ok:
        raise InputError(f"{path}: the picture of {picture.shape} could not be coded as PNG")
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another output folder") from error
