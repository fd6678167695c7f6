"""The preview as its users have it: the server as a child process, its page in Debian's Chromium, and what can be read from both."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import playwright.sync_api as web

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE_MS = 180_000
"""How long anything may take; machines of CI are slow and shared."""

FRAMES, WIDTH, HEIGHT, FPS = 75, 192, 108, 25
"""Of the clip that the fixtures show."""

HDR_SCREEN = """
const asked = window.matchMedia.bind(window);
window.matchMedia = (query) => {
  if (!query.includes("dynamic-range")) return asked(query);
  return { matches: true, media: query, addEventListener() {}, removeEventListener() {} };
};
"""
"""Before the page's own scripts: the screen says that it is an HDR screen."""

PIXELS = """
(canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let text = "";
  for (let at = 0; at < data.length; at += 32768) text += String.fromCharCode(...data.subarray(at, at + 32768));
  return [canvas.width, canvas.height, btoa(text)];
}
"""


class Server:
    """`run_pipeline.py preview` in a process of its own. A context manager; leaving it ends the process."""

    def __init__(self, inputs: Sequence[Path], *words: str, port: int = 0) -> None:
        command = [sys.executable, "run_pipeline.py", "preview", *map(str, inputs)]
        command += ["--port", str(port), "--no-browser", *words]
        # Output goes on being read, so that a full pipe never stops the server.
        self.lines: list[str] = []
        self._told = threading.Event()
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.address = ""
        if self._told.wait(PATIENCE_MS / 1000):
            found = re.search(r"Preview: (http://\S+)", "".join(self.lines))
            self.address = found[1] if found else ""
        if not self.address:
            self.kill()
            raise AssertionError(f"the preview did not start: {''.join(self.lines)}")

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("Preview: "):
                self._told.set()
        self._told.set()

    @property
    def port(self) -> int:
        return urlsplit(self.address).port

    def usage(self) -> tuple[int, int, int]:
        """Resident memory in bytes, threads, open files, of the server's process, which is the keeper's child."""
        server = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0]
        place = Path(f"/proc/{server}")
        pages = int((place / "statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE"), len(list((place / "task").iterdir())), len(os.listdir(place / "fd"))  # noqa: PTH208 - names alone: open files come and go

    def kill(self) -> None:
        """At once, with all its children, as a crash would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """As Ctrl-C does; its exit code."""
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(30)
        finally:
            self.kill()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._reader.join(5)


@contextlib.contextmanager
def chromium() -> Iterator[web.Browser]:
    """Debian's Chromium without a screen. Fails, and says what to install, where it is not there."""
    assert CHROMIUM.exists(), f"{CHROMIUM} is missing; on Debian and Ubuntu: apt-get install chromium"
    with web.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS), timeout=180_000)
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """The preview's page in a tab. `complaints` collects what a user's console would show as wrong."""

    def __init__(
        self,
        browser: web.Browser,
        address: str,
        *,
        script: str = "",
        size: tuple[int, int] = (1280, 800),
        scale: float = 1,
    ) -> None:
        self.context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            device_scale_factor=scale,
            accept_downloads=True,
            has_touch=True,
        )
        self.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address.rstrip("/"))
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc or request.url[:5]))
        self.page.on("websocket", lambda socket: self.hosts.add(urlsplit(socket.url).netloc))
        if script:
            self.page.add_init_script(script)
        self.page.goto(address)

    def _console(self, message: web.ConsoleMessage) -> None:
        if "willReadFrequently" in message.text:  # the tests read canvases, the page never does
            return
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def wait(self, condition: str, argument: object = None, *, seconds: float = PATIENCE_MS / 1000) -> None:
        """Until a JavaScript function gives something true. Asked again and again from here: the page's policy forbids eval, which
        Playwright's own waiting needs."""
        until = time.monotonic() + seconds
        while not self.page.evaluate(condition, argument):
            assert time.monotonic() < until, (
                f"not within {seconds:g} s: {condition} {argument or ''}; {self.complaints}"
            )
            self.page.wait_for_timeout(50)

    def wait_exact(self, frame: int | None = None) -> None:
        """Until the exact picture is drawn, of this frame if one is named."""
        self.wait("(n) => new RegExp(`:${n ?? '[0-9]+'}:exact$`).test(document.body.dataset.picture ?? '')", frame)

    @property
    def picture(self) -> int:
        """How many pictures the server has sent, at the last one drawn."""
        return int(self.page.evaluate("document.body.dataset.picture ?? '-1:'").split(":")[0])

    def wait_newer(self, number: int, *, exact: bool = True) -> None:
        """Until a picture after this one is drawn."""
        ending = ":exact" if exact else ""
        self.wait(
            "([n, end]) => { const p = document.body.dataset.picture ?? ''; return parseInt(p) > n && p.endsWith(end); }",
            [number, ending],
        )

    def pixels(self, layer: str) -> np.ndarray:
        """(H, W, 3) uint8 of a layer's canvas."""
        width, height, data = self.page.locator(f"#layer-{layer}").evaluate(PIXELS)
        return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)[..., :3]

    def turn(self, key: str, value: object) -> None:
        """Set a knob as a user does, and wait for the exact picture that shows it."""
        before = self.picture
        knob = self.page.locator(f'.knob[data-key="{key}"]')
        if knob.locator("select").count():
            knob.locator("select").select_option(label=str(value))
        elif knob.locator("input[type=checkbox]").count():
            knob.locator("input[type=checkbox]").set_checked(bool(value))
        else:
            knob.locator("input[type=number]").fill(str(value))
            knob.locator("input[type=number]").press("Enter")
        self.wait_newer(before)

    def touch(self, *paths: Sequence[tuple[float, float]]) -> None:
        """Fingers on the screen, one a path of as many points as the others, in CSS pixels."""
        session = self.context.new_cdp_session(self.page)
        for step, points in enumerate(zip(*paths, strict=True)):
            fingers = [{"x": x, "y": y, "id": finger} for finger, (x, y) in enumerate(points)]
            kind = "touchMove" if step else "touchStart"
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        session.detach()

    def text(self, selector: str) -> str:
        """What stands there."""
        return self.page.locator(selector).inner_text()

    def heap_bytes(self) -> int:
        """JavaScript memory in use after garbage is collected."""
        session = self.context.new_cdp_session(self.page)
        try:
            session.send("Performance.enable")
            session.send("HeapProfiler.collectGarbage")
            metrics = session.send("Performance.getMetrics")["metrics"]
        finally:
            session.detach()
        return next(int(metric["value"]) for metric in metrics if metric["name"] == "JSHeapUsedSize")

    def close(self) -> None:
        self.context.close()


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """Mean absolute difference in codes."""
    return float(np.abs(first.astype(int) - second.astype(int)).mean())
