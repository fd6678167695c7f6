"""How far a video is from known light: the figures of the project's bench (shared/bench/score.py).

Both sides are limited, hue kept, to 0.8 of the peak, so that a converter's shoulder above that costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from evaluation.blur import gaussian_blur
from evaluation.tonemap import Light
from pipeline.errors import InputError

Array = np.ndarray
WHITE_NITS = 203.0
"""SDR reference white (ITU-R BT.2408)."""
LUMA_709 = np.array([0.2126, 0.7152, 0.0722], np.float32)
FLOOR_NITS = 0.005
LIMIT_SHARE = 0.8
"""Of the peak: above it both sides are limited."""
CELLS_ACROSS, CELLS_DOWN = 720, 360
"""Cells of half a degree in which `flicker` finds a scene point again."""
MIN_CELLS = 50
"""Two frames that share no more lost cells than this say nothing about flicker."""


@dataclass(frozen=True)
class Scores:
    """Distance of a video from the truth.

    frames: frames compared
    lost_share: share of pixels that the SDR clip lost (truth at or above white in some channel)
    hl_stops: mean |log2 Y/Y_truth| over lost pixels; hl_bias: its signed mean
    hl_detail: correlation with the truth of band-passed log luminance (sigma 2 to 16 px) inside the lost regions
    mid_stops: mean |log2 Y/Y_truth| over well-exposed pixels (largest channel 0.05 to 0.9 of white)
    pu_psnr: PSNR of PU21-encoded RGB in dB (Mantiuk and Azimi 2021, banding_glare); infinite for equal pictures
    flicker: mean frame-to-frame change of log2 Y/Y_truth of one and the same lost scene point; NaN when the camera's pose is not known
    jod: ColorVideoVDP's quality, 10 = no visible difference (evaluation.colorvideovdp); NaN when not asked for
    A figure with no pixel to measure is NaN.
    """

    frames: int
    lost_share: float
    hl_stops: float
    hl_bias: float
    hl_detail: float
    mid_stops: float
    pu_psnr: float
    flicker: float = float("nan")
    jod: float = float("nan")


@dataclass(frozen=True)
class Pose:
    """Where the camera looked: yaw, pitch, roll (T,) in radians, one a frame; fov_degrees across the frame's width."""

    yaw: Array
    pitch: Array
    roll: Array
    fov_degrees: float


def pu21(nits: Light) -> Light:
    """PU21 banding_glare encoding of 0.005 to 10000 nits: about 0 to 600, equal steps are equally visible (Mantiuk and Azimi 2021).

    A NumPy array or a tensor of any shape; the result is of the same kind. Differentiable on tensors.
    """
    p = (0.353487901, 0.3734658629, 8.277049286e-05, 0.9062562627, 0.09150303166, 0.9099517204, 596.3148142)
    y = nits.clip(0.005, 10000.0) ** p[3]
    return (p[6] * (((p[0] + p[1] * y) / (1.0 + p[2] * y)) ** p[4] - p[5])).clip(min=0.0)


def limit(nits: Array, top_nits: float) -> Array:
    """Scale pixels (..., 3) down, hue kept, whose largest channel exceeds `top_nits`; nothing is below 0.005 nits."""
    nits = np.maximum(nits, FLOOR_NITS)
    return nits * np.minimum(1.0, top_nits / largest_channel(nits))[..., None]


def largest_channel(rgb: Array) -> Array:
    """max(R, G, B) of (..., 3)."""
    return np.maximum(np.maximum(rgb[..., 0], rgb[..., 1]), rgb[..., 2])


def band_pass(log_y: Array, mask: Array) -> Array:
    """Detail of sigma 2 to 16 px of (H, W) inside the mask, as a list of its pixels.

    Only pixels inside count (normalised convolution): the outline of a lost region is known from the SDR and earns nothing.
    """
    weight = torch.from_numpy(mask)[None, None].float()
    value = torch.from_numpy(np.ascontiguousarray(log_y, np.float32))[None, None] * weight
    fine, coarse = (gaussian_blur(value, s) / gaussian_blur(weight, s).clamp_min(1e-6) for s in (2.0, 16.0))
    return (fine - coarse)[0, 0].numpy()[mask]


