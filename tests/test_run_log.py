"""The run log: one JSON object a line for everything that happens, and never more than its files may hold."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from configs.schema import WorkersConfig
from pipeline.errors import InputError
from pipeline.file_report import FileReport
from tests.clips import make_clip
from tests.processes import LOOPBACK, descendants, listening, usual_environment
from tests.test_metrics import fetch, free_port, happenings, line, samples, task
from workers.events import Done
from workers.listeners import Listeners
from workers.progress import ProgressDisplay
from workers.run_log import RunLog

ROOT = Path(__file__).resolve().parents[1]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def test_what_happens_is_in_the_log_with_its_file_span_and_worker(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "run.jsonl"
    display = ProgressDisplay(quiet=True, stream=io.StringIO())
    with Listeners(display, WorkersConfig(log=str(path))) as listeners:
        listeners.skip_video("c.mp4", "no", 5, FileReport("c.mp4", "o/c.mp4", "refused", error="no video"))
        listeners.watch_workers(lambda: 2)
        listeners.add_video("/w/a", "ä.mp4", 250, 3, 0, 0, 777)
        listeners.add_video("/w/b", "b.mp4", 100, 1)
        listeners.add_video("/w/d", "d.mp4", 100, 1)
        for event in happenings():
            listeners.show(event)
        listeners.message("finishing the 1 running spans")
        listeners.show(Done(task("/w/a", 2, 50), line(0.5, 4.5, 2.0, 500), 5.0))
        listeners.finish_video("/w/b", "broken", FileReport("b.mp4", "o/b.mp4", "failed", error="broken"))
        report = FileReport("ä.mp4", "o/ä.mp4", "done", frames=250, warnings=["a stream is lost"])
        listeners.finish_video("/w/a", "done", report)
    records = read(path)
    assert [record["event"] for record in records] == [
        "run begun",
        "refused",
        "workers started",
        "planned",
        "planned",
        "planned",
        "span begun",
        "span begun",
        "span retried",
        "span begun",
        "span retried",
        "span begun",
        "span done",
        "span done",
        "span begun",
        "span failed",
        "span begun",
        "message",
        "span done",
        "failed",
        "warning",
        "published",
        "interrupted",
        "run ended",
    ]
    for record in records:
        moment = datetime.datetime.fromisoformat(record["time"])
        assert moment.utcoffset() == datetime.timedelta(0)
        assert abs(moment.timestamp() - time.time()) < 3600
        assert record["run"] == f"{socket.gethostname()}:{os.getpid()}"
    spans = [record for record in records if record["event"].startswith("span ")]
    assert all({"file", "work", "track", "span", "host", "pid"} <= record.keys() for record in spans)
    first = [(record["event"], record["pid"]) for record in spans if (record["work"], record["span"]) == ("/w/a", 0)]
    begun_and_retried = [("span begun", 11), ("span retried", 11), ("span begun", 13), ("span retried", 13)]
    assert first == [*begun_and_retried, ("span begun", 14), ("span done", 14)]
    by_event = {record["event"]: record for record in records}
    assert (by_event["planned"]["file"], records[3]["file"], records[3]["source_bytes"]) == ("d.mp4", "ä.mp4", 777)
    retried = [(record["level"], record["kind"]) for record in records if record["event"] == "span retried"]
    assert retried == [("warning", "WorkerDied"), ("warning", "Stalled")]
    assert by_event["span failed"]["level"] == "error" and by_event["span failed"]["error"] == "It is broken."
    assert by_event["span done"]["stages"]["compute"] == 4.5 and by_event["span done"]["seconds"] == 5.0
    assert by_event["warning"]["text"] == "a stream is lost"
    assert by_event["published"]["output"] == "o/ä.mp4" and by_event["published"]["work"] == "/w/a"
    assert by_event["interrupted"]["file"] == "d.mp4"


def test_files_are_rotated_and_the_oldest_go(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with RunLog(path, on_trouble=pytest.fail, max_bytes=2000, backups=2) as log:
        for number in range(100):
            log.message(f"number {number}")
    files = [path, tmp_path / "run.jsonl.1", tmp_path / "run.jsonl.2"]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(file.stat().st_size <= 2000 for file in files)
    told = [record["text"] for file in reversed(files) for record in read(file) if record["event"] == "message"]
    assert told == [f"number {number}" for number in range(100 - len(told), 100)]


def test_a_later_run_goes_on_with_the_file(tmp_path: Path) -> None:
    for _ in range(2):
        with RunLog(tmp_path / "run.jsonl", on_trouble=pytest.fail):
            pass
    assert [record["event"] for record in read(tmp_path / "run.jsonl")] == ["run begun", "run ended"] * 2


def test_a_log_that_cannot_be_opened_is_told_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--log .*: cannot be written \(Is a directory\)") as told:
        RunLog(tmp_path, on_trouble=pytest.fail)
    assert told.value.exit_code == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_once_and_the_run_goes_on(tmp_path: Path) -> None:
    troubles: list[str] = []
    path = tmp_path / "run.jsonl"
    path.symlink_to("/dev/full")
    with RunLog(path, on_trouble=troubles.append) as log:
        for number in range(5):
            log.message(str(number))
    assert len(troubles) == 1 and "a line could not be written; the run goes on" in troubles[0]


def test_a_real_run_is_seen_while_it_works(tmp_path: Path) -> None:
    """Log and metrics of a run on Ray; nobody on the network can listen in; nothing stays behind."""
    source = make_clip(tmp_path / "drive.mp4", frames=60)
    port, log = free_port(), tmp_path / "run.jsonl"
    words = ["span.target_seconds=0.6", "span.min_seconds=0.3", "output.preset=ultrafast", "model=neutral"]
    command = [sys.executable, str(ROOT / "run_pipeline.py"), "convert", str(source), "-o", str(tmp_path / "o.mp4")]
    clean = usual_environment()
    process = subprocess.Popen(
        [*command, "--json", "--log", str(log), f"workers.metrics_port={port}", *words],
        env=clean | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    text, sockets, folders = "", set(), set()
    try:
        while process.poll() is None:
            family = {process.pid, *descendants(process.pid)}
            sockets |= listening(family)
            folders |= {one for pid in family for one in ray_folders(pid)}
            with contextlib.suppress(OSError, http.client.HTTPException):
                text = fetch(port)
            time.sleep(0.05)
    finally:
        process.kill()
        out, err = process.communicate()
    assert process.returncode == 0, err
    report = json.loads(out)["files"][0]
    assert len(sockets) >= 5 and ("0100007F", port) in sockets  # Ray's servers, driver and worker; the metrics
    assert {address for address, _ in sockets} <= LOOPBACK
    seen = samples(text)
    assert seen["sunvisor_workers_alive", ()] == 1 and seen["sunvisor_frames_planned", ()] == 60
    assert 0 < seen["sunvisor_spans_total", (("outcome", "done"),)] <= report["spans_done"]
    records = read(log)
    events = [record["event"] for record in records]
    assert (events[0], events[-1]) == ("run begun", "run ended") and "published" in events
    done = [record for record in records if record["event"] == "span done"]
    assert sorted(record["span"] for record in done) == list(range(report["spans_done"]))
    assert sum(record["frames"] for record in done) == 60
    assert {record["host"] for record in done} == {socket.gethostname()}
    assert all(record["pid"] != process.pid for record in done)
    assert folders and not any(folder.exists() for folder in folders)


def ray_folders(pid: int) -> set[Path]:
    """The session folder of the Ray that a process belongs to, from its command line."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return set()
    words = [word for part in command.split("\0") for word in part.split("=")]
    return {Path(*Path(word).parts[:3]) for word in words if word.startswith("/tmp/sunvisor-ray-")}
