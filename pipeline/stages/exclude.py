"""Exclude: what belongs to the car keeps the picture that the camera recorded; nothing is restored there."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.stages.overlay import spread

SOFT_PX = 8
"""Restoring begins at an excluded part's border and is whole so many pixels away."""


class Exclude(nn.Module):
    """Gives excluded parts back as they were. polygons: pipeline.exclusion.Polygon, in pixels of the picture. Asks the device nothing."""

    def __init__(self, polygons: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        self.polygons = polygons
        self._kept: dict[tuple[int, int, torch.device], Tensor] = {}

    def forward(self, recorded: Tensor, restored: Tensor) -> Tensor:
        """Frames (N,3,H,W) before and after restoring -> restored, but recorded inside the polygons and part of each right around. Where no
        polygon is near `restored` keeps its bits; without polygons it is given back itself."""
        if not self.polygons:
            return restored
        share = self._share(recorded)
        mixed = restored + share * (recorded - restored)
        return torch.where(share > 0, torch.where(share < 1, mixed, recorded), restored)

    def _share(self, frames: Tensor) -> Tensor:
        """How much of each pixel stays as recorded, (1,1,H,W)."""
        height, width = frames.shape[-2:]
        key = height, width, frames.device
        if key not in self._kept:
            self._kept[key] = kept_share(self.polygons, height, width).to(frames.device)
        return self._kept[key]


def kept_share(polygons: tuple[tuple[int, ...], ...], height: int, width: int) -> Tensor:
    """1 inside the polygons, falling to 0 over SOFT_PX pixels outside: (1,1,height,width) float32."""
    import cv2

    inside = np.zeros((height, width), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(inside, [np.array(polygon, np.int32).reshape(-1, 2)], 1)
    mask = torch.from_numpy(inside)[None, None].float()
    share = mask.clone()
    for px in range(1, SOFT_PX):
        share = torch.maximum(share, spread(mask, px) * (1 - px / SOFT_PX))
    return share
