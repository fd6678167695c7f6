"""Preview's server: only its own page comes in, nothing but its files goes out, and strangers change nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp
import pytest

from pipeline.errors import InputError
from preview.limits import MESSAGE_BYTES, SOCKETS
from preview.server import PAGE, Door, is_loopback, listen, make_app, make_token


@dataclass
class FakeTab:
    """Answers each message with itself."""

    messages: list[str] = field(default_factory=list)
    closed: bool = False
    waiting: asyncio.Queue = field(default_factory=asyncio.Queue)

    def receive(self, text: str) -> None:
        self.messages.append(text)
        self.waiting.put_nowait(text)

    def close(self) -> None:
        self.closed = True
        self.waiting.put_nowait(None)

    async def next(self) -> str | None:
        return await self.waiting.get()


@dataclass
class Running:
    """A server that listens, and the tabs that were opened."""

    port: int
    tabs: list[FakeTab]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def ask(self, path: str, *lines: str, method: str = "GET", body: bytes = b"") -> tuple[int, str, bytes]:
        """(status, head, body) of one request, its path sent as it is. lines: of the head; `Host` is right unless among them"""
        head = [f"{method} {path} HTTP/1.1", *lines, "Connection: close"]
        if not any(line.lower().startswith("host:") for line in lines):
            head.insert(1, f"Host: 127.0.0.1:{self.port}")
        if body:
            head.append(f"Content-Length: {len(body)}")
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write("\r\n".join([*head, "", ""]).encode() + body)
        answer = await reader.read()
        writer.close()
        told, _, rest = answer.partition(b"\r\n\r\n")
        return int(told.split()[1]) if told else 0, told.decode(), rest


@contextlib.asynccontextmanager
async def running(token: str | None = None) -> AsyncIterator[Running]:
    from aiohttp import web

    tabs: list[FakeTab] = []

    async def open_tab(loop: asyncio.AbstractEventLoop) -> tuple[FakeTab, FakeTab]:
        tabs.append(FakeTab())
        return tabs[-1], tabs[-1]

    sock = listen("127.0.0.1", 0)
    port = sock.getsockname()[1]
    runner = web.AppRunner(make_app(Door("127.0.0.1", port, token), open_tab), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.SockSite(runner, sock).start()
    try:
        yield Running(port, tabs)
    finally:
        await runner.cleanup()


def served(test: Callable[[Running], Awaitable[None]], token: str | None = None) -> None:
    async def run() -> None:
        async with running(token) as server:
            await test(server)
            status, _, body = await server.ask("/", *([f"Authorization: Bearer {token}"] if token else []))
            assert (status, body) == (200, (PAGE / "index.html").read_bytes()), "the server goes on"

    asyncio.run(run())


def test_the_page_comes_with_headers_that_let_nothing_else_in() -> None:
    async def test(server: Running) -> None:
        status, head, body = await server.ask("/")
        assert status == 200
        assert body == (PAGE / "index.html").read_bytes()
        assert "default-src 'none'" in head
        assert "frame-ancestors 'none'" in head
        assert "X-Content-Type-Options: nosniff" in head
        assert "Cache-Control: no-store" in head
        assert "Referrer-Policy: no-referrer" in head
        for name in re.findall(r'(?:src|href)="/?(page/[^"]+)"', body.decode()):
            assert (await server.ask(f"/{name}"))[0] == 200, name

    served(test)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:{port}", "user@127.0.0.1:{port}", "127.0.0.1:{port}@evil.example", "", "[::1", "127.0.0.1:{port}:{port}", "0x7f.1:{port}"],
)  # fmt: skip
def test_another_host_is_refused(host: str) -> None:
    async def test(server: Running) -> None:
        for path in ("/", "/ws", "/page/index.html"):
            status, _, body = await server.ask(path, f"Host: {host.format(port=server.port)}")
            assert status in (400, 403), body

    served(test)


def test_names_of_loopback_are_let_in() -> None:
    async def test(server: Running) -> None:
        for host in (f"localhost:{server.port}", f"127.0.0.1:{server.port}", f"[::1]:{server.port}"):
            assert (await server.ask("/", f"Host: {host}"))[0] == 200

    served(test)


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "https://127.0.0.1:{port}", "http://127.0.0.1:1", "http://localhost:{port}"],
)
def test_another_origin_is_refused(origin: str) -> None:
    async def test(server: Running) -> None:
        assert (await server.ask("/", f"Origin: {origin.format(port=server.port)}"))[0] == 403
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(f"{server.address}/ws", headers={"Origin": origin.format(port=server.port)})
            assert refused.value.status == 403
        assert not server.tabs

    served(test)


@pytest.mark.parametrize(
    "path",
    ["/page/../server.py", "/page/%2e%2e/server.py", "/page/..%2fserver.py", "/page/%2e%2e%2fserver.py", "/page/....//server.py", "/../preview/server.py", "/page/..\\server.py", "/page//etc/passwd", "/page/%00", "//etc/passwd", "/page/", "/page", "/etc/passwd", "/ws/../page/../server.py", "/page/index.html/../../server.py", "/preview/server.py", "/.git/config"],
)  # fmt: skip
def test_no_path_leads_out_of_the_page(path: str) -> None:
    async def test(server: Running) -> None:
        status, _, body = await server.ask(path)
        assert status in (400, 403, 404), body
        assert b"aiohttp import" not in body
        assert b"root:" not in body

    served(test)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
def test_nothing_but_get_is_known(method: str) -> None:
    async def test(server: Running) -> None:
        for path in ("/", "/ws", "/page/index.html", "/upload"):
            status, _, _ = await server.ask(path, method=method, body=b"x" * 4096)
            assert status == 405
        assert not server.tabs

    served(test)


def test_garbage_instead_of_http_ends_the_connection_alone() -> None:
    async def test(server: Running) -> None:
        for garbage in (b"\x00" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"A" * 100_000 + b"\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(garbage)
            with contextlib.suppress(ConnectionError):
                writer.write_eof()
                await reader.read()
            writer.close()

    served(test)


async def is_refused(socket: aiohttp.ClientWebSocketResponse) -> bool:
    """One that is let in hears nothing."""
    try:
        message = await socket.receive(timeout=10)
    except TimeoutError:
        return False
    assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1013) and "tabs" in message.extra
    return True


def test_a_flood_of_sockets_is_turned_away_and_those_that_are_open_go_on() -> None:
    async def test(server: Running) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            first = await session.ws_connect(f"{server.address}/ws")
            sockets = await asyncio.gather(*(session.ws_connect(f"{server.address}/ws") for _ in range(200)))
            refused = await asyncio.gather(*map(is_refused, sockets))
            assert sum(refused) == 200 - SOCKETS + 1
            await first.send_str('{"do":"pause"}')
            assert (await first.receive(timeout=60)).data == '{"do":"pause"}'
            for socket in [first, *sockets]:
                await socket.close()
            until = time.monotonic() + 60
            while not all(tab.closed for tab in server.tabs):
                assert time.monotonic() < until
                await asyncio.sleep(0.02)
            assert len(server.tabs) == SOCKETS
            again = await session.ws_connect(f"{server.address}/ws")
            await again.send_str("x")
            assert (await again.receive(timeout=60)).data == "x"

    served(test)


def test_messages_that_are_too_long_or_not_text_harm_one_socket_at_most() -> None:
    async def test(server: Running) -> None:
        async with aiohttp.ClientSession() as session:
            good = await session.ws_connect(f"{server.address}/ws")
            long = await session.ws_connect(f"{server.address}/ws")
            with contextlib.suppress(ConnectionError):
                await long.send_str("x" * (MESSAGE_BYTES + 1))
            assert (await long.receive(timeout=60)).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
            await good.send_bytes(b"\x00\xff")
            assert json.loads((await good.receive(timeout=60)).data)["is"] == "error"
            await good.send_str("y" * (MESSAGE_BYTES - 1))
            assert len((await good.receive(timeout=60)).data) == MESSAGE_BYTES - 1
            assert server.tabs[1].messages == []

    served(test)


def test_a_token_is_needed_for_everything_and_the_cookie_holds_it() -> None:
    token = make_token()

    async def test(server: Running) -> None:
        for path in ("/", "/page/index.html", "/ws", "/?token=", "/?token=wrong", f"/?token={token[:-1]}"):
            assert (await server.ask(path))[0] in (401, 404), path
        assert (await server.ask("/", "Authorization: Bearer wrong"))[0] == 401
        assert (await server.ask("/", "Cookie: sunvisor_token=wrong"))[0] == 401
        status, head, _ = await server.ask(f"/?token={token}")
        assert status == 200
        cookie = re.search(r"Set-Cookie: (.*)", head)[1]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        names = [path.name for path in PAGE.glob("*.js")]
        assert (await server.ask(f"/page/{names[0]}", f"Cookie: {cookie.split(';')[0]}"))[0] == 200
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(f"{server.address}/ws")
            assert refused.value.status == 401
            async with session.ws_connect(f"{server.address}/ws?token={token}") as socket:
                await socket.send_str("hello")
                assert (await socket.receive(timeout=60)).data == "hello"
        assert token not in (PAGE / "index.html").read_text()

    served(test, token)


def test_a_port_that_is_taken_is_told_with_what_to_do() -> None:
    sock = listen("127.0.0.1", 0)
    try:
        with pytest.raises(InputError, match="another preview may be running, --port 0"):
            listen("127.0.0.1", sock.getsockname()[1])
    finally:
        sock.close()
    with pytest.raises(InputError, match="--host"):
        listen("no.such.host.invalid", 0)


@pytest.mark.parametrize(
    ("host", "known"),
    [("10.1.2.3:8765", True), ("localhost:8765", True), ("evil.example:8765", False), ("10.1.2.3:80", False)],
)
def test_listening_everywhere_knows_addresses_but_no_foreign_names(host: str, known: bool) -> None:
    assert Door("0.0.0.0", 8765, "a-token").knows(host) == known
    assert not Door("0.0.0.0", 8765, None).knows("10.1.2.3:8765")


def test_what_is_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.5", "example.com", "")))


def test_the_printed_address_holds_the_token() -> None:
    assert Door("127.0.0.1", 8765, None).address == "http://127.0.0.1:8765/"
    assert Door("::1", 80, "t0ken").address == "http://[::1]:80/?token=t0ken"
