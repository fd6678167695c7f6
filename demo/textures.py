"""Pictures that the demo's scene is papered with: noise, facades, foliage, a car. All made from a seed; nothing is loaded.

Every texture is float32 (h, w, 4): linear BT.709 light, already multiplied by its coverage, then the coverage itself in [0, 1].
"""

from __future__ import annotations

import cv2
import numpy as np

Array = np.ndarray


def noise(rng: np.random.Generator, size: int, slope: float, coarsest: float = 1.0) -> Array:
    """Fractal noise (size, size) that tiles, mean 0, deviation 1. Amplitude falls as frequency**-slope above `coarsest` cycles."""
    spectrum = np.fft.rfft2(rng.standard_normal((size, size)))
    frequency = np.hypot(np.fft.fftfreq(size, 1 / size)[:, None], np.fft.rfftfreq(size, 1 / size)[None, :])
    spectrum *= np.maximum(frequency, coarsest) ** -slope * (frequency > 0)
    field = np.fft.irfft2(spectrum, s=(size, size))
    return (field / field.std()).astype(np.float32)


def look_up(field: Array, u: Array, v: Array) -> Array:
    """A tiling field (n, n) at columns u and rows v, any float shape, bilinear."""
    n = field.shape[0]
    u, v = (np.mod(p, n).astype(np.float32) for p in (u, v))
    return cv2.remap(field, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def smoothstep(low: float, high: float, x: Array) -> Array:
    """0 below `low`, 1 above `high`, a smooth cubic between."""
    s = np.clip((x - low) / (high - low), 0.0, 1.0)
    return s * s * (3.0 - 2.0 * s)


def opaque(rgb: Array) -> Array:
    """Add full coverage to a (h, w, 3) picture."""
    return np.dstack([rgb, np.ones(rgb.shape[:2], np.float32)]).astype(np.float32)


def mipmaps(texture: Array) -> list[Array]:
    """The texture and its halvings, so that a far facade is averaged and does not shimmer."""
    levels = [np.ascontiguousarray(texture, np.float32)]
    while min(levels[-1].shape[:2]) > 8:
        height, width = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA))
    return levels


def facade(rng: np.random.Generator, floors: int, bays: int, wall: Array, light: Array, windows: bool = True) -> Array:
    """The front of a house: plaster or brick, rows of windows, a shop at street level.

    wall: albedo (3,). light: what falls on it (3,). Glass mirrors the sky, some panes the bright part of it.
    """
    cell_h, cell_w = 48, 36
    height, width = floors * cell_h, bays * cell_w
    grain = cv2.resize(noise(rng, 128, 1.0), (width, height), interpolation=cv2.INTER_CUBIC)
    stain = np.linspace(1.08, 0.86, height, dtype=np.float32)[:, None]
    rgb = (wall * light)[None, None, :] * ((1.0 + 0.07 * grain) * stain)[..., None]
    rgb = rgb.astype(np.float32)
    rows = np.arange(height) // 4
    rgb[(np.arange(height) % 4 == 0)] *= 0.93
    rgb *= (1.0 + 0.03 * np.sin(rows * 1.7))[:, None, None].astype(np.float32)
    for floor in range(floors if windows else 0):
        top = height - (floor + 1) * cell_h
        for bay in range(bays):
            left = bay * cell_w
            if floor == 0:
                _shop(rng, rgb, top, left, cell_h, cell_w, light)
            else:
                _window(rng, rgb, top, left, cell_h, cell_w, wall * light)
        if floor:
            rgb[top + cell_h - 3 : top + cell_h] *= 1.18
    rgb[:5] = wall * light * 1.35
    rgb[5:8] *= 0.6
    return opaque(rgb)


