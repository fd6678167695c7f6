"""A small RTSP server for tests (RFC 2326): one client at a time, RTP interleaved in the connection. FFmpeg makes the RTP packets."""

from __future__ import annotations

import socket
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self


class RtspServer:
    """Streams a clip for ever at its own pace. A context manager; `port` is on loopback. hang: answer nothing after PLAY."""

    def __init__(self, clip: Path) -> None:
        self._rtp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._rtp.bind(("127.0.0.1", 0))
        self._rtp.settimeout(0.2)
        self._door = socket.create_server(("127.0.0.1", 0))
        self._door.settimeout(0.2)
        self.port = self._door.getsockname()[1]
        self.hang = False
        self._over = threading.Event()
        target = f"rtp://127.0.0.1:{self._rtp.getsockname()[1]}?pkt_size=1200"
        command = [
            "ffmpeg",
            "-v",
            "error",
            "-re",
            "-stream_loop",
            "-1",
            "-i",
            str(clip),
            "-an",
            "-c",
            "copy",
            "-f",
            "rtp",
            target,
        ]
        self._ffmpeg = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._sdp = _description(self._ffmpeg.stdout)
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._ffmpeg.kill()
        self._ffmpeg.wait()
        self._ffmpeg.stdout.close()
        self._door.close()
        self._rtp.close()

    def _serve(self) -> None:
        while not self._over.is_set():
            with suppress(TimeoutError, ConnectionError):
                connection, _ = self._door.accept()
                with connection, connection.makefile("rb") as lines:
                    connection.settimeout(10)
                    self._talk(connection, lines)

    def _talk(self, connection: socket.socket, lines: IO[bytes]) -> None:
        while (request := lines.readline().split()) and not self._over.is_set():
            headers = dict(line.rstrip().split(b": ", 1) for line in iter(lines.readline, b"\r\n") if b": " in line)
            more, body = {
                b"DESCRIBE": ("Content-Type: application/sdp\r\n", self._sdp),
                b"SETUP": ("Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n", ""),
            }.get(request[0], ("", ""))
            length = f"Content-Length: {len(body)}\r\n" if body else ""
            answer = f"RTSP/1.0 200 OK\r\nCSeq: {headers[b'CSeq'].decode()}\r\nSession: 1\r\n{more}{length}\r\n{body}"
            connection.sendall(answer.encode())
            if request[0] == b"PLAY":
                self._play(connection)
                return

    def _play(self, connection: socket.socket) -> None:
        timeout = self._rtp.gettimeout()
        self._rtp.setblocking(False)
        with suppress(BlockingIOError):  # what came while nobody listened may have gaps
            while True:
                self._rtp.recv(2048)
        self._rtp.settimeout(timeout)
        while not self._over.is_set():
            with suppress(TimeoutError):
                packet = self._rtp.recv(2048)
                if not self.hang:
                    connection.sendall(b"$\0" + len(packet).to_bytes(2, "big") + packet)


def _description(pipe: IO[str]) -> str:
    """What FFmpeg prints of its RTP stream (SDP, RFC 4566), without its own heading."""
    lines = []
    for line in pipe:
        lines.append(line.rstrip())
        if line.startswith("a=fmtp"):
            break
    return "".join(f"{line}\r\n" for line in lines if line and line != "SDP:") + "a=control:track0\r\n"
