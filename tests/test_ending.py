"""Ray's end: a slow one is hurried, and one that never comes ends the process, with a sentence."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.test_workers import alive
from workers import ending

ROOT = Path(__file__).resolve().parents[1]


def test_an_end_that_waits_for_rays_processes_comes_when_they_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "HURRY_SECONDS", 0.2)
    with subprocess.Popen(["sleep", "1000"]) as one, ending.bounded([one]):
        assert one.wait() == -signal.SIGKILL


def test_nothing_happens_after_an_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    given_up: list[object] = []
    monkeypatch.setattr(ending, "HURRY_SECONDS", 2.0)
    monkeypatch.setattr(ending, "GIVE_UP_SECONDS", 0.0)
    monkeypatch.setattr(ending, "_give_up", given_up.append)
    with subprocess.Popen(["sleep", "1000"]) as one:
        with ending.bounded([one]):
            pass
        with pytest.raises(subprocess.TimeoutExpired):
            one.wait(3)
        one.kill()
    assert given_up == []


@pytest.mark.parametrize(
    ("error", "code", "why"),
    [
        ("None", 1, ""),
        ("KeyboardInterrupt()", 1, " It was to end because of: KeyboardInterrupt."),
        ("OSError('No space.')", 1, " It was to end because of: No space."),
        ("StopNow(143)", 143, " It was to end because of: stopped by the user, exit code 143."),
    ],
)
@pytest.mark.parametrize("closed", [False, True])
def test_giving_up_says_why_and_ends_though_nobody_listens(error: str, code: int, why: str, closed: bool) -> None:
    program = f"import sys; from workers import ending; from workers.interrupts import StopNow; {'sys.stderr.close();' * closed} ending._give_up({error})"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == code
    assert done.stderr == (
        ""
        if closed
        else f"Ray has not ended for 165 s, so this process ends without a report.{why} What was delivered is whole; "
        "run the same command again for the rest and the report.\n"
    )


def test_a_ray_that_never_ends_is_left() -> None:
    """Its processes are killed first, and what is left of it goes with the process."""
    program = (
        "import threading, ray; from workers import cluster, ending\n"
        "ending.HURRY_SECONDS, ending.GIVE_UP_SECONDS = 1, 3\n"
        "with cluster.connect() as found:\n"
        "    print(*(process.pid for _, process in found.essential), found.session_dir.parent, flush=True)\n"
        "    ray.shutdown = threading.Event().wait\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    assert done.stderr == (
        "Ray has not ended for 4 s, so this process ends without a report. What was delivered is whole; "
        "run the same command again for the rest and the report.\n"
    )
    gcs, raylet, folder = done.stdout.split()
    assert not alive({int(gcs), int(raylet)})
    deadline = time.monotonic() + 120
    while Path(folder).exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(folder).exists()
