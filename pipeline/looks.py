"""Looks: what a plan has to find out by reading the source, and the model that it names. All of it is dear, and nothing of it changes while
the file stays the same, so whoever plans many times for one source may keep it (preview/media.py)."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from models import checkpoints
from models.model import Model
from pipeline.color import ColorSpec
from pipeline.index import VideoIndex, build_index
from pipeline.overlay import OverlayBox, boxes_by_hand, find_overlays
from pipeline.overlay_pictures import read_keyframes
from pipeline.probe import StreamInfo, VideoInfo, probe
from pipeline.stages.denoise import blockiness

LUMA_256THS = np.array([54, 183, 19])


class Looks:
    """Looks anew each time."""

    def probe(self, source: Path) -> VideoInfo:
        """As pipeline.probe.probe."""
        return probe(source)

    def index(self, source: Path, stream_index: int, fps: Fraction | None, salvage: bool) -> VideoIndex:
        """As pipeline.index.build_index."""
        return build_index(source, stream_index, fps, salvage)

    def model(self, name: str) -> Model:
        """As models.checkpoints.load, on the CPU."""
        return checkpoints.load(name, "cpu")

    def keyframes(
        self,
        source: Path,
        stream: StreamInfo,
        index: VideoIndex,
        color: ColorSpec,
        given: list[list[int]],
        *,
        find: bool,
        judge: bool,
    ) -> tuple[tuple[OverlayBox, ...], float]:
        """Burnt-in text (where `find` or boxes were `given` by hand), and the blockiness of keyframes (where `judge`; else 1)."""
        pictures = read_keyframes(source, stream.index, index, stream.layout, color) if find or given or judge else []
        boxes: tuple[OverlayBox, ...] = ()
        if pictures and (find or given):
            boxes = boxes_by_hand(given, pictures) if given else find_overlays(pictures)
        luma = [(picture.astype(np.int32) @ LUMA_256THS >> 8).astype(np.uint8) for picture in pictures if judge]
        return boxes, blockiness(np.stack(luma)) if luma else 1.0
