"""Run: the preview from its start to Ctrl-C, in a process that keeper.py looks after. It listens before anything dear is loaded, so that the browser has a page at once."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from preview.keeper import keep
from preview.limits import CLOSE_SECONDS
from preview.server import Door, is_loopback, listen, make_app, make_token

if TYPE_CHECKING:
    from preview.sources import Source
    from preview.studio import Studio

WORKING = ("tab", "look", "still", "play", "hdr video")
"""How the names of threads begin that compute."""


def run(
    host: str,
    port: int,
    token: str | None,
    make_sources: Callable[[], Sequence[Source]],
    profile: str,
    config_file: Path | None,
    words: Sequence[str],
    *,
    browser: bool,
) -> None:
    """Serve until interrupted. make_sources: looks for what is shown, in a thread. Raises InputError: the port, the sources, the settings."""
    sock = listen(host, port)
    if token is None and not is_loopback(host):
        token = make_token()
    door = Door(host, sock.getsockname()[1], token)
    kept = keep()
    studio: Future[Studio] = Future()

    def load() -> None:
        try:
            import preview.session  # noqa: F401 - the event loop shall find it loaded
            from preview.studio import Studio

            made = Studio(make_sources(), profile, config_file, words, kept)
            made.warm_up()
            studio.set_result(made)
        except BaseException as error:  # noqa: BLE001 - raised by serve
            studio.set_exception(error)

    threading.Thread(target=load, name="load", daemon=True).start()
    try:
        asyncio.run(_serve(door, sock, studio, browser, first=not kept.told))
    finally:
        if studio.done() and studio.exception() is None:
            _close(studio.result())
    _end_now()


def _close(studio: Studio) -> None:
    """A conversion may need some seconds to stop: that is said."""
    if running := studio.running():
        sys.stderr.write(f"Stopping {running} conversion{'s' * (running > 1)}; what is finished is kept.\n")
        sys.stderr.flush()
    studio.close()


def _end_now() -> None:
    """End the process although a frame is still computed, or a file looked at: nobody wants it any more, and it may take many seconds."""
    until = time.monotonic() + CLOSE_SECONDS
    while any(thread.name.startswith(WORKING) for thread in threading.enumerate()) and time.monotonic() < until:
        time.sleep(0.02)
    if any(thread.name.startswith(WORKING) for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


async def _serve(door: Door, sock: socket.socket, studio: Future[Studio], browser: bool, *, first: bool) -> None:
    """first: no server was here before, so the address is new to everybody"""
    loaded = asyncio.wrap_future(studio)

    async def open_tab(loop: asyncio.AbstractEventLoop) -> tuple:
        from preview.outbox import Outbox

        shared = await asyncio.shield(loaded)
        from preview.session import Session

        outbox = Outbox(loop)
        return Session(shared, outbox), outbox

    runner = web.AppRunner(make_app(door, open_tab), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.SockSite(runner, sock).start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)  # Ctrl-C is the keeper's to hear
    if first:
        sys.stdout.write(f"Preview: {door.address}\n")
        sys.stdout.flush()
    if first and browser and _has_screen():
        threading.Thread(target=webbrowser.open, args=(door.address,), daemon=True).start()
    try:
        await _first(loaded, stop)
        await stop.wait()
    finally:
        await runner.cleanup()


async def _first(loaded: asyncio.Future, stop: asyncio.Event) -> None:
    """Wait until all is loaded, or the end. Raises what went wrong while loading."""
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait([loaded, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if loaded.done():
        loaded.result()


def _has_screen() -> bool:
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
