"""Fixtures of the tests that use the preview in a real browser. Chromium must be there; without it they fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import playwright.sync_api as web
import pytest

from tests import browser as real
from tests.browser import FPS, FRAMES, HEIGHT, WIDTH
from tests.clips import bright_picture, make_clip


@pytest.fixture(scope="module")
def browser() -> Iterator[web.Browser]:
    with real.chromium() as running:
        yield running


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds with a white sky and a lamp."""
    path = tmp_path_factory.mktemp("clip") / "drive.mp4"
    return make_clip(path, frames=FRAMES, width=WIDTH, height=HEIGHT, fps=FPS, paint=bright_picture)


@pytest.fixture(scope="module")
def server(clip: Path) -> Iterator[real.Server]:
    with real.Server([clip], "model=tiny", "output.preset=ultrafast", "--output", str(clip.parent / "out")) as running:
        yield running


@pytest.fixture
def tab(browser: web.Browser, server: real.Server) -> Iterator[real.Tab]:
    """The page with its first exact picture. Whatever a test does, nothing may complain and no other host be asked."""
    one = real.Tab(browser, server.address)
    one.wait_exact(0)
    yield one
    assert one.complaints == []
    assert one.hosts <= {f"127.0.0.1:{server.port}", "blob:", "data:"}
    one.close()