class Meter:
    """Takes pairs of frames in order and keeps what the scores need of them.

    white_nits, peak_nits: of the display; both sides are limited to 0.8 of the peak. pose: needed for flicker.
    """

    def __init__(self, white_nits: float = 203.0, peak_nits: float = 1000.0, pose: Pose | None = None) -> None:
        self.white_nits, self.top_nits, self.pose = white_nits, LIMIT_SHARE * peak_nits, pose
        self.frames = 0
        self._means: dict[str, list[float]] = {
            key: [] for key in ("square", "share", "error", "bias", "mid", "flicker")
        }
        self._cross = self._result_power = self._truth_power = 0.0
        self._cells: Array | None = None
        self._rays: Array | None = None

    def add(self, light: Array, nits: Array, text: Array | None = None) -> tuple[Array, Array]:
        """Compare one frame: the truth's light (H,W,3), 1.0 = SDR white, with the result's nits (H,W,3), both BT.709 primaries.

        text: (H,W) bool, pixels of a burnt-in overlay, which are neither lost nor well exposed. Returns both sides in nits as they were
        compared, limited: (truth, result). Raises InputError when the sizes differ.
        """
        if nits.shape != light.shape:
            raise InputError(
                f"frame {self.frames} of the result is {nits.shape}, the truth is {light.shape}; compare like sizes"
            )
        light = light.astype(np.float32)
        wanted = limit(light * np.float32(self.white_nits), self.top_nits)
        got = limit(np.asarray(nits, np.float32), self.top_nits)
        note = self._means
        note["square"].append(np.mean((pu21(wanted) - pu21(got)) ** 2, dtype=np.float64))
        log_wanted, log_got = np.log2(wanted @ LUMA_709), np.log2(got @ LUMA_709)
        error, largest = log_got - log_wanted, largest_channel(light)
        shown = True if text is None else ~text
        lost, mid = (largest >= 1.0) & shown, (largest > 0.05) & (largest < 0.9) & shown
        note["share"].append(lost.mean())
        if lost.any():
            note["error"].append(np.abs(error[lost]).mean(dtype=np.float64))
            note["bias"].append(error[lost].mean(dtype=np.float64))
            a, b = band_pass(log_got, lost), band_pass(log_wanted, lost)
            self._cross += float(a @ b)
            self._result_power += float(a @ a)
            self._truth_power += float(b @ b)
        if mid.any():
            note["mid"].append(np.abs(error[mid]).mean(dtype=np.float64))
        if self.pose is not None:
            self._note_flicker(self.pose, error, lost)
        self.frames += 1
        return wanted, got

    def scores(self) -> Scores:
        """The scores of all frames so far, `jod` left out. Raises InputError when there was none."""
        if not self.frames:
            raise InputError("the truth and the result have no frames; there is nothing to score")
        note, square = self._means, float(np.mean(self._means["square"]))
        power = max(np.sqrt(self._result_power * self._truth_power), 1e-12)
        return Scores(
            frames=self.frames,
            lost_share=_mean(note["share"]),
            hl_stops=_mean(note["error"]),
            hl_bias=_mean(note["bias"]),
            hl_detail=float(self._cross / power) if note["error"] else float("nan"),
            mid_stops=_mean(note["mid"]),
            pu_psnr=float(10 * np.log10(pu21(np.array(self.top_nits)) ** 2 / square)) if square > 0 else float("inf"),
            flicker=_mean(note["flicker"]),
        )

    def _note_flicker(self, pose: Pose, error: Array, lost: Array) -> None:
        """The mean error of each cell of the scene's sphere, against the same cell's in the frame before."""
        if self._rays is None:
            self._rays = camera_rays(*error.shape, pose.fov_degrees)
        number = self.frames
        turn = rotation(float(pose.yaw[number]), float(pose.pitch[number]), float(pose.roll[number]))
        cells = scene_cells(self._rays @ turn.T)[lost]
        count = np.bincount(cells, minlength=CELLS_ACROSS * CELLS_DOWN)
        total = np.bincount(cells, error[lost], minlength=CELLS_ACROSS * CELLS_DOWN)
        now = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        if self._cells is not None:
            change = np.abs(now - self._cells)
            change = change[~np.isnan(change)]
            if change.size > MIN_CELLS:
                self._means["flicker"].append(float(change.mean()))
        self._cells = now


def score(truth: Array, result: Iterable[Array], white_nits: float = 203.0, peak_nits: float = 1000.0) -> Scores:
    """Compare frames in nits (H,W,3), BT.709 primaries, with the truth (T,H,W,3), 1.0 = SDR white; flicker and jod are left out.

    Raises InputError when the numbers or sizes of frames differ.
    """
    meter, frames = Meter(white_nits, peak_nits), 0
    for nits in result:
        if frames < len(truth):
            meter.add(truth[frames], nits)
        frames += 1
    if frames != len(truth):
        raise InputError(
            f"the result has {frames} frames, the truth has {len(truth)}; a missing frame cannot be scored"
        )
    return meter.scores()


def camera_rays(height: int, width: int, fov_degrees: float) -> Array:
    """Unit vectors (H, W, 3) through the pixels' centres of a pinhole camera: x to the right, y down, z ahead."""
    focal = 0.5 * width / np.tan(np.radians(fov_degrees) / 2)
    x, y = np.meshgrid((np.arange(width) + 0.5 - width / 2) / focal, (np.arange(height) + 0.5 - height / 2) / focal)
    rays = np.stack([x, y, np.ones_like(x)], -1)
    return rays / np.linalg.norm(rays, axis=-1, keepdims=True)


def rotation(yaw: float, pitch: float, roll: float) -> Array:
    """3x3 matrix, camera to scene: roll about z, then pitch about x, then yaw about y; radians."""
    (sy, cy), (sp, cp), (sr, cr) = ((np.sin(angle), np.cos(angle)) for angle in (yaw, pitch, roll))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return about_y @ about_x @ about_z


def scene_cells(directions: Array) -> Array:
    """The cell, 0 to CELLS_ACROSS * CELLS_DOWN - 1, of each unit vector (..., 3): longitude and latitude in steps of half a degree."""
    longitude = np.arctan2(directions[..., 0], directions[..., 2]) / (2 * np.pi) + 0.5
    latitude = np.arcsin(np.clip(directions[..., 1], -1.0, 1.0)) / np.pi + 0.5
    across = (longitude * CELLS_ACROSS).astype(int) % CELLS_ACROSS
    down = np.clip((latitude * CELLS_DOWN).astype(int), 0, CELLS_DOWN - 1)
    return down * CELLS_ACROSS + across


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