def _window(rng: np.random.Generator, rgb: Array, top: int, left: int, cell_h: int, cell_w: int, lit: Array) -> None:
    y0, y1, x0, x1 = top + 9, top + cell_h - 8, left + 9, left + cell_w - 9
    rgb[y0 - 2 : y1 + 3, x0 - 2 : x1 + 2] = lit * 1.3 + 0.01
    mirrored = rng.choice([0.10, 0.22, 0.5, 1.6], p=[0.4, 0.33, 0.2, 0.07])
    fade = np.linspace(1.25, 0.55, y1 - y0, dtype=np.float32)[:, None, None]
    rgb[y0:y1, x0:x1] = mirrored * fade * np.array([0.82, 0.95, 1.12], np.float32)
    if rng.random() < 0.4:
        drop = y0 + int((y1 - y0) * rng.uniform(0.2, 0.7))
        rgb[y0:drop, x0:x1] = 0.5 * rgb[y0:drop, x0:x1] + 0.16 * np.array([1.0, 0.93, 0.8], np.float32)
    middle = (x0 + x1) // 2
    rgb[y0:y1, middle - 1 : middle + 1] = lit * 0.9
    rgb[y0 + 9 : y0 + 11, x0:x1] = lit * 0.9
    rgb[y1 + 1 : y1 + 4, x0 - 3 : x1 + 3] = lit * 1.45
    rgb[y1 + 4 : y1 + 6, x0 - 3 : x1 + 3] *= 0.55


