"""Studio: what all tabs share: the sources and what was found out about them, the models there are, and conversions."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from configs.schema import Config
from models import checkpoints
from pipeline.engine import resolve_device
from pipeline.errors import InputError
from pipeline.prepare import color_overrides
from preview.keeper import Kept
from preview.knobs import Settings
from preview.live import LiveSource, open_live
from preview.live_sources import LiveSources
from preview.media import Media
from preview.sources import Source

if TYPE_CHECKING:
    from preview.conversion import Conversion

VIDEO_CODECS = {"av1": "av01.0.08M.10.0.112.09.16.09.0", "hevc": "hvc1.2.4.L120.B0"}
"""Codecs of HDR video while playing -> what to ask a browser by."""

ENDED = frozenset({"idle", "done", "failed"})
"""States of a conversion from which it is started anew."""


class Studio:
    """sources: what may be shown; profile, config_file, words: the settings that every tab starts with, as `convert` takes them;
    kept: of the servers before this one"""

    def __init__(
        self,
        sources: Sequence[Source],
        profile: str,
        config_file: Path | None,
        words: Sequence[str],
        kept: Kept | None = None,
    ) -> None:
        torch.set_num_threads(1)
        self.sources = tuple(sources)
        self.kept = kept or Kept()
        self._start = (profile, config_file, tuple(words))
        self.models = ("auto", *checkpoints.available())
        self._media: dict[int, Media] = {}
        self.live = LiveSources(self._open_live)
        self._lock, self._commanding = threading.Lock(), threading.Lock()
        self._listeners: dict[object, tuple[int, Callable[[dict[str, Any]], None]]] = {}
        self._conversions: dict[int, Conversion] = {}
        self._made: set[int] = set()
        self._lookers = ThreadPoolExecutor(1, "look", torch.set_num_threads, (1,))

    def settings(self) -> Settings:
        """New settings for a tab. Raises InputError where the ones it starts with are not legal."""
        return Settings(*self._start, self.models)

    def warm_up(self) -> None:
        """Begin to open the first source, so that it is there when the first tab asks for it."""
        self.settings()
        first = self.sources[0]
        if first.kind != "live" and first.where not in self.kept.barred:
            media, config = self.media(0), self.settings().config
            self._lookers.submit(lambda: self._noted(first, lambda: media.plan(config, quick=True)))

    def enter(self, tab: object, number: int) -> None:
        """A tab is about to read a source, and no other. Raises InputError when that made the server crash too often."""
        source = self.sources[number]
        self.kept.notes.close(tab)
        if source.where in self.kept.barred:
            raise InputError(f"{source.name}: the preview crashed twice while it was open, so it is not opened again.")
        self.kept.notes.open(tab, source.where)

    def _noted(self, source: Source, work: Callable[[], object]) -> None:
        """Do work that reads a source beside all tabs."""
        who = object()
        self.kept.notes.open(who, source.where)
        try:
            work()
        finally:
            self.kept.notes.close(who)

    def media(self, number: int) -> Media:
        """A source that is no live one, opened once for all tabs."""
        with self._lock:
            if number not in self._media:
                self._media[number] = Media(self.sources[number])
            return self._media[number]

    def look_later(self, media: Media, config: Config, then: Callable[[], None]) -> None:
        """Take the look that an exact plan needs, beside all else; `then` is called when it is taken or has failed."""

        def look() -> None:
            self._noted(media.source, lambda: media.look(config))
            then()

        self._lookers.submit(look)

    def device(self) -> str:
        """What computes, in words."""
        if resolve_device("auto") == "cuda":
            return torch.cuda.get_device_name()
        return f"CPU, {len(os.sched_getaffinity(0))} cores"

    def hello(self, settings: Settings, version: str) -> dict[str, Any]:
        """The first message to a tab."""
        return {
            "version": version,
            "sources": [{"name": source.name, "kind": source.kind} for source in self.sources],
            "profiles": list(next(knob.choices for knob in settings.knobs if knob.key == "profile")),
            "models": list(next(knob.choices for knob in settings.knobs if knob.key == "model")),
            "knobs": settings.described(),
            "device": self.device(),
            "video_codecs": list(VIDEO_CODECS.values()),
        }

    def listen(self, tab: object, number: int, tell: Callable[[dict[str, Any]], None]) -> None:
        """Tell a tab of the conversion of a source, from its state now on; of one source at a time."""
        with self._lock:
            self._listeners[tab] = (number, tell)
            conversion = self._conversions.get(number)
        tell(conversion.state() if conversion else idle(self.sources[number].output))

    def forget(self, tab: object) -> None:
        """Tell it no more; it reads nothing."""
        self.kept.notes.close(tab)
        with self._lock:
            self._listeners.pop(tab, None)

    def convert(self, number: int, command: str, yaml: str) -> None:
        """command: start, pause, resume or cancel the conversion of a source. yaml: the settings. Raises InputError where that cannot be."""
        source = self.sources[number]
        if source.output is None:
            raise InputError(f"{source.name}: a live source cannot be converted; record it first.")
        with self._commanding:  # else two tabs that start at once would each start one
            self._command(number, source, command, yaml)

    def _command(self, number: int, source: Source, command: str, yaml: str) -> None:
        from preview.conversion import Conversion

        with self._lock:
            conversion = self._conversions.get(number)
            state = conversion.state()["state"] if conversion else "idle"
            if command == "start" and state in ENDED:
                # What was made here a moment ago gives way to what is wanted now; files of others do not.
                conversion = self._conversions[number] = Conversion(
                    source.words,
                    source.output,
                    yaml,
                    lambda state: self._tell(number, state),
                    overwrite=number in self._made or state == "done",
                )
                self._made |= {number} if state == "done" else set()
        if conversion is None:
            raise InputError(f"{source.name}: no conversion was started.")
        getattr(conversion, command)()

    def _tell(self, number: int, state: dict[str, Any]) -> None:
        with self._lock:
            tells = [tell for of, tell in self._listeners.values() if of == number]
        for tell in tells:
            tell(state)

    def _open_live(self, number: int) -> LiveSource:
        return open_live(self.sources[number].address, color_overrides(self.settings().config))

    def running(self) -> int:
        """How many conversions are under way."""
        with self._lock:
            return sum(one.state()["state"] == "running" for one in self._conversions.values())

    def close(self) -> None:
        """Close all sources. Conversions under way are stopped, all at once, and can be resumed."""
        self._lookers.shutdown(wait=False, cancel_futures=True)
        self.live.close()
        ends = [threading.Thread(target=one.close, name="end conversion") for one in self._conversions.values()]
        for end in ends:
            end.start()
        for end in ends:
            end.join()
        for media in list(self._media.values()):
            media.close()


def idle(output: Path | None) -> dict[str, Any]:
    """The message `conversion` where none was started."""
    return {
        "state": "idle",
        "output": str(output or ""),
        "frames_done": 0,
        "frames": 0,
        "frames_per_second": 0.0,
        "eta_seconds": None,
        "text": "",
    }
