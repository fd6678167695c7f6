"""Ladder: how quality is lowered, rung by rung, so that playing holds the source's rate, and raised again with care."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction

from pipeline.overlay import OverlayBox
from pipeline.plan import Plan

SHRINKS = (Fraction(3, 2), Fraction(2), Fraction(3))
"""By how much the picture is made smaller before the network, at last."""

LATE, EASY = 1.1, 0.75
"""A frame may take this share of its time before the next rung is taken, and must be foreseen to take less than that on the rung above."""

FIRST_PATIENCE_SECONDS, MOST_PATIENCE_SECONDS = 3.0, 60.0
"""How long a better rung must seem possible; twice as long after each time that it was not."""

LEAST_FRAMES = 3
"""Frames to judge a rung by: the first ones make tables and memory ready."""

_NETWORK, _HALF_NETWORK, _OTHER, _TEMPORAL = 1.0, 0.33, 0.15, 0.35
_EVEN = 2


@dataclass(frozen=True)
class Rung:
    """temporal: smoothed over time; scale: the network's; shrink: width and height are divided by it before all else"""

    temporal: bool
    scale: float
    shrink: Fraction = Fraction(1)

    @property
    def cost(self) -> float:
        """Work for a frame, relative to the network on the whole picture."""
        network = _NETWORK if self.scale == 1 else _HALF_NETWORK
        return (network + _OTHER + _TEMPORAL * self.temporal) / float(self.shrink**2)


def rungs_of(plan: Plan) -> tuple[Rung, ...]:
    """All rungs for a plan, the best first: what the plan says."""
    temporal = "temporal" in plan.stages
    rungs = [Rung(temporal, plan.scale), Rung(False, plan.scale), Rung(False, 0.5)]
    rungs += [Rung(False, 0.5, shrink) for shrink in SHRINKS]
    return tuple(dict.fromkeys(rungs))


def start_place(plan: Plan, rung: Rung, seconds: float, budget_seconds: float) -> int:
    """Where to begin, when one frame of `rung` by itself took so long: the best rung that is foreseen to hold the rate, else the last."""
    rungs = rungs_of(plan)
    holds = (place for place, one in enumerate(rungs) if seconds * one.cost / rung.cost <= budget_seconds)
    return next(holds, len(rungs) - 1)


def said(rung: Rung, best: Rung) -> str:
    """In plain words what a rung lacks; "" for the best."""
    lacks = []
    if best.temporal and not rung.temporal:
        lacks.append("no smoothing over time")
    if rung.shrink > 1:
        lacks.append(f"picture at {_percent(1 / rung.shrink)} of its size")
    if rung.scale < best.scale:
        lacks.append("network on half the picture's size")
    if not lacks:
        return ""
    text = ", ".join(lacks)
    return f"{text[0].upper()}{text[1:]}, to keep up while playing. Pause to see full quality."


def plan_at(plan: Plan, rung: Rung) -> Plan:
    """The plan as a rung has it, for frames of `size_at`. It is for showing only."""
    track = plan.tracks[0]
    width, height = size_at(track.width, track.height, rung)
    small = rung.shrink > 1
    track = dataclasses.replace(
        track,
        width=width,
        height=height,
        radius=track.radius if rung.temporal else 0,
        denoise=0.0 if small else track.denoise,
        overlays=tuple(_shrunk_box(box, rung.shrink) for box in track.overlays) if small else track.overlays,
    )
    left_out = ({"deband"} if small else set()) | (set() if rung.temporal else {"temporal"})
    stages = tuple(name for name in plan.stages if name not in left_out)
    return dataclasses.replace(plan, scale=rung.scale, stages=stages, tracks=(track,))


def size_at(width: int, height: int, rung: Rung) -> tuple[int, int]:
    """Width and height of a picture on a rung: even where it is made smaller."""
    if rung.shrink == 1:
        return width, height
    return tuple(max(_EVEN, round(side / rung.shrink / _EVEN) * _EVEN) for side in (width, height))


class Ladder:
    """Which rung to stand on. budget_seconds: how long one frame may take. Not for several threads at once."""

    def __init__(self, rungs: tuple[Rung, ...], budget_seconds: float, start: int = 0) -> None:
        self.rungs, self.budget_seconds = rungs, budget_seconds
        self.place = min(start, len(rungs) - 1)
        self._patience = FIRST_PATIENCE_SECONDS
        self._arrive(0.0)

    @property
    def rung(self) -> Rung:
        return self.rungs[self.place]

    @property
    def mean_seconds(self) -> float:
        """What a frame of this rung takes, as far as is known."""
        return self._mean or 0.0

    def saw(self, seconds: float, now: float) -> None:
        """A frame of this rung took so long; now: seconds on any clock that does not go back."""
        self._frames += 1
        if self._frames <= LEAST_FRAMES - 1 and seconds < 4 * self.budget_seconds:
            return
        self._mean = seconds if self._mean is None else self._mean + 0.25 * (seconds - self._mean)
        if self._mean > LATE * self.budget_seconds and self.place + 1 < len(self.rungs):
            self._step_down(now)
        elif self.place and self._foreseen(self.place - 1) < EASY * self.budget_seconds:
            self._easy_since = now if self._easy_since is None else self._easy_since
            if now - self._easy_since >= self._patience:
                self.place -= 1
                self._climbed_at = now
                self._arrive(now)
        else:
            self._easy_since = None

    def _step_down(self, now: float) -> None:
        """To the first rung that is foreseen to hold the rate, one at least."""
        if self._climbed_at is not None and now - self._climbed_at < 2 * FIRST_PATIENCE_SECONDS:
            self._patience = min(2 * self._patience, MOST_PATIENCE_SECONDS)
        below = range(self.place + 1, len(self.rungs))
        self.place = next((place for place in below if self._foreseen(place) <= self.budget_seconds), below[-1])
        self._arrive(now, climbed=False)

    def _foreseen(self, place: int) -> float:
        return self._mean * self.rungs[place].cost / self.rung.cost

    def _arrive(self, now: float, *, climbed: bool = True) -> None:
        self._frames, self._mean, self._easy_since = 0, None, None
        if not climbed or now == 0.0:
            self._climbed_at = None


def _percent(share: Fraction) -> str:
    return {Fraction(2, 3): "2/3", Fraction(1, 2): "half", Fraction(1, 3): "1/3"}[share]


def _shrunk_box(box: OverlayBox, shrink: Fraction) -> OverlayBox:
    """Where the text is on the smaller picture, its maps averaged."""
    import cv2
    import numpy as np

    left, top = int(box.x / shrink), int(box.y / shrink)
    right, bottom = -int(-(box.x + box.width) // shrink), -int(-(box.y + box.height) // shrink)
    size = right - left, bottom - top

    def smaller(cover: str) -> str:
        whole = np.array([int(digit, 16) for digit in cover], np.float32).reshape(box.height, box.width)
        small = cv2.resize(whole, size, interpolation=cv2.INTER_AREA)
        return "".join(f"{int(level):x}" for level in np.rint(small).ravel())

    return dataclasses.replace(
        box,
        x=left,
        y=top,
        width=size[0],
        height=size[1],
        text_px=max(4, round(box.text_px / shrink)),
        text=smaller(box.text),
        outline=smaller(box.outline),
    )
