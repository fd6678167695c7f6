"""Light levels of HDR frames, after CTA-861.3 Annex P: MaxCLL and MaxFALL, and what verify needs beside them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LightLevels:
    """Light of a run of frames in nits (cd/m2). Levels of spans merge into levels of the file with `|`.

    max_cll_nits: brightest max(R, G, B) of any pixel (CTA-861.3 MaxCLL)
    max_fall_nits: largest frame average of max(R, G, B) (CTA-861.3 MaxFALL)
    p9999_nits: largest 99.99th percentile of max(R, G, B) within one frame
    frames: how many frames were measured
    """

    max_cll_nits: float
    max_fall_nits: float
    p9999_nits: float
    frames: int

    def __or__(self, other: LightLevels) -> LightLevels:
        return LightLevels(
            max(self.max_cll_nits, other.max_cll_nits),
            max(self.max_fall_nits, other.max_fall_nits),
            max(self.p9999_nits, other.p9999_nits),
            self.frames + other.frames,
        )
