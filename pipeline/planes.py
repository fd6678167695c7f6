"""Planes of a decoded frame as tensors, without copying and without any colour work by FFmpeg."""

from __future__ import annotations

import av
import torch

from pipeline.source_color import LAYOUTS

_INTERLEAVED = {
    # name: (chroma divisor across, down, bits that the codes are shifted up by, True when V comes before U)
    "nv12": (2, 2, 0, False),
    "nv21": (2, 2, 0, True),
    "nv16": (2, 1, 0, False),
    "nv24": (1, 1, 0, False),
    "p010le": (2, 2, 6, False),
    "p012le": (2, 2, 4, False),
    "p016le": (2, 2, 0, False),
    "p210le": (2, 1, 6, False),
}


def frame_planes(frame: av.VideoFrame) -> tuple[torch.Tensor, ...]:
    """(Y, U, V), (G, B, R) or (gray,) as 2-D uint8 or uint16 tensors, cropped to the visible size.

    The tensors share the frame's memory and keep it alive; the decoder does not write to it again, and nobody else may.
    Chroma sizes are rounded up: 641x359 in 4:2:0 has 321x180 chroma. Raises KeyError for formats that are not in LAYOUTS.
    """
    name = frame.format.name
    if name in _INTERLEAVED:
        return _split(frame, *_INTERLEAVED[name])
    if name == "rgb24":
        pixels = _rows(frame.planes[0], False, frame.height)[:, : 3 * frame.width]
        return pixels[:, 1::3], pixels[:, 2::3], pixels[:, 0::3]
    layout = LAYOUTS[name]
    count = 1 if layout.chroma == "gray" else 3
    return tuple(_plane(plane, layout.bit_depth > 8) for plane in frame.planes[:count])


def _plane(plane: av.video.plane.VideoPlane, wide: bool) -> torch.Tensor:
    """One single-component plane (height, width)."""
    if plane.line_size > 0:
        return torch.from_dlpack(plane)
    rows = _rows(plane, wide, plane.height)
    return rows[:, : plane.width].flip(0)  # a bottom-up picture (some raw AVI): flip copies


def _rows(plane: av.video.plane.VideoPlane, wide: bool, height: int) -> torch.Tensor:
    data = torch.frombuffer(plane, dtype=torch.uint16 if wide else torch.uint8)
    return data.reshape(height, -1)


def _split(frame: av.VideoFrame, across: int, down: int, shift: int, swapped: bool) -> tuple[torch.Tensor, ...]:
    """Planes of a format whose chroma is interleaved (UVUV...); shifted-up codes are brought down to their bit depth."""
    wide = LAYOUTS[frame.format.name].bit_depth > 8
    height, width = -(-frame.height // down), -(-frame.width // across)
    luma = _rows(frame.planes[0], wide, frame.height)[:, : frame.width]
    chroma = _rows(frame.planes[1], wide, height)[:, : 2 * width]
    first, second = chroma[:, 0::2], chroma[:, 1::2]
    planes = (luma, second, first) if swapped else (luma, first, second)
    if shift:
        planes = tuple((plane.to(torch.int32) >> shift).to(torch.uint16) for plane in planes)
    return planes
