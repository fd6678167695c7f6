"""Shared test setup: few threads, a CUDA switch that turns skips into failures, and real clips when they are there."""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.processes import NICENESS

settings.register_profile("steady", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("steady")
torch.set_num_threads(1)
os.environ[NICENESS] = "0"

SCHEDULER = os.sched_getscheduler(0)
EXIT_SECONDS = 120
"""How long the end of the process may take when all tests are done."""
TEARDOWN_SECONDS = 900
SCREEN = 2
"""Standard error as this process got it, which pytest catches during tests."""

REAL_CLIPS = Path(__file__).resolve().parents[2] / "shared" / "data" / "clips"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A GPU test without a GPU skips, unless SUNVISOR_REQUIRE_CUDA=1 says that one must be here."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        if os.environ.get("SUNVISOR_REQUIRE_CUDA") == "1":
            pytest.fail("SUNVISOR_REQUIRE_CUDA=1, but torch sees no CUDA device")
        pytest.skip("needs a CUDA device; SUNVISOR_REQUIRE_CUDA=1 makes this a failure")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """A failed test has no time-out any more: neither pytest's nor pytest-timeout's is left for what tidies up after it."""
    faulthandler.dump_traceback_later(TEARDOWN_SECONDS, exit=True, file=SCREEN)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        scheduler = os.sched_getscheduler(0)
        if scheduler != SCHEDULER:
            os.sched_setscheduler(0, SCHEDULER, os.sched_param(0))
    assert scheduler == SCHEDULER, (
        "real-time, with all that is started from now on: open SVT-AV1 within usual_priority()"
    )


def pytest_configure() -> None:
    global SCREEN
    SCREEN = os.dup(sys.stderr.fileno())


def pytest_unconfigure() -> None:
    """A thread or an encoder that keeps this process from ending when all tests are done is a defect: it is shown, and the run fails."""
    faulthandler.dump_traceback_later(EXIT_SECONDS, exit=True)


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """Folder of the real driving clips; tests that want it are extra and skip where it is not."""
    if not REAL_CLIPS.is_dir():
        pytest.skip(f"no real clips at {REAL_CLIPS}")
    return REAL_CLIPS


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """`convert` in this process alone: no Ray, and no process of its own for a file. For tests of what is said and written."""
    from tests.here import stand_in

    stand_in(monkeypatch.setattr)