def _shop(rng: np.random.Generator, rgb: Array, top: int, left: int, cell_h: int, cell_w: int, light: Array) -> None:
    colour = rng.choice([[0.30, 0.05, 0.04], [0.05, 0.12, 0.30], [0.06, 0.22, 0.10], [0.45, 0.32, 0.10]])
    rgb[top + 4 : top + 13, left : left + cell_w] = colour * light
    rgb[top + 13 : top + 15, left : left + cell_w] *= 0.4
    glass = np.linspace(0.30, 0.05, cell_h - 23, dtype=np.float32)[:, None, None]
    rgb[top + 15 : top + cell_h - 8, left + 3 : left + cell_w - 3] = glass * np.array([1.05, 0.95, 0.8], np.float32)
    goods = rng.uniform(0.4, 1.7, (4, 6, 1)).astype(np.float32)
    inside = rgb[top + 22 : top + cell_h - 9, left + 4 : left + cell_w - 4]
    inside *= cv2.resize(goods, (inside.shape[1], inside.shape[0]), interpolation=cv2.INTER_NEAREST)[..., None]
    rgb[top + 15 : top + cell_h - 8, left + cell_w // 2 : left + cell_w // 2 + 2] = 0.03 * light
    if rng.random() < 0.3:
        rgb[top + 17 : top + cell_h - 1, left + 8 : left + 19] = colour * light * 0.6
    rgb[top + cell_h - 8 :, left : left + cell_w] *= 0.6


def tree(rng: np.random.Generator, size: int = 256) -> Array:
    """A street tree against the light: clumps of leaves with gaps that let the sky through, a trunk and branches."""
    yy, xx = np.mgrid[:size, :size].astype(np.float32) / size
    field = np.full((size, size), -1.0, np.float32)
    for _ in range(46):
        angle, reach = rng.uniform(0, 2 * np.pi), np.sqrt(rng.random())
        x, y, radius = 0.5 + 0.34 * reach * np.cos(angle), 0.36 + 0.27 * reach * np.sin(angle), rng.uniform(0.07, 0.13)
        field = np.maximum(field, 1.0 - np.hypot(xx - x, yy - y) / radius)
    coarse, fine = noise(rng, size, 1.3, 3.0), noise(rng, size, 0.7, 12.0)
    leaves = smoothstep(-0.04, 0.14, field - 0.10 + 0.10 * coarse + 0.13 * fine)
    lit = np.clip(0.65 + 0.35 * coarse + 0.3 * fine - 0.5 * (yy - 0.35), 0.12, 2.0)
    edge = 1.0 + 1.1 * smoothstep(0.35, 0.0, field)
    rgb = (lit * edge)[..., None] * np.array([0.060, 0.085, 0.018], np.float32)
    bark = np.zeros((size, size), np.uint8)
    cv2.line(bark, (size // 2, size - 1), (size // 2, int(0.4 * size)), 255, size // 26, cv2.LINE_AA)
    for _ in range(9):
        x, y = size * rng.uniform(0.25, 0.75), size * rng.uniform(0.12, 0.5)
        cv2.line(bark, (size // 2, int(size * rng.uniform(0.45, 0.7))), (int(x), int(y)), 255, 2, cv2.LINE_AA)
    trunk = bark.astype(np.float32) / 255.0
    wood = np.array([0.030, 0.024, 0.018], np.float32) * (1.0 + 0.3 * fine)[..., None]
    rgb = rgb * leaves[..., None] + wood * (trunk * (1.0 - leaves))[..., None]
    return np.dstack([rgb, leaves + trunk * (1.0 - leaves)]).astype(np.float32)


def _fill(canvas: Array, points: list[tuple[float, float]], colour: Array | list[float]) -> None:
    """Fill a polygon, given in thousandths of the canvas width, with a smooth edge. `colour` is (3,) or a (h, w, 3) picture."""
    height, width = canvas.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.round(np.array(points) * (width / 1000 * 16)).astype(np.int32)], 255, cv2.LINE_AA, 4)
    cover = (mask.astype(np.float32) / 255.0)[..., None]
    canvas[..., :3] = canvas[..., :3] * (1.0 - cover) + np.asarray(colour, np.float32) * cover
    canvas[..., 3:] = np.maximum(canvas[..., 3:], cover)


def _mirrored(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(1000 - x, y) for x, y in points]


def car_rear(paint: Array) -> Array:
    """A saloon seen from behind, against the light: 1.84 m wide, 1.47 m high (texture 640 x 512 with nothing around it)."""
    width, height = 640, 512
    canvas = np.zeros((height, width, 4), np.float32)
    v = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    for side in (lambda p: p, _mirrored):
        _fill(canvas, side([(95, 640), (245, 640), (240, 795), (105, 795)]), [0.012, 0.012, 0.013])
        _fill(canvas, side([(20, 345), (90, 335), (100, 385), (35, 392)]), paint * 0.8)
    body = [
        (70, 420),
        (120, 350),
        (205, 130),
        (250, 70),
        (400, 45),
        (600, 45),
        (750, 70),
        (795, 130),
        (880, 350),
        (930, 420),
    ]
    body += [(955, 560), (940, 690), (880, 735), (120, 735), (60, 690), (45, 560)]
    _fill(canvas, body, paint * (0.85 + 0.75 * np.clip(1 - np.abs(v - 0.56) / 0.12, 0, 1)))
    _fill(canvas, [(262, 75), (400, 52), (600, 52), (738, 75), (725, 92), (275, 92)], [2.2, 2.1, 1.9])
    glass = np.array([0.55, 0.68, 0.85], np.float32) * np.clip(1.5 - 3.1 * v, 0.06, 1.5)
    _fill(canvas, [(180, 330), (240, 150), (275, 105), (725, 105), (760, 150), (820, 330)], [0.015, 0.015, 0.017])
    _fill(canvas, [(192, 322), (248, 155), (282, 114), (718, 114), (752, 155), (808, 322)], glass)
    _fill(canvas, [(330, 322), (345, 245), (410, 245), (425, 322)], [0.03, 0.03, 0.035])
    _fill(canvas, [(575, 322), (590, 245), (655, 245), (670, 322)], [0.03, 0.03, 0.035])
    _fill(canvas, [(120, 352), (880, 352), (895, 372), (105, 372)], [1.3, 1.25, 1.15])
    for side in (lambda p: p, _mirrored):
        _fill(canvas, side([(72, 428), (215, 415), (232, 470), (220, 498), (62, 505)]), [0.38, 0.012, 0.008])
        _fill(canvas, side([(90, 440), (198, 431), (206, 458), (86, 466)]), [2.4, 0.10, 0.05])
        _fill(canvas, side([(150, 470), (205, 466), (210, 486), (148, 492)]), [0.5, 0.45, 0.42])
    _fill(canvas, [(372, 440), (628, 440), (628, 505), (372, 505)], [0.42, 0.42, 0.38])
    for x in range(392, 610, 33):
        _fill(canvas, [(x, 455), (x + 20, 455), (x + 20, 492), (x, 492)], [0.03, 0.03, 0.05])
    _fill(canvas, [(50, 560), (950, 560), (948, 574), (52, 574)], paint * 0.3)
    _fill(canvas, [(52, 576), (948, 576), (946, 586), (54, 586)], paint * 2.6 + 0.12)
    _fill(canvas, [(110, 670), (890, 670), (870, 733), (130, 733)], [0.02, 0.02, 0.022])
    return canvas
