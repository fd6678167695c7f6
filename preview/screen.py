"""Screen: what one tab shows: which source, frame and settings, paused or playing. Used by the tab's own thread alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from pipeline.errors import InputError, SunvisorError
from pipeline.plan import Plan
from preview.engines import Engines
from preview.feeds import Feed, LiveFeed, VideoFeed
from preview.hdr_stream import HdrStream
from preview.knobs import Settings
from preview.ladder import Rung, rungs_of, start_place
from preview.limits import FOLLOW_SECONDS
from preview.live import LiveSource
from preview.media import KeptLooks, Media, Planned
from preview.outbox import Outbox
from preview.pictures import Made, jpeg, picture, png
from preview.player import Player, View
from preview.scopes import Scopes
from preview.shows import live_plan, opened, quick_rung, whole_quality, without_look
from preview.stills import Abandoned, Stills, cores
from preview.studio import Studio


class Screen:
    """wanted: does nobody wish anything else by now? stays: is the tab still there, and wishes no other source? poke: calls the tab's thread when something is there that was waited for"""

    def __init__(
        self,
        studio: Studio,
        settings: Settings,
        outbox: Outbox,
        wanted: Callable[[], bool],
        stays: Callable[[], bool],
        poke: Callable[[], None],
    ) -> None:
        self._studio, self._settings, self._outbox = studio, settings, outbox
        self._wanted, self._stays, self._poke = wanted, stays, poke
        self._view, self._scopes, self._engines = View(), Scopes(), Engines()
        self._stills = Stills(self._engines)
        self._number: int | None = None
        self._media: Media | None = None
        self._live: LiveSource | None = None
        self._looks = KeptLooks()
        self._planned: Planned | None = None
        self._plan: Plan | None = None
        self._frame = 0
        self._frozen: tuple | None = None
        self._shown: tuple | None = None
        self._player: Player | None = None
        self._stream: HdrStream | None = None
        self._streaming = threading.Lock()
        self._loop = False
        self._place: int | None = None
        self._is_new = True
        self._latency_ms = 0.0
        self._sdr: tuple[tuple, bytes] | None = None

    @property
    def is_busy(self) -> bool:
        """Is there something to look after, even when nobody wishes anything?"""
        return self._player is not None

    def open(self, number: int) -> None:
        """Show a source from its first frame on."""
        self._stop()
        self._give_back()
        source = self._studio.sources[number]
        self._number, self._media = number, None
        self._planned = self._plan = self._shown = self._frozen = None
        self._frame, self._place, self._is_new = 0, None, True
        self._scopes.forget()
        self._studio.listen(self, number, lambda state: self._outbox.text("conversion", state))
        self._studio.enter(self, number)
        if source.kind == "live":
            self._live = self._studio.live.take(number, self._stays)
        else:
            self._media = self._studio.media(number)
        self.replan()
        self._outbox.text("opened", opened(number, source, self._plan, self._planned))
        self._tell_settings()
        if self._live is not None:
            self.play(None, loop=False)

    def replan(self) -> None:
        """Plan anew, for other settings or because more is known of the source. Raises InputError; the old plan stays then."""
        config = self._settings.config
        if self._live is not None:
            self._plan = live_plan(self._live, self._studio.sources[self._number].name, config, self._looks)
        elif self._media is not None:
            self._planned = self._media.plan(config, quick=True)
            self._plan = self._planned.plan
            if not self._planned.exact:
                self._studio.look_later(self._media, config, self._poke)
        if self._player is not None:
            self._player.plan_changed()

    def show(self, frame: int) -> None:
        """Pause at a frame."""
        self._stop()
        if self._planned is not None:
            self._frame = min(frame, self._planned.track.frames - 1)

    def play(self, frame: int | None, *, loop: bool) -> None:
        """Play from a frame, or from where it stands."""
        self._loop = loop
        if frame is None and self._player is not None:
            return
        if self._plan is None:
            raise InputError("play: open a source first.")
        self._stop()
        if self._live is not None and self._live.stale:
            self.open(self._number)
            return
        if frame is not None and self._planned is not None:
            self._frame = min(frame, self._planned.track.frames - 1)
        if self._planned is not None and self._frame >= self._planned.track.frames - 1:
            self._frame = 0
        self._start()

    def pause(self) -> None:
        """Stay at the frame that is shown."""
        self._stop()

    def set(self, values: Mapping[str, Any]) -> None:
        """Turn knobs. Raises InputError when one cannot be turned so; all stay as they were then."""
        self._change(lambda: self._settings.set(values))

    def reset(self) -> None:
        """All knobs as they were at the start."""
        self._change(self._settings.reset)

    def look(self, view: View) -> None:
        """Show other layers, or the same in another way."""
        with self._streaming:
            self._view, stream = view, self._stream
            if stream is None or (view.video and view.codec == stream.codec):
                return
            self._stream = None
        stream.close()

    def save(self) -> None:
        """Send the settings as YAML."""
        command = self._command()
        self._outbox.text("saved", {"name": "sunvisor.yaml", "yaml": self._settings.yaml(command), "command": command})

    def convert(self, command: str) -> None:
        """Start, pause, resume or cancel the conversion of the source."""
        if self._number is None:
            raise InputError("convert: open a source first.")
        self._studio.convert(self._number, command, self._settings.yaml(self._command()))

    def update(self, wished_at: float) -> None:
        """Bring what is shown up to date. wished_at: since when it is waited for, by time.monotonic()"""
        if self._player is not None:
            self._watch()
        if self._player is None and self._plan is not None and self._aim() != self._shown:
            try:
                self._draw(wished_at)
            except Abandoned:
                return
        self._tell_state()

    def close(self) -> None:
        """Let go of everything."""
        self._studio.forget(self)
        self._stop()
        self._give_back()
        self._stills.close()
        self._engines.clear()

    def _change(self, turn: Callable[[], None]) -> None:
        before = self._settings.state()
        try:
            turn()
            self.replan()
        except SunvisorError:
            self._settings.restore(before)
            raise
        finally:
            self._tell_settings()
        self._scopes.forget()

    def _command(self) -> str:
        source = self._studio.sources[self._number] if self._number is not None else None
        if source is None or source.output is None:
            return ""
        return self._settings.command(source.words, source.output)

    def _tell_settings(self) -> None:
        changed = list(self._settings.turned)
        told = {"values": self._settings.values(), "defaults": self._settings.defaults(), "changed": changed}
        self._outbox.text("settings", told | {"command": self._command()})

    def _tell_state(self) -> None:
        plan, player = self._plan, self._player
        if plan is None:
            return
        notes = [without_look(self._planned) if self._planned else "", self._live.note if self._live else ""]
        told = {
            "playing": player is not None,
            "frame": self._frame if player is None else max(player.frame, 0),
            "frames_per_second": round(player.rate(), 1) if player else 0.0,
            "latency_ms": round(player.latency_ms if player else self._latency_ms, 1),
            "dropped": player.dropped if player else 0,
            "quality": player.quality() if player else whole_quality(plan),
            "note": " ".join(note for note in notes if note),
        }
        facts = {"precision": plan.precision, "model": plan.model, "stages": list(plan.stages)}
        self._outbox.text("state", told | facts | {"device": self._studio.device()})

    def _aim(self) -> tuple:
        """What decides the picture of a paused frame."""
        frame = self._frozen[0] if self._frozen else self._frame
        view = (self._view.layers, self._view.exposure_stops, self._view.scopes)
        return (frame, view, self._settings.key(), self._planned.exact if self._planned else False)

    def _draw(self, wished_at: float) -> None:
        """A paused frame: at once as it can be had, then exactly. Raises Abandoned when something else is wished meanwhile."""
        aim, planned, number = self._aim(), self._planned, self._frame
        if planned is None:
            if self._frozen is not None:
                number, planes = self._frozen
                self._send(self._engines.make_alone(planes, self._plan, None, number), wished_at, exact=False)
            self._shown = aim
            return
        if not self._stills.at_hand(planned, number):
            (planes,) = self._stills.planes(planned, number, range(number, number + 1), self._patient())
            if self._is_new and "sdr" in self._view.layers:
                self._send_sdr(planes, wished_at)
                self._is_new = False
            rung = quick_rung(planned.plan)
            if rung != rungs_of(planned.plan)[0]:
                began = time.monotonic()
                made = self._engines.make_alone(planes, planned.plan, rung, number)
                self._foresee(rung, time.monotonic() - began)
                self._send(made, wished_at, exact=False, quick=True)
        made = self._stills.make(planned, number, self._wanted)
        self._send(made, wished_at, exact=planned.exact)
        self._shown = aim

    def _patient(self) -> Callable[[], bool]:
        """Is this picture still worth its decoding? While the tab is there, for a second at least."""
        began = time.monotonic()
        return lambda: self._stays() and (self._wanted() or time.monotonic() - began < FOLLOW_SECONDS)

    def _foresee(self, rung: Rung, seconds: float) -> None:
        """Where playing is to begin, from how long one frame took."""
        if self._place is None:
            budget_seconds = cores() / max(1.0, float(self._plan.tracks[0].rate))
            self._place = start_place(self._plan, rung, seconds, budget_seconds)

    def _send(self, made: Made, wished_at: float, *, exact: bool, quick: bool = False) -> None:
        view, track = self._view, self._plan.tracks[0]
        lossless = not quick
        parts = [
            (layer, "image/png" if lossless else "image/jpeg", self._encoded(made, layer, lossless))
            for layer in view.layers
        ]
        self._latency_ms = 1000 * (time.monotonic() - wished_at)
        seconds = self._planned.seconds(made.number) if self._planned else 0.0
        self._outbox.picture(
            {
                "frame": made.number,
                "seconds": seconds,
                "exact": exact,
                "width": track.width,
                "height": track.height,
                "latency_ms": round(self._latency_ms, 1),
            },
            parts,
        )
        if view.scopes and lossless:
            self._outbox.text("scopes", self._scopes.of(made))

    def _encoded(self, made: Made, layer: str, lossless: bool) -> bytes:
        """The SDR picture does not change with the knobs of the grade: its PNG is kept."""
        key = (self._number, made.number)
        if lossless and layer == "sdr" and self._sdr is not None and self._sdr[0] == key:
            return self._sdr[1]
        rgb = picture(made, layer, self._view.exposure_stops)
        data = png(rgb) if lossless else jpeg(rgb)
        if lossless and layer == "sdr":
            self._sdr = (key, data)
        return data

    def _send_sdr(self, planes: tuple, wished_at: float) -> None:
        """The very first picture: no network is needed for what the camera recorded."""
        from pipeline.color import unpack
        from preview.tonemapping import srgb_codes

        track = self._plan.tracks[0]
        light = unpack(tuple(plane[None].cpu() for plane in planes), track.layout, track.color)[0]
        header = {"frame": self._frame, "seconds": self._planned.seconds(self._frame), "exact": False}
        header |= {"width": track.width, "height": track.height}
        header["latency_ms"] = round(1000 * (time.monotonic() - wished_at), 1)
        self._outbox.picture(header, [("sdr", "image/jpeg", jpeg(srgb_codes(light).numpy()))])

    def _start(self) -> None:
        feed: Feed = VideoFeed(self._planned, self._frame) if self._planned else LiveFeed(self._live)
        rate = max(1.0, float(self._plan.tracks[0].rate))
        self._player = Player(
            feed,
            self._engines,
            lambda: self._plan,
            lambda: self._view,
            self._outbox,
            self._scopes,
            rate,
            self._place or 0,
            self._made,
        )

    def _made(self, made: Made, planes: tuple, seconds: float) -> None:
        """A frame was shown while playing; by a lane's thread."""
        if self._live is not None:
            self._frozen = (made.number, planes)
        with self._streaming:
            if not self._view.video:
                return
            if self._stream is None:
                rate = Fraction(self._plan.tracks[0].rate)
                self._stream = HdrStream(self._outbox, self._view.codec, rate, self._without_video)
            self._stream.write(made, seconds)

    def _without_video(self, why: str) -> None:
        """Have the page ask for pictures instead; by the stream's thread."""
        self._outbox.text("video_failed", {"text": why.removesuffix(".")})

    def _watch(self) -> None:
        """What has become of playing."""
        player = self._player
        if self._live is not None and self._live.stale:
            self.open(self._number)
            return
        if not player.ended:
            return
        error = player.error
        self._stop(ended=error is None)
        if error is not None:
            raise error
        if self._loop and self._planned is not None:
            self._frame = 0
            self._start()

    def _stop(self, *, ended: bool = False) -> None:
        """ended: all was played, so that the video's last frames are sent too"""
        if self._player is not None:
            self._player.stop()
            self._place = self._player.place
            if self._player.frame >= 0:
                self._frame = self._player.frame
            self._player, self._shown = None, ()
        with self._streaming:
            stream, self._stream = self._stream, None
        if stream is not None:
            stream.close(finish=ended)

    def _give_back(self) -> None:
        if self._live is not None:
            self._studio.live.give_back(self._live)
            self._live = None
