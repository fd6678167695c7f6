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


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("trouble", ["cut", "freeze"])
def test_a_host_that_falls_silent_costs_its_spans_one_attempt(tmp_path: Path, trouble: str) -> None:
    """Nothing is closed: its packets vanish, or all its processes hang. Ray gives it up after a minute, and the other host does its spans."""
    clip = make_clip(tmp_path / "drive.mp4", frames=120, width=64, height=48, gop=40, audio=True)
    (tmp_path / "expected").mkdir()
    (tmp_path / "output").mkdir()
    convert(clip, tmp_path / "expected/o.mp4", load_config("dashcam", None, WORDS))
    log, environment = (
        tmp_path / "run.jsonl",
        RAY_ENV | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)},
    )
    with Hosts(3) as hosts:
        address = f"{hosts.address(0)}:{PORT}"
        roles = [["--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false"]]
        roles += [[f"--address={address}", "--num-cpus=1"]] * 2
        for number, words in enumerate(roles):
            hosts.start_ray(number, *words, environment=environment)
        wanted = ["convert", clip, "--output", tmp_path / "output/o.mp4", "--address", address, "--log", log, "--json"]
        run = hosts.popen(
            0, sys.executable, "run_pipeline.py", *wanted, *WORDS, environment=environment, stdout=-1, stderr=-1
        )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not any(one["event"] == "span begun" and one["host"] == "host2" for one in events(log)):
            assert run.poll() is None and time.monotonic() < deadline, run.communicate(timeout=10)
            time.sleep(0.05)
        getattr(hosts, trouble)(2)
        try:
            out, err = run.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the run does not end: {events(log)[-5:]}")
    assert run.returncode == 0, (out, err)
    retried = [one["error"] for one in events(log) if one["event"] == "span retried"]
    assert len(retried) == 1 and "on host2" in retried[0]
    made, wanted_files = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("output", "expected")
    )
    assert made == wanted_files
