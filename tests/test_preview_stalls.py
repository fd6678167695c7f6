"""Encoders for the browser that stand still: they are given up for others, and nobody waits for them."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import threading
from fractions import Fraction

import pytest

from preview import encoder_thread, hdr_stream
from preview.encoder_thread import EncoderThread
from preview.hdr_stream import HdrStream
from preview.hdr_video import HdrVideo
from preview.outbox import Outbox
from tests.test_preview_shared import fragments, play, wait_until


def encoders() -> set[threading.Thread]:
    """Threads of encoders; one of an earlier test may stand still for good."""
    return {one for one in threading.enumerate() if one.name == "encoder"}


def test_calls_are_made_in_order_in_another_thread_and_their_errors_come_back() -> None:
    before = encoders()
    thread, seen = EncoderThread(), []
    assert thread.call(threading.get_ident) != threading.get_ident()
    for number in range(3):
        thread.call(seen.append, number)
    assert seen == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        thread.call(divmod, 1, 0)
    thread.end()
    wait_until(lambda: encoders() <= before)


def test_after_one_call_too_long_no_other_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_thread, "STALL_SECONDS", 0.2)
    thread, go_on, seen = EncoderThread(), threading.Event(), []
    with pytest.raises(TimeoutError):
        thread.call(go_on.wait)
    monkeypatch.setattr(encoder_thread, "STALL_SECONDS", 1000.0)
    with pytest.raises(TimeoutError):
        thread.call(seen.append, "freed")
    go_on.set()
    wait_until(lambda: seen == ["freed"])
    thread.end()


def test_a_call_that_never_returns_does_not_keep_the_process() -> None:
    code = (
        "import threading; from preview import encoder_thread as e; e.STALL_SECONDS = 0.2; thread = e.EncoderThread()\n"
        "try: thread.call(threading.Event().wait)\nexcept TimeoutError: print('given up')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout, done.stderr) == (0, "given up\n", "")


def stall(monkeypatch: pytest.MonkeyPatch, numbers: set[int]) -> threading.Event:
    """These encoders, in the order they are made, stand still in C at their second frame; until the event is set."""
    go_on, made = threading.Event(), itertools.count()
    monkeypatch.setattr(encoder_thread, "_lost", set())
    usual = HdrVideo._mux

    def mux(self: HdrVideo, picture: object) -> None:
        if not self._written and picture is not None:
            self.number = next(made)
        if self._written == 1 and self.number in numbers:
            go_on.wait()
        usual(self, picture)

    monkeypatch.setattr(HdrVideo, "_mux", mux)
    monkeypatch.setattr(encoder_thread, "STALL_SECONDS", 6.0)
    return go_on


def test_an_hdr_encoder_that_stands_still_is_given_up_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames 0 and 1 are lost in it; its thread is freed when it goes on after all."""
    go_on, before = stall(monkeypatch, {0}), encoders()

    async def run() -> None:
        outbox = Outbox(asyncio.get_running_loop())
        stream = HdrStream(outbox, "av1", Fraction(25), pytest.fail)
        play(stream, 8)
        stream.close(finish=True)
        pieces = fragments(outbox)
        assert [one["first_frame"] for one in pieces if not one["init"]] == [2, 6]
        assert [one["init"] for one in pieces] == [True, True, False, False]
        assert encoders() > before
        go_on.set()
        wait_until(lambda: encoders() <= before)

    asyncio.run(run())


def test_when_too_many_hdr_encoders_stand_still_it_is_done_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_thread, "MOST_LOST", 2)
    go_on = stall(monkeypatch, {0, 1})

    async def run() -> None:
        told: list[str] = []
        stream = HdrStream(Outbox(asyncio.get_running_loop()), "av1", Fraction(25), told.append)
        play(stream, 6)
        wait_until(lambda: told)
        stream.close(finish=True)
        assert told == ["2 encoders stand still in this process; start the preview again for HDR video."]

    asyncio.run(run())
    go_on.set()
    wait_until(lambda: not encoder_thread._lost)


def test_a_stream_that_is_closed_encodes_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Video:
        codec_string, written = "av01", 0

        def __init__(self, *_: object, **__: object) -> None:
            begun.set()
            go_on.wait()

        def write(self, *_: object) -> list[hdr_stream.Fragment]:
            Video.written += 1
            return []

        def abandon(self) -> None:
            pass

    monkeypatch.setattr(hdr_stream, "HdrVideo", Video)

    async def run() -> None:
        stream = HdrStream(Outbox(asyncio.get_running_loop()), "av1", Fraction(25), pytest.fail)
        play(stream, 3)
        assert begun.wait(120)
        closing = threading.Thread(target=stream.close, daemon=True)
        closing.start()
        wait_until(lambda: stream._finishing is not None)
        go_on.set()
        closing.join()
        assert Video.written == 1

    asyncio.run(run())
