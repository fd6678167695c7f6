"""Several hosts on this machine, joined by a network that can be cut: for tests of what lies between real machines. Needs root.

Each host is a set of Linux namespaces: its own network card and address, its own processes, host name, /tmp/ray and /dev/shm. A switch, one
more network namespace, joins them. The disk is shared. All of it is gone when this process ends, however that is; nothing of this machine's
own network is touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.processes import usual_environment

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("ip", "unshare", "nsenter", "mount")
SUBNET = "10.213.7"
PORT = 6379
STORE_BYTES = 160 * 2**20
START_ATTEMPTS = 4
INIT = """
hostname {name}
mount --make-rprivate /
mount -t tmpfs tmpfs /dev/shm
mkdir -p /tmp/ray && mount --bind {folder} /tmp/ray
ip link set lo up
echo ready
read end
"""
SWITCH = "ip link add br0 type bridge && ip link set br0 up && echo ready && read end"


def missing() -> str:
    """What keeps this machine from having such hosts; "" when nothing does."""
    if os.geteuid() != 0:
        return "needs root"
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacking:
        return f"needs the programs {', '.join(lacking)} (packages iproute2 and util-linux)"
    tried = subprocess.run(["unshare", "--net", "--pid", "--fork", "ip", "link"], capture_output=True, text=True)
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


class Hosts:
    """Context manager: `count` hosts with the addresses SUBNET.1, .2, ... Numbers of hosts begin at 0."""

    def __init__(self, count: int) -> None:
        self._folders: list[str] = []
        self._inits: list[subprocess.Popen[str]] = []
        self._begun_there: list[subprocess.Popen[str]] = []
        self._switch = self._begun(["unshare", "--net", "sh", "-c", SWITCH])
        for number in range(count):
            self._join(number)

    @staticmethod
    def address(number: int) -> str:
        """Of a host."""
        return f"{SUBNET}.{number + 1}"

    def command(self, number: int, *words: object) -> list[str]:
        """What runs a command on a host, in this process' working folder."""
        return ["nsenter", "-t", str(self._pid(number)), "-m", "-u", "-n", "-p", f"--wd={ROOT}", *map(str, words)]

    def popen(self, number: int, *words: object, environment: dict[str, str], **options: Any) -> subprocess.Popen[str]:  # noqa: ANN401
        """Begin a command on a host. environment: its variables beside ours, of which those of Ray are left out."""
        clean = usual_environment()
        process = subprocess.Popen(
            self.command(number, *words),
            cwd=ROOT,
            env=clean | environment,
            text=True,
            start_new_session=True,
            **options,
        )
        self._begun_there.append(process)
        return process

    def start_ray(self, number: int, *words: object, environment: dict[str, str]) -> None:
        """`ray start WORDS...` on a host where nothing else runs. Ray allows itself 30 s for it: on a busy machine it is tried again."""
        command = [Path(sys.executable).parent / "ray", "start", *words, f"--object-store-memory={STORE_BYTES}"]
        for _ in range(START_ATTEMPTS):
            with self.popen(number, *command, environment=environment, stdout=-1, stderr=subprocess.STDOUT) as run:
                out, _ = run.communicate(timeout=300)
            if run.returncode == 0:
                return
            subprocess.run(self.command(number, "sh", "-c", "kill -KILL -1"), check=True)
        raise AssertionError(out)

    def programs(self, number: int) -> str:
        """The command lines of a host's processes."""
        words = self.command(number, "sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '")
        return subprocess.run(words, capture_output=True, text=True, errors="replace").stdout

    def cut(self, number: int) -> None:
        """Pull the cable: packets to and from the host vanish, and nobody is told."""
        self._at_switch("ip", "link", "set", f"port{number}", "down")

    def freeze(self, number: int) -> None:
        """Stop every process of a host. Its network card goes on to answer, as the kernel does of a host that swaps itself to death."""
        subprocess.run(self.command(number, "sh", "-c", "kill -STOP -1"), check=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._begun_there:
            process.kill()  # nsenter stops when what it has started does, and what it does not wait for keeps its namespace
        for process in [*self._inits, self._switch]:
            process.communicate()  # the end of its input ends the first process of its namespace, and that all others
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _join(self, number: int) -> None:
        folder = tempfile.mkdtemp(prefix="host-", dir="/tmp")
        self._folders.append(folder)
        wanted = ["--net", "--pid", "--fork", "--mount-proc", "--uts", "--mount"]
        self._inits.append(
            self._begun(["unshare", *wanted, "sh", "-c", INIT.format(name=f"host{number}", folder=folder)])
        )
        pid, port = self._pid(number), f"port{number}"
        self._at_switch("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", pid)
        self._at_switch("ip", "link", "set", port, "master", "br0", "up")
        address = f"{self.address(number)}/24"
        up = [
            ["address", "add", address, "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["route", "add", "default", "dev", "eth0"],
        ]
        for words in up:
            subprocess.run(self.command(number, "ip", *words), check=True)

    def _at_switch(self, *words: object) -> None:
        """Run a command there. Its ports are called port0, port1, ..."""
        subprocess.run(["nsenter", "-t", str(self._switch.pid), "-n", *map(str, words)], check=True)

    def _pid(self, number: int) -> int:
        """Of the first process of a host, as seen from outside."""
        unshare = self._inits[number].pid
        return int(Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()[0])

    @staticmethod
    def _begun(command: list[str]) -> subprocess.Popen[str]:
        """Start a process that holds namespaces, and wait until it says that it is ready."""
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", f"{command[:4]} did not come up"
        return process
