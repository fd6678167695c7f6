"""Losses: what a network's light is compared with the truth in, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.blur import gaussian_blur
from evaluation.metrics import FLOOR_NITS, LUMA_709, WHITE_NITS, pu21
from evaluation.tonemap import compress
from models.encodings import ENCODINGS
from training.settings import LossSettings

UNLIMITED_SHARE = 0.25
"""Weight of the error above the limit: it still counts for who grades higher than 1000 nits, but less than what all will see."""

FLOOR = FLOOR_NITS / WHITE_NITS
DETAIL_FLOOR_STOPS = 0.1
SLOPE_SCALES = 3
NEAR_WHITE_CODE = 0.9


class Terms(NamedTuple):
    """Scalars: the weighted sum, and what it is made of."""

    total: Tensor
    pixel: Tensor
    detail: Tensor
    slope: Tensor
    colour: Tensor
    quiet: Tensor
    perceptual: Tensor


PU_WHITE = float(pu21(torch.tensor(WHITE_NITS)))

PIXEL_ENCODINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "log": lambda light: ENCODINGS["log"].encode(light),
    "pu": lambda light: pu21(light * WHITE_NITS) / PU_WHITE,
    "tanh": torch.tanh,
}
"""Name -> what light is encoded with before the L1 distance; pu: PU21 with white at 203 nits, scaled to 1 there. tanh is HDRUNet's (Chen et al. 2021, equation 2)."""


def limit(light: Tensor, top: float) -> Tensor:
    """Scale pixels (N, 3, H, W) whose largest channel exceeds `top` down to it, hue kept; top 0 changes nothing."""
    if top == 0:
        return light
    return light * (top / light.amax(dim=1, keepdim=True).clamp_min(top))


class Loss:
    """Compares light with the truth. perceptual: a module (a, b) in [0, 1] -> scalar, or None.

    pixel: L1 in the named encoding, of limited light, plus a quarter of the L1 of unlimited light (so that what lies above the limit counts a fifth); lost pixels (truth at or above
    white) count `lost_weight` times more. detail: the squared error of band-passed log luminance (sigma 2 to 16 px) inside lost
    regions, as a share of the truth's own power there: near 1 where the result has no detail at all. slope, colour: see `slope_error`
    and `colour_error`. quiet: what Net_R adds where the camera
    lost nothing. perceptual: of light tone-mapped after the paper's equation 1, mu = 10.
    """

    def __init__(self, settings: LossSettings, perceptual: Callable[[Tensor, Tensor], Tensor] | None) -> None:
        self.settings = settings
        self.perceptual = perceptual

    def __call__(self, light: Tensor, restored: Tensor, coded: Tensor, truth: Tensor, step: int) -> Terms:
        """light, restored (Net_R's summand), coded, truth: (N, 3, H, W) float32; white is at 1.0 in light and truth."""
        s = self.settings
        lost = (truth.amax(dim=1, keepdim=True) >= 1.0).float()
        weight = 1 + s.lost_weight * lost
        encode = PIXEL_ENCODINGS[s.pixel]
        shown, wanted = limit(light, s.limit), limit(truth, s.limit)
        pixel = (weight * (encode(shown) - encode(wanted)).abs()).mean() / weight.mean()
        if s.limit:
            beyond = (weight * (encode(light) - encode(truth)).abs()).mean() / weight.mean()
            pixel = pixel + UNLIMITED_SHARE * beyond
        nothing = pixel.new_zeros(())
        detail = detail_error(shown, wanted, lost) if s.detail_weight else nothing
        slope = slope_error(shown, wanted, lost) if s.slope_weight else nothing
        colour = colour_error(shown, wanted, lost) if s.colour_weight else nothing
        kept = (coded.amax(dim=1, keepdim=True) < NEAR_WHITE_CODE).float()
        quiet = (restored.abs() * kept).mean() if s.quiet_weight else nothing
        perceptual = nothing
        if self.perceptual is not None and step % s.perceptual_every == 0:
            perceptual = self.perceptual(compress(light.clamp_min(0)), compress(truth))
        total = pixel + s.detail_weight * detail + s.slope_weight * slope + s.colour_weight * colour
        total = total + s.quiet_weight * quiet + s.perceptual_weight * perceptual
        return Terms(total, pixel, detail, slope, colour, quiet, perceptual)


def detail_error(light: Tensor, truth: Tensor, lost: Tensor) -> Tensor:
    """Squared error of band-passed log luminance inside lost regions, over the truth's power there and a floor's, so that flat skies do not rule."""
    a, b = _band(_log_luminance(light), lost), _band(_log_luminance(truth), lost)
    area = F.avg_pool2d(lost, 2)
    power = (b.detach().square() * area).sum() / area.sum().clamp_min(1)
    return ((a - b).square() * area).sum() / area.sum().clamp_min(1) / (power + DETAIL_FLOOR_STOPS**2)


def slope_error(light: Tensor, truth: Tensor, lost: Tensor) -> Tensor:
    """Mean error, in stops, of the differences between neighbours inside lost regions, each channel by itself, at full, half and quarter
    size: grids, streaks and blotches where the truth is smooth (the gradient matching of Li and Snavely 2018, equation 6)."""
    error, total = _log2(light) - _log2(truth), light.new_zeros(())
    for scale in range(SLOPE_SCALES):
        if scale:
            error, lost = F.avg_pool2d(error, 2), (F.avg_pool2d(lost, 2) == 1).float()
        for axis in (2, 3):
            length = error.shape[axis] - 1
            both = lost.narrow(axis, 0, length) * lost.narrow(axis, 1, length)
            steps = error.diff(dim=axis).abs().mean(dim=1, keepdim=True)
            total = total + (steps * both).sum() / both.sum().clamp_min(1)
    return total / (2 * SLOPE_SCALES)


def colour_error(light: Tensor, truth: Tensor, lost: Tensor) -> Tensor:
    """Mean error, in stops, of R/G and B/G over lost pixels."""
    error = _log2(light) - _log2(truth)
    casts = (error[:, ::2] - error[:, 1:2]).abs().mean(dim=1, keepdim=True)
    return (casts * lost).sum() / lost.sum().clamp_min(1)


def _log2(light: Tensor) -> Tensor:
    return light.clamp_min(FLOOR).log2()


def _log_luminance(light: Tensor) -> Tensor:
    luma = torch.from_numpy(LUMA_709).to(light).view(1, 3, 1, 1)
    return _log2((light * luma).sum(dim=1, keepdim=True))


def _band(log_y: Tensor, mask: Tensor) -> Tensor:
    """As evaluation.metrics.band_pass, at half size: a normalised convolution, so that the outline of the region does not count."""
    weight, value = F.avg_pool2d(mask, 2), F.avg_pool2d(log_y * mask, 2)
    bands = []
    for sigma in (1.0, 8.0):
        share = gaussian_blur(weight, sigma, 2.5).clamp_min(1e-3)
        bands.append(gaussian_blur(value, sigma, 2.5) / share)
    return bands[0] - bands[1]
