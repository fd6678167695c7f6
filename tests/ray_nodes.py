"""A Ray cluster of several nodes on this machine, every port of it on 127.0.0.1: for tests that take nodes away.

Runs in a process of its own: `python -m tests.ray_nodes` reads lines of JSON and answers each with one. [] as a line, or the end of its
input, ends it and its nodes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.processes import usual_environment
from workers.cluster import LOCAL_ENV, NODE_SECONDS, RAY_ENV, _find_node

ROOT = Path(__file__).resolve().parents[1]
SPARING = {"object_store_memory": 160 * 2**20, "include_log_monitor": False}
"""Of each node."""


class RayNodes:
    """Context manager: a head without resources, and nodes that come and go. environment: what a driver needs to join."""

    def __init__(self, *cpus: float) -> None:
        token = uuid.uuid4().hex * 2
        self.environment = RAY_ENV | LOCAL_ENV | {"RAY_AUTH_TOKEN": token}
        clean = usual_environment()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.ray_nodes"],
            cwd=ROOT,
            env=clean | self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.address: str = self._ask("head")
        for count in cpus:
            self.add(count)

    def add(self, cpus: float, **resources: float) -> str:
        """Add a node and return its id."""
        return self._ask("add", cpus, resources)

    def kill(self, node: int) -> None:
        """Take node 0, 1, ... away at once, as a power cut would."""
        self._ask("kill", node)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=240)

    @property
    def pid(self) -> int:
        """Of the process whose children the nodes are."""
        return self._process.pid

    def _ask(self, *words: object) -> Any:  # noqa: ANN401 - whatever JSON holds
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        while not (line := self._process.stdout.readline()).startswith("ANSWER "):
            assert line, "the process of the nodes has ended"
        return json.loads(line.removeprefix("ANSWER "))


def main() -> None:
    """Serve until the input ends."""
    from ray._private import services
    from ray.cluster_utils import Cluster

    # Ray's own 30 seconds are too few on a busy machine.
    services.get_node = partial(_find_node, services.get_node)
    cluster = Cluster()
    cluster._wait_for_node = partial(cluster._wait_for_node, timeout=NODE_SECONDS)
    nodes = []
    folder = tempfile.mkdtemp(prefix="rays-", dir="/tmp")  # short: a socket's path has at most 107 bytes
    # Workers have what a driver sends them and, for spans of tests/cluster_driver.py, the tests; not this checkout, as on other machines.
    (Path(folder) / "path").mkdir()
    (Path(folder) / "path/tests").symlink_to(ROOT / "tests")
    os.environ["PYTHONPATH"] = f"{folder}/path"
    for line in sys.stdin:
        word, *told = json.loads(line)
        answer = None
        if word == "head":
            cluster.add_node(num_cpus=0, **SPARING, include_dashboard=False, temp_dir=folder)
            answer = cluster.address
        elif word == "add":
            nodes.append(cluster.add_node(num_cpus=told[0], resources=told[1], **SPARING))
            answer = nodes[-1].node_id
        elif word == "kill":
            cluster.remove_node(nodes[told[0]], allow_graceful=False)
        sys.stdout.write(f"ANSWER {json.dumps(answer)}\n")
        sys.stdout.flush()
    cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
