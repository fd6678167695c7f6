"""Colour: YUV <-> RGB <-> linear light, on tensors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ColorSpec:
    """How the codes of a video become light. Every field is resolved (no "auto").

    matrix: "bt709", "bt601", "bt2020" or "rgb" (planes are G, B, R as FFmpeg's gbrp)
    range: "limited" or "full"
    transfer: "bt1886" (gamma 2.4, black at 0), "srgb" or "linear"
    primaries: "bt709", "bt601-525", "bt601-625" or "bt2020"
    chroma_location: "left", "center", "topleft", "top", "bottomleft" or "bottom"
    """

    matrix: str
    range: str
    transfer: str
    primaries: str
    chroma_location: str


@dataclass(frozen=True)
class PixelLayout:
    """Shape of the planes: chroma "420", "422", "444", "440", "411", "410" or "gray"; bit_depth 8 to 16."""

    chroma: str
    bit_depth: int


@dataclass(frozen=True)
class OutputSpec:
    """The HDR signal to make: transfer "pq" or "hlg"; white_nits and peak_nits in cd/m2."""

    transfer: str
    white_nits: float
    peak_nits: float
