"""Preview, between threads and tabs: what is shared is made once, and nobody waits for another's."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from configs.schema import load_config
from pipeline import light
from pipeline.color import OutputSpec, pack
from pipeline.decode import DecodingStopped, decode_span
from pipeline.engine import PackedFrame, Restored
from pipeline.errors import InputError
from preview import hdr_stream
from preview.feeds import VideoFeed
from preview.hdr_stream import HdrStream
from preview.limits import VIDEO_FRAGMENTS_WAITING
from preview.live_sources import LiveSources
from preview.media import Media, Planned
from preview.outbox import Outbox
from preview.pictures import Made
from preview.player import View
from preview.screen import Screen
from preview.session import MOST_WISHES, Session
from preview.sources import live_source, video_source
from preview.still_cache import Budget, StillCache
from preview.stills import Abandoned, decoded
from preview.studio import Studio
from tests.clips import make_clip
from tests.preview_tab import studio_of

PATIENCE = 120.0


class FakeLive:
    def __init__(self) -> None:
        self.closed, self.stale = False, False

    def close(self) -> None:
        self.closed = True


def wait_until(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.005)


def forever() -> bool:
    return True


def test_a_live_source_is_opened_once_and_closed_after_its_last_tab() -> None:
    made: list[FakeLive] = []

    def open_it(_: int) -> FakeLive:
        made.append(FakeLive())
        return made[-1]

    lives = LiveSources(open_it)
    first, second = lives.take(0, forever), lives.take(0, forever)
    assert first is second
    lives.give_back(first)
    assert not first.closed
    lives.give_back(first)
    assert first.closed
    again = lives.take(0, forever)
    assert again is not first
    again.stale = True
    fresh = lives.take(0, forever)
    assert again.closed, "a camera cannot be opened twice"
    assert fresh is made[2]
    lives.give_back(again)
    assert not fresh.closed, "that was the stale one's tab"
    lives.close()
    assert fresh.closed


def test_a_live_source_that_takes_long_holds_up_no_other_and_can_be_left() -> None:
    go, late = threading.Event(), FakeLive()

    def open_it(number: int) -> FakeLive:
        if number == 0:
            go.wait(PATIENCE)
            return late
        return FakeLive()

    lives = LiveSources(open_it)
    asked = iter([True, False])
    with pytest.raises(Abandoned):
        lives.take(0, lambda: next(asked))
    assert not lives.take(1, forever).closed
    go.set()
    wait_until(lambda: late.closed)
    lives.close()


def test_a_live_source_that_does_not_open_is_tried_again() -> None:
    tries: list[int] = []

    def open_it(number: int) -> FakeLive:
        tries.append(number)
        if len(tries) == 1:
            raise InputError("no answer")
        return FakeLive()

    lives = LiveSources(open_it)
    with pytest.raises(InputError, match="no answer"):
        lives.take(0, forever)
    assert not lives.take(0, forever).closed
    lives.close()


def test_other_tabs_go_on_while_a_live_source_opens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    go, opening = threading.Event(), threading.Event()

    def open_live(*_: object) -> FakeLive:
        opening.set()
        go.wait(PATIENCE)
        return FakeLive()

    monkeypatch.setattr("preview.studio.open_live", open_live)
    studio = studio_of([live_source("rtsp://cam/stream"), video_source(tmp_path / "a.mp4", None)])
    tab = threading.Thread(target=studio.live.take, args=(0, forever))
    tab.start()
    assert opening.wait(PATIENCE)
    told: list[dict] = []
    studio.listen("other tab", 1, told.append)
    studio.media(1)
    studio.forget("other tab")
    assert told, "and the source is still being opened"
    assert not go.is_set()
    go.set()
    tab.join()
    studio.close()


class SlowConversion:
    """Takes a while to start, as Popen does."""

    made: list[SlowConversion] = []  # noqa: RUF012

    def __init__(self, *_: object, **__: object) -> None:
        self.now = "idle"
        self.made.append(self)

    def state(self) -> dict[str, Any]:
        return {"state": self.now}

    def start(self) -> None:
        if self.now != "idle":
            raise InputError("it runs")
        time.sleep(0.2)
        self.now = "running"

    def close(self) -> None:
        self.now = "closed"


def test_starts_of_several_tabs_at_once_make_one_conversion(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("preview.conversion.Conversion", SlowConversion)
    SlowConversion.made.clear()
    studio, refused = studio_of([tmp_path / "a.mp4"]), []

    def start() -> None:
        try:
            studio.convert(0, "start", "{}")
        except InputError as error:
            refused.append(error)

    tabs = [threading.Thread(target=start) for _ in range(4)]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join()
    assert len(SlowConversion.made) == 1
    assert len(refused) == 3
    studio.close()
    assert SlowConversion.made[0].now == "closed"


def test_a_wish_too_many_is_said_and_not_lost_in_silence() -> None:
    go = threading.Event()

    class Busy:
        sources = (None,)

        def settings(self) -> None:
            go.wait(PATIENCE)
            raise InputError("over")

    async def run() -> None:
        outbox = Outbox(asyncio.get_running_loop())
        session = Session(Busy(), outbox)
        for _ in range(MOST_WISHES + 3):
            session.receive('{"do":"convert","command":"start"}')
        told = [json.loads(outbox._take()) for _ in range(len(outbox._texts))]
        assert [one["is"] for one in told] == ["error"] * 3
        assert "this one is left out" in told[0]["text"]
        go.set()
        session.close()
        assert session.join(PATIENCE)

    asyncio.run(run())


def made_frame(number: int) -> Made:
    out = OutputSpec("pq", 203.0, 1000.0)
    frames = torch.full((1, 3, 48, 64), 0.1 + 0.02 * (number % 20))
    y, u, v = pack(frames, out, torch.tensor([number]))
    packed = PackedFrame(y[0], u[0], v[0], light.measure(y, u, v, out.transfer)[0], 0.0)
    return Made(number, packed, Restored(frames, frames, frames), out)


def play(stream: HdrStream, frames: int) -> None:
    """So many frames of 25 a second, none of which is left out."""
    for number in range(frames):
        wait_until(lambda: not stream._frames.full())
        stream.write(made_frame(number), number / 25)


def fragments(outbox: Outbox) -> list[dict]:
    found = []
    while outbox._fragments:
        message = outbox._take()
        found.append(json.loads(message[4 : 4 + int.from_bytes(message[:4], "big")]))
    return found


def test_hdr_video_that_is_played_to_its_end_holds_every_frame() -> None:
    async def run() -> None:
        outbox = Outbox(asyncio.get_running_loop())
        stream = HdrStream(outbox, "av1", Fraction(25), pytest.fail)
        play(stream, 7)
        stream.close(finish=True)
        pieces = [one for one in fragments(outbox) if not one["init"]]
        assert pieces[0]["first_frame"] == 0
        assert sum(one["duration_seconds"] for one in pieces) == pytest.approx(7 / 25)

    asyncio.run(run())


def test_hdr_video_for_a_slow_client_makes_no_encoder_for_every_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []

    class Video:
        codec_string = "av01"

        def __init__(self, *_: object, **__: object) -> None:
            opened.append(len(opened))
            self.written = 0

        def write(self, *_: object) -> list[hdr_stream.Fragment]:
            self.written += 1
            init = [hdr_stream.Fragment(True, b"i", 0, 0.0, 0.0)] if self.written == 1 else []
            return [*init, hdr_stream.Fragment(False, b"x", self.written - 1, 0.0, 0.04)]

        def close(self) -> list[hdr_stream.Fragment]:
            return []

        def abandon(self) -> None:
            pass

    monkeypatch.setattr(hdr_stream, "HdrVideo", Video)

    async def run() -> None:
        outbox = Outbox(asyncio.get_running_loop())
        stream = HdrStream(outbox, "av1", Fraction(25), pytest.fail)
        frame = made_frame(0)
        for number in range(100):
            wait_until(lambda: not stream._frames.full())
            stream.write(frame, number / 25)
        wait_until(lambda: stream._frames.empty())
        assert len(opened) == 1, "the client took nothing since"
        assert len(fragments(outbox)) == VIDEO_FRAGMENTS_WAITING
        stream.write(frame, 100.0)
        wait_until(lambda: len(opened) == 2)
        wait_until(lambda: outbox._fragments)
        assert fragments(outbox)[0]["init"]
        stream.close()

    asyncio.run(run())


def test_an_hdr_encoder_that_fails_is_told_and_closing_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("no such shape")

    monkeypatch.setattr(hdr_stream, "HdrVideo", fail)

    async def run() -> None:
        told: list[str] = []
        stream = HdrStream(Outbox(asyncio.get_running_loop()), "av1", Fraction(25), told.append)
        stream.write(made_frame(0), 0.0)
        wait_until(lambda: told)
        stream.close(finish=True)
        assert not stream._thread.is_alive()
        assert told == ["ValueError: no such shape"]

    asyncio.run(run())


def test_a_view_without_video_closes_the_stream_whatever_the_lanes_do(monkeypatch: pytest.MonkeyPatch) -> None:
    streams: list[Any] = []

    class Stream:
        def __init__(self, _: object, codec: str, *__: object) -> None:
            self.codec, self.closed, self.late = codec, False, 0
            streams.append(self)

        def write(self, *_: object) -> None:
            time.sleep(0.0001)
            self.late += self.closed

        def close(self, **_: object) -> None:
            self.closed = True

    monkeypatch.setattr("preview.screen.HdrStream", Stream)
    studio = Studio([live_source("rtsp://cam/stream")], "dashcam", None, [])
    screen = Screen(studio, studio.settings(), None, forever, forever, lambda: None)
    screen._plan = SimpleNamespace(tracks=[SimpleNamespace(rate=25)])
    errors, over = [], threading.Event()

    def lane() -> None:
        try:
            while not over.is_set():
                screen._made(made, (), 0.0)
                time.sleep(0.0002)  # a lock is not given in turn
        except Exception as error:  # noqa: BLE001 - told below
            errors.append(error)

    made = made_frame(0)
    lanes = [threading.Thread(target=lane) for _ in range(2)]
    for one in lanes:
        one.start()
    for _ in range(100):
        screen.look(View(video=True))
        wait_until(lambda: screen._stream is not None or errors)
        screen.look(View(video=False))
    over.set()
    for one in lanes:
        one.join()
    assert not errors
    assert len(streams) == 100
    assert all(one.closed and not one.late for one in streams)
    screen.close()
    studio.close()


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """Two hundred frames after one keyframe."""
    clip = make_clip(tmp_path_factory.mktemp("far") / "a.mp4", frames=200, gop=200, bframes=0)
    return Media(video_source(clip, None)).plan(load_config("preview", None, ["model=neutral"]))


def test_decoding_far_from_a_keyframe_can_be_broken_off(far: Planned) -> None:
    asked: list[int] = []

    def until(count: int) -> Callable[[], bool]:
        def wanted() -> bool:
            asked.append(len(asked))
            return len(asked) < count

        return wanted

    with pytest.raises(Abandoned):
        decoded(far, 190, range(190, 191), until(20))
    assert len(asked) == 20
    span = far.track.spans[0]
    with pytest.raises(DecodingStopped):
        list(decode_span(far.path, 0, far.index, span, deinterlace=False, should_stop=lambda: True))


def test_a_feed_that_is_closed_reads_no_further(far: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import decode

    read, count, go_on = decode.read_packets, [], threading.Event()

    def slowly(*words: object) -> Any:  # noqa: ANN401
        for item in read(*words):
            count.append(item[0])
            if len(count) == 5:
                go_on.wait(PATIENCE)
            yield item

    monkeypatch.setattr(decode, "read_packets", slowly)
    feed = VideoFeed(far, 190)
    wait_until(lambda: len(count) == 5)
    closing = threading.Thread(target=feed.close, daemon=True)
    closing.start()
    wait_until(lambda: feed._closed)
    go_on.set()
    closing.join()
    assert len(count) < 150, "no frame of its own has come out by then"
    assert not feed._thread.is_alive()
    assert feed.error is None


def test_caches_share_what_there_is() -> None:
    budget = Budget(120)
    one = StillCache(2, budget)
    for number in range(20):
        one.keep((number,), number, 10)
    assert [number for number in range(20) if one.get((number,)) is not None] == list(range(8, 20))
    other = StillCache(2, budget)
    assert [number for number in range(20) if one.get((number,)) is not None] == list(range(14, 20))
    one.get((14,))
    one.keep((20,), 20, 10)
    assert one.get((14,)) == 14, "asked for a moment ago"
    assert one.get((15,)) is None
    for number in range(3):
        other.keep((number,), number, 1000)
    assert [other.get((number,)) for number in range(3)] == [None, 1, 2], "the least is kept whatever it needs"
    one.close()
    assert one.get((20,)) is None
    assert budget.share_bytes() == 120
