"""A cluster over a network of its own: hosts with addresses, processes and names of their own (tests/hosts.py), one of which vanishes."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from configs.schema import load_config
from pipeline.convert import convert
from tests.clips import make_clip
from tests.hosts import PORT, Hosts, missing
from tests.test_reliability import SHORT
from workers.cluster import RAY_ENV

WORDS = [*SHORT, "model=neutral", "extras.mask=true", "workers.threads=1"]
PARTS = ("DecodePart", "ComputePart", "StreamWorker")
PATIENCE_SECONDS = 600.0
"""Ray alone takes 65 s to believe that a host is gone: five checks, each 3 s after the last and given 10 s."""


@pytest.fixture(autouse=True)
def _able() -> None:
    """Without root or namespaces a test skips, unless SUNVISOR_REQUIRE_HOSTS=1 says that they must be here."""
    if why := missing():
        if os.environ.get("SUNVISOR_REQUIRE_HOSTS") == "1":
            pytest.fail(f"SUNVISOR_REQUIRE_HOSTS=1, but this machine {why}")
        pytest.skip(f"{why}; SUNVISOR_REQUIRE_HOSTS=1 makes this a failure")


def events(log: Path) -> list[dict[str, Any]]:
    """What the run log says so far."""
    text = log.read_text() if log.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def convert_over(hosts: Hosts, cpus: list[int], clip: Path, folder: Path, *words: object) -> subprocess.Popen[str]:
    """Start Ray with so many CPUs on hosts 1, 2, ..., its head on host 0, and there a conversion to output/o.mp4 in that folder."""
    environment = RAY_ENV | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    address = f"{hosts.address(0)}:{PORT}"
    roles = [["--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false"]]
    roles += [[f"--address={address}", f"--num-cpus={count}"] for count in cpus]
    for number, role in enumerate(roles):
        hosts.start_ray(number, *role, environment=environment)
    (folder / "output").mkdir()
    wanted = ["convert", clip, "--output", folder / "output/o.mp4", "--address", address, "--json", *words, *WORDS]
    return hosts.popen(0, sys.executable, "run_pipeline.py", *wanted, environment=environment, stdout=-1, stderr=-1)


def ended(run: subprocess.Popen[str], log: Path) -> None:
    """Wait for the conversion."""
    try:
        out, err = run.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.fail(f"the run does not end: {events(log)[-5:]}")
    assert run.returncode == 0, (out, err)


def assert_same(folder: Path, clip: Path) -> None:
    """What is in output/ there has the bytes of a conversion without Ray."""
    (folder / "expected").mkdir()
    convert(clip, folder / "expected/o.mp4", load_config("dashcam", None, WORDS))
    made, wanted = (
        {path.name: path.read_bytes() for path in (folder / name).iterdir()} for name in ("output", "expected")
    )
    assert made == wanted


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("trouble", ["cut", "freeze"])
def test_a_host_that_falls_silent_costs_its_spans_one_attempt(tmp_path: Path, trouble: str) -> None:
    """Nothing is closed: its packets vanish, or all its processes hang. Ray gives it up after a minute, and the other host does its spans."""
    clip = make_clip(tmp_path / "drive.mp4", frames=120, width=64, height=48, gop=40, audio=True)
    log = tmp_path / "run.jsonl"
    with Hosts(3) as hosts:
        run = convert_over(hosts, [1, 1], clip, tmp_path, "--log", log)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not any(one["event"] == "span begun" and one["host"] == "host2" for one in events(log)):
            assert run.poll() is None and time.monotonic() < deadline, run.communicate(timeout=10)
            time.sleep(0.05)
        getattr(hosts, trouble)(2)
        ended(run, log)
    retried = [one["error"] for one in events(log) if one["event"] == "span retried"]
    assert len(retried) == 1 and "on host2" in retried[0]
    assert_same(tmp_path, clip)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_stream_whose_parts_are_on_three_hosts_gives_the_same_bytes(tmp_path: Path) -> None:
    """No host has room for two parts, so every frame crosses the network twice."""
    clip = make_clip(tmp_path / "drive.mp4", frames=60, width=64, height=48, gop=40, audio=True)
    log = tmp_path / "run.jsonl"
    places: set[tuple[str, int]] = set()
    with Hosts(4) as hosts:
        run = convert_over(hosts, [1, 1, 1], clip, tmp_path, "--log", log, "workers.topology=stream")
        while run.poll() is None and len(places) < len(PARTS):
            places |= {
                (part, number) for number in range(4) for part in PARTS if f"ray::{part}" in hosts.programs(number)
            }
            time.sleep(0.5)
        ended(run, log)
    assert {part for part, _ in places} == set(PARTS) and len({number for _, number in places}) == len(PARTS)
    assert_same(tmp_path, clip)
