"""Engines: those of the plans that one tab shows, kept for the next frame."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict

import numpy as np
import torch

from pipeline.chroma import SUBSAMPLING
from pipeline.color import PixelLayout
from pipeline.engine import Engine
from pipeline.engine_maker import plain_engine
from pipeline.plan import Plan
from preview.ladder import Rung, plan_at
from preview.pictures import Made

Planes = tuple[torch.Tensor, ...]
MOST = 4


class Engines:
    """May be used by any thread; an engine serves several at once."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple, tuple[Plan, Plan, Engine]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, plan: Plan, rung: Rung | None = None) -> tuple[Plan, Engine]:
        """The plan as a rung has it (None: as it is), and its engine."""
        key = (id(plan), rung)
        with self._lock:
            if key not in self._kept:
                small = plan if rung is None else plan_at(plan, rung)
                self._kept[key] = (plan, small, plain_engine(small, 0))
                while len(self._kept) > MOST:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key][1:]

    def make_alone(self, planes: Planes, plan: Plan, rung: Rung | None, number: int) -> Made:
        """One frame without its neighbours, as a rung has it; None: as the plan has it, but for smoothing over time."""
        rung = dataclasses.replace(rung, temporal=False) if rung else Rung(False, plan.scale)
        small, engine = self.of(plan, rung)
        track = small.tracks[0]
        restored = engine.restore([shrunk(planes, track.layout, track.width, track.height, rung)])
        return Made(number, engine.deliver(restored, number)[0], restored, plan.out)

    def clear(self) -> None:
        """Let go of all."""
        with self._lock:
            self._kept.clear()


def shrunk(planes: Planes, layout: PixelLayout, width: int, height: int, rung: Rung) -> Planes:
    """Planes for a picture of width x height, areas averaged; as they are on rungs that do not shrink."""
    import cv2

    if rung.shrink == 1:
        return planes
    cv2.setNumThreads(1)
    across, down = SUBSAMPLING[layout.chroma]
    sizes = [(width, height), *[(-(-width // across), -(-height // down))] * 2]
    small = []
    for plane, size in zip(planes, sizes, strict=False):
        codes = np.ascontiguousarray(plane.cpu().numpy())
        small.append(torch.from_numpy(cv2.resize(codes, size, interpolation=cv2.INTER_AREA)))
    return tuple(small)
