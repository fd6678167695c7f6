"""Stills: a frame exactly as `convert` hands it to its encoder, and all that can be kept so that the next one comes soon."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from pipeline.decode import DecodedFrame, DecodeReport, decode_span
from pipeline.engine import Engine, Kept, Restored
from pipeline.index import packets_for
from pipeline.plan import Plan
from pipeline.span import Span
from preview.engines import Engines
from preview.limits import STILL_CACHE_BYTES
from preview.media import Planned
from preview.pictures import Made

Planes = tuple[torch.Tensor, ...]
LEAST_KEPT = 9
"""Restored frames: one, smoothed, and the seven that the largest radius needs for it, and one to spare."""


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
        self._planes: OrderedDict[tuple, Planes] = OrderedDict()
        self._restored: OrderedDict[tuple, Restored | Kept] = OrderedDict()
        self._lock = threading.Lock()

    def make(self, planned: Planned, number: int, wanted: Callable[[], bool]) -> Made:
        """A frame, exact when its plan is. wanted: asked between pieces of work; once false, Abandoned is raised."""
        _, engine = self._engines.of(planned.plan)
        restored = self._cached(("smooth", network_key(planned.plan), engine.radius, number))
        if restored is None:
            restored = self._restore(planned, engine, number, wanted)
        return _made(engine, restored, planned, number)

    def at_hand(self, planned: Planned, number: int) -> bool:
        """Is all there that `make` needs but grading?"""
        radius = planned.track.radius if "temporal" in planned.plan.stages else 0
        return self._cached(("smooth", network_key(planned.plan), radius, number)) is not None

    def planes(self, planned: Planned, number: int, near: range) -> list[Planes]:
        """Decoded planes of a frame and its neighbours, as the span that owns the frame has them."""
        key = (planned.plan.source, planned.track.deinterlace, owner(planned, number).number)
        first, stop = near.start, near.stop
        if any((*key, place) not in self._planes for place in near):
            for place, planes in enumerate(decoded(planned, number, near), first):
                self._planes[*key, place] = planes
            while len(self._planes) > max(16, stop - first):
                self._planes.popitem(last=False)
        return [self._planes[*key, place] for place in near]

    def close(self) -> None:
        """Let go of threads and memory."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._planes.clear()
        self._restored.clear()

    def _restore(self, planned: Planned, engine: Engine, number: int, wanted: Callable[[], bool]) -> Restored:
        network, radius = (network_key(planned.plan), owner(planned, number).number), engine.radius
        if radius == 0:
            restored = self._one(planned, engine, number)
        else:
            near = range(max(0, number - radius), min(planned.track.frames, number + radius + 1))
            planes = self.planes(planned, number, near)

            def sample(place: int) -> Kept:
                key = ("sample", network, place)
                kept = self._cached(key)
                if kept is None:
                    if not wanted():
                        raise Abandoned
                    alone = self._cached(("alone", network, place))
                    kept = engine.keep(alone or engine.restore([planes[place - near.start]]))
                    self._keep(key, kept)
                return kept

            window = list(self._pool.map(sample, near))
            restored = engine.smooth(window, near.index(number))
        self._keep(("smooth", network[0], radius, number), restored)
        return restored

    def _one(self, planned: Planned, engine: Engine, number: int) -> Restored:
        key = ("alone", (network_key(planned.plan), owner(planned, number).number), number)
        restored = self._cached(key)
        if restored is None:
            (planes,) = self.planes(planned, number, range(number, number + 1))
            restored = engine.restore([planes])
            self._keep(key, restored)
        return restored

    def _cached(self, key: tuple) -> Restored | Kept | None:
        with self._lock:
            found = self._restored.get(key)
            if found is not None:
                self._restored.move_to_end(key)
            return found

    def _keep(self, key: tuple, item: Restored | Kept) -> None:
        """Keep it, and forget what was not asked for longest."""
        with self._lock:
            self._restored[key] = item
            most = max(LEAST_KEPT, STILL_CACHE_BYTES // (2 * item.sdr.nbytes))
            while len(self._restored) > most:
                self._restored.popitem(last=False)


def network_key(plan: Plan) -> tuple:
    """What decides a restored frame before it is smoothed: all of a plan but the grade and the radius."""
    track = plan.tracks[0]
    before = tuple(name for name in plan.stages if name not in ("temporal", "grade"))
    decided = (track.layout, track.color, track.tile, track.denoise, track.overlays, track.excluded, track.deinterlace)
    return (plan.source, before, plan.model_sha256, plan.precision, plan.scale, *decided)


def owner(planned: Planned, number: int) -> Span:
    """The span that a frame is converted in."""
    return next(one for one in planned.track.spans if one.first_frame <= number < one.first_frame + one.frames)


def decoded(planned: Planned, number: int, near: range) -> list[Planes]:
    """Planes of the frames `near` frame `number`, the same that `convert` decodes.

    From the nearest keyframe, which gives the same pictures sooner; where something is damaged, with the whole span that the frame is
    converted in, because what is put in a damaged frame's place comes from there.
    """
    home, index = owner(planned, number), planned.index
    lead_in, lead_out = number - near.start, near.stop - number - 1
    first_pts = int(index.frame_pts[number])
    end_pts = first_pts + int(index.frame_duration[number])
    packets = packets_for(index, number, 1, lead_in, lead_out)
    report = DecodeReport()
    soon = Span(home.number, first_pts, end_pts, number, 1, lead_in, lead_out, *packets)
    planes = [frame.planes for frame in _frames(planned, soon, cores(), report)]
    if not (report.repeated_pts or report.damaged_packets or report.unexpected_frames):
        return planes
    numbered = enumerate(_frames(planned, home, 1, DecodeReport()), home.first_frame - home.lead_in)
    return [frame.planes for place, frame in numbered if place in near]


def _frames(planned: Planned, span: Span, threads: int, report: DecodeReport) -> Iterator[DecodedFrame]:
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
    )


def _made(engine: Engine, restored: Restored, planned: Planned, number: int) -> Made:
    torch.set_num_threads(1)
    return Made(number, engine.deliver(restored, number)[0], restored, planned.plan.out)
