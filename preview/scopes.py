"""Scopes: how much of a frame is how bright, on a scale of nits, from the packed planes."""

from __future__ import annotations

import base64
from typing import Any

import torch
from torch import Tensor

from pipeline import transfer
from pipeline.frame_stats import restored_share
from preview.pictures import Made

BINS = 96
ROWS, COLUMNS = 128, 256
HIGHEST_SHARE = 1.25
"""The waveform ends this much above the peak."""

_LUMA_2020, _LUMA_709 = (0.2627, 0.6780, 0.0593), (0.2126, 0.7152, 0.0722)
_EDGES = transfer.pq_eotf(torch.arange(BINS + 1, dtype=torch.float64) / BINS)
_FULL_COLUMN = 0.12
"""Share of a column's pixels in one row that is drawn brightest."""


class Scopes:
    """Scopes of the frames that are shown, and the brightest light so far."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew with what is so far: other settings or another source."""
        self._max_cll = self._max_fall = 0.0

    def of(self, made: Made, stride: int = 1) -> dict[str, Any]:
        """The message `scopes` of a frame. stride: every n-th pixel both ways is counted (light levels are of all)."""
        levels, out = made.packed.levels, made.out
        self._max_cll = max(self._max_cll, levels.max_cll_nits)
        self._max_fall = max(self._max_fall, levels.max_fall_nits)
        hdr = _pq(_luminance(made.nits[:, ::stride, ::stride], _LUMA_2020))
        sdr = _pq(_luminance(made.restored.sdr[0, :, ::stride, ::stride].cpu(), _LUMA_709).mul_(out.white_nits))
        high = min(out.peak_nits * HIGHEST_SHARE, transfer.PQ_PEAK_NITS)
        return {
            "frame": made.number,
            "white_nits": out.white_nits,
            "peak_nits": out.peak_nits,
            "max_cll_nits": round(levels.max_cll_nits, 1),
            "max_cll_so_far_nits": round(self._max_cll, 1),
            "max_fall_nits": round(levels.max_fall_nits, 1),
            "max_fall_so_far_nits": round(self._max_fall, 1),
            "restored_share": restored_share(made.restored.sdr[0], made.restored.light[0]),
            "histogram": {
                "edges_nits": [float(f"{edge:.4g}") for edge in _EDGES.tolist()],
                "sdr": _shares(sdr),
                "hdr": _shares(hdr),
            },
            "waveform": {
                "columns": COLUMNS,
                "rows": ROWS,
                "low_nits": 0.0,
                "high_nits": high,
                "hdr": waveform(hdr, high),
            },
        }


def waveform(signal: Tensor, high_nits: float) -> str:
    """(H, W) PQ signals -> base64 of ROWS * COLUMNS uint8, the brightest row first; rows are evenly spaced in PQ from 0 to high_nits."""
    height, width = signal.shape
    top = transfer.pq_inverse_eotf(high_nits)
    rows = (signal * (ROWS / top)).to(torch.int64).clamp_(0, ROWS - 1)
    columns = (torch.arange(width) * COLUMNS // width).expand(height, -1)
    counts = torch.bincount((rows * COLUMNS + columns).reshape(-1), minlength=ROWS * COLUMNS).view(ROWS, COLUMNS)
    pixels = counts.sum(dim=0).clamp(min=1)
    shown = (counts / pixels / _FULL_COLUMN).clamp(0, 1).sqrt_().mul_(255).ceil_().to(torch.uint8)
    return base64.b64encode(shown.flip(0).contiguous().numpy().tobytes()).decode()


def _luminance(light: Tensor, weights: tuple[float, float, float]) -> Tensor:
    return (light[0] * weights[0]).add_(light[1] * weights[1]).add_(light[2] * weights[2]).clamp_(min=0)


def _pq(nits: Tensor) -> Tensor:
    return transfer.PQ_ENCODE.apply_(nits.contiguous())


def _shares(signal: Tensor) -> list[float]:
    counts = torch.bincount((signal * BINS).to(torch.int64).clamp_(0, BINS - 1).reshape(-1), minlength=BINS)
    return [round(share, 6) for share in (counts / signal.numel()).tolist()]
