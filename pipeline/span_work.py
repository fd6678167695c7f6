"""Span work: what one span asks for, read from the work folder; whoever decodes, computes or encodes it reads the same."""

from __future__ import annotations

import functools
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from pipeline import frame_files
from pipeline.index import VideoIndex
from pipeline.mask import SUFFIX
from pipeline.neighbour import SIDES, Neighbour
from pipeline.plan import Plan, Track, kinds_beside, lenders, span_key
from pipeline.proxy import proxy_in
from pipeline.span import Span

PLAN_NAME = "plan.json"
ENDINGS = {"mask": SUFFIX, "stats": ".stats.npy"} | {kind: f".{kind}.zip" for kind in frame_files.ENDINGS}


def index_name(track: int) -> str:
    """File name of a track's index in the work folder."""
    return f"index_{track}.npz"


def lent_name(track: int, side: str) -> str:
    """File name of the index of a neighbour in a drive. side: "before" or "after"."""
    return f"index_{track}_{side}.npz"


@dataclass(frozen=True)
class SpanWork:
    """One span of a plan.

    folder: the work folder; number: which track of the plan
    lent: what the files before and after in a drive lend this span, by side
    """

    folder: Path
    plan: Plan
    number: int
    track: Track
    span: Span
    index: VideoIndex
    lent: dict[str, tuple[Neighbour, VideoIndex]]

    @property
    def first_frame(self) -> int:
        """Number of the first frame that is decoded: one of the lead-in, maybe one of the file before (then below 0)."""
        before = self.lent["before"][0].span.frames if "before" in self.lent else 0
        return self.span.first_frame - self.span.lead_in - before

    @property
    def owned(self) -> range:
        """Numbers of the frames that the span file holds."""
        return range(self.span.first_frame, self.span.first_frame + self.span.frames)

    @property
    def relative_pts(self) -> list[int]:
        """Output ticks from the span's first frame to each owned one."""
        pts = self.index.frame_pts[self.owned.start : self.owned.stop]
        return [int(one - self.span.first_pts) * self.track.ticks for one in pts]

    @property
    def durations(self) -> list[int]:
        """Of the owned frames, in output ticks."""
        ticks = self.index.frame_duration[self.owned.start : self.owned.stop]
        return [int(one) * self.track.ticks for one in ticks]

    @functools.cached_property
    def key(self) -> str:
        """See plan.span_key."""
        return span_key(self.plan, self.track, self.span, self.index)

    @property
    def file(self) -> Path:
        """Final name of the span file."""
        return (
            self.folder
            / f"span_{self.number}_{self.span.number:05d}_{self.key[:16]}.{self.plan.encoder.span_container}"
        )

    @property
    def beside(self) -> dict[str, Path]:
        """Final names of what is written with it, by kind."""
        proxy = proxy_in(self.plan.extras)
        endings = ENDINGS if proxy is None else ENDINGS | {proxy.name: f".{proxy.name}.mp4"}
        return {kind: self.file.with_suffix(endings[kind]) for kind in sorted(kinds_beside(self.plan.extras))}


def load_work(folder: Path, track: int, span: int) -> SpanWork:
    """Read plan and indices from the work folder; they are kept for the next span. OSError where one is missing."""
    plan, index = _load(folder, index_name(track))
    job = plan.tracks[track]
    lent = {
        side: (one, _load(folder, lent_name(track, side))[1])
        for side, one in zip(SIDES, lenders(job, job.spans[span]), strict=True)
        if one is not None
    }
    return SpanWork(folder, plan, track, job, job.spans[span], index, lent)


def partial_name(final: Path) -> Path:
    """The name of a file while it is written: no other process on any node writes there."""
    return final.with_name(f".{final.name}.{socket.gethostname()}.{os.getpid()}.part")


def _load(folder: Path, index: str) -> tuple[Plan, VideoIndex]:
    stamp = (folder / PLAN_NAME).stat().st_mtime_ns
    return _load_plan(folder, stamp), _load_index(folder, index, stamp)


@functools.lru_cache(maxsize=4)
def _load_plan(folder: Path, stamp: int) -> Plan:
    return Plan.from_json((folder / PLAN_NAME).read_text())


@functools.lru_cache(maxsize=4)
def _load_index(folder: Path, name: str, stamp: int) -> VideoIndex:
    return VideoIndex.load(folder / name)
