"""Session: one tab. A thread of its own does what the page wishes, the newest wish first; the event loop only hands wishes in."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Any

from pipeline.errors import InputError, SunvisorError
from pipeline.version import VERSION
from preview import requests
from preview.limits import STATE_SECONDS
from preview.outbox import Outbox
from preview.player import View
from preview.requests import Request
from preview.screen import Screen
from preview.stills import Abandoned
from preview.studio import Studio

LOG = logging.getLogger(__name__)
MOVES = frozenset({"show", "play", "pause"})
MOST_WISHES = 64


class Session:
    """studio: shared by all tabs; outbox: what the client is sent by"""

    def __init__(self, studio: Studio, outbox: Outbox) -> None:
        self._studio, self._outbox = studio, outbox
        self._changed = threading.Condition()
        self._wishes: deque[Request] = deque()
        self._poked = self._closed = False
        self._wished_at = 0.0
        self._thread = threading.Thread(target=self._run, name="tab", daemon=True)
        self._thread.start()

    def receive(self, text: str) -> None:
        """A message of the client. Never waits for work."""
        try:
            request = requests.read(text, len(self._studio.sources))
        except InputError as error:
            self._outbox.text("error", {"text": str(error)})
            return
        if request.do == "ack":
            self._outbox.ack(request.facts["number"])
            return
        with self._changed:
            taken = self._add(request)
            self._changed.notify_all()
        if not taken:
            self._outbox.text(
                "error", {"text": f"{request.do}: {MOST_WISHES} wishes wait already; this one is left out."}
            )

    def close(self) -> None:
        """The tab is gone. What it holds is let go of by its thread, soon after this."""
        self._outbox.close()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def join(self, seconds: float | None = None) -> bool:
        """Wait until all is let go of, so long at most. Is it?"""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _add(self, request: Request) -> bool:
        """Newer wishes take the place of older ones of their kind, so that what waits is bounded. Is there room for it?"""
        if not self._wishes:
            self._wished_at = time.monotonic()
        if request.do in MOVES:
            self._drop(MOVES)
        elif request.do in ("view", "save", "reset"):
            self._drop({request.do})
        elif request.do == "set" and self._wishes and self._wishes[-1].do == "set":
            request = Request("set", {"values": self._wishes.pop().facts["values"] | request.facts["values"]})
        elif request.do == "open":
            self._drop(MOVES | {"open"})
        if len(self._wishes) >= MOST_WISHES:
            return False
        self._wishes.append(request)
        return True

    def _drop(self, kinds: frozenset[str] | set[str]) -> None:
        self._wishes = deque(one for one in self._wishes if one.do not in kinds)

    def _poke(self) -> None:
        """Something that was waited for is there."""
        with self._changed:
            self._poked = True
            self._changed.notify_all()

    def _wanted(self) -> bool:
        """Does nobody wish anything else by now?"""
        return not self._closed and not self._wishes

    def _stays(self) -> bool:
        """Is the tab still there, and does nobody wish another source?"""
        with self._changed:
            return not self._closed and all(one.do != "open" for one in self._wishes)

    def _run(self) -> None:
        try:
            settings = self._studio.settings()
        except SunvisorError as error:
            self._outbox.text("error", {"text": str(error)})
            return
        screen = Screen(self._studio, settings, self._outbox, self._wanted, self._stays, self._poke)
        try:
            self._outbox.text("hello", self._studio.hello(settings, VERSION))
            if self._studio.kept.told:
                self._outbox.text("notice", {"text": self._studio.kept.told})
            while self._wait(screen):
                self._work(screen)
        finally:
            screen.close()

    def _wait(self, screen: Screen) -> bool:
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self._poked or self._wishes, STATE_SECONDS if screen.is_busy else None
            )
            return not self._closed

    def _work(self, screen: Screen) -> None:
        """Do all that is wished, then bring the picture up to date. What goes wrong is said, and the tab goes on."""
        with self._changed:
            wishes, self._wishes = list(self._wishes), deque()
            poked, self._poked = self._poked, False
            wished_at = self._wished_at
        if poked:
            self._guard(lambda: screen.replan())
        for wish in wishes:
            self._guard(lambda one=wish: self._heed(screen, one))
        self._guard(lambda: screen.update(wished_at if wishes else time.monotonic()))

    def _heed(self, screen: Screen, wish: Request) -> None:
        facts: dict[str, Any] = wish.facts
        if wish.do == "open":
            screen.open(facts["source"])
        elif wish.do == "show":
            screen.show(facts["frame"])
        elif wish.do == "play":
            screen.play(facts["frame"], loop=facts["loop"])
        elif wish.do == "pause":
            screen.pause()
        elif wish.do == "set":
            screen.set(facts["values"])
        elif wish.do == "reset":
            screen.reset()
        elif wish.do == "view":
            screen.look(wish.view or View())
        elif wish.do == "save":
            screen.save()
        elif wish.do == "convert":
            screen.convert(facts["command"])

    def _guard(self, work: Any) -> None:  # noqa: ANN401 - () -> None
        try:
            work()
        except Abandoned:
            return
        except SunvisorError as error:
            self._outbox.text("error", {"text": str(error)})
        except Exception as error:
            if self._closed:
                return
            LOG.exception("a tab's wish failed")
            self._outbox.text("error", {"text": f"This failed inside the preview: {type(error).__name__}: {error}"})
