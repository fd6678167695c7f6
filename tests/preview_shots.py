"""Screenshots of the preview for docs/: `python -m tests.preview_shots CLIP [--output docs]`. Looks at the real page on a real clip."""

from __future__ import annotations

import argparse
from pathlib import Path

import playwright.sync_api as web

from tests import browser as real

JPEG = {"type": "jpeg", "quality": 84}


def main() -> None:
    """Start the preview on a clip, use it, and take pictures of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--output", type=Path, default=real.ROOT / "docs")
    parser.add_argument("--frame", type=int, default=60)
    told = parser.parse_args()
    with real.Server([told.clip.resolve()], "--output", "/tmp") as server, real.chromium() as browser:
        desktop(browser, server.address, told.output, told.frame)
        phone(browser, server.address, told.output, told.frame)


def at_frame(tab: real.Tab, frame: int) -> None:
    """Scrub there, and wait for the exact picture."""
    tab.wait_exact(0)
    scrub = tab.page.locator("#scrub")
    scrub.evaluate("(slider, n) => { slider.value = n; slider.dispatchEvent(new Event('input')); }", frame)
    tab.wait_exact(frame)
    tab.page.wait_for_timeout(1500)  # scopes come after the picture


def desktop(browser: web.Browser, address: str, folder: Path, frame: int) -> None:
    """The first look, and a look into the highlights with restored pixels and scopes."""
    tab = real.Tab(browser, address, size=(1440, 900))
    at_frame(tab, frame)
    tab.page.screenshot(path=folder / "preview_split.jpg", **JPEG)
    before = tab.picture
    for _ in range(4):
        tab.page.keyboard.press(",")
    tab.wait_newer(before)
    tab.page.locator("[data-mode=side]").click()
    with tab.page.expect_download():
        tab.page.locator("#save").click()
    tab.page.wait_for_timeout(1000)
    tab.page.screenshot(path=folder / "preview_save.jpg", **JPEG)
    tab.page.keyboard.press("Escape")
    before = tab.picture
    tab.page.locator("[data-mode=mask]").click()
    tab.wait_newer(before)
    tab.page.wait_for_timeout(1000)
    tab.page.screenshot(path=folder / "preview_restored.jpg", **JPEG)
    tab.close()


def phone(browser: web.Browser, address: str, folder: Path, frame: int) -> None:
    """The same page on a small upright screen."""
    tab = real.Tab(browser, address, size=(390, 844), scale=2)
    at_frame(tab, frame)
    tab.page.screenshot(path=folder / "preview_phone.jpg", **JPEG)
    tab.close()


if __name__ == "__main__":
    main()
