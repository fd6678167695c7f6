"""Preview as a whole: the command, live sources, HDR video, and conversions from the page."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import torch

from pipeline.color import ColorSpec, PixelLayout
from preview.live import LiveFrame
from preview.sources import live_source
from run_pipeline import main
from tests.clips import make_clip
from tests.preview_tab import Tab, opened_tab, studio_of, with_tab
from tests.processes import descendants, stat_fields

COMMAND = [sys.executable, "run_pipeline.py", "preview"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("run") / "a.mp4", frames=40, gop=20, width=96, height=64)


@contextlib.contextmanager
def started(*words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A preview and the address that it printed."""
    command = [*COMMAND, *words, "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith("Preview: http://"), process.stderr.read()
        yield process, line.split()[1]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def get(address: str) -> int:
    try:
        with urllib.request.urlopen(address, timeout=120) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_the_command_prints_its_address_serves_and_ends_on_ctrl_c(clip: Path) -> None:
    with started(str(clip), "--port", "0") as (process, address):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        assert get(address) == 200
        port = address.split(":")[2].strip("/")
        second = subprocess.run([*COMMAND, str(clip), "--port", port], capture_output=True, text=True, timeout=120)
        assert second.returncode == 2
        assert f"--port {port}: cannot listen there" in second.stderr
        assert "Traceback" not in second.stderr
        assert get(address) == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()


def test_beyond_loopback_the_address_holds_a_token(clip: Path) -> None:
    with started(str(clip), "--port", "0", "--host", "0.0.0.0") as (_, address):
        token = re.fullmatch(r"http://0\.0\.0\.0:(\d+)/\?token=([\w-]{32,})", address)
        assert token
        here = f"http://127.0.0.1:{token[1]}/"
        assert get(here) == 401
        assert get(f"{here}?token={token[2]}") == 200


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["grade.peak_nits=600"], "no input named"),
        (["CLIP", "grade.peak=600"], "did you mean"),
        (["CLIP", "--profile", "none"], "legal: archive"),
        (["CLIP", "--port", "99999"], "0 to 65535"),
        (["CLIP", "--host", "not.an.address.invalid"], "--host"),
        (["CLIP", "--token", "short"], "8 or more"),
    ],
)
def test_what_the_user_can_mend_is_told_with_exit_code_2(
    clip: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(clip) if word == "CLIP" else word for word in words]
    assert main(["preview", "--no-browser", "--port", "0", *words]) == 2
    assert told in capsys.readouterr().err


