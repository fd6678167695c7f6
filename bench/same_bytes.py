"""Same bytes: an archive converted by one worker, by four, and by a cluster of three nodes of which one is killed half way."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from bench.fault_run import Run, digests
from tests.ray_nodes import RayNodes


def compare(source: Path, place: Path) -> dict[str, Any]:
    """SHA-256 of every output by how it was made. Raises SystemExit when a run fails."""
    found: dict[str, Any] = {"ways": {}}
    for workers in (1, 4):
        words = ("--workers", str(workers))
        found["ways"][f"{workers} worker{'s' if workers > 1 else ''}"] = _converted(source, place, *words)
    with RayNodes(1, 1, 1) as nodes:
        words = ("--address", nodes.address, "workers.threads=1")
        killed: list[tuple[int, int]] = []

        def disturb(run: Run) -> None:
            while not run.over and sum(run.progress()) < 4:
                time.sleep(0.02)
            nodes.kill(1)
            killed.append(run.progress())

        name = "3 nodes, one killed"
        found["ways"][name] = _converted(source, place, *words, environment=nodes.environment, disturb=disturb)
        found["done_when_killed"] = killed[0]
    ways = list(found["ways"].values())
    return found | {"same": all(way == ways[0] for way in ways), "cpus": os.cpu_count()}


def _converted(source: Path, place: Path, *words: str, environment: Any = None, disturb: Any = None) -> dict[str, str]:  # noqa: ANN401
    output = place / "same"
    run = Run(source, output, place / "t", *words, environment=environment)
    if disturb is not None:
        disturb(run)
    code = run.wait()
    if code != 0:
        raise SystemExit(f"The run with {words} ended with {code}:\n{run.err.read_text()[-3000:]}")
    found = digests(output)
    shutil.rmtree(output)
    run.survivors()
    shutil.rmtree(run.scratch)
    return found


def as_markdown(data: dict[str, Any]) -> str:
    """The table for people."""
    ways, (files, spans) = data["ways"], data["done_when_killed"]
    lines = [
        "# The same bytes",
        "",
        f"`python -m bench.faults --same-bytes`: {'the same' if data['same'] else '**NOT the same**'} bytes each way. The cluster is three raylets "
        f"on this machine ({data['cpus']} CPUs), one of which is killed when {files} files are there and {spans} spans of the others.",
        "",
        f"| file | {' | '.join(ways)} |",
        f"|---{'|---' * len(ways)}|",
    ]
    for name in sorted(set().union(*ways.values())):
        lines.append(f"| {name} | {' | '.join(way.get(name, 'missing')[:16] for way in ways.values())} |")
    return "\n".join([*lines, "", "First 16 digits of the SHA-256; the JSON beside has all."]) + "\n"
