"""The pictures that figures are made of: an 8-bit image, or frames of a video read as `convert` reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.images import SUFFIXES, read_stored
from pipeline.color import ColorSpec, PixelLayout, unpack
from pipeline.decode import decode_span
from pipeline.errors import InputError
from pipeline.index import VideoIndex, build_index, packets_for
from pipeline.probe import StreamInfo, hdr_reason, probe, read_color
from pipeline.span import Span

IMAGE_COLOUR = ColorSpec("rgb", "full", "srgb", "bt709", "left")
"""Stills are sRGB (docs/architecture.md: image sequences are linearised with sRGB, video with BT.1886)."""

CLOCKLESS_RATE = Fraction(25)
"""Given to raw streams, which have no clock. Frame numbers do not depend on it, and --at is refused there."""


@dataclass(frozen=True)
class Picture:
    """One SDR picture. name: fit for a folder; title: for people; light: (1, 3, H, W) float32 working space, SDR white = 1.0.

    notes: what a reader of its figures must know
    """

    name: str
    title: str
    light: Tensor
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.light.shape[2], self.light.shape[3]


def is_image(path: Path) -> bool:
    """Whether the file is a still image by its name; all others are taken as video."""
    return path.suffix.lower() in SUFFIXES


def read_image(path: Path) -> Picture:
    """An 8-bit still, sRGB. Transparency is ignored, grey becomes colour. InputError as `images.read_stored`, or more than 8 bits."""
    codes = read_stored(path)
    if codes.dtype != np.uint8:
        raise InputError(
            f"{path}: its samples are {codes.dtype}; figures are made of 8-bit pictures, as cameras code SDR."
        )
    red, green, blue = (torch.from_numpy(codes[None, :, :, channel].copy()) for channel in range(3))
    light = unpack((green, blue, red), PixelLayout("444", 8), IMAGE_COLOUR)
    return Picture(path.stem, path.name, light)


def read_frames(path: Path, frames: Sequence[int], seconds: Sequence[float]) -> Iterator[Picture]:
    """Frames of the first video stream, decoded and made light as `convert` does it; frame 0 when none is named.

    frames: numbers in display order, from 0; seconds: the frame that is shown at that time after the first one
    InputError: no video, HDR already, or a frame that the video does not have.
    """
    info = probe(path)
    stream = info.video_streams[0]
    reason = hdr_reason(stream)
    if reason:
        raise InputError(f"{path}: is HDR already ({reason}); figures show what is made of SDR.")
    if info.has_no_clock and seconds:
        raise InputError(f"{path}: a raw stream has no timestamps; name the frame with --frame instead of --at.")
    try:
        color, _ = read_color(stream)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    index = build_index(path, stream.index, CLOCKLESS_RATE if info.has_no_clock else None)
    numbers = [_checked(path, index, number) for number in frames] + [_at(path, index, moment) for moment in seconds]
    for number in numbers or [0]:
        yield _frame(path, stream, index, color, number)


def _checked(path: Path, index: VideoIndex, number: int) -> int:
    last = len(index.frame_pts) - 1
    if not 0 <= number <= last:
        raise InputError(f"{path}: --frame {number}: there is no such frame; legal: 0 to {last}.")
    return number


def _at(path: Path, index: VideoIndex, seconds: float) -> int:
    end = float((index.frame_pts[-1] + index.frame_duration[-1] - index.frame_pts[0]) * index.time_base)
    if not 0 <= seconds < end:
        raise InputError(f"{path}: --at {seconds:g}: outside the video; legal: from 0 to below {end:.3f} seconds.")
    ticks = Fraction(seconds).limit_denominator(10**9) / index.time_base
    return int(np.searchsorted(index.frame_pts, int(index.frame_pts[0]) + int(ticks), side="right")) - 1


def _frame(path: Path, stream: StreamInfo, index: VideoIndex, color: ColorSpec, number: int) -> Picture:
    seek, end = packets_for(index, number, 1, 0, 0)
    pts, duration = int(index.frame_pts[number]), int(index.frame_duration[number])
    span = Span(0, pts, pts + duration, number, 1, 0, 0, seek, end)
    decoded = list(decode_span(path, stream.index, index, span, deinterlace=stream.interlaced_from_content))
    light = unpack(tuple(plane[None] for plane in decoded[0].planes), stream.layout, color)
    notes = []
    if decoded[0].repeated:
        notes.append(f"Frame {number} is damaged in the file; its nearest good neighbour is shown.")
    if stream.rotation_degrees:
        notes.append(f"The picture is shown as coded; players turn it by {stream.rotation_degrees} degrees.")
    return Picture(f"{path.stem}_frame{number:06d}", f"{path.name}, frame {number}", light, tuple(notes))
