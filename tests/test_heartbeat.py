"""Beats: seen from inside, and from a process that only shares the memory."""

from __future__ import annotations

import os
import subprocess
import sys

from pipeline import heartbeat
from workers.cluster import ROOT

CHILD = """
import sys
from pipeline import heartbeat
heartbeat.share(int(sys.argv[1]))
for line in sys.stdin:
    heartbeat.beat()
    print(heartbeat.last_beat(), flush=True)
"""


def test_a_beat_moves_and_nothing_else_does() -> None:
    seen = [heartbeat.last_beat(), heartbeat.last_beat()]
    assert seen[0] == seen[1]
    for _ in range(3):
        heartbeat.beat()
        seen.append(heartbeat.last_beat())
    assert seen[1] < seen[2] <= seen[3] <= seen[4]


def test_beats_of_another_process_are_seen_without_asking_it() -> None:
    memory = heartbeat.shared_memory()
    try:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(memory)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=(memory,),
        )
        assert child.stdin is not None and child.stdout is not None
        assert heartbeat.beat_of(memory) == 0
        for _ in range(2):
            child.stdin.write("\n")
            child.stdin.flush()
            told = int(child.stdout.readline())
            assert heartbeat.beat_of(memory) == told > 0
        child.kill()
        child.wait()
        assert heartbeat.beat_of(memory) == told  # what is dead moves no more
    finally:
        os.close(memory)
