"""Player: a feed's due frames through the engine, as many as can be made in time. Those that cannot are dropped, never queued."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.engine import Engine, Kept
from pipeline.plan import Plan
from preview.engines import Engines
from preview.feeds import Due, Feed
from preview.ladder import Ladder, Rung, rungs_of, said, size_at
from preview.limits import SCOPES_SECONDS
from preview.outbox import Outbox
from preview.pictures import Made, jpeg, picture
from preview.scopes import Scopes
from preview.stills import cores, network_key

Planes = tuple[torch.Tensor, ...]
RATE_SECONDS = 2.0
EVENLY = 0.9
"""Lanes begin this share of a frame's time, divided by their number, apart: else they would show frames in pairs."""


@dataclass(frozen=True)
class View:
    """What the page wants to see.

    layers: of preview/pictures.py; exposure_stops: of the tone map; width: the widest picture while playing, in pixels, 0 = any
    scopes: are they wanted; video: HDR as video fragments while playing; codec: of these, "av1" or "hevc"
    """

    layers: tuple[str, ...] = ("sdr", "hdr")
    exposure_stops: float = 0.0
    width: int = 0
    scopes: bool = True
    video: bool = False
    codec: str = "av1"


class Player:
    """Plays a feed until it ends, fails or is stopped.

    plan: what to show it by at the moment; view: likewise; rate: frames per second to hold; start: place on the ladder
    on_made: told of every frame that is shown, in order, by any thread: what was made, its decoded planes, and its seconds
    """

    def __init__(
        self,
        feed: Feed,
        engines: Engines,
        plan: Callable[[], Plan],
        view: Callable[[], View],
        outbox: Outbox,
        scopes: Scopes,
        rate: float,
        start: int,
        on_made: Callable[[Made, Planes, float], None],
    ) -> None:
        self.feed, self._engines, self._plan, self._view, self._outbox, self._scopes = (
            feed,
            engines,
            plan,
            view,
            outbox,
            scopes,
        )
        self.error: Exception | None = None
        self.frame, self.seconds, self.dropped, self.latency_ms = -1, 0.0, 0, 0.0
        self._on_made = on_made
        self._taken, self._making = -1, 0
        self._turn, self._state, self._sampling = threading.Lock(), threading.Lock(), threading.Lock()
        self._stopped = threading.Event()
        self._shown: deque[float] = deque(maxlen=256)
        self._samples: OrderedDict[tuple, Future[Kept]] = OrderedDict()
        self._scopes_at = self._next_at = 0.0
        count = cores()
        self._ladder = Ladder(rungs_of(plan()), count / rate, start)
        self._lanes = [
            threading.Thread(target=self._lane, name=f"play {number}", daemon=True) for number in range(count)
        ]
        for lane in self._lanes:
            lane.start()

    @property
    def place(self) -> int:
        """On the ladder."""
        return self._ladder.place

    @property
    def ended(self) -> bool:
        """Has the last frame been shown, and for its time, or is there an error?"""
        with self._state:
            return self.error is not None or (self.feed.ended and not self._making)

    def rate(self) -> float:
        """Frames per second that were shown of late."""
        now = time.monotonic()
        with self._state:
            times = [at for at in self._shown if now - at <= RATE_SECONDS]
        return 0.0 if len(times) < 2 else (len(times) - 1) / max(now - times[0], 1e-3)

    def quality(self) -> dict[str, Any]:
        """What is lowered to hold the rate."""
        with self._state:
            rung, best = self._ladder.rung, self._ladder.rungs[0]
        plan = self._plan()
        width, height = size_at(plan.tracks[0].width, plan.tracks[0].height, rung)
        radius = plan.tracks[0].radius if rung.temporal else 0
        return {
            "network_scale": rung.scale,
            "width": width,
            "height": height,
            "temporal_radius": radius,
            "text": said(rung, best),
        }

    def plan_changed(self) -> None:
        """The plan is another: its ladder may have other rungs."""
        with self._state:
            rungs = rungs_of(self._plan())
            if rungs != self._ladder.rungs:
                self._ladder = Ladder(
                    rungs,
                    self._ladder.budget_seconds,
                    max(0, self._ladder.place + len(rungs) - len(self._ladder.rungs)),
                )

    def stop(self) -> None:
        """End all threads; the frames under way are finished."""
        self._stopped.set()
        self.feed.close()
        for lane in self._lanes:
            if lane is not threading.current_thread():
                lane.join()
        self._samples.clear()

    def _lane(self) -> None:
        torch.set_num_threads(1)
        try:
            while not (self._stopped.is_set() or self.feed.ended or self.error):
                self._one()
        except Exception as error:  # noqa: BLE001 - told by the session
            self.error = error

    def _one(self) -> None:
        if not self._outbox.wait_for_room(0.1):
            return
        with self._turn:
            self._stopped.wait(max(0.0, self._next_at - time.monotonic()))
            with self._state:
                rung, plan = self._ladder.rung, self._plan()
                apart = EVENLY * self._ladder.mean_seconds / len(self._lanes)
            radius = plan.tracks[0].radius if rung.temporal else 0
            due = self.feed.newest(self._taken, radius)
            if due is None:
                if self.feed.error is not None:
                    raise self.feed.error
                return
            self.dropped += max(0, due.number - self._taken - 1) if self._taken >= 0 else 0
            self._taken = due.number
            started = time.monotonic()
            self._next_at = started + apart
            with self._state:
                self._making += 1
        try:
            self._show(due, plan, rung, started)
        finally:
            with self._state:
                self._making -= 1

    def _show(self, due: Due, plan: Plan, rung: Rung, started: float) -> None:
        """Make a frame and send it, unless a later one was sent meanwhile."""
        made = self._make(due, plan, rung)
        parts = self._parts(made)
        with self._state:
            now = time.monotonic()
            if rung == self._ladder.rung:
                self._ladder.saw(now - started, now)
            if self._stopped.is_set() or due.number <= self.frame:
                return
            self.frame, self.seconds = due.number, due.seconds
            self.latency_ms = 1000 * (now - due.at)
            self._shown.append(now)
            if parts:
                header = {"frame": due.number, "seconds": due.seconds, "exact": False, "width": plan.tracks[0].width}
                header |= {"height": plan.tracks[0].height, "latency_ms": round(self.latency_ms, 1)}
                self._outbox.picture(header, parts)
            if self._view().scopes and now - self._scopes_at >= SCOPES_SECONDS:
                self._scopes_at = now
                self._outbox.text("scopes", self._scopes.of(made, 2))
            self._on_made(made, due.window[due.place], due.seconds)

    def _parts(self, made: Made) -> list[tuple[str, str, bytes]]:
        view = self._view()
        layers = [layer for layer in view.layers if not (view.video and layer == "hdr")]
        return [(one, "image/jpeg", jpeg(picture(made, one, view.exposure_stops), view.width)) for one in layers]

    def _make(self, due: Due, plan: Plan, rung: Rung) -> Made:
        if not rung.temporal or plan.tracks[0].radius == 0:
            return self._engines.make_alone(due.window[due.place], plan, rung, due.number)
        small, engine = self._engines.of(plan, rung)
        first = due.number - due.place
        kept = [self._sample(engine, small, first + step, planes) for step, planes in enumerate(due.window)]
        restored = engine.smooth(kept, due.place)
        return Made(due.number, engine.deliver(restored, due.number)[0], restored, plan.out)

    def _sample(self, engine: Engine, plan: Plan, number: int, planes: Planes) -> Kept:
        """Of a frame, made once for all windows that it is in."""
        key = (number, network_key(plan))
        with self._sampling:
            future = self._samples.get(key)
            mine = future is None
            if future is None:
                future = self._samples[key] = Future()
                while len(self._samples) > 2 * engine.radius + 2 + 2 * len(self._lanes):
                    self._samples.popitem(last=False)
        if mine:
            try:
                future.set_result(engine.sample(planes))
            except BaseException as error:
                future.set_exception(error)
                raise
        return future.result()
