"""A short synthetic drive into a low sun, with known light: what `make demo` films.

Everything is made from a seed: a street with lane marks, facades, trees, a car ahead, poles, and power lines that cross a sky far
brighter than an SDR camera can hold. World axes and units as in demo.view; light is linear BT.709 and relative, 1.0 = a white
wall in full sun. The camera of demo.dashcam decides what of it saturates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from demo.textures import car_rear, facade, look_up, mipmaps, noise, opaque, smoothstep, tree
from demo.view import View, draw_lines, haze_share, paste
from evaluation.metrics import rotation

Array = np.ndarray
SUN_AZIMUTH, SUN_ELEVATION = np.radians(6.2), np.radians(15.0)
SUN_LIGHT = np.array([1.0, 0.86, 0.66], np.float32)
SKY_LIGHT = np.array([0.30, 0.38, 0.50], np.float32)
EYE_HEIGHT_M, SPEED_M_S, FIELD_OF_VIEW = 1.35, 11.0, np.radians(68.0)
STREET_LENGTH_M = 330.0


@dataclass(frozen=True)
class DriveOptions:
    """width x height pixels, frames at fps, `oversample` sub-pixels a side for smooth thin lines, and the seed of everything."""

    width: int = 640
    height: int = 360
    frames: int = 60
    fps: int = 24
    oversample: int = 2
    seed: int = 7


class Drive:
    """The scene, built once; `frame(i)` looks at it from where the car is at frame i."""

    def __init__(self, options: DriveOptions | None = None) -> None:
        self.options = options or DriveOptions()
        rng = np.random.default_rng(self.options.seed)
        self._asphalt = noise(rng, 512, 0.6, 4.0)
        self._patches = noise(rng, 512, 1.4, 2.0)
        self._shake = np.cumsum(rng.standard_normal((self.options.frames, 2)), axis=0) * 2e-4
        self._shake += rng.standard_normal((self.options.frames, 2)) * 5e-4
        self._car = mipmaps(car_rear(np.array([0.16, 0.17, 0.19], np.float32)))
        across, along = np.mgrid[-1:1:64j, -1:1:64j]
        soft = smoothstep(1.0, 0.35, np.maximum(np.abs(across), np.abs(along))).astype(np.float32)
        self._shadow = mipmaps(np.dstack([np.zeros((64, 64, 3), np.float32), 0.88 * soft]))
        self._build_street(rng)
        self._paint_sky(rng)

    def __iter__(self) -> Iterator[Array]:
        return (self.frame(i) for i in range(self.options.frames))

    def view(self, index: int) -> View:
        """Pose of frame `index`: forward, a slow pan, the sway and shake of a car. In sub-pixels."""
        o, t = self.options, index / self.options.fps
        sway, nod = self._shake[index]
        yaw = np.radians(-1.2 + 3.0 * np.sin(0.9 * t)) + sway
        pitch = np.radians(3.6 + 0.25 * np.sin(2 * np.pi * 1.7 * t)) + nod
        roll = np.radians(0.25 * np.sin(2 * np.pi * 1.1 * t))
        position = np.array(
            [1.7 + 0.15 * np.sin(0.8 * t), -EYE_HEIGHT_M + 0.012 * np.sin(2 * np.pi * 1.7 * t), SPEED_M_S * t]
        )
        width, height = o.width * o.oversample, o.height * o.oversample
        return View(width, height, float(0.5 * width / np.tan(FIELD_OF_VIEW / 2)), position, rotation(yaw, pitch, roll))

    def frame(self, index: int) -> Array:
        """Frame `index`, (height, width, 3) float32 linear BT.709 light, each pixel the mean of its sub-pixels."""
        view = self.view(index)
        sky, haze = self._look_at_sky(view)
        picture = sky
        self._draw_ground(picture, haze, view)
        for mips, corner, across, down in self._quads:
            if corner[2] + max(across[2], 0.0) > view.position[2]:
                paste(picture, haze, view, mips, corner, across, down)
        draw_lines(picture, view, self._wires, np.array([0.012, 0.012, 0.014]))
        self._draw_car(picture, haze, view, index)
        o = self.options
        return cv2.resize(picture, (o.width, o.height), interpolation=cv2.INTER_AREA)

    # -- what stands in the street

    def _build_street(self, rng: np.random.Generator) -> None:
        """Houses, trees and poles as (texture, corner, across, down), far ones first; wires as polylines."""
        quads: list[tuple[float, list[Array], Array, Array, Array]] = []
        walls = np.array(
            [[0.46, 0.24, 0.16], [0.58, 0.50, 0.38], [0.62, 0.60, 0.56], [0.40, 0.30, 0.24], [0.55, 0.42, 0.28]],
            np.float32,
        )
        self._roof_line = np.zeros(int(STREET_LENGTH_M) + 200, np.float32)
        for side in (-1.0, 1.0):
            z = -14.0
            while z < STREET_LENGTH_M:
                floors, bays = int(rng.integers(3, 6)), int(rng.integers(4, 8))
                length, height, x = 3.1 * bays, 3.2 * floors + 0.6, side * (10.6 + rng.uniform(0.0, 0.8))
                gap = 0.0 if rng.random() < 0.55 else rng.uniform(3.0, 9.0)
                wall = walls[rng.integers(len(walls))]
                glancing = max(-side * np.sin(SUN_AZIMUTH), 0.0) * 2.6
                street = mipmaps(facade(rng, floors, bays, wall, SKY_LIGHT * 0.62 + SUN_LIGHT * glancing))
                end = mipmaps(facade(rng, floors, 4, wall, SKY_LIGHT * 0.42, windows=rng.random() < 0.3))
                up = np.array([0.0, height, 0.0])
                near, far = (z, z + length) if side < 0 else (z + length, z)
                quads.append(
                    (z + length - 0.2, street, np.array([x, -height, near]), np.array([0.0, 0.0, far - near]), up)
                )
                inner = x if side > 0 else x - 12.0
                quads.append((z, end, np.array([inner, -height, z]), np.array([12.0, 0.0, 0.0]), up))
                if side > 0:
                    self._roof_line[max(int(z), 0) : max(int(z + length), 0)] = height
                z += length + gap
        trees = [mipmaps(tree(rng)) for _ in range(4)]
        for side, start, step in ((-1.0, 12.0, 17.0), (1.0, 21.0, 31.0)):
            for z in np.arange(start, STREET_LENGTH_M, step):
                size = rng.uniform(5.2, 6.8)
                at = np.array([side * 7.3 + rng.uniform(-0.2, 0.2) - size / 2, -size, z + rng.uniform(-2.0, 2.0)])
                foliage = trees[rng.integers(len(trees))]
                quads.append((at[2], foliage, at, np.array([size, 0.0, 0.0]), np.array([0.0, size, 0.0])))
        self._add_poles(quads)
        quads.sort(key=lambda quad: -quad[0])
        self._quads = [quad[1:] for quad in quads]

    def _add_poles(self, quads: list[tuple[float, list[Array], Array, Array, Array]]) -> None:
        shade = np.linspace(0.035, 0.075, 32, dtype=np.float32)[None, :, None] * np.array([1.0, 0.86, 0.7], np.float32)
        wood = mipmaps(opaque(np.repeat(shade, 256, 0)))
        steel = mipmaps(opaque(np.repeat(shade[:, ::-1] * np.array([0.9, 1.0, 1.15], np.float32), 64, 0)))
        self._wires: list[tuple[Array, float]] = []
        span, poles = 29.0, np.arange(-11.0, STREET_LENGTH_M, 29.0)
        for z in poles:
            for x, height, mips in ((6.7, 11.3, wood), (-6.9, 8.6, steel)):
                zz = z if x > 0 else z + 9.0
                quads.append(
                    (zz, mips, np.array([x - 0.13, -height, zz]), np.array([0.26, 0, 0]), np.array([0, height, 0.0]))
                )
            for y in (10.7, 9.5):
                quads.append((z, wood, np.array([5.4, -y - 0.07, z]), np.array([2.6, 0, 0]), np.array([0, 0.15, 0.0])))
            arm, lamp = np.array([-6.9, -8.4, z + 9.0]), mipmaps(opaque(np.full((16, 32, 3), 0.06, np.float32)))
            quads.append((z + 9.0, steel, arm, np.array([1.9, 0, 0]), np.array([0, 0.09, 0.0])))
            quads.append(
                (z + 9.0, lamp, arm + np.array([1.3, -0.02, 0.0]), np.array([0.75, 0, 0]), np.array([0, 0.17, 0.0]))
            )
            s = np.linspace(0.0, 1.0, 15)
            for x, y, sag in (
                (5.5, 10.8, 0.5),
                (6.1, 10.8, 0.5),
                (7.9, 10.8, 0.5),
                (5.7, 9.6, 0.7),
                (7.7, 9.6, 0.7),
                (6.6, 7.6, 0.9),
            ):
                wire = np.stack([np.full_like(s, x), -y + 4 * sag * s * (1 - s), z + span * s], -1)
                self._wires.append((wire, 0.05 if y < 8 else 0.028))
            for y, ahead in ((9.6, 2.0), (10.7, 11.0)):
                cross = np.stack([6.0 - 16.5 * s, -y + 2.2 * s**2 + 2.6 * s * (1 - s), z + ahead * s], -1)
                self._wires.append((cross, 0.026))

    # -- sky

    def _sun_angle(self, direction: Array) -> Array:
        """Angle in radians between unit directions (..., 3) and the sun."""
        ce = np.cos(SUN_ELEVATION)
        sun = np.array([ce * np.sin(SUN_AZIMUTH), -np.sin(SUN_ELEVATION), ce * np.cos(SUN_AZIMUTH)], np.float32)
        return np.arccos(np.clip(direction @ sun, -1.0, 1.0))

    def _paint_sky(self, rng: np.random.Generator) -> None:
        """The sky on a plane wider than any frame, once; a frame is a homography of it, because the sky is infinitely far."""
        frame = self.view(0)
        width, height = int(frame.width * 1.4), int(frame.height * 1.35)
        self._sky_view = View(
            width, height, frame.focal_px, np.zeros(3), rotation(np.radians(0.5), np.radians(4.0), 0.0)
        )
        rays = self._sky_view.rays()
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        up = np.maximum(-rays[..., 1], 0.0)
        angle = self._sun_angle(rays)
        degrees = np.degrees(angle)[..., None]
        horizon = np.exp(-up * 7.0)[..., None]
        blue = (
            np.array([0.16, 0.31, 0.62], np.float32) * (1 - horizon)
            + np.array([0.72, 0.78, 0.84], np.float32) * horizon
        )
        aureole = 1.5 * np.exp(-((degrees / 14.0) ** 1.3)) + 5.0 * np.exp(-((degrees / 4.2) ** 1.2))
        self._haze = (blue * 0.55 + horizon * 0.1 + SUN_LIGHT * (0.9 * np.exp(-degrees / 16.0))).astype(np.float32)
        sky = blue * 1.05 + SUN_LIGHT * aureole
        clouds, cover = self._clouds(rng, rays, up, degrees)
        sky = sky * (1.0 - cover) + clouds * cover
        veil = 1.0 - 0.55 * cover
        disc = 260.0 * smoothstep(0.42, 0.30, degrees) + 24.0 * np.exp(-((degrees / 0.8) ** 2))
        self._sky = (sky + SUN_LIGHT * disc * veil).astype(np.float32)

    def _clouds(self, rng: np.random.Generator, rays: Array, up: Array, degrees: Array) -> tuple[Array, Array]:
        """Light (h, w, 3) and coverage (h, w, 1) of a broken layer of cumulus: bright where thin and near the sun, grey where thick."""
        size = 1024
        field = 0.82 * noise(rng, size, 1.75, 5.0) + 0.34 * noise(rng, size, 1.6, 22.0)
        lift = 1.0 / (up + 0.07)
        u, v = rays[..., 0] * lift * 150.0 + 260.0, rays[..., 2] * lift * 62.0 + 90.0

        def density(du: float, dv: float) -> Array:
            return look_up(field, u + du, v + dv)

        here = density(0.0, 0.0)
        cover = (smoothstep(-0.05, 0.75, here) * smoothstep(0.012, 0.10, up) * 0.96)[..., None]
        path = sum(np.maximum(density(0.0, step), 0.0) for step in (3.0, 7.0, 13.0, 21.0))
        through = np.exp(-0.42 * (path + 1.2 * np.maximum(here, 0.0)))[..., None]
        forward = 0.75 + 2.6 * np.exp(-degrees / 13.0) + 9.0 * np.exp(-((degrees / 5.0) ** 1.4))
        light = SUN_LIGHT * (1.9 * forward * through) + np.array([0.30, 0.36, 0.46], np.float32) * (
            0.75 + 0.6 * through
        )
        return light, cover

    def _look_at_sky(self, view: View) -> tuple[Array, Array]:
        """Sky and haze behind every pixel of the view, (h, w, 3) each."""
        wide = self._sky_view
        map_back = wide.intrinsics @ wide.turn.T @ view.turn @ np.linalg.inv(view.intrinsics)
        size = (view.width, view.height)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        sky = cv2.warpPerspective(self._sky, map_back, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        haze = cv2.warpPerspective(self._haze, map_back, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return sky, haze

    # -- ground

    def _draw_ground(self, picture: Array, haze: Array, view: View) -> None:
        rays = view.rays()
        top = int(np.flatnonzero((rays[..., 1] > 0.003).any(1))[0])
        rays, spot, air_light = rays[top:], picture[top:], haze[top:]
        fall = np.maximum(rays[..., 1], 0.003)
        eye = view.position.astype(np.float32)
        depth = -eye[1] / fall
        x, z = eye[0] + rays[..., 0] * depth, eye[2] + rays[..., 2] * depth
        wide, deep = depth / view.focal_px, depth**2 / (view.focal_px * -eye[1])

        def band(low: float, high: float) -> Array:
            return np.clip((x - low) / wide + 0.5, 0, 1) * np.clip((high - x) / wide + 0.5, 0, 1)

        fine = np.clip(1.2 - deep / 0.25, 0, 1)
        grain = look_up(self._asphalt, x * 62, z * 62) * fine
        patch = look_up(self._patches, x * 9, z * 3)
        tracks = sum(np.exp(-(((x - at) / 0.32) ** 2)) for at in (-2.5, -0.95, 0.95, 2.5))
        albedo = (0.105 * (1.0 + 0.16 * grain + 0.10 * patch - 0.10 * tracks))[..., None] * np.array(
            [1.0, 0.98, 0.95], np.float32
        )
        walk = 1.0 - band(-5.2, 5.2)
        joints = np.clip(1.0 - np.abs((z / 1.5) % 1.0 - 0.5) * 2 / np.clip(deep, 0.06, 9.0), 0, 1) * np.clip(
            1 - deep, 0, 1
        )
        paving = (0.24 * (1.0 + 0.07 * grain + 0.08 * patch - 0.3 * joints))[..., None] * np.array(
            [1.0, 0.95, 0.88], np.float32
        )
        kerb = (band(-5.4, -5.2) + band(5.2, 5.4))[..., None]
        dashes = self._dashes(z, deep, 9.0, 3.6)
        worn = np.clip(0.86 + 0.12 * patch + 0.08 * grain, 0.3, 1.0)
        paint = ((band(-0.075, 0.075) * dashes + band(-4.75, -4.6) + band(4.6, 4.75)) * worn)[..., None]
        albedo = albedo * (1 - walk[..., None]) + paving * walk[..., None]
        albedo = albedo * (1 - kerb) + 0.33 * kerb
        albedo = albedo * (1 - paint) + np.array([0.72, 0.71, 0.67], np.float32) * paint
        sunlit = self._sunlit(x, z)[..., None]
        light = SKY_LIGHT * 0.72 + SUN_LIGHT * (0.62 * sunlit)
        unit = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
        glint = self._glint(unit, grain)[..., None] * (0.15 + 0.85 * sunlit) * (1.0 - 0.55 * walk[..., None])
        seen = albedo * light + SUN_LIGHT * glint
        air = haze_share(depth)[..., None]
        cover = np.clip((rays[..., 1:2] - 0.003) * view.focal_px, 0, 1)
        spot[...] = spot * (1 - cover) + (seen * (1 - air) + air_light * air) * cover

    @staticmethod
    def _dashes(z: Array, deep: Array, period: float, length: float) -> Array:
        """Share of each pixel's depth that a dash covers: the difference of the dashes' integral, so far ones blend."""

        def painted(at: Array) -> Array:
            return np.floor(at / period) * length + np.minimum(at % period, length)

        return (painted(z + deep / 2) - painted(z - deep / 2)) / np.maximum(deep, 1e-4)

    def _sunlit(self, x: Array, z: Array) -> Array:
        """1 where the ray to the sun clears the roofs on the right, 0 in their shade."""
        across = np.maximum(10.8 - x, 0.0)
        run, ahead = across / np.sin(SUN_AZIMUTH), z + across / np.tan(SUN_AZIMUTH)
        roof = self._roof_line[np.clip(ahead, 0, len(self._roof_line) - 1).astype(np.int32)]
        return smoothstep(-0.35, 0.35, run * np.tan(SUN_ELEVATION) - roof)

    def _glint(self, unit: Array, grain: Array) -> Array:
        """The sun mirrored in the road: a streak below it, stronger towards the horizon."""
        mirrored = unit * np.array([1, -1, 1], np.float32)
        azimuth = np.arctan2(mirrored[..., 0], mirrored[..., 2]) - SUN_AZIMUTH
        elevation = np.arcsin(np.clip(-mirrored[..., 1], -1, 1)) - SUN_ELEVATION
        lobe = np.exp(-((np.degrees(azimuth) / 3.4) ** 2) - (np.degrees(elevation) / 9.0) ** 2)
        wide = np.exp(-np.abs(np.degrees(azimuth)) / 14.0 - (np.degrees(elevation) / 16.0) ** 2)
        return (1.5 * lobe + 0.16 * wide) * np.clip(1.0 + 0.55 * grain, 0.1, 3.0)

    # -- the car ahead

    def _draw_car(self, picture: Array, haze: Array, view: View, index: int) -> None:
        t = index / self.options.fps
        x, z = 1.62 + 0.12 * np.sin(0.7 * t + 1.0), view.position[2] + 10.5 + 0.9 * np.sin(1.1 * t)
        shadow = np.array([x - 1.2, -0.01, z + 1.2])
        paste(picture, haze, view, self._shadow, shadow, np.array([2.2, 0, 0]), np.array([0, 0, -4.8]))
        corner, size = np.array([x - 0.95, -1.50, z]), (1.9, 1.52)
        paste(picture, haze, view, self._car, corner, np.array([size[0], 0, 0]), np.array([0, size[1], 0]))
        yy, xx = np.mgrid[: view.height, : view.width]
        for u, v, strength, rate in (
            (0.30, 0.10, 60.0, 1.3),
            (0.70, 0.09, 95.0, 0.9),
            (0.88, 0.46, 45.0, 1.7),
            (0.94, 0.72, 30.0, 2.1),
        ):
            at = view.to_camera(corner[None] + [u * size[0], v * size[1], 0.0])
            px, py = view.to_pixels(at)[0]
            radius = 0.013 * view.focal_px / at[0, 2] + 0.45
            x0, y0 = int(max(px - 9, 0)), int(max(py - 9, 0))
            box = np.s_[y0 : y0 + 19, x0 : x0 + 19]
            spark = np.exp(-(((xx[box] - px) ** 2 + (yy[box] - py) ** 2) / (2 * radius**2)))
            gain = strength * (0.65 + 0.35 * np.sin(2 * np.pi * rate * t + 9 * u))
            picture[box] += (gain * spark)[..., None].astype(np.float32) * SUN_LIGHT
