"""Grade: how bright and how colourful the picture is, and how its highlights come under the display's peak without bending their hue."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.color import EXTREME
from pipeline.errors import InputError
from pipeline.transfer import Curve

EXPOSURE_STOPS = (-4.0, 4.0)
HIGHLIGHTS = (0.0, 2.0)
SATURATION = (0.0, 2.0)
SHOULDER = (0.1, 1.0)
"""Legal ranges of the settings, ends included."""

_HIGHLIGHT_STEPS = 20480
_EXTREME = 1e9
_RED, _BLUE = 0.2126, 0.0722


class Grade(nn.Module):
    """Exposure, highlights, saturation, and a hue-preserving shoulder on m = max(R, G, B); what is black stays black.

    In this order, each leaving every bit alone at its default:

    - highlights: m above SDR white becomes m ** highlights, so it scales the stops above white: 1 = the network's light, 0.5 = half
      the stops, 0 = nothing above white. Continuous at white, monotone; what is below white is left alone.
    - exposure_stops: all light times 2 ** exposure_stops, so SDR white no longer lands at white_nits.
    - saturation: distance of each channel from the BT.709 luminance times this; 0 = grey. Luminance stays, and grey pixels keep their bits.
    - shoulder: the knee as share of peak_nits, never below white_nits, so that what the SDR picture showed is left alone. Identity up to
      it; above, with s = (m - knee) / (peak - knee), m becomes knee + (peak - knee) * s / sqrt(1 + s^2): C1-smooth, monotone, towards
      peak_nits. 1 clips at peak_nits.

    All three channels are scaled alike but by saturation. Tables and operations that round alike everywhere, so the bits depend on the
    pixel alone. white_nits and peak_nits in cd/m2. Raises InputError on settings out of range.
    """

    lead_in = 0
    lead_out = 0

    def __init__(
        self,
        white_nits: float,
        peak_nits: float,
        *,
        exposure_stops: float = 0.0,
        highlights: float = 1.0,
        saturation: float = 1.0,
        shoulder: float = 0.8,
    ) -> None:
        super().__init__()
        if not 0 < white_nits <= peak_nits <= 10000:
            raise InputError(
                f"grade.white_nits {white_nits:g} and grade.peak_nits {peak_nits:g} do not fit: legal are 0 < white_nits <= peak_nits <= 10000."
            )
        for name, value, (low, high) in (
            ("exposure_stops", exposure_stops, EXPOSURE_STOPS),
            ("highlights", highlights, HIGHLIGHTS),
            ("saturation", saturation, SATURATION),
            ("shoulder", shoulder, SHOULDER),
        ):
            if not low <= value <= high:
                raise InputError(f"grade.{name}={value:g}: out of range; legal are {low:g} to {high:g}.")
        self.white_nits = white_nits
        self.peak_nits = peak_nits
        self.exposure_stops = exposure_stops
        self.saturation = saturation
        self.shoulder = shoulder
        self._highlight_gain = None if highlights == 1 else _highlight_gain(highlights)

    def forward(self, linear: Tensor) -> Tensor:
        """(N, 3, H, W) linear light, 1.0 = SDR white -> the same, 1.0 = white_nits, max(R, G, B) at most peak_nits. New tensor; input
        untouched."""
        knee = max(self.shoulder * self.peak_nits, self.white_nits) / self.white_nits
        room = self.peak_nits / self.white_nits - knee
        out = torch.empty_like(linear, memory_format=torch.contiguous_format)
        for frame, target in zip(linear, out, strict=True):
            frame = self._adjusted(frame)
            brightest = _largest(frame)
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

    def _adjusted(self, frame: Tensor) -> Tensor:
        """(3, H, W) before the shoulder; the frame itself where every setting is at its default."""
        if self._highlight_gain is not None:
            frame = frame * self._highlight_gain.apply_(_largest(frame))
        if self.exposure_stops != 0:
            frame = frame * 2.0**self.exposure_stops
        if self.saturation != 1:
            red, green, blue = frame
            luminance = (red - green).mul_(_RED).add_((blue - green).mul_(_BLUE)).add_(green)
            frame = torch.stack([luminance + (c - luminance).mul_(self.saturation) for c in frame])
        return frame


def _highlight_gain(highlights: float) -> Curve:
    """m -> m ** (highlights - 1) above SDR white, exactly 1 up to it: white is a step of the table. Above EXTREME as there."""
    return Curve(lambda m: m.clamp(min=1) ** (highlights - 1), 0, EXTREME, _HIGHLIGHT_STEPS, fourth_root=True)


def _largest(frame: Tensor) -> Tensor:
    return torch.maximum(torch.maximum(frame[0], frame[1]), frame[2])
