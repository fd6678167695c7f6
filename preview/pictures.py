"""Pictures: what a frame looks like in each layer of the page, and its PNG or JPEG."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pipeline.color import OutputSpec
from pipeline.engine import PackedFrame, Restored
from pipeline.invented import invented
from preview.tonemapping import nits_of, srgb_codes, tone_mapped

Array = np.ndarray
LAYERS = ("sdr", "hdr", "mask", "difference")
JPEG_QUALITY = 88
DIFFERENCE_GAIN = 4
MASK_COLOR = (255, 60, 200)
"""R, G, B of what the network put in: a colour that roads and skies do not have."""


@dataclass(frozen=True)
class Made:
    """One frame with all that is known of it. number: within the track; width, height: of the visible picture"""

    number: int
    packed: PackedFrame
    restored: Restored
    out: OutputSpec

    @property
    def height(self) -> int:
        return self.restored.sdr.shape[2]

    @property
    def width(self) -> int:
        return self.restored.sdr.shape[3]

    @cached_property
    def nits(self) -> Tensor:
        """(3, H, W) float32, BT.2020, of the packed planes."""
        return nits_of(self.packed, self.out, self.height, self.width)


def picture(made: Made, layer: str, exposure_stops: float = 0.0) -> Array:
    """(H, W, 3) uint8 sRGB of a layer. exposure_stops: of the tone map that shows HDR."""
    if layer == "sdr":
        return srgb_codes(made.restored.unpacked[0].cpu()).numpy()
    if layer == "hdr":
        return tone_mapped(made.nits, made.out, exposure_stops).numpy()
    if layer == "difference":
        hdr, sdr = (picture(made, name, exposure_stops).astype(np.int16) for name in ("hdr", "sdr"))
        return np.minimum(np.abs(hdr - sdr) * DIFFERENCE_GAIN, 255).astype(np.uint8)
    share = invented(made.restored.sdr, made.restored.light)[0].cpu().to(torch.float32).div_(255)[..., None]
    grey = made.restored.sdr[0].cpu().mean(dim=0)
    dim = srgb_codes(grey.expand(3, -1, -1)).to(torch.float32).mul_(0.5)
    return (dim * (1 - share) + torch.tensor(MASK_COLOR) * share).add_(0.5).to(torch.uint8).numpy()


def png(rgb: Array) -> bytes:
    """Lossless; (H, W, 3) uint8."""
    import cv2

    return cv2.imencode(".png", rgb[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def jpeg(rgb: Array, widest: int = 0) -> bytes:
    """widest: pixels, 0 = as it is; a wider picture is made smaller."""
    import cv2

    height, width = rgb.shape[:2]
    if 0 < widest < width:
        rgb = cv2.resize(rgb, (widest, max(1, round(height * widest / width))), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
