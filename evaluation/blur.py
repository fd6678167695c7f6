"""Blur: a Gaussian on tensors, for metrics and losses, with torch alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian_blur(x: Tensor, sigma_px: float, reach_sigmas: float = 4.0) -> Tensor:
    """(N, 1, H, W) of any float type -> the same shape, mirrored at the borders about the outermost pixels; differentiable.

    reach_sigmas: where the kernel is cut off.
    """
    reach = max(1, round(sigma_px * reach_sigmas))
    steps = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    taps = torch.exp(-0.5 * (steps / sigma_px).square())
    taps = taps / taps.sum()
    x = F.conv2d(x[..., _mirrored(x.shape[3], reach, x.device)], taps.view(1, 1, 1, -1))
    return F.conv2d(x[..., _mirrored(x.shape[2], reach, x.device), :], taps.view(1, 1, -1, 1))


def _mirrored(length: int, reach: int, device: torch.device) -> Tensor:
    """Indices -reach to length + reach, folded back into 0 to length - 1."""
    if length == 1:
        return torch.zeros(1 + 2 * reach, dtype=torch.long, device=device)
    period = 2 * (length - 1)
    place = torch.arange(-reach, length + reach, device=device) % period
    return torch.where(place < length, place, period - place)
