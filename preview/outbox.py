"""Outbox: what waits to be sent to one client. Any thread puts in, the event loop takes out; nothing piles up when the client is slow."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import deque
from typing import Any

from preview.limits import ACK_SECONDS, PICTURES_IN_FLIGHT, TEXTS_WAITING, VIDEO_FRAGMENTS_WAITING

REPLACED = frozenset({"state", "scopes", "settings", "conversion", "opened"})
"""Messages of which only the newest counts."""


class Outbox:
    """loop: the event loop that sends."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._filled = loop, asyncio.Event()
        self._changed = threading.Condition()
        self._texts: dict[str, dict[str, Any]] = {}
        self._picture: tuple[dict[str, Any], list[bytes]] | None = None
        self._fragments: deque[tuple[dict[str, Any], bytes]] = deque()
        self._in_flight: dict[int, float] = {}
        self._number = 0
        self._closed = False

    def text(self, kind: str, message: dict[str, Any]) -> None:
        """Send a message; the newest of those in REPLACED alone, of others the first TEXTS_WAITING."""
        with self._changed:
            self._number += 1
            key = kind if kind in REPLACED else f"{kind} {self._number}"
            if len(self._texts) < TEXTS_WAITING or key in self._texts:
                self._texts[key] = {"is": kind} | message
        self._wake()

    def picture(self, header: dict[str, Any], parts: list[tuple[str, str, bytes]]) -> None:
        """Send a picture of (layer, type, bytes) parts as soon as the client has drawn enough of those before; it replaces one that waits."""
        told = [{"layer": layer, "type": kind, "bytes": len(data)} for layer, kind, data in parts]
        with self._changed:
            self._picture = ({"is": "picture"} | header | {"parts": told}, [data for *_, data in parts])
        self._wake()

    def fragment(self, header: dict[str, Any], data: bytes) -> bool:
        """Send a piece of video; False when too many wait, and it is left out."""
        with self._changed:
            if len(self._fragments) >= VIDEO_FRAGMENTS_WAITING:
                return False
            self._fragments.append(({"is": "video"} | header | {"bytes": len(data)}, data))
        self._wake()
        return True

    def has_room_for_video(self) -> bool:
        """Has the client taken most of the video so far, so that a new run of it would not be cut off at once?"""
        with self._changed:
            return len(self._fragments) <= VIDEO_FRAGMENTS_WAITING // 2

    def ack(self, number: int) -> None:
        """The client has drawn the pictures up to this one."""
        with self._changed:
            for one in [one for one in self._in_flight if one <= number]:
                del self._in_flight[one]
            self._changed.notify_all()
        self._wake()

    def wait_for_room(self, seconds: float) -> bool:
        """Would another picture be sent at once? Waits so long for it."""
        with self._changed:
            return self._changed.wait_for(self._has_room, seconds)

    def close(self) -> None:
        """Nothing is sent any more."""
        with self._changed:
            self._closed = True
            self._picture = None
            self._texts.clear()
            self._fragments.clear()
            self._changed.notify_all()
        self._wake()

    async def next(self) -> str | bytes | None:
        """What to send next, when there is something; None once it is closed. For one task alone."""
        while True:
            self._filled.clear()
            message = self._take()
            if message is not None:
                return message
            if self._closed:
                return None
            try:
                await asyncio.wait_for(self._filled.wait(), ACK_SECONDS)
            except TimeoutError:
                continue

    def _take(self) -> str | bytes | None:
        with self._changed:
            if self._texts:
                return json.dumps(self._texts.pop(next(iter(self._texts))), default=str)
            if self._fragments:
                header, data = self._fragments.popleft()
                return _framed(header, [data])
            if self._picture is None or not self._may_fly():
                return None
            (header, parts), self._picture = self._picture, None
            self._number += 1
            self._in_flight[self._number] = time.monotonic()
            self._changed.notify_all()
            return _framed({"is": "picture", "number": self._number} | header, parts)

    def _has_room(self) -> bool:
        return self._closed or (self._picture is None and self._may_fly())

    def _may_fly(self) -> bool:
        now = time.monotonic()
        for number in [number for number, sent in self._in_flight.items() if now - sent > ACK_SECONDS]:
            del self._in_flight[number]
        return len(self._in_flight) < PICTURES_IN_FLIGHT

    def _wake(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._filled.set)


def _framed(header: dict[str, Any], parts: list[bytes]) -> bytes:
    """4 bytes big-endian length of the JSON header, the header, and the parts."""
    text = json.dumps(header, default=str).encode()
    return b"".join([len(text).to_bytes(4, "big"), text, *parts])
