"""Processes that end with whoever started them."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.processes import stat_fields

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's doing, on Linux alone")
PROGRAM = "import sys, time; from pipeline.parent import end_with; end_with(int(sys.argv[1])); print('up', flush=True); time.sleep({})"


@pytest.mark.parametrize(("parent", "code"), [(os.getpid(), 0), (os.getppid(), 1)])
def test_a_process_whose_parent_died_before_ends_at_once(parent: int, code: int) -> None:
    """It has another one by then."""
    assert subprocess.run([sys.executable, "-c", PROGRAM.format(0), str(parent)], timeout=60).returncode == code


def test_a_process_ends_when_its_parent_is_killed() -> None:
    child = [sys.executable, "-c", PROGRAM.format(1000)]
    between = f"import os, subprocess; p = subprocess.Popen({child!r} + [str(os.getpid())]); print(p.pid, flush=True); p.wait()"
    parent = subprocess.Popen([sys.executable, "-c", between], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert parent.stdout.readline() == "up\n"
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 30
    while is_there(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.stdout.close()
    assert not is_there(pid)


def is_there(pid: int) -> bool:
    fields = stat_fields(pid)
    return bool(fields) and fields[0] != "Z"
