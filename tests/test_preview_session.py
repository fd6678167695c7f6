"""Preview, one tab: what it is sent for what it wishes, and what is left when it is closed."""

from __future__ import annotations

import asyncio
import itertools
import shlex
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from configs.schema import load_config
from pipeline.index import VideoIndex
from pipeline.looks import Looks
from pipeline.plan import Plan
from preview import outbox
from preview.feeds import Due
from preview.ladder import Rung
from preview.limits import CLOSE_SECONDS, PICTURES_IN_FLIGHT
from preview.media import Media
from preview.pictures import Made, picture
from preview.player import Player
from preview.screen import Screen
from preview.sources import pictures_source, video_source
from preview.stills import Stills
from run_pipeline import build_parser
from tests.clips import make_clip
from tests.preview_tab import Tab, opened_tab, studio_of, with_tab


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("preview") / "a drive.mp4", frames=60, gop=12, width=96, height=64)


def decoded(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def still(source: Path, number: int, words: list[str], profile: str = "dashcam", config: Path | None = None) -> tuple:
    """A fresh plan's settings hash, the exact planes of a frame, and its tone-mapped picture."""
    planned = Media(video_source(source, None)).plan(load_config(profile, config, words))
    stills = Stills()
    made = stills.make(planned, number, lambda: True)
    stills.close()
    return planned.plan.settings_hash, (made.packed.y, made.packed.u, made.packed.v), picture(made, "hdr")


def test_a_source_is_opened_shown_and_stepped_through(clip: Path) -> None:
    async def test(tab: Tab) -> None:
        hello = await tab.kind("hello")
        assert hello["sources"] == [{"name": "a drive.mp4", "kind": "video"}]
        assert str(clip.parent) not in str(hello), "paths are the server's"
        assert {"profile", "model", "temporal.radius", "grade.peak_nits"} <= {knob["key"] for knob in hello["knobs"]}
        tab.send("open", source=0)
        opened = await tab.kind("opened")
        assert (opened["width"], opened["height"], opened["frames"], opened["live"]) == (96, 64, 60, False)
        assert (opened["fps"], opened["duration_seconds"]) == (25.0, 2.4)
        first = await tab.exact(0)
        assert list(first["data"]) == ["sdr", "hdr"]
        assert {part["type"] for part in first["parts"]} == {"image/png"}
        assert np.array_equal(decoded(first["data"]["hdr"]), still(clip, 0, [])[2])
        tab.send("show", frame=31)
        assert (await tab.exact(31))["seconds"] == pytest.approx(31 / 25)
        tab.send("show", frame=10**9)
        await tab.exact(59)
        scopes = await tab.wait(lambda one: one["is"] == "scopes" and one["frame"] == 59)
        assert sum(scopes["histogram"]["hdr"]) == pytest.approx(1, abs=1e-3)
        assert len(scopes["histogram"]["edges_nits"]) == len(scopes["histogram"]["sdr"]) + 1
        assert scopes["max_cll_so_far_nits"] >= scopes["max_cll_nits"] > 0
        assert not [one for one in tab.received if one["is"] == "error"]

    with_tab(studio_of([clip]), test)


def test_saved_yaml_and_command_give_convert_the_frame_that_was_shown(clip: Path, tmp_path: Path) -> None:
    async def test(tab: Tab) -> None:
        tab.send("open", source=0)
        await tab.exact(0)
        values = {
            "profile": "night",
            "grade.exposure_stops": 0.35,
            "grade.peak_nits": 1200,
            "reconstruct.scale": 0.5,
            "overlay.find": False,
        }
        tab.send("set", values=values)
        settings = await tab.wait(lambda one: one["is"] == "settings" and one["values"]["profile"] == "night")
        assert settings["values"]["grade.white_nits"] == 160
        assert set(settings["changed"]) == set(values) - {"profile"}
        since = len(tab.received)
        tab.send("show", frame=7)
        shown = await tab.exact(7, since)
        tab.send("save")
        saved = await tab.kind("saved")
        path = tmp_path / saved["name"]
        path.write_text(saved["yaml"])
        by_yaml = still(clip, 7, [], config=path)
        assert np.array_equal(decoded(shown["data"]["hdr"]), by_yaml[2])
        program, *line = shlex.split(saved["command"])
        assert program == "run_pipeline.py"
        args, words = build_parser().parse_known_args(line)
        assert args.words == [str(clip)]
        assert Path(args.output) == clip.with_name("a drive_hdr.mp4")
        by_command = still(clip, 7, words, args.profile, args.config)
        assert by_yaml[0] == by_command[0], "settings_hash"
        assert all(torch.equal(one, other) for one, other in zip(by_yaml[1], by_command[1], strict=True))
        plain = still(clip, 7, [])
        assert plain[0] != by_yaml[0]
        assert not torch.equal(plain[1][0], by_yaml[1][0])

    with_tab(studio_of([clip]), test)


def test_grade_knobs_change_the_picture_and_reset_brings_it_back(clip: Path) -> None:
    async def test(tab: Tab) -> None:
        tab.send("open", source=0)
        first = await tab.exact(0)
        since = len(tab.received)
        for step in range(1, 20):
            tab.send("set", values={"grade.exposure_stops": step / 20})
        await tab.wait(lambda one: one["is"] == "settings" and one["values"]["grade.exposure_stops"] == 0.95, since)
        wanted = still(clip, 0, ["grade.exposure_stops=0.95"])[2]

        def is_turned(one: dict) -> bool:
            exact = one["is"] == "picture" and one["exact"] and one["frame"] == 0
            return exact and np.array_equal(decoded(one["data"]["hdr"]), wanted)

        turned = await tab.wait(is_turned, since)
        assert turned["data"]["hdr"] != first["data"]["hdr"]
        assert turned["data"]["sdr"] == first["data"]["sdr"]
        since = len(tab.received)
        tab.send("reset")
        assert (await tab.exact(0, since))["data"]["hdr"] == first["data"]["hdr"]
        since = len(tab.received)
        tab.send("view", layers=["mask", "difference", "hdr"], exposure_stops=-2)
        dived = await tab.exact(0, since)
        assert list(dived["data"]) == ["mask", "difference", "hdr"]
        assert dived["data"]["hdr"] != first["data"]["hdr"]

    with_tab(studio_of([clip]), test)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "7", '"do"', "{}", '{"do":7}', '{"do":"rm"}', '{"do":"open"}', '{"do":"open","source":-1}', '{"do":"open","source":1}', '{"do":"open","source":"/etc/passwd"}', '{"do":"open","source":0,"path":"/etc/passwd"}', '{"do":"show","frame":1e400}', '{"do":"show","frame":-1}', '{"do":"show","frame":true}', '{"do":"set"}', '{"do":"set","values":[]}', '{"do":"set","values":{"output.preset":"slow"}}', '{"do":"set","values":{"model":"/etc/passwd"}}', '{"do":"set","values":{"grade.peak_nits":NaN}}', '{"do":"set","values":{"grade.peak_nits":1e9}}', '{"do":"set","values":{"grade.peak_nits":"600"}}', '{"do":"set","values":{"temporal.radius":1.5}}', '{"do":"set","values":{"overlay.find":"yes"}}', '{"do":"set","values":{"profile":["night"]}}', '{"do":"view","layers":["/etc"]}', '{"do":"view","width":-5}', '{"do":"view","exposure_stops":Infinity}', '{"do":"convert","command":"rm"}', '{"do":"convert","command":"pause"}', '{"do":"play","loop":1}', '{"do":"ack","number":null}', "[" * 5000],
)  # fmt: skip
def test_what_is_not_legal_is_answered_and_nothing_changes(clip: Path, text: str) -> None:
    async def test(tab: Tab) -> None:
        tab.send("view", layers=["sdr"], scopes=False)
        tab.send("open", source=0)
        before = await tab.kind("settings")
        since = len(tab.received)
        tab.session.receive(text)
        assert (await tab.kind("error", since))["text"]
        since = len(tab.received)
        tab.send("set", values={"grade.saturation": 0.5})
        after = await tab.kind("settings", since)
        after = await tab.wait(lambda one: one["is"] == "settings" and one["changed"] == ["grade.saturation"], since)
        assert after["values"] == before["values"] | {"grade.saturation": 0.5}

    with_tab(studio_of([clip], ["model=neutral"], "preview"), test)


