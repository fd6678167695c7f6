"""Stills: a frame exactly as `convert` hands it to its encoder, and all that can be kept so that the next one comes soon."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from pipeline.decode import DecodedFrame, DecodeReport, DecodingStopped, decode_span
from pipeline.drive_files import lent_frames
from pipeline.engine import Engine, Kept, Restored
from pipeline.index import packets_for
from pipeline.neighbour import SIDES
from pipeline.plan import Plan, lenders
from pipeline.span import Span
from preview.engines import Engines
from preview.media import Planned
from preview.pictures import Made
from preview.still_cache import StillCache

Planes = tuple[torch.Tensor, ...]
LEAST_KEPT = 2
"""The frame that is shown, smoothed and not: grade knobs then need no network whatever its size."""


class Abandoned(Exception):
    """Something else is wanted by now."""


def cores() -> int:
    """How many frames are worked on side by side."""
    return len(os.sched_getaffinity(0))


class Stills:
    """Frames of one track. One caller at a time; it works in `cores()` threads of its own. engines: of the tab"""

    def __init__(self, engines: Engines | None = None) -> None:
        self._engines = engines or Engines()
        self._pool = ThreadPoolExecutor(cores(), "still", torch.set_num_threads, (1,))
        self._cache = StillCache(LEAST_KEPT)

    def make(self, planned: Planned, number: int, wanted: Callable[[], bool]) -> Made:
        """A frame, exact when its plan is. wanted: asked between pieces of work; once false, Abandoned is raised."""
        _, engine = self._engines.of(planned.plan)
        restored = self._cache.get(("smooth", network_key(planned.plan), engine.radius, number))
        if restored is None:
            restored = self._restore(planned, engine, number, wanted)
        return _made(engine, restored, planned, number)

    def at_hand(self, planned: Planned, number: int) -> bool:
        """Is all there that `make` needs but grading?"""
        radius = planned.track.radius if "temporal" in planned.plan.stages else 0
        return self._cache.get(("smooth", network_key(planned.plan), radius, number)) is not None

    def planes(self, planned: Planned, number: int, near: range, wanted: Callable[[], bool]) -> list[Planes]:
        """Decoded planes of a frame and its neighbours, as the span that owns the frame has them. near, wanted: as for `decoded`"""
        key = ("planes", planned.plan.source, planned.track.deinterlace, owner(planned, number).number)
        found = [self._cache.get((*key, place)) for place in near]
        if any(planes is None for planes in found):
            found = decoded(planned, number, near, wanted)
            for place, planes in zip(near, found, strict=True):
                self._cache.keep((*key, place), planes, sum(plane.nbytes for plane in planes))
        return found

    def close(self) -> None:
        """Let go of threads and memory."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._cache.close()

    def _restore(self, planned: Planned, engine: Engine, number: int, wanted: Callable[[], bool]) -> Restored:
        network, radius = (network_key(planned.plan), owner(planned, number).number), engine.radius
        if radius == 0:
            restored = self._one(planned, engine, number, wanted)
        else:
            near = reach(planned, number, radius)
            planes = self.planes(planned, number, near, wanted)

            def sample(place: int) -> Kept:
                key = ("sample", network, place)
                kept = self._cache.get(key)
                if kept is None:
                    if not wanted():
                        raise Abandoned
                    alone = self._cache.get(("alone", network, place))
                    kept = engine.keep(alone or engine.restore([planes[place - near.start]]))
                    self._cache.keep(key, kept, _bytes(kept.sdr, kept.sample.restored, kept.unpacked))
                return kept

            window = list(self._pool.map(sample, near))
            restored = engine.smooth(window, near.index(number))
        size_bytes = _bytes(restored.sdr, restored.light, restored.unpacked)
        self._cache.keep(("smooth", network[0], radius, number), restored, size_bytes)
        return restored

    def _one(self, planned: Planned, engine: Engine, number: int, wanted: Callable[[], bool]) -> Restored:
        key = ("alone", (network_key(planned.plan), owner(planned, number).number), number)
        restored = self._cache.get(key)
        if restored is None:
            (planes,) = self.planes(planned, number, range(number, number + 1), wanted)
            restored = engine.restore([planes])
            self._cache.keep(key, restored, _bytes(restored.sdr, restored.light, restored.unpacked))
        return restored


