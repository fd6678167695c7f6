"""The preview's page in a real browser: what it shows, and how it is used."""

from __future__ import annotations

import re
import time
from pathlib import Path

import av
import numpy as np
import playwright.sync_api as web

from tests import browser as real
from tests.browser import FPS, FRAMES, HEIGHT, WIDTH

pytest_plugins = ["tests.browser_fixtures"]


SOCKETS = """
window.sockets = [];
window.WebSocket = class extends WebSocket {
  constructor(...about) {
    super(...about);
    window.sockets.push(this);
  }
};
"""
"""Before the page's own scripts: its connections to the server can be found."""


def screenshot(tab: real.Tab) -> np.ndarray:
    """(H, W, 3) uint8 of the picture area as it is on the screen, controls over the picture left out."""
    for selector in (".tag", "#zoom"):
        tab.page.eval_on_selector_all(selector, "all => all.forEach((one) => (one.style.visibility = 'hidden'))")
    import cv2

    data = np.frombuffer(tab.page.locator("#viewer").screenshot(), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]


def test_the_page_shows_the_first_frame_and_what_it_can_do(tab: real.Tab) -> None:
    assert tab.pixels("sdr").shape == tab.pixels("hdr").shape == (HEIGHT, WIDTH, 3)
    assert real.difference(tab.pixels("sdr"), tab.pixels("hdr")) > 0.5
    assert tab.pixels("sdr")[: HEIGHT // 4].min() == 255, "the clipped sky is white in SDR"
    for selector in ("#save", "#convert", "#split", "#play", "#scrub", "[data-mode=side]"):
        assert tab.page.locator(selector).is_visible()
        box = tab.page.locator(selector).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 1280 and box["y"] >= 0 and box["y"] + box["height"] <= 800
    assert "tone-mapped" in tab.text("#hdr-tag")
    assert "Exact" in tab.text("#exact")
    assert re.fullmatch(rf"0:00\.00 frame 0 of {FRAMES - 1}", " ".join(tab.text("#clock").split()))


def test_every_control_has_a_name_and_every_knob_its_help(tab: real.Tab) -> None:
    unnamed = tab.page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, [role=slider], canvas, dialog")]
          .filter((one) => !(one.ariaLabel || one.title || one.innerText?.trim() || one.labels?.length || one.getAttribute("aria-label")))
          .map((one) => one.outerHTML)"""
    )
    assert unnamed == []
    for knob in tab.page.locator(".knob").all():
        assert knob.get_attribute("title")
        assert knob.locator(".default").inner_text().startswith("default ")


def test_a_grade_knob_changes_the_picture_and_its_reset_brings_it_back(tab: real.Tab) -> None:
    sdr, hdr = tab.pixels("sdr"), tab.pixels("hdr")
    tab.turn("grade.exposure_stops", -1.5)
    assert tab.pixels("hdr").mean() < hdr.mean() - 20
    assert np.array_equal(tab.pixels("sdr"), sdr)
    before = tab.picture
    tab.page.locator('[data-key="grade.exposure_stops"] .back').click()
    tab.wait_newer(before)
    assert np.array_equal(tab.pixels("hdr"), hdr)


def test_a_network_knob_changes_what_is_restored(tab: real.Tab) -> None:
    tab.page.locator("[data-mode=mask]").click()
    tab.wait("() => document.querySelector('#layer-mask').width === 192")
    tab.wait("() => document.querySelector('#waiting').hidden")
    coloured = int(np.ptp(tab.pixels("mask").astype(int), axis=-1).max())
    tab.turn("model", "neutral")
    assert coloured > 30
    assert np.ptp(tab.pixels("mask").astype(int), axis=-1).max() <= 2, "without a network nothing is restored"


def test_a_refused_value_is_said_and_the_knob_goes_back(tab: real.Tab) -> None:
    knob = tab.page.locator('[data-key="grade.peak_nits"] input[type=number]')
    knob.fill("120")
    knob.press("Enter")
    tab.wait("() => document.querySelector('.line.error')")
    assert "grade.peak_nits" in tab.text(".line.error span")
    tab.wait("() => document.querySelector('[data-key=\"grade.peak_nits\"] input[type=number]').value === '1000'")
    tab.page.locator(".line.error button").click()
    assert tab.page.locator(".line.error").count() == 0


def test_a_dragged_slider_sends_few_messages_and_the_last_value(tab: real.Tab, server: real.Server) -> None:
    tab.page.evaluate(
        """() => {
          window.sent = [];
          const send = WebSocket.prototype.send;
          WebSocket.prototype.send = function (text) { window.sent.push(JSON.parse(text)); return send.call(this, text); };
        }"""
    )
    before = tab.picture
    tab.page.evaluate(
        """() => {
          const slider = document.querySelector('[data-key="grade.saturation"] input[type=range]');
          for (let i = 0; i <= 200; i += 1) { slider.value = i / 100; slider.dispatchEvent(new Event("input", { bubbles: true })); }
        }"""
    )
    tab.wait_newer(before)
    tab.wait("() => window.sent.some((one) => one.do === 'set' && one.values['grade.saturation'] === 2)")
    assert tab.page.evaluate("window.sent.filter((one) => one.do === 'set').length") <= 3


def test_the_split_follows_the_mouse_and_the_keys(tab: real.Tab) -> None:
    tab.turn("grade.exposure_stops", -3)
    area, handle = tab.page.locator("#viewer").bounding_box(), tab.page.locator("#split")
    grip = tab.page.locator("#split .grip").bounding_box()
    middle = grip["y"] + grip["height"] / 2
    tab.page.mouse.move(grip["x"] + 20, middle)
    tab.page.mouse.down()
    for share in (0.4, 0.3, 0.25):
        tab.page.mouse.move(area["x"] + share * area["width"], middle)
    tab.page.mouse.up()
    assert abs(int(handle.get_attribute("aria-valuenow")) - 25) <= 1
    seen = screenshot(tab)
    row = seen[int(seen.shape[0] * 0.25)].mean(axis=-1)  # through the white sky
    bright = row > 200
    width = len(row)
    assert bright[: int(0.22 * width)].all(), "SDR left of the line"
    assert not bright[int(0.28 * width) :].any(), "HDR, three stops darker, right of it"
    handle.focus()
    for _ in range(5):
        tab.page.keyboard.press("ArrowRight")
    assert abs(int(handle.get_attribute("aria-valuenow")) - 35) <= 1
    assert tab.text("#frame") == "0", "arrow keys on the line move the line, not the frame"


def test_the_modes_show_what_they_say(tab: real.Tab) -> None:
    tab.turn("grade.exposure_stops", -3)
    dark = screenshot(tab)[:, 700:].mean()

    tab.page.locator("[data-mode=side]").click()
    panes = [tab.page.locator(f"#pane-{name}").bounding_box() for name in ("sdr", "hdr")]
    assert abs(panes[0]["width"] - panes[1]["width"]) <= 2
    assert panes[0]["x"] + panes[0]["width"] <= panes[1]["x"] + 1
    assert tab.page.locator("#split").is_hidden()

    tab.page.locator("[data-mode=flip]").click()
    flip = screenshot(tab).mean()
    tab.page.keyboard.down("a")
    held = screenshot(tab).mean()
    tab.page.keyboard.up("a")
    assert held > flip + 20
    assert abs(screenshot(tab).mean() - flip) < 0.5
    assert flip < dark + 20

    tab.page.locator("[data-mode=difference]").click()
    tab.wait("() => document.querySelector('#layer-difference').width === 192")
    tab.wait_newer(tab.picture - 1)
    shown = tab.pixels("difference")
    assert shown[: HEIGHT // 4].mean() > 200, "the sky is three stops darker"
    assert tab.page.locator("#layer-difference").is_visible() and tab.page.locator("#layer-hdr").is_hidden()


def test_stepping_and_scrubbing_show_the_frame_they_name(tab: real.Tab, clip: Path) -> None:
    with av.open(str(clip)) as file:
        truth = [frame.to_ndarray(format="rgb24").astype(float) for frame in file.decode(video=0)]

    def is_frame(number: int) -> None:
        tab.wait_exact(number)
        assert tab.text("#frame") == str(number)
        minutes = f"0:{number / FPS:05.2f}"
        assert tab.text("#time") == minutes
        near = range(max(0, number - 2), min(FRAMES, number + 3))
        assert min(near, key=lambda one: np.abs(truth[one] - tab.pixels("sdr")).mean()) == number

    tab.page.keyboard.press("ArrowRight")
    is_frame(1)
    tab.page.locator("#step-on").click()
    is_frame(2)
    tab.page.keyboard.press("Shift+ArrowRight")
    is_frame(12)
    tab.page.keyboard.press("End")
    is_frame(FRAMES - 1)
    tab.page.locator("#step-back").click()
    is_frame(FRAMES - 2)
    box = tab.page.locator("#scrub").bounding_box()
    tab.page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] / 2)
    tab.page.mouse.down()
    for share in (0.8, 0.6, 0.4, 0.2):
        tab.page.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] / 2)
    tab.page.mouse.up()
    number = int(tab.page.locator("#scrub").input_value())
    assert abs(number - 0.2 * (FRAMES - 1)) < 3
    is_frame(number)


def test_playing_goes_on_loops_and_stops_at_an_exact_picture(tab: real.Tab) -> None:
    tab.page.keyboard.press(" ")
    tab.wait("() => document.querySelector('#rate').textContent.includes('frames/s')")
    tab.wait("() => Number(document.querySelector('#frame').textContent) > 50")
    tab.wait("() => Number(document.querySelector('#frame').textContent) < 25")  # it came round
    tab.wait("() => /^[\\d.]+ m?s behind$/.test(document.querySelector('#latency').textContent)")
    tab.page.keyboard.press(" ")
    tab.wait_exact()
    tab.wait("() => document.querySelector('#link').textContent === 'paused'")
    shown = tab.picture
    tab.page.wait_for_timeout(500)
    assert tab.picture == shown


def test_a_hidden_tab_stops_playing_and_goes_on_when_seen(tab: real.Tab) -> None:
    tab.page.locator("#play").click()
    tab.wait_newer(tab.picture + 3, exact=False)
    tab.wait("() => document.querySelector('#link').textContent === ''")
    hide = "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true }); document.dispatchEvent(new Event('visibilitychange')); }"
    tab.page.evaluate(hide, True)
    tab.wait("() => document.querySelector('#link').textContent === 'paused'")
    tab.page.evaluate(hide, False)
    tab.wait("() => document.querySelector('#link').textContent === ''")
    tab.page.locator("#play").click()
    tab.wait_exact()


def test_zoom_shows_single_pixels_and_pan_moves_them(tab: real.Tab) -> None:
    area = tab.page.locator("#viewer").bounding_box()
    x, y = area["x"] + 0.3 * area["width"], area["y"] + 0.4 * area["height"]
    tab.page.mouse.move(x, y)
    before = tab.page.locator("#layer-sdr").bounding_box()
    for _ in range(4):
        tab.page.mouse.wheel(0, -300)
    zoomed = tab.page.locator("#layer-sdr").bounding_box()
    assert zoomed["width"] > 2 * before["width"]
    tab.page.mouse.down()
    tab.page.mouse.move(x - 80, y - 30)
    tab.page.mouse.up()
    moved = tab.page.locator("#layer-sdr").bounding_box()
    assert (round(moved["x"] - zoomed["x"]), round(moved["y"] - zoomed["y"])) == (-80, -30)
    tab.page.keyboard.press("0")
    assert tab.page.locator("#layer-sdr").bounding_box() == before


def test_the_view_exposure_dives_into_the_highlights_and_leaves_settings_alone(tab: real.Tab) -> None:
    hdr, settings = tab.pixels("hdr"), tab.page.evaluate("document.body.dataset.settings")
    before = tab.picture
    for _ in range(6):
        tab.page.keyboard.press(",")
    tab.wait_newer(before)
    tab.wait("() => document.querySelector('#hdr-tag').textContent.endsWith('3 stops')")
    until = time.monotonic() + real.PATIENCE_MS / 1000
    while tab.pixels("hdr").mean() > hdr.mean() - 60:  # two stops and more: the last picture of several
        assert time.monotonic() < until, "three stops down are not shown"
        tab.page.wait_for_timeout(50)
    assert tab.page.evaluate("document.body.dataset.settings") == settings
    seen = screenshot(tab)
    sky = seen[seen.shape[0] // 4, : seen.shape[1] // 3]
    assert abs(float(sky.mean()) - 255 * 2 ** (-3 / 2.2)) < 8, "SDR is shown as much darker"


def test_scopes_know_white_and_light(tab: real.Tab) -> None:
    tab.wait("() => document.querySelector('#max-cll-so-far').textContent.endsWith('nits')")
    cll = float(tab.text("#max-cll-so-far").split()[0])
    assert 203 <= cll <= 1100
    assert re.fullmatch(r"\d+\.\d %", tab.text("#restored"))
    drawn = tab.page.evaluate(
        """() => ["histogram", "waveform"].map((id) => {
          const canvas = document.getElementById(id);
          return new Set(new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size;
        })"""
    )
    assert min(drawn) > 5, "both scopes are drawn"


def test_the_keys_are_listed_and_the_list_closes(tab: real.Tab) -> None:
    tab.page.keyboard.press("?")
    assert tab.page.locator("#help-card").is_visible()
    assert "play or pause" in tab.text("#shortcuts")
    tab.page.keyboard.press("Escape")
    assert tab.page.locator("#help-card").is_hidden()


def test_an_hdr_screen_gets_real_hdr_video(browser: web.Browser, server: real.Server) -> None:
    tab = real.Tab(browser, server.address, script=real.HDR_SCREEN)
    tab.wait_exact(0)
    assert "HDR video while playing" in tab.text("#shown")
    tab.page.locator("#play").click()
    tab.wait("() => document.querySelector('#layer-video').checkVisibility()")
    assert re.fullmatch(r"HDR: (AV1|HEVC) 10-bit PQ", tab.text("#hdr-tag"))
    size = tab.page.evaluate(
        "(({ videoWidth, videoHeight }) => [videoWidth, videoHeight])(document.querySelector('#layer-video'))"
    )
    assert size in [[WIDTH, HEIGHT], [128, 72], [96, 54], [64, 36]], (
        "whole, or made smaller to keep up on a slow machine"
    )
    first = tab.page.evaluate("document.querySelector('#layer-video').currentTime")
    # Longer than the clip: the loop's jump back is passed too.
    tab.wait("(first) => document.querySelector('#layer-video').currentTime > first + 4", first)
    tab.wait("() => document.querySelector('#layer-video').getVideoPlaybackQuality().totalVideoFrames > 10")
    seen = screenshot(tab)
    assert seen[seen.shape[0] // 4 : -seen.shape[0] // 4, int(0.6 * seen.shape[1]) :].std() > 20, "there is a picture"
    tab.page.locator("#display").select_option("tone")
    tab.wait("() => document.querySelector('#hdr-tag').textContent.includes('tone-mapped')")
    assert tab.page.locator("#layer-video").is_hidden()
    tab.page.locator("#play").click()
    tab.wait_exact()
    assert tab.complaints == []
    tab.close()


def test_when_the_server_has_no_more_hdr_video_the_picture_is_tone_mapped(
    browser: web.Browser, server: real.Server
) -> None:
    tab = real.Tab(browser, server.address, script=real.HDR_SCREEN + SOCKETS)
    tab.wait_exact(0)
    tab.page.locator("#play").click()
    tab.wait("() => document.querySelector('#layer-video').checkVisibility()")
    tab.page.evaluate(
        "window.sockets[0].dispatchEvent(new MessageEvent('message', { data: JSON.stringify({ is: 'video_failed', text: 'it is worn out' }) }))"
    )
    tab.wait("() => document.querySelector('#hdr-tag').textContent.includes('tone-mapped')")
    assert "HDR video stopped: it is worn out. The picture is tone-mapped instead." in tab.text("#lines")
    before = tab.picture
    tab.wait_newer(before, exact=False)  # they go on
    assert tab.page.locator("#layer-video").is_hidden()
    assert tab.complaints == []
    tab.close()


def test_a_phone_reaches_every_control(browser: web.Browser, server: real.Server) -> None:
    tab = real.Tab(browser, server.address, size=(390, 844), scale=2)
    tab.wait_exact(0)
    for selector in (
        "#save",
        "#convert",
        "#split",
        "#play",
        "#scrub",
        "#step-on",
        "[data-mode=mask]",
        "#hold",
        "#view-exposure",
    ):
        box = tab.page.locator(selector).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390, selector
        assert box["y"] >= 0 and box["y"] + box["height"] <= 844, selector
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390
    area, before = (tab.page.locator(one).bounding_box() for one in ("#viewer", "#layer-sdr"))
    middle = area["y"] + area["height"] / 2
    tab.touch([(195, middle), (120, middle), (80, middle)])
    assert abs(int(tab.page.locator("#split").get_attribute("aria-valuenow")) - 100 * 80 / 390) <= 1
    tab.touch([(150, middle), (110, middle), (70, middle)], [(240, middle), (280, middle), (320, middle)])
    zoomed = tab.page.locator("#layer-sdr").bounding_box()
    assert zoomed["width"] > 2 * before["width"], "two fingers zoom"
    tab.touch([(300, middle), (260, middle), (240, middle)])
    assert abs(zoomed["x"] - tab.page.locator("#layer-sdr").bounding_box()["x"] - 60) < 2, "one finger moves"
    tab.page.locator("#zoom-fit").click()
    last = tab.page.locator(".knob").last
    last.scroll_into_view_if_needed()
    assert last.is_visible()
    height = tab.page.locator("#viewer").bounding_box()["height"]
    tab.page.locator("#panel-toggle").click()
    assert tab.page.locator("#panel").is_hidden()
    assert tab.page.locator("#viewer").bounding_box()["height"] > height + 100
    assert tab.complaints == []
    tab.close()
