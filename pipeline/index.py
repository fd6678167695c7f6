"""VideoIndex: every packet of one video stream, and the frames that they show."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class VideoIndex:
    """One entry a packet, in demux (decode) order. Saved beside the plan as .npz; pure data, no file handle.

    pts: int64 (P,) presentation time in `time_base`; the source's own, or a stamp given by us (see `restamped`)
    keyframe: bool (P,)
    discard: bool (P,) decoded but not shown (edit lists)
    size: int64 (P,) bytes
    digest: uint8 (P, 16) blake2b-128 of the packet's bytes
    frame_pts: int64 (F,) strictly increasing: the pts of every frame that is shown, in display order
    frame_duration: int64 (F,) next frame's pts minus this one's; the last: the source's own, else the median, at least 1
    time_base: seconds per tick
    restamped: the file has no (usable) pts (raw .h264/.hevc, AVI with B-frames): reading goes from the start of the file and the
        n-th packet of the stream gets pts[n]
    """

    pts: np.ndarray
    keyframe: np.ndarray
    discard: np.ndarray
    size: np.ndarray
    digest: np.ndarray
    frame_pts: np.ndarray
    frame_duration: np.ndarray
    time_base: Fraction
    restamped: bool

    def save(self, path: Path) -> None:
        """Write as uncompressed .npz (no pickle), atomically."""
        raise AssertionError

    @staticmethod
    def load(path: Path) -> VideoIndex:
        """Read what `save` wrote."""
        raise AssertionError
