"""Grade: brings restored highlights under the display's peak without bending their hue."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.errors import InputError

_EXTREME = 1e9


class Grade(nn.Module):
    """Hue-preserving shoulder on max(R, G, B): identity up to the knee, then C1-smooth and monotone towards peak_nits.

    The knee is 0.8 of peak_nits, and never below white_nits, so that what the SDR picture showed is left alone. Above it, with
    s = (m - knee) / (peak - knee), m becomes knee + (peak - knee) * s / sqrt(1 + s^2): only operations that round exactly, so the
    bits depend on the pixel alone. All three channels are scaled alike. white_nits and peak_nits in cd/m2.
    """

    lead_in = 0
    lead_out = 0

    def __init__(self, white_nits: float, peak_nits: float) -> None:
        super().__init__()
        if not 0 < white_nits <= peak_nits <= 10000:
            raise InputError(
                f"grade.white_nits {white_nits:g} and grade.peak_nits {peak_nits:g} do not fit: legal are 0 < white_nits <= peak_nits <= 10000."
            )
        self.white_nits = white_nits
        self.peak_nits = peak_nits

    def forward(self, linear: Tensor) -> Tensor:
        """(N, 3, H, W) linear light, 1.0 = white_nits -> the same, max(R, G, B) at most peak_nits. New tensor; input untouched."""
        knee = max(0.8 * self.peak_nits, self.white_nits) / self.white_nits
        room = self.peak_nits / self.white_nits - knee
        out = torch.empty_like(linear, memory_format=torch.contiguous_format)
        for frame, target in zip(linear, out, strict=True):
            brightest = torch.maximum(torch.maximum(frame[0], frame[1]), frame[2])
            above = (brightest - knee).clamp_(0, _EXTREME)
            if room > 0:
                above.div_(room)
                above.div_((above * above).add_(1).sqrt_()).mul_(room)
            else:
                above.zero_()
            graded = above.add_(knee)
            gain = torch.where(brightest > knee, graded.div_(brightest), 1.0)
            torch.mul(frame, gain, out=target)
        return out
