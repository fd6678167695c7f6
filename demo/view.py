"""The virtual camera of the demo's scene, and how textured planes and thin lines are drawn through it.

World axes: x to the right, y down, z ahead, metres; the ground is y = 0. Pictures are float32 linear BT.709 light.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

Array = np.ndarray
NEAR_M = 0.4
HAZE_LENGTH_M = 420.0


@dataclass(frozen=True)
class View:
    """One camera pose: a picture of width x height pixels, focal length in pixels, position (3,) in metres.

    turn (3, 3) takes camera axes to world axes.
    """

    width: int
    height: int
    focal_px: float
    position: Array
    turn: Array

    @property
    def intrinsics(self) -> Array:
        """Camera axes to pixels, (3, 3). Whole numbers are pixel centres."""
        f = self.focal_px
        return np.array([[f, 0, self.width / 2 - 0.5], [0, f, self.height / 2 - 0.5], [0, 0, 1.0]])

    def to_camera(self, points: Array) -> Array:
        """World points (n, 3) in camera axes."""
        return (np.asarray(points, np.float64) - self.position) @ self.turn

    def to_pixels(self, camera_points: Array) -> Array:
        """Points (n, 3) in camera axes, in front of it, to pixels (n, 2)."""
        p = camera_points @ self.intrinsics.T
        return p[:, :2] / p[:, 2:]

    def rays(self) -> Array:
        """World direction of every pixel, (h, w, 3) float32, unit depth along the camera's axis."""
        x = (np.arange(self.width, dtype=np.float32) + 0.5 - self.width / 2) / self.focal_px
        y = (np.arange(self.height, dtype=np.float32) + 0.5 - self.height / 2) / self.focal_px
        turn = self.turn.astype(np.float32)
        return x[None, :, None] * turn[:, 0] + y[:, None, None] * turn[:, 1] + turn[:, 2]


def _in_front(corners: Array) -> Array:
    """Cut a polygon (n, 3) in camera axes at the near plane."""
    kept = []
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if a[2] >= NEAR_M:
            kept.append(a)
        if (a[2] >= NEAR_M) != (b[2] >= NEAR_M):
            kept.append(a + (b - a) * (NEAR_M - a[2]) / (b[2] - a[2]))
    return np.array(kept)


def haze_share(distance_m: Array | float) -> Array:
    """How much of what is seen at this distance is light scattered by the air, [0, 1)."""
    return 1.0 - np.exp(-np.asarray(distance_m, np.float32) / HAZE_LENGTH_M)


def paste(
    picture: Array, haze: Array, view: View, mips: list[Array], corner: Array, across: Array, down: Array
) -> None:
    """Draw a texture on the parallelogram corner + s * across + t * down (metres), over what is there.

    haze (h, w, 3): the light of the air in each direction, mixed in with distance.
    """
    corner, across, down = (np.asarray(p, np.float64) for p in (corner, across, down))
    corners = view.to_camera(np.array([corner, corner + across, corner + across + down, corner + down]))
    visible = _in_front(corners)
    if len(visible) < 3:
        return
    outline = view.to_pixels(visible)
    x0, y0 = np.maximum(np.floor(outline.min(0)).astype(int) - 1, 0)
    x1, y1 = np.minimum(np.ceil(outline.max(0)).astype(int) + 2, [view.width, view.height])
    if x1 <= x0 or y1 <= y0:
        return
    area = abs(cv2.contourArea(outline.astype(np.float32))) * (1.0 if len(visible) == 4 else 2.0)
    base_h, base_w = mips[0].shape[:2]
    level = round(0.5 * np.log2(max(base_h * base_w / max(area, 1.0), 1.0)))
    texture = mips[min(level, len(mips) - 1)]
    height, width = texture.shape[:2]
    plane = np.column_stack([view.turn.T @ across / width, view.turn.T @ down / height, corners[0]])
    plane[:, 2] += 0.5 * (plane[:, 0] + plane[:, 1])
    to_box = np.array([[1, 0, -x0], [0, 1, -y0], [0, 0, 1.0]])
    inverse = np.linalg.inv(to_box @ view.intrinsics @ plane)
    box = (int(x1 - x0), int(y1 - y0))
    layer = cv2.warpPerspective(texture, inverse, box, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    if len(visible) != 4 or (corners[:, 2] < NEAR_M).any():
        mask = np.zeros((box[1], box[0]), np.uint8)
        cv2.fillConvexPoly(mask, np.round((outline - [x0, y0]) * 16).astype(np.int32), 255, cv2.LINE_AA, 4)
        layer *= (mask.astype(np.float32) / 255.0)[..., None]
    cover = layer[..., 3:]
    air = float(haze_share(max(float(visible[:, 2].mean()), 0.0)))
    spot = picture[y0:y1, x0:x1]
    spot *= 1.0 - cover
    spot += layer[..., :3] * (1.0 - air) + cover * (air * haze[y0:y1, x0:x1])


def draw_lines(picture: Array, view: View, lines: list[tuple[Array, float]], colour: Array) -> None:
    """Draw thin round rods: each a polyline (n, 3) in metres and its thickness in metres.

    A rod thinner than a pixel covers that share of it, so a wire in front of the sun dims it and does not cut a hole.
    """
    mask = np.zeros((view.height, view.width), np.uint8)
    for points, thickness_m in lines:
        camera = view.to_camera(points)
        front = camera[:, 2] > NEAR_M
        pixels = np.full((len(camera), 2), 1e6)
        pixels[front] = np.clip(view.to_pixels(camera[front]), -4000, 8000)
        for i in np.flatnonzero(front[:-1] & front[1:]):
            width_px = thickness_m * view.focal_px * 2.0 / (camera[i, 2] + camera[i + 1, 2])
            ends = np.round(pixels[i : i + 2] * 16).astype(np.int32)
            shade = round(255 * min(1.0, width_px))
            stroke = max(1, round(width_px))
            if min(*np.abs(ends).max(0)) < 120_000:
                cv2.line(mask, ends[0].tolist(), ends[1].tolist(), shade, stroke, cv2.LINE_AA, 4)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if rows.size:
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        cover = (mask[box].astype(np.float32) / 255.0)[..., None]
        picture[box] = picture[box] * (1.0 - cover) + np.asarray(colour, np.float32) * cover
