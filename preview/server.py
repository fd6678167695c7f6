"""Server: one page, its files, and a WebSocket for each tab, on loopback unless told otherwise. It never computes: sessions have threads.

Nobody but the page may talk to it: Host must be a name that it listens on, Origin the page's own, and beyond loopback a token is needed.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import secrets
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import WSMsgType, web

from pipeline.errors import InputError
from preview.limits import MESSAGE_BYTES, SOCKETS

PAGE = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
COOKIE = "sunvisor_token"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src blob:; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
HEARTBEAT_SECONDS = 20.0
GOODBYE_SECONDS = 1.0
"""How long a client that is sent away may take to say so too."""
TOKEN_BYTES = 24

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Tab:
    """What the server needs of a session (preview/session.py)."""

    def receive(self, text: str) -> None:
        """A message of the client. Never waits for work."""

    def close(self) -> None:
        """The client is gone."""


class Mail:
    """What the server needs of an outbox (preview/outbox.py)."""

    async def next(self) -> str | bytes | None:
        """What to send next; None once it is closed."""


OpenTab = Callable[[asyncio.AbstractEventLoop], Awaitable[tuple[Tab, Mail]]]


@dataclass(frozen=True)
class Door:
    """Who may come in. host, port: listened on; token: needed by everyone, None where nobody needs one"""

    host: str
    port: int
    token: str | None

    @property
    def address(self) -> str:
        """What to open in a browser."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    def knows(self, host: str | None) -> bool:
        """Is this Host header one of the names listened on, with the port? Beyond loopback any address of the machine is one."""
        if not host:
            return False
        with suppress(ValueError):
            parts = urlsplit(f"//{host}")
            name = parts.hostname or ""
            return (
                (parts.port or 80) == self.port and not parts.username and (name in self._names() or self._is_own(name))
            )
        return False

    def lets(self, origin: str | None, host: str) -> bool:
        """Is the request from our page, or from no page at all?"""
        return origin is None or origin == f"http://{host}"

    def _names(self) -> frozenset[str]:
        loopback = {"localhost", "127.0.0.1", "::1"} if is_loopback(self.host) else set()
        return frozenset({self.host.lower(), *loopback})

    def _is_own(self, name: str) -> bool:
        """Listening on every address, with a token: the machine's names and numbers all lead here."""
        if self.token is None or self.host not in ("0.0.0.0", "::"):
            return False
        with suppress(ValueError):
            ipaddress.ip_address(name)
            return True
        return name in {"localhost", socket.gethostname().lower(), socket.getfqdn().lower()}


def is_loopback(host: str) -> bool:
    """Is this an address, or the name, that only this machine reaches?"""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"


def make_token() -> str:
    """A new one, not to be guessed."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes any free one. Raises InputError when that cannot be."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        sock = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host {host}: this machine has no such address ({error}).") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(128)
    except (OSError, OverflowError) as error:
        sock.close()
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"--port {port}: cannot listen there on {host} ({why}); another preview may be running, --port 0 takes any free port."
        ) from error
    return sock


def make_app(door: Door, open_tab: OpenTab) -> web.Application:
    """The application. open_tab: makes a session and its outbox, for each socket."""
    app = web.Application(middlewares=[_guard(door)], client_max_size=MESSAGE_BYTES)
    sockets = _Sockets(open_tab)
    app.router.add_get("/", _file("index.html"))
    for path in sorted(PAGE.iterdir()):
        if path.suffix in TYPES:
            app.router.add_get(f"/page/{path.name}", _file(path.name))
    app.router.add_get("/ws", sockets.serve)
    app.on_shutdown.append(sockets.close)
    return app


def _file(name: str) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        path = PAGE / name
        return web.Response(body=path.read_bytes(), content_type=TYPES[path.suffix], charset="utf-8")

    return handler


def _guard(door: Door) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = _refused(door, request)
        if answer is None:
            try:
                answer = await handler(request)
            except web.HTTPException as error:
                answer = web.Response(status=error.status, text=error.reason)
        if not answer.prepared:
            answer.headers.update(HEADERS)
            if (
                door.token
                and request.query.get("token")
                and not isinstance(answer, web.WebSocketResponse)
                and answer.status == 200
            ):
                answer.set_cookie(COOKIE, door.token, httponly=True, samesite="Strict", path="/")
        return answer

    return guard


def _refused(door: Door, request: web.Request) -> web.Response | None:
    """The answer to a request that is not let in; None for others."""
    host = request.headers.get("Host")
    if not door.knows(host):
        return web.Response(status=403, text="This Host is not ours: open the address that the preview printed.")
    if not door.lets(request.headers.get("Origin"), host):
        return web.Response(status=403, text="Only the preview's own page may ask this.")
    if request.method not in ("GET", "HEAD"):
        return web.Response(status=405, text="Only GET is known here.", headers={"Allow": "GET, HEAD"})
    if door.token is not None and not _has_token(door.token, request):
        return web.Response(
            status=401, text="A token is needed: open the address that the preview printed, with its ?token=..."
        )
    return None


def _has_token(token: str, request: web.Request) -> bool:
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    given = (request.query.get("token"), request.cookies.get(COOKIE), bearer)
    return any(one and hmac.compare_digest(one.encode(), token.encode()) for one in given)


class _Sockets:
    """The open ones, SOCKETS at most."""

    def __init__(self, open_tab: OpenTab) -> None:
        self._open_tab = open_tab
        self._open: set[web.WebSocketResponse] = set()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return web.Response(
                status=426, text="This address is for the page's WebSocket.", headers={"Upgrade": "websocket"}
            )
        socket = web.WebSocketResponse(
            timeout=GOODBYE_SECONDS, heartbeat=HEARTBEAT_SECONDS, max_msg_size=MESSAGE_BYTES, compress=False
        )
        socket.headers.update(HEADERS)
        await socket.prepare(request)
        if len(self._open) >= SOCKETS:
            await socket.close(code=1013, message=f"{SOCKETS} tabs are open already; close one.".encode())
            return socket
        self._open.add(socket)
        try:
            await self._talk(socket)
        finally:
            self._open.discard(socket)
        return socket

    async def _talk(self, socket: web.WebSocketResponse) -> None:
        tab, mail = await self._open_tab(asyncio.get_running_loop())
        sender = asyncio.create_task(_send_all(socket, mail))
        try:
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    tab.receive(message.data)
                elif message.type == WSMsgType.BINARY:
                    await socket.send_str(json.dumps({"is": "error", "text": "Only text messages are known here."}))
        finally:
            tab.close()
            sender.cancel()
            with suppress(asyncio.CancelledError):
                await sender

    async def close(self, app: web.Application) -> None:
        """The server ends: say so to every tab."""
        for one in list(self._open):
            await one.close(code=1001, message=b"The preview has ended.")


async def _send_all(socket: web.WebSocketResponse, mail: Mail) -> None:
    """A slow client makes this wait, and nobody else."""
    with suppress(ConnectionError, RuntimeError):
        while (message := await mail.next()) is not None:
            if isinstance(message, str):
                await socket.send_str(message)
            else:
                await socket.send_bytes(message)
