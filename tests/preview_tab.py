"""A tab without a browser: a session, and what it sends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preview.outbox import Outbox
from preview.session import Session
from preview.sources import Source, video_source
from preview.studio import Studio

WAIT_SECONDS = 120.0
TOLD_MESSAGES = 8
BIG_FIELDS = frozenset({"data", "waveform", "histogram", "knobs", "yaml"})
"""Left out of a failure's message."""


@dataclass
class Tab:
    """session, outbox: of the tab; received: all messages so far, pictures as their header with the bytes of each layer under "data"

    draws: acknowledges every picture
    """

    session: Session
    outbox: Outbox
    draws: bool = True
    received: list[dict[str, Any]] = field(default_factory=list)

    def send(self, do: str, **facts: Any) -> None:  # noqa: ANN401
        self.session.receive(json.dumps({"do": do, **facts}))

    async def wait(self, wanted: Callable[[dict[str, Any]], bool], since: int = 0) -> dict[str, Any]:
        """The first message from number `since` on that is wanted. Fails after WAIT_SECONDS."""
        until = time.monotonic() + WAIT_SECONDS
        place = since
        while True:
            while place < len(self.received):
                if wanted(self.received[place]):
                    return self.received[place]
                place += 1
            told = [_brief(one) for one in self.received[since:][-TOLD_MESSAGES:]]
            assert time.monotonic() < until, f"it did not come; the last messages: {told}"
            await asyncio.sleep(0.01)

    def after(self, message: dict[str, Any]) -> int:
        """The number of the first message after this one, for `since`: what was on its way when it came is then no answer to what follows."""
        return next(place for place, one in enumerate(self.received, 1) if one is message)

    async def exact(self, frame: int, since: int = 0) -> dict[str, Any]:
        """The exact picture of a frame."""
        return await self.wait(lambda one: one["is"] == "picture" and one["exact"] and one["frame"] == frame, since)

    async def kind(self, kind: str, since: int = 0) -> dict[str, Any]:
        return await self.wait(lambda one: one["is"] == kind, since)

    async def _receive(self) -> None:
        while (message := await self.outbox.next()) is not None:
            if isinstance(message, str):
                self.received.append(json.loads(message))
                continue
            length = int.from_bytes(message[:4], "big")
            header, at = json.loads(message[4 : 4 + length]), 4 + length
            header["data"] = {}
            for part in header.get("parts", ()):
                header["data"][part["layer"]] = message[at : at + part["bytes"]]
                at += part["bytes"]
            if header["is"] == "video":
                header["data"], at = message[at:], len(message)
            assert at == len(message)
            self.received.append(header)
            if self.draws and header["is"] == "picture":
                self.send("ack", number=header["number"])


def _brief(message: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key not in BIG_FIELDS}


@contextlib.asynccontextmanager
async def opened_tab(studio: Studio, *, draws: bool = True) -> AsyncIterator[Tab]:
    outbox = Outbox(asyncio.get_running_loop())
    tab = Tab(Session(studio, outbox), outbox, draws)
    receiving = asyncio.create_task(tab._receive())
    try:
        yield tab
    finally:
        tab.session.close()
        await receiving
        assert await asyncio.to_thread(tab.session.join, WAIT_SECONDS)


def studio_of(
    sources: Sequence[Source | Path], words: Sequence[str] = (), profile: str = "dashcam", config: Path | None = None
) -> Studio:
    """Files are sources beside which conversions go."""
    found = [source if isinstance(source, Source) else video_source(source, None) for source in sources]
    return Studio(found, profile, config, words)


def with_tab(studio: Studio, test: Callable[[Tab], Coroutine], *, draws: bool = True) -> None:
    """Run a test in a tab, and close both."""

    async def run() -> None:
        async with opened_tab(studio, draws=draws) as tab:
            await test(tab)

    try:
        asyncio.run(run())
    finally:
        studio.close()