def network_key(plan: Plan) -> tuple:
    """What decides a restored frame before it is smoothed: all of a plan but the grade and the radius."""
    track = plan.tracks[0]
    before = tuple(name for name in plan.stages if name not in ("temporal", "grade"))
    decided = (track.layout, track.color, track.tile, track.denoise, track.overlays, track.excluded, track.deinterlace)
    return (plan.source, before, plan.model_sha256, plan.precision, plan.scale, *decided, track.drive)


def owner(planned: Planned, number: int) -> Span:
    """The span that a frame is converted in."""
    return next(one for one in planned.track.spans if one.first_frame <= number < one.first_frame + one.frames)


def reach(planned: Planned, number: int, radius: int) -> range:
    """Numbers of the frames that a frame is smoothed with. Below 0 and from the track's end on they are of the files before and after it."""
    before, after = (one.span.frames if one else 0 for one in lenders(planned.track, owner(planned, number)))
    return range(max(-before, number - radius), min(planned.track.frames + after, number + radius + 1))


def decoded(planned: Planned, number: int, near: range, wanted: Callable[[], bool] = lambda: True) -> list[Planes]:
    """Planes of the frames `near` frame `number`, the same that `convert` decodes.

    From the nearest keyframe, which gives the same pictures sooner; where something is damaged, with the whole span that the frame is
    converted in, because what is put in a damaged frame's place comes from there.
    near: as `reach` gives it; wanted: asked for each packet; once false, Abandoned is raised
    """
    total = planned.track.frames
    own = range(max(0, near.start), min(total, near.stop))
    try:
        planes = _own(planned, number, own, wanted)
        if near.start < 0:
            planes = _lent(planned, number, "before")[near.start :] + planes
        if near.stop > total:
            planes += _lent(planned, number, "after")[: near.stop - total]
    except DecodingStopped as stopped:
        raise Abandoned from stopped
    return planes


def _own(planned: Planned, number: int, near: range, wanted: Callable[[], bool]) -> list[Planes]:
    home, index = owner(planned, number), planned.index
    lead_in, lead_out = number - near.start, near.stop - number - 1
    first_pts = int(index.frame_pts[number])
    end_pts = first_pts + int(index.frame_duration[number])
    packets = packets_for(index, number, 1, lead_in, lead_out)
    report = DecodeReport()
    soon = Span(home.number, first_pts, end_pts, number, 1, lead_in, lead_out, *packets)
    planes = [frame.planes for frame in _frames(planned, soon, cores(), report, wanted)]
    if not (report.repeated_pts or report.damaged_packets or report.unexpected_frames):
        return planes
    numbered = enumerate(_frames(planned, home, 1, DecodeReport(), wanted), home.first_frame - home.lead_in)
    return [frame.planes for place, frame in numbered if place in near]


def _lent(planned: Planned, number: int, side: str) -> list[Planes]:
    """What the file before or after lends to the span that owns a frame."""
    neighbour = lenders(planned.track, owner(planned, number))[[*SIDES].index(side)]
    return [frame.planes for frame in lent_frames(neighbour, planned.lent[side], planned.track.deinterlace)]


def _frames(
    planned: Planned, span: Span, threads: int, report: DecodeReport, wanted: Callable[[], bool]
) -> Iterator[DecodedFrame]:
    track = planned.track
    return decode_span(
        planned.path,
        track.stream_index,
        planned.index,
        span,
        deinterlace=track.deinterlace,
        threads=threads,
        strict=planned.plan.strict,
        report=report,
        should_stop=lambda: not wanted(),
    )


def _bytes(*tensors: torch.Tensor) -> int:
    """Those that share memory count once."""
    return sum({one.data_ptr(): one.nbytes for one in tensors}.values())


def _made(engine: Engine, restored: Restored, planned: Planned, number: int) -> Made:
    torch.set_num_threads(1)
    return Made(number, engine.deliver(restored, number)[0], restored, planned.plan.out)
