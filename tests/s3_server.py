"""An S3-speaking server (moto's) in a process of its own, and a wire to it that can be cut, held up and spied on."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import boto3
from botocore.config import Config

MOTO = """
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""
"""Not moto's own program: that wants a port by number, which somebody else may take meanwhile."""
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "hush-hush-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


class Server:
    """moto on a free port of loopback. client: boto3's, which s3fs has no part in"""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", MOTO], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline()
        assert port, "the S3 server did not start"
        self.port = int(port)
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 5}),
        )

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()

    def keys(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """All objects and what is in them."""
        found = self.client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
        return {one["Key"]: self.client.get_object(Bucket=bucket, Key=one["Key"])["Body"].read() for one in found}

    def uploads(self, bucket: str) -> list[str]:
        """Keys of unfinished uploads."""
        return [one["Key"] for one in self.client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]


class Wire:
    """Passes connections on to a server, and looks at the requests.

    trouble: "" pass on; "refuse" close at once; "stall" take and never answer; "deny" answer 403
    only: requests that the trouble is for, as a regular expression of their first line; cut: so many answers are broken off in the middle
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self.trouble, self.only, self.cut = "", "", 0
        self.requests: list[str] = []
        self.bytes_out = 0
        self.troubled = 0
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def heal(self) -> None:
        self.trouble, self.only, self.cut = "", "", 0

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                there, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(there,), daemon=True).start()

    def _serve(self, there: socket.socket) -> None:
        with contextlib.suppress(OSError), there, socket.create_connection(("127.0.0.1", self._to)) as server:
            back = threading.Thread(target=self._answer, args=(server, there), daemon=True)
            back.start()
            while data := there.recv(1 << 16):
                first = data.split(b"\r\n", 1)[0].decode(errors="replace")
                if re.match(r"[A-Z]+ /\S* HTTP/1", first):
                    self.requests.append(first)
                    only = self.only
                    if self.trouble and re.search(only, first):
                        self.troubled += 1
                        if self.trouble == "refuse":
                            return
                        if self.trouble == "deny":
                            head = (
                                f"HTTP/1.1 403 Forbidden\r\nContent-Length: {len(DENIED)}\r\nConnection: close\r\n\r\n"
                            )
                            there.sendall(head.encode() + DENIED)
                            return
                        while self.trouble == "stall" and self.only == only:
                            time.sleep(0.05)
                        return
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
            back.join()

    def _answer(self, server: socket.socket, there: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                if self.cut and re.search(self.only, self.requests[-1]) and len(data) > 4000:
                    self.cut -= 1
                    self.troubled += 1
                    there.sendall(data[:3000])
                    break
                self.bytes_out += len(data)
                there.sendall(data)
            there.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.stop()
