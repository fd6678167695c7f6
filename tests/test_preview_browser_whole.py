"""The preview as a whole, from a real browser: saving, converting, several tabs, a server that dies, and memory that does not grow."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path

import av
import numpy as np
import playwright.sync_api as web
import pytest
import torch
from torch import Tensor

from configs.schema import load_config, result_settings
from pipeline.color import OutputSpec
from pipeline.convert import convert
from pipeline.encode import SpanEncoder
from pipeline.engine import PackedFrame
from pipeline.light import LightLevels
from preview.tonemapping import nits_of, tone_mapped
from tests import browser as real
from tests import oracles
from tests.browser import FRAMES, HEIGHT, PATIENCE_MS, WIDTH
from tests.clips import make_clip
from tests.test_metrics import free_port

pytest_plugins = ["tests.browser_fixtures"]


def test_saved_settings_convert_to_the_picture_that_was_shown(
    tab: real.Tab, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tab.turn("grade.exposure_stops", 0.5)
    tab.turn("grade.peak_nits", 800)
    tab.turn("temporal.radius", 1)
    tab.page.keyboard.press("Shift+ArrowRight")
    tab.wait_exact(10)
    shown = tab.pixels("hdr")
    with tab.page.expect_download() as download:
        tab.page.locator("#save").click()
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    assert saved.name == "sunvisor.yaml"
    command = tab.text("#saved-command")
    words = shlex.split(command)
    assert words[:3] == ["run_pipeline.py", "convert", str(clip)]
    tab.page.locator("#save-card .copy").click()
    tab.wait("() => document.querySelector('#save-card .copy').textContent === 'Copied'")
    assert tab.page.evaluate("navigator.clipboard.readText()") == command

    handed: list[tuple[Tensor, ...]] = []
    write = SpanEncoder.write

    def spy(encoder: SpanEncoder, y: Tensor, u: Tensor, v: Tensor, pts: int, duration: int) -> None:
        handed.append((y.clone(), u.clone(), v.clone()))
        write(encoder, y, u, v, pts, duration)

    monkeypatch.setattr(SpanEncoder, "write", spy)
    config = load_config("dashcam", saved, [])
    assert (config.grade.exposure_stops, config.grade.peak_nits, config.temporal.radius) == (0.5, 800, 1)
    assert result_settings(config) == result_settings(
        load_config("dashcam", None, [one for one in words if "=" in one])
    )
    output = tmp_path / "drive_hdr.mp4"
    convert(clip, output, config)
    out = OutputSpec("pq", config.grade.white_nits, config.grade.peak_nits)
    assert len(handed) == FRAMES
    assert np.array_equal(mapped(handed[10], out), shown), "the planes convert hands to its encoder, to the bit"
    with av.open(str(output)) as file:
        decoded = [frame.to_ndarray() for frame in file.decode(video=0)][10]
    planes = np.split(decoded.reshape(-1), [WIDTH * HEIGHT, WIDTH * HEIGHT * 5 // 4])
    coded = tuple(torch.from_numpy(one.copy()).view_as(like) for one, like in zip(planes, handed[10], strict=True))
    assert real.difference(mapped(coded, out), shown) < 4


def mapped(planes: tuple[Tensor, ...], out: OutputSpec) -> np.ndarray:
    """10-bit planes as the page shows them."""
    frame = PackedFrame(*planes, LightLevels(0.0, 0.0, 0.0, 1), 0.0)  # its light is not asked for
    return tone_mapped(nits_of(frame, out, HEIGHT, WIDTH), out).numpy()


def test_the_page_converts_pauses_and_goes_on(tab: real.Tab, clip: Path) -> None:
    tab.page.locator("#convert").click()
    output = clip.parent / "out" / "drive_hdr.mp4"
    assert str(output) in tab.text("#convert-output")
    assert str(clip) in tab.page.locator("#convert-command").text_content()
    tab.page.locator("#convert-start").click()
    tab.wait("() => document.querySelector('#convert-title').textContent === 'Converting'")
    assert tab.page.locator("#convert-pause").is_visible() and tab.page.locator("#convert-cancel").is_visible()
    title = "(text) => document.querySelector('#convert-title').textContent === text"
    tab.page.locator("#convert-pause").click()
    tab.wait(title, "Paused", seconds=400)
    assert not output.exists()
    tab.page.locator("#convert-resume").click()
    tab.wait(title, "Done", seconds=400)
    assert len(oracles.frame_times(output)) == FRAMES


def test_a_token_leaves_the_address_and_another_source_opens(browser: web.Browser, clip: Path, tmp_path: Path) -> None:
    other = make_clip(tmp_path / "night.mp4", frames=20, width=160, height=96)
    with real.Server([clip, other], "model=neutral", "--token", "Sesame.open-1") as server:
        assert server.address.endswith("?token=Sesame.open-1")
        tab = real.Tab(browser, server.address)
        tab.wait_exact(0)
        assert "token" not in tab.page.url
        tab.page.reload()
        tab.wait_exact(0)
        tab.page.locator("#source").select_option("night.mp4")
        tab.wait("() => document.querySelector('#facts').textContent.startsWith('160 ')")
        tab.wait("() => document.querySelector('#layer-sdr').width === 160")
        assert tab.text("#of") == "of 19"
        assert tab.complaints == []
        tab.close()


def test_two_tabs_do_not_disturb_each_other(tab: real.Tab, browser: web.Browser, server: real.Server) -> None:
    other = real.Tab(browser, server.address)
    other.wait_exact(0)
    mine = tab.pixels("hdr")
    other.turn("grade.exposure_stops", -2)
    other.page.keyboard.press("End")
    other.wait_exact(FRAMES - 1)
    assert tab.text("#frame") == "0"
    assert np.array_equal(tab.pixels("hdr"), mine)
    before = tab.picture
    tab.page.keyboard.press("ArrowRight")
    tab.wait_newer(before)
    assert tab.page.locator('[data-key="grade.exposure_stops"] input[type=number]').input_value() == "0"
    assert other.complaints == []
    other.close()


def test_a_killed_and_restarted_server_is_found_again_where_one_was(browser: web.Browser, clip: Path) -> None:
    words = ("model=neutral",)
    with real.Server([clip], *words, port=free_port()) as first:
        tab = real.Tab(browser, first.address)
        tab.wait_exact(0)
        tab.turn("grade.saturation", 0.4)
        tab.page.keyboard.press("Shift+ArrowRight")
        tab.wait_exact(10)
        shown = tab.pixels("hdr")
        first.kill()
        tab.wait("() => document.querySelector('.line.lost')")
        assert "No connection" in tab.text(".line.lost span")
        tab.page.evaluate("document.body.dataset.picture = ''")
        with real.Server([clip], *words, port=first.port):
            tab.wait_exact(10)
            tab.wait("() => !document.querySelector('.line.lost')")
            tab.wait(
                "() => document.querySelector('[data-key=\"grade.saturation\"] input[type=number]').value === '0.4'"
            )
            tab.wait("() => document.querySelector('#frame').textContent === '10'")
            deadline = time.monotonic() + PATIENCE_MS / 1000
            while not np.array_equal(tab.pixels("hdr"), shown) and time.monotonic() < deadline:
                tab.page.wait_for_timeout(100)
            assert np.array_equal(tab.pixels("hdr"), shown)
            # The browser itself logs each refused connection; nothing else may be there.
            assert [text for text in tab.complaints if "WebSocket connection to" not in text] == []
            tab.close()


def test_a_while_of_playing_does_not_grow(browser: web.Browser, clip: Path) -> None:
    soak(browser, clip, 2)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_ten_minutes_of_playing_do_not_grow(browser: web.Browser, clip: Path) -> None:
    soak(browser, clip, 196)


def soak(browser: web.Browser, clip: Path, between_rounds: int) -> None:
    """Play the clip over and over; compare the most memory, threads and open files of the last two rounds with those of the first two.

    Whole rounds, since a decoder's threads come and go with each.
    """
    with real.Server([clip], "model=neutral") as server:
        tab = real.Tab(browser, server.address)
        tab.wait_exact(0)
        tab.page.locator("#play").click()
        first = most_of_rounds(tab, server, 2)
        heap, page, pictures = tab.heap_bytes(), page_bytes(browser), tab.picture
        most_of_rounds(tab, server, between_rounds)
        last = most_of_rounds(tab, server, 2)
        # Each round has at least its first and its last picture, however slow the machine.
        assert tab.picture >= pictures + 2 * (between_rounds + 2), "it went on playing"
        assert tab.heap_bytes() < heap + (2 << 20), "JavaScript memory"
        assert page_bytes(browser) < page + (64 << 20), "memory of the page's process"
        assert tab.complaints == []
        tab.close()
    assert last[0] < first[0] + (48 << 20), "the server's memory"
    assert last[1] <= first[1] + 2 and last[2] <= first[2] + 2, f"threads and open files: {first}, {last}"


def most_of_rounds(tab: real.Tab, server: real.Server, rounds: int) -> tuple[int, int, int]:
    """Until the clip has begun anew so many times: the most of resident memory in bytes, of threads, and of open files of the server."""
    seen, before, most = 0, int(tab.text("#frame")), server.usage()
    until = time.monotonic() + rounds * PATIENCE_MS / 1000
    while seen < rounds:
        assert time.monotonic() < until, f"{seen} of {rounds} rounds; frame {before}"
        tab.page.wait_for_timeout(100)
        frame = int(tab.text("#frame"))
        seen, before = seen + (frame < before), frame
        most = tuple(map(max, most, server.usage()))
    return most


def page_bytes(browser: web.Browser) -> int:
    """Resident memory of the processes that draw pages."""
    session = browser.new_browser_cdp_session()
    infos = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    total = 0
    for info in infos:
        if info["type"] == "renderer":
            status = Path(f"/proc/{info['id']}/status")
            if status.exists():
                total += int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1]) << 10
    return total