def test_knobs_that_do_not_go_together_stay_as_they_were(clip: Path) -> None:
    async def test(tab: Tab) -> None:
        tab.send("open", source=0)
        await tab.kind("opened")
        tab.send("set", values={"grade.white_nits": 900, "grade.peak_nits": 300})
        assert "peak" in (await tab.kind("error"))["text"]
        since = len(tab.received)
        tab.send("set", values={"grade.white_nits": 250})
        settings = await tab.wait(lambda one: one["is"] == "settings" and one["changed"], since)
        assert (settings["values"]["grade.white_nits"], settings["values"]["grade.peak_nits"]) == (250, 1000)

    with_tab(studio_of([clip], ["model=neutral"], "preview"), test)


def test_playing_shows_rising_frames_and_pausing_the_exact_one(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts, start = [], Screen._start
    monkeypatch.setattr(Screen, "_start", lambda self: (starts.append(1), start(self)))

    async def test(tab: Tab) -> None:
        tab.send("open", source=0)
        await tab.exact(0)
        since = len(tab.received)
        tab.send("play", loop=True)
        await tab.wait(lambda one: one["is"] == "picture" and one["frame"] > 0, since)
        playing = await tab.wait(lambda one: one["is"] == "state" and one["playing"] and one["frame"] > 0, since)
        await asyncio.sleep(1)
        tab.send("pause")
        paused = await tab.wait(lambda one: one["is"] == "state" and not one["playing"], tab.after(playing))
        exact = await tab.exact(paused["frame"], since)
        played = [one for one in tab.received[since:] if one["is"] == "picture" and not one["exact"]]
        assert {part["type"] for one in played for part in one["parts"]} == {"image/jpeg"}
        frames = [one["frame"] for one in played if one["number"] < exact["number"]]
        goes_back = [other for one, other in itertools.pairwise(frames) if other < one]
        assert len(goes_back) < len(starts), "frames go back when it loops, and else never"
        assert [one["number"] for one in played] == sorted(one["number"] for one in played)

    with_tab(studio_of([clip], ["model=neutral"], "preview"), test)


def test_playing_to_the_end_stops_at_the_last_frame(clip: Path) -> None:
    async def test(tab: Tab) -> None:
        tab.send("open", source=0)
        await tab.exact(0)
        since = len(tab.received)
        tab.send("play", frame=50)
        await tab.exact(59, since)
        state = await tab.wait(lambda one: one["is"] == "state" and not one["playing"] and one["frame"] == 59, since)
        assert state["quality"]["text"] == ""

    with_tab(studio_of([clip], ["model=neutral"], "preview"), test)


def test_the_last_frame_is_shown_however_long_it_takes(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Player._make

    def slowly(self: Player, due: Due, plan: Plan, rung: Rung) -> Made:
        if due.number == 59:
            time.sleep(1.5)
        return make(self, due, plan, rung)

    monkeypatch.setattr(Player, "_make", slowly)

    async def test(tab: Tab) -> None:
        tab.send("open", source=0)
        await tab.exact(0)
        since = len(tab.received)
        tab.send("play", frame=55)
        exact = await tab.wait(lambda one: one["is"] == "picture" and one["exact"] and one["frame"] > 50, since)
        assert exact["frame"] == 59

    with_tab(studio_of([clip], ["model=neutral"], "preview"), test)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that draws nothing is waited for, however long a test takes."""
    monkeypatch.setattr(outbox, "ACK_SECONDS", 1000.0)


@pytest.mark.usefixtures("patient")
def test_a_client_that_draws_nothing_gets_two_pictures_and_then_none(clip: Path) -> None:
    async def test(tab: Tab) -> None:
        tab.send("open", source=0)
        tab.send("play", loop=True)
        first = await tab.kind("picture")
        await tab.kind("picture", tab.after(first))
        await asyncio.sleep(2)  # in which a third would come
        pictures = [one for one in tab.received if one["is"] == "picture"]
        assert len(pictures) == PICTURES_IN_FLIGHT
        since = len(tab.received)
        tab.send("ack", number=pictures[-1]["number"])
        await tab.kind("picture", since)

    with_tab(studio_of([clip], ["model=neutral"], "preview"), test, draws=False)


@pytest.mark.usefixtures("patient")
def test_the_exact_picture_waits_for_a_slow_client_and_comes_with_its_ack(clip: Path) -> None:
    async def test(tab: Tab) -> None:
        tab.send("view", layers=["sdr"], scopes=False)
        tab.send("open", source=0)
        await tab.wait(lambda one: one["is"] == "state")
        for frame in (3, 9, 20):
            tab.send("show", frame=frame)
            await tab.wait(lambda one, frame=frame: one["is"] == "state" and one["frame"] == frame)
        pictures = [one for one in tab.received if one["is"] == "picture"]
        assert len(pictures) == PICTURES_IN_FLIGHT
        assert all(one["frame"] < 20 for one in pictures)
        since = len(tab.received)
        tab.send("ack", number=pictures[0]["number"])
        assert (await tab.exact(20, since))["number"] > pictures[-1]["number"]

    with_tab(studio_of([clip], ["model=neutral"], "preview"), test, draws=False)


def open_files() -> set[str]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(str(entry.readlink()))
        except FileNotFoundError:
            continue
    return {name for name in found if name.startswith("/") and not name.startswith("/dev")}


def test_a_closed_tab_leaves_no_thread_no_file_and_no_frame(clip: Path) -> None:
    studio = studio_of([clip], ["model=neutral"], "preview")

    async def visit(frames: int) -> None:
        async with opened_tab(studio) as tab:
            tab.send("open", source=0)
            await tab.exact(0)
            tab.send("play", loop=True)
            await tab.wait(lambda one: one["is"] == "picture" and one["frame"] >= frames)
            until = time.monotonic() + 60
            while str(clip) not in open_files():  # it is closed where a loop's last frames are decoded
                assert time.monotonic() < until
                await asyncio.sleep(0.01)
            tab.session.close()
            started = time.monotonic()
            assert await asyncio.to_thread(tab.session.join, 60)
            assert (
                time.monotonic() - started < 10 * CLOSE_SECONDS
            )  # a frame under way is finished first, on a machine that others use too

    asyncio.run(visit(1))
    before, files = {one.name for one in threading.enumerate()}, open_files()
    for _ in range(3):
        asyncio.run(visit(2))
    assert {one.name for one in threading.enumerate() if one.name.startswith(("tab", "play", "still", "hdr"))} == set()
    assert {one.name for one in threading.enumerate()} <= before
    assert open_files() <= files
    assert str(clip) not in open_files()
    studio.close()


def test_tabs_share_what_was_found_out_about_a_source(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Path] = []
    index = Looks.index

    def counted(self: Looks, source: Path, *rest: object) -> VideoIndex:
        looked.append(source)
        return index(self, source, *rest)

    monkeypatch.setattr(Looks, "index", counted)
    studio = studio_of([clip], ["model=neutral"])

    async def run() -> None:
        async with opened_tab(studio) as one, opened_tab(studio) as other:
            for tab in (one, other):
                tab.send("open", source=0)
            one.send("set", values={"grade.saturation": 0.0})
            first, second = await one.exact(0), await other.exact(0)
            one.send("show", frame=3)
            await one.exact(3)
            assert first["data"]["sdr"] == second["data"]["sdr"]
            changed = [tab.received[-1] for tab in (one, other)]
            assert changed
            assert not [message for message in other.received if message["is"] == "settings" and message["changed"]]

    asyncio.run(run())
    studio.close()
    assert looked == [clip]


def test_a_source_that_is_no_video_is_told_and_the_others_can_be_opened(clip: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\0" * 5000)

    async def test(tab: Tab) -> None:
        tab.send("open", source=0)
        assert "broken.mp4" in (await tab.kind("error"))["text"]
        tab.send("open", source=1)
        await tab.exact(0)

    with_tab(studio_of([broken, clip], ["model=neutral"], "preview"), test)


def test_a_look_that_fails_is_told_once(clip: Path) -> None:
    async def test(tab: Tab) -> None:
        tab.send("open", source=0)
        assert "does not fit" in (await tab.kind("error"))["text"]
        await asyncio.sleep(1)
        assert sum(one["is"] == "error" for one in tab.received) == 1

    with_tab(studio_of([clip], ["model=neutral", "overlay.boxes=[[90,60,50,50]]"]), test)


def test_numbered_pictures_are_shown_as_convert_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.sequence import find_runs

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / "frames"
    folder.mkdir()
    codes = np.zeros((48, 64, 3), np.uint8)
    for number in range(5):
        codes[:, :, :] = 40 + number * 20
        cv2.imwrite(str(folder / f"{number:04d}.png"), codes)
    source = pictures_source(find_runs(folder)[0], None, alone=True)

    async def test(tab: Tab) -> None:
        tab.send("open", source=0)
        opened = await tab.kind("opened")
        assert (opened["frames"], opened["fps"]) == (5, 10.0)
        tab.send("show", frame=4)
        sdr = decoded((await tab.exact(4))["data"]["sdr"])
        assert abs(int(sdr[24, 32, 0]) - 120) <= 1, "sRGB in, sRGB out"
        tab.send("save")
        command = shlex.split((await tab.kind("saved"))["command"])
        assert command[2:5] == [str(folder), "--output", str(tmp_path / "frames_hdr.mp4")]
        assert "input.fps=10" in command
        assert list(tmp_path.glob("sunvisor_preview_*/pictures.mov"))

    studio = studio_of([source], ["model=neutral", "input.fps=10"])
    with_tab(studio, test)
    assert not list(tmp_path.glob("sunvisor_preview_*"))