def test_a_file_that_is_not_there_is_told_by_the_server(clip: Path) -> None:
    """It looks for its sources in a process that it was forked to, so not in this one."""
    command = [*COMMAND, str(clip.with_name("no_such_file.mp4")), "--no-browser", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "no such file" in done.stderr and "Traceback" not in done.stderr


class FakeLive:
    """A camera that gives a grey frame ten times a second, brighter each time."""

    width, height, rate, note = 96, 64, Fraction(10), ""
    layout, color = PixelLayout("420", 8), ColorSpec("bt709", "limited", "bt1886", "bt709", "left")
    color_reasons: dict[str, str] = {}  # noqa: RUF012
    stale = False

    def __init__(self) -> None:
        self.began, self.closed = time.monotonic(), False

    def newest(self, after: int = -1, wait_seconds: float = 0.0) -> LiveFrame | None:
        until = time.monotonic() + wait_seconds
        while (number := int((time.monotonic() - self.began) * 10)) <= after:
            if time.monotonic() > until:
                return None
            time.sleep(0.01)
        half = torch.full((32, 48), 128, dtype=torch.uint8)
        luma = torch.full((64, 96), 30 + number % 200, dtype=torch.uint8)
        return LiveFrame(number, (luma, half, half), False, self.began + number / 10)

    def close(self) -> None:
        self.closed = True


def test_a_live_source_plays_and_freezes(monkeypatch: pytest.MonkeyPatch) -> None:
    live = FakeLive()
    monkeypatch.setattr("preview.studio.open_live", lambda address, overrides: live)

    async def test(tab: Tab) -> None:
        tab.send("open", source=0)
        hello, opened = await tab.kind("hello"), await tab.kind("opened")
        assert hello["sources"] == [{"name": "rtsp://cam/stream", "kind": "live"}], "no password"
        assert (opened["live"], opened["frames"], opened["width"]) == (True, 0, 96)
        await tab.wait(lambda one: one["is"] == "picture" and one["frame"] >= 3)
        tab.send("set", values={"grade.saturation": 0.0})
        since = len(tab.received)
        tab.send("pause")
        frozen = await tab.wait(lambda one: one["is"] == "picture" and one["parts"][0]["type"] == "image/png", since)
        assert not frozen["exact"]
        since = len(tab.received)
        tab.send("set", values={"grade.exposure_stops": 1})
        again = await tab.wait(lambda one: one["is"] == "picture", since)
        assert again["frame"] == frozen["frame"]
        assert again["data"]["hdr"] != frozen["data"]["hdr"]
        tab.send("convert", command="start")
        assert "record it first" in (await tab.kind("error"))["text"]
        since = len(tab.received)
        tab.send("play")
        await tab.wait(lambda one: one["is"] == "picture" and one["frame"] > frozen["frame"], since)

    with_tab(studio_of([live_source("rtsp://me:secret@cam/stream")], ["model=neutral"]), test)
    assert live.closed


def test_a_live_source_that_changed_is_opened_anew_and_closed_with_its_last_tab(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lives: list[FakeLive] = []

    def open_live(*_: object) -> FakeLive:
        lives.append(FakeLive())
        return lives[-1]

    monkeypatch.setattr("preview.studio.open_live", open_live)
    studio = studio_of([live_source("rtsp://cam/stream")], ["model=neutral"])

    async def run() -> None:
        async with opened_tab(studio) as tab, opened_tab(studio) as other:
            for one in (tab, other):
                one.send("open", source=0)
                await one.wait(lambda message: message["is"] == "picture")
            assert len(lives) == 1
            since = len(tab.received), len(other.received)
            lives[0].stale = True
            for one, place in zip((tab, other), since, strict=True):
                opened = await one.kind("opened", place)
                await one.wait(lambda message: message["is"] == "picture", one.after(opened))
            assert lives[0].closed
            assert not lives[1].closed
        assert len(lives) == 2, "once for both"
        assert lives[1].closed, "nobody shows it, and the server goes on"

    asyncio.run(run())
    studio.close()


def test_hdr_video_comes_in_pieces_that_a_decoder_plays(clip: Path, tmp_path: Path) -> None:
    async def test(tab: Tab) -> None:
        codec = (await tab.kind("hello"))["video_codecs"][0]
        assert codec.startswith("av01")
        tab.send("view", layers=["sdr", "hdr"], video=True, codec=codec, scopes=False)
        tab.send("open", source=0)
        await tab.exact(0)
        since = len(tab.received)
        tab.send("play", loop=True)
        await tab.wait(lambda one: one["is"] == "video" and not one["init"] and one["first_frame"] > 3, since)
        tab.send("pause")
        pieces = [one for one in tab.received if one["is"] == "video"]
        assert pieces[0]["init"]
        assert pieces[0]["codec"].startswith("av01.0.")
        pictures = [one for one in tab.received[since:] if one["is"] == "picture" and not one["exact"]]
        assert {part["layer"] for one in pictures for part in one["parts"]} == {"sdr"}, "hdr comes as video"
        starts = [place for place, one in enumerate(pieces) if one["init"]]  # a picture of another size begins anew
        runs = [pieces[first:end] for first, end in itertools.pairwise([*starts, len(pieces)])]
        file = tmp_path / "pieces.mp4"
        file.write_bytes(b"".join(one["data"] for one in max(runs, key=len)))
        with av.open(str(file)) as container:
            frames = list(container.decode(video=0))
        assert frames
        assert frames[0].format.name == "yuv420p10le"
        assert frames[0].color_trc == 16

    with_tab(studio_of([clip], ["model=neutral"], "preview"), test)


class FakeConversion:
    """Remembers what it was made with and told."""

    made: list[FakeConversion] = []  # noqa: RUF012

    def __init__(self, words: tuple, output: Path, yaml: str, on_change: Any, *, overwrite: bool) -> None:  # noqa: ANN401
        self.words, self.output, self.yaml, self.on_change, self.overwrite = words, output, yaml, on_change, overwrite
        self.told, self.now = [], "idle"
        FakeConversion.made.append(self)

    def state(self) -> dict[str, Any]:
        return {"state": self.now, "output": str(self.output)}

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        if name.startswith("_"):
            raise AttributeError(name)

        def tell() -> None:
            self.told.append(name)
            self.now = {"start": "running", "pause": "paused", "resume": "running", "cancel": "idle", "close": "idle"}[
                name
            ]
            self.on_change(self.state())

        return tell


def test_a_conversion_is_started_with_what_is_shown_and_told_to_every_tab(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preview.conversion.Conversion", FakeConversion)
    FakeConversion.made.clear()

    async def test(tab: Tab) -> None:
        tab.send("open", source=0)
        assert (await tab.kind("conversion"))["state"] == "idle"
        tab.send("set", values={"grade.peak_nits": 700})
        for command, state in (("start", "running"), ("pause", "paused"), ("resume", "running")):
            since = len(tab.received)
            tab.send("convert", command=command)
            await tab.wait(lambda one, state=state: one["is"] == "conversion" and one["state"] == state, since)
        first = FakeConversion.made[0]
        assert first.words == (str(clip),)
        assert first.output == clip.with_name("a_hdr.mp4")
        assert "peak_nits: 700" in first.yaml
        assert not first.overwrite
        assert first.told == ["start", "pause", "resume"]
        first.now = "done"
        since = len(tab.received)
        tab.send("convert", command="start")
        await tab.wait(lambda one: one["is"] == "conversion" and one["state"] == "running", since)
        assert FakeConversion.made[1].overwrite, "it was made here"

    with_tab(studio_of([clip], ["model=neutral"], "preview"), test)
    assert FakeConversion.made[1].told[-1] == "close"


@pytest.mark.long  # tests/test_preview_browser_whole.py does so too, with a page that waits
def test_two_servers_follow_each_other_on_one_port(clip: Path) -> None:
    import aiohttp

    async def hello(address: str) -> dict[str, Any]:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{address}ws", max_msg_size=0) as socket:
            return json.loads((await socket.receive(timeout=120)).data)

    with started(str(clip), "--port", "0") as (process, address):
        assert asyncio.run(hello(address))["is"] == "hello"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with started(str(clip), "--port", address.split(":")[2].strip("/")) as (_, again):
        assert again == address
        assert asyncio.run(hello(again))["is"] == "hello"


def test_a_server_that_crashes_is_started_again_and_says_what_was_open(clip: Path, tmp_path: Path) -> None:
    other = make_clip(tmp_path / "b.mp4", frames=4, width=96, height=64)

    async def open_in_a_tab(
        address: str, source: int, last: str, then: Callable[[], None] = lambda: None
    ) -> dict[str, str]:
        """Open a source in a new tab; the texts that came, by kind, until one of kind `last` did. then: done while the tab shows it"""
        import aiohttp

        said: dict[str, str] = {}
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{address}ws", max_msg_size=0) as socket:
            await socket.send_json({"do": "open", "source": source})
            while last not in said:
                message = await socket.receive(timeout=120)
                if message.type is aiohttp.WSMsgType.TEXT:
                    facts = json.loads(message.data)
                    said[facts["is"]] = facts.get("text", "")
            then()
            while last == "opened" and not socket.closed:
                await socket.receive(timeout=120)
        return said

    words = [str(clip), str(other), "--profile", "preview", "model=neutral", "--port", "0"]
    with started(*words) as (process, address):

        def crash() -> None:
            (server,) = (pid for pid in descendants(process.pid) if stat_fields(pid)[1] == str(process.pid))
            os.kill(server, signal.SIGSEGV)

        assert "notice" not in asyncio.run(open_in_a_tab(address, 0, "opened", crash))
        once = f"The preview's server died (SIGSEGV) while {clip} was open, and was started again."
        assert process.stderr.readline() == f"{once}\n"
        assert asyncio.run(open_in_a_tab(address, 0, "opened", crash))["notice"] == once
        assert process.stderr.readline() == f"{once} {clip} is not opened any more: this was the second time.\n"
        assert "crashed twice while it was open" in asyncio.run(open_in_a_tab(address, 0, "error"))["error"]
        assert "error" not in asyncio.run(
            open_in_a_tab(address, 1, "opened", lambda: process.send_signal(signal.SIGINT))
        )
        assert process.wait(60) == 0
        assert process.stdout.read() == "", "the address is told once"
        assert "Traceback" not in process.stderr.read()


def test_a_start_loads_no_compiler_and_the_pipeline_no_web() -> None:
    code = "import sys, pipeline.convert; assert 'aiohttp' not in sys.modules; import preview.session; assert 'torch._dynamo' not in sys.modules; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=250)
