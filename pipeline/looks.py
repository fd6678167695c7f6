"""Looks: what a plan has to find out by reading the source, and the model that it names. All of it is dear, and nothing of it changes while
the file stays the same, so whoever plans many times for one source may keep it (preview/media.py)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from models import checkpoints
from models.model import Model
from pipeline.color import ColorSpec
from pipeline.exclusion import Polygon, find_bonnet
from pipeline.index import VideoIndex, build_index
from pipeline.overlay import OverlayBox, boxes_by_hand, find_overlays
from pipeline.overlay_pictures import read_keyframes
from pipeline.probe import StreamInfo, VideoInfo, probe
from pipeline.stages.denoise import blockiness

LUMA_256THS = np.array([54, 183, 19])


@dataclass(frozen=True)
class Seen:
    """What keyframes showed: burnt-in text, the bonnet's polygon (None: none), and their blockiness (1 = as elsewhere)."""

    overlays: tuple[OverlayBox, ...] = ()
    bonnet: Polygon | None = None
    blocks: float = 1.0


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
        bonnet: bool,
    ) -> Seen:
        """find: burnt-in text, unless boxes are `given` by hand; judge: blockiness; bonnet: the car's own."""
        looks = find or given or judge or bonnet
        pictures = read_keyframes(source, stream.index, index, stream.layout, color) if looks else []
        if not pictures:
            return Seen()
        boxes = boxes_by_hand(given, pictures) if given else find_overlays(pictures) if find else ()
        luma = [(picture.astype(np.int32) @ LUMA_256THS >> 8).astype(np.uint8) for picture in pictures if judge]
        return Seen(boxes, find_bonnet(pictures) if bonnet else None, blockiness(np.stack(luma)) if judge else 1.0)
