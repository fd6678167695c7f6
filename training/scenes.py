"""Scenes: linear HDR images and panoramas on disk, and the views that a camera has of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from datasets.images import read_light
from evaluation.metrics import camera_rays, rotation
from pipeline.errors import InputError
from training.wires import draw_wires

Array = np.ndarray
SUFFIXES = (".exr", ".hdr")
PANORAMA_ASPECT = 2.0
BARE_SUN_PERCENTILE = 99.995
DASHCAM_SHARE = 0.6
WIRES_SHARE = 0.4


@dataclass(frozen=True)
class Scene:
    """name: the file's stem. light: (H, W, 3) float32, linear BT.709, at least 0, any scale. panorama: equirectangular, all around."""

    name: str
    light: Array
    panorama: bool


def find_scenes(folder: Path) -> list[Path]:
    """The HDR images of a folder, sorted by name. InputError when there is no such folder or no such file in it."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name one that holds linear HDR images ({', '.join(SUFFIXES)}).")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(f"{folder}: holds no linear HDR image; looked for files that end in {' or '.join(SUFFIXES)}.")
    return found


def read_scene(path: Path) -> Scene:
    """One scene; light above the 99.995th percentile (a bare sun disc, wider than its true size at these resolutions) is clamped to it.

    InputError when the file cannot be read or holds no light.
    """
    light = np.maximum(read_light(path), 0.0)
    light = np.minimum(light, np.percentile(light.max(-1), BARE_SUN_PERCENTILE)).astype(np.float32)
    if light.max() <= 0:
        raise InputError(f"{path}: holds no light at all; every pixel is 0.")
    height, width = light.shape[:2]
    return Scene(path.stem, np.ascontiguousarray(light), abs(width / height - PANORAMA_ASPECT) < 0.01)


@dataclass(frozen=True)
class View:
    """Where a camera looks: angles in radians, horizontal field of view in degrees."""

    yaw: float
    pitch: float
    roll: float
    fov: float


def perspective(panorama: Array, view: View, height: int, width: int) -> Array:
    """What a pinhole camera sees inside an equirectangular panorama (H, W, 3): (height, width, 3), sampled bilinearly."""
    rays = camera_rays(height, width, view.fov) @ rotation(view.yaw, view.pitch, view.roll).T
    rows, columns = panorama.shape[:2]
    u = (np.arctan2(rays[..., 0], rays[..., 2]) / (2 * np.pi) + 0.5) * columns - 0.5
    v = (np.arcsin(np.clip(rays[..., 1], -1, 1)) / np.pi + 0.5) * rows - 0.5
    return cv2.remap(panorama, u.astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def random_view(scene: Scene, height: int, width: int, rng: np.random.Generator) -> Array:
    """Light (height, width, 3) of a view as a car's camera may have it, any scale; headings with bright light come more often.

    Of a panorama a perspective view: most as a dashcam has them, which looks ahead with some 90 degrees and drives into the light (the
    bench's drives begin so too), the others anyhow. Of a plain picture a cut-out. Some have wires in front; half of them are mirrored
    left to right.
    """
    if scene.panorama:
        if rng.random() < DASHCAM_SHARE:
            fov, pitch, tries = rng.uniform(80, 100), np.radians(rng.normal(-4, 2)), 8
        else:
            fov, pitch, tries = rng.uniform(55, 110), np.radians(rng.normal(-3, 7)), rng.integers(1, 9)
        roll, headings = np.radians(rng.normal(0, 1.0)), rng.uniform(-np.pi, np.pi, tries)
        views = [View(yaw, pitch, roll, fov) for yaw in headings]
        view = views[0] if len(views) == 1 else max(views, key=lambda v: _reach(scene.light, v))
        light = perspective(scene.light, view, height, width)
    else:
        light = _cut_out(scene.light, height, width, rng)
    if rng.random() < WIRES_SHARE:
        light = draw_wires(light, rng)
    return np.ascontiguousarray(light[:, ::-1]) if rng.random() < 0.5 else light


def _reach(panorama: Array, view: View) -> float:
    """How far the brightest hundredth of the view lies above its brightest eighth."""
    top = perspective(panorama, view, 36, 64).max(-1)
    return float(np.quantile(top, 0.99) / max(np.quantile(top, 0.875), 1e-6))


def _cut_out(light: Array, height: int, width: int, rng: np.random.Generator) -> Array:
    rows, columns = light.shape[:2]
    largest = min(rows / height, columns / width)
    scale = largest * rng.uniform(0.5, 1.0)
    h, w = max(1, int(height * scale)), max(1, int(width * scale))
    top, left = rng.integers(0, rows - h + 1), rng.integers(0, columns - w + 1)
    method = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
    return cv2.resize(light[top : top + h, left : left + w], (width, height), interpolation=method)
