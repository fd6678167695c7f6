"""Pictures of a file for its overlays: keyframes from all over it, as the stages see them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pipeline.color import ColorSpec, PixelLayout, coded_signal, unpack
from pipeline.decode import decode_span
from pipeline.index import VideoIndex, packets_for
from pipeline.span import Span

Array = np.ndarray

MOST_KEYFRAMES = 64
WANTED_PICTURES = 16
"""Where a file has fewer keyframes than this, frames between them are looked at too."""
FURTHEST_FRAMES = 240
"""But no more frames than this are decoded for them altogether."""
PICTURES_BYTES = 256 << 20
"""Memory for the pictures; large ones are fewer."""


def read_keyframes(
    path: Path, stream_index: int, index: VideoIndex, layout: PixelLayout, color: ColorSpec, most: int = MOST_KEYFRAMES
) -> list[Array]:
    """Up to `most` pictures of a stream, keyframes spread over the file: (H,W,3) uint8 R, G, B coded as BT.1886, as the stages see them.

    Files with few keyframes: frames between them too. Damaged frames are left out. Raises as `decode_span` does.
    """
    pictures: list[Array] = []
    for ranks in _chosen_ranks(index, most):
        first, last = ranks[0], ranks[-1]
        count = last - first + 1
        seek, end = packets_for(index, first, count, 0, 0)
        pts = index.frame_pts
        span = Span(0, int(pts[first]), int(pts[last] + index.frame_duration[last]), first, count, 0, 0, seek, end)
        wanted = set(ranks)
        for rank, frame in enumerate(decode_span(path, stream_index, index, span, deinterlace=False), first):
            if rank in wanted and not frame.repeated:
                pictures.append(_coded(frame.planes, layout, color))
        if pictures and (len(pictures) + 1) * pictures[0].nbytes > PICTURES_BYTES:
            break
    return pictures


def _chosen_ranks(index: VideoIndex, most: int) -> list[list[int]]:
    """Numbers of the frames to look at: a list for each keyframe, the keyframes in an order that any beginning of it is spread over the file."""
    keys = np.unique(np.searchsorted(index.frame_pts, index.pts[index.keyframe & ~index.discard]))
    total = len(index.frame_pts)
    keys = keys[keys < total]
    if not len(keys) or keys[0] > 0:
        keys = np.insert(keys, 0, 0)
    ends = np.append(keys[1:], total)
    picked = np.unique(np.linspace(0, len(keys) - 1, min(most, len(keys))).round().astype(int))
    each = -(-WANTED_PICTURES // len(picked)) if len(picked) < WANTED_PICTURES else 1
    reach = FURTHEST_FRAMES // len(picked)
    chosen = []
    for number in picked:
        length = max(1, min(int(ends[number] - keys[number]), reach if each > 1 else 1))
        steps = np.unique(np.linspace(0, length - 1, min(each, most)).round().astype(int))
        chosen.append([int(keys[number] + step) for step in steps])
    # Bit-reversed order: the middle early, so that a limit on memory still leaves pictures from everywhere.
    bits = max(1, (len(chosen) - 1).bit_length())
    order = sorted(range(len(chosen)), key=lambda place: int(f"{place:0{bits}b}"[::-1], 2))
    return [chosen[place] for place in order]


def _coded(planes: tuple[torch.Tensor, ...], layout: PixelLayout, color: ColorSpec) -> Array:
    light = unpack(tuple(plane.cpu()[None] for plane in planes), layout, color)
    coded = coded_signal(light, "bt1886")[0].mul_(255).round_().to(torch.uint8)
    return np.ascontiguousarray(coded.permute(1, 2, 0).numpy())
