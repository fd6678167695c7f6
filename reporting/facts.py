"""Facts: what a report is made of. Plain data; who converted the file fills it in."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from pipeline.color import ColorSpec, PixelLayout
from pipeline.index import VideoIndex


@dataclass(frozen=True)
class StreamKept:
    """What became of one stream that was not converted, or of a box, a group of tags or a companion file.

    name: such as "stream 2"; what: such as "audio (aac)"; outcome: a few words, such as "kept"; reason: one clause
    """

    name: str
    what: str
    outcome: str
    reason: str


@dataclass(frozen=True)
class OverlayFound:
    """Text or a logo burnt into the picture: a box in pixels of the source picture, and how it was found, in a few words."""

    x: int
    y: int
    width: int
    height: int
    words: str


@dataclass(frozen=True)
class TrackFacts:
    """One converted video stream.

    source_stream, result_stream: stream indices in the two files; source_index: as it was planned with
    width, height: of the visible picture in pixels; rotation_degrees: as probe says; sample_aspect_ratio: None is square
    layout, color, deinterlace: how the source is read (pipeline.plan.Track)
    stats: (F,) rows of pipeline.frame_stats.TABLE, one for each frame
    """

    source_stream: int
    result_stream: int
    source_index: VideoIndex
    width: int
    height: int
    rate: Fraction
    rotation_degrees: int
    sample_aspect_ratio: Fraction | None
    layout: PixelLayout
    color: ColorSpec
    deinterlace: bool
    stats: np.ndarray
    overlays: tuple[OverlayFound, ...] = ()


@dataclass(frozen=True)
class ReportFacts:
    """One converted file.

    source, result: the two files, both readable when the report is written
    transfer: "pq" or "hlg"; white_nits, peak_nits: as in color.OutputSpec
    made_with: (what, value) rows about how it was made, such as ("checkpoint", "tiny")
    timings: (stage, seconds) rows in the order of work, and what they are seconds of
    files_beside: (file name, what it is) of what was written beside the result
    """

    source: Path
    result: Path
    transfer: str
    white_nits: float
    peak_nits: float
    restores_highlights: bool
    made_with: tuple[tuple[str, str], ...]
    tracks: tuple[TrackFacts, ...]
    streams: tuple[StreamKept, ...]
    warnings: tuple[str, ...]
    timings: tuple[tuple[str, float], ...]
    timings_of: str = (
        "seconds in which each stage was at work, added up over all pieces of the file; stages work side by side"
    )
    files_beside: tuple[tuple[str, str], ...] = ()
