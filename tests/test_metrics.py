"""Metrics: what Prometheus would read from a run's port is what happened, and the board for Grafana asks for nothing else."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import socket
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from configs.schema import WorkersConfig, load_config
from pipeline.errors import InputError
from pipeline.file_report import FileReport
from workers.events import Done, Event, Failed, Progress, Retrying
from workers.listeners import Listeners
from workers.metrics import Metrics
from workers.progress import ProgressDisplay, Tally
from workers.span_worker import SpanError, SpanTask

ROOT = Path(__file__).resolve().parents[1]
BOARD = ROOT / "configs" / "cluster" / "grafana_sunvisor.json"
DIED = SpanError("WorkerDied", "The worker died.", "", user_error=False, retry=True)
STALLED = SpanError("Stalled", "The worker stood still.", "", user_error=False, retry=True)
BROKEN = SpanError("ConversionError", "It is broken.", "", user_error=False, retry=False)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def free_port() -> int:
    """Below the range that the kernel gives to who asks for any port, so that nobody is given it meanwhile."""
    for port in range(20_000 + os.getpid() % 8_000, 32_000):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def fetch(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        return answer.read().decode()


def samples(text: str) -> Samples:
    """(name, labels) -> value, of everything that was served."""
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def task(folder: str, span: int, frames: int = 100) -> SpanTask:
    return SpanTask(f"{folder}:0:{span}", folder, 0, span, frames, "class")


def lived(port: int = 0) -> Metrics:
    """Metrics in which every label has come up."""
    metrics = Metrics(port, Tally("batch", 0, 0))
    metrics.show(Done(task("/w/a", 0), line(1.0, 2.0, 3.0, 4), 5.0))
    return metrics


def line(decode: float, compute: float, encode: float, size: int) -> dict:
    seconds = {"decode": decode, "compute": compute, "encode": encode, "wall": 99.0}
    return {"bytes": size, "beside": {"mask": {"file": "m", "bytes": 7}}, "seconds": seconds}


def happenings() -> list[Event]:
    """Three spans of a.mp4, whose first kills its worker once and then hangs once; the only span of b.mp4 is given up."""
    first, second, third, only = task("/w/a", 0), task("/w/a", 1), task("/w/a", 2, 50), task("/w/b", 0)
    return [
        Progress(first, 0, "box:11"),
        Progress(second, 0, "box:12"),
        Retrying(first, DIED, 1),
        Progress(first, 0, "box:13"),
        Retrying(first, STALLED, 2),
        Progress(first, 0, "box:14"),
        Done(second, line(1.0, 9.0, 4.0, 1000), 10.0),
        Done(first, line(2.0, 18.0, 8.0, 3000), 20.0),
        Progress(only, 0, "box:12"),
        Failed(only, BROKEN, 1, "log"),
        Progress(third, 0, "box:13"),
    ]


def test_the_numbers_served_are_what_happened(tmp_path: Path) -> None:
    clock_now, port = [0.0], free_port()
    done = tmp_path / "a.mp4"
    done.write_bytes(bytes(4321))
    display = ProgressDisplay(quiet=True, stream=io.StringIO(), now=lambda: clock_now[0])
    with Listeners(display, WorkersConfig(metrics_port=port)) as listeners:
        for _ in range(5):
            listeners.add_file(0)
        before = samples(fetch(port))
        assert before["sunvisor_files", (("state", "waiting"),)] == 5
        assert math.isnan(before["sunvisor_eta_seconds", ()])
        listeners.watch_workers(lambda: 2)
        listeners.skip_video("c.mp4", "already done", 5, FileReport("c", "c", "already done"))
        listeners.skip_video("d.mp4", "no", 5, FileReport("d", "d", "refused"))
        listeners.add_video("/w/a", "a.mp4", 350, 4, 100, 1)
        listeners.add_video("/w/b", "b.mp4", 100, 1)
        for event in happenings():
            clock_now[0] += 1.0
            listeners.show(event)
        listeners.finish_video("/w/b", "broken", FileReport("b", "b", "failed"))
        clock_now[0] += 1.0
        listeners.show(Progress(task("/w/a", 2, 50), 30))
        middle = samples(fetch(port))
        listeners.show(Done(task("/w/a", 2, 50), line(0.5, 4.5, 2.0, 500), 5.0))
        listeners.finish_video("/w/a", "done", FileReport("a", str(done), "done"))
        text = fetch(port)
    with pytest.raises(OSError):
        fetch(port)
    end = samples(text)
    files = {labels[0][1]: value for (name, labels), value in end.items() if name == "sunvisor_files"}
    assert files == {
        "waiting": 1,
        "active": 0,
        "done": 1,
        "already_done": 1,
        "failed": 1,
        "refused": 1,
        "interrupted": 0,
    }
    wanted = {
        ("sunvisor_spans_total", "outcome", "done"): 3,
        ("sunvisor_spans_total", "outcome", "failed"): 1,
        ("sunvisor_stage_busy_seconds_total", "stage", "compute"): 31.5,
        ("sunvisor_stage_busy_seconds_total", "stage", "decode"): 3.5,
        ("sunvisor_stage_busy_seconds_total", "stage", "encode"): 14.0,
        ("sunvisor_stage_busy_ratio", "stage", "compute"): 0.9,
        ("sunvisor_stage_busy_ratio", "stage", "decode"): 0.1,
        ("sunvisor_stage_busy_ratio", "stage", "encode"): 0.4,
        ("sunvisor_span_seconds_bucket", "le", "5.0"): 1,
        ("sunvisor_span_seconds_bucket", "le", "10.0"): 2,
        ("sunvisor_span_seconds_bucket", "le", "+Inf"): 3,
    }
    for (name, label, value), number in wanted.items():
        assert end[name, ((label, value),)] == pytest.approx(number), (name, value)
    plain = {
        "span_retries_total": 2,
        "worker_deaths_total": 1,
        "span_stalls_total": 1,
        "frames_total": 250,
        "frames_planned": 450,
        "frames_reused": 100,
        "spans_planned": 5,
        "spans_reused": 1,
        "worker_busy_seconds_total": 35.0,
        "span_seconds_sum": 35.0,
        "span_bytes_total": 4500 + 3 * 7,
        "output_bytes_total": 4321,
        "workers_alive": 2,
        "workers_busy": 0,
    }
    for name, number in plain.items():
        assert end[f"sunvisor_{name}", ()] == pytest.approx(number), name
    assert middle["sunvisor_workers_busy", ()] == 1
    rate = (200 + 30) / 11  # frames since the first event, a second before which nothing was known
    assert middle["sunvisor_frames_per_second", ()] == pytest.approx(rate)
    assert middle["sunvisor_eta_seconds", ()] == pytest.approx((450 - 100 - 230) / rate)
    assert end["sunvisor_last_event_timestamp_seconds", ()] >= end["sunvisor_run_start_timestamp_seconds", ()] > 1e9
    assert "/w/" not in text and "mp4" not in text  # numbers alone leave the process, no names of files
    assert all(family.name.startswith("sunvisor_") for family in text_string_to_metric_families(text))


def test_types_are_what_the_names_promise() -> None:
    for family in lived().registry.collect():
        totals = [one.name for one in family.samples if one.name.endswith("_total")]
        assert bool(totals) == (family.type == "counter"), family.name
        assert family.documentation.endswith("."), family.name


def test_it_listens_on_loopback_only_and_a_taken_port_is_told() -> None:
    with Metrics(0, Tally("batch", 0, 0)) as metrics:
        row = [one.split() for one in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        listening = [one[1] for one in row if one[3] == "0A" and one[1].endswith(f":{metrics.port:04X}")]
        assert listening == [f"0100007F:{metrics.port:04X}"]
        with (
            pytest.raises(
                InputError, match=rf"workers.metrics_port={metrics.port}: cannot be opened on 127.0.0.1"
            ) as told,
            Listeners(ProgressDisplay(stream=io.StringIO()), WorkersConfig(metrics_port=metrics.port)),
        ):
            pass
        assert told.value.exit_code == 2


def test_it_is_off_unless_asked_for() -> None:
    config = load_config("dashcam").workers
    assert (config.metrics_port, config.log) == (0, None)
    with pytest.raises(InputError, match=r"workers.metrics_port=70000: out of range; legal: 0 to 65535"):
        load_config("dashcam", None, ["workers.metrics_port=70000"])


def test_the_board_asks_only_for_metrics_that_there_are_and_for_all_of_them() -> None:
    board = json.loads(BOARD.read_text())
    there = {one.name for family in lived().registry.collect() for one in family.samples}
    there = {name for name in there if not name.endswith("_created")}
    asked: set[str] = set()
    for panel in board["panels"]:
        assert panel["title"] and panel["targets"]
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            names = set(re.findall(r"\bsunvisor_\w+", target["expr"]))
            assert names and names <= there, (panel["title"], names - there)
            asked |= names
    assert there == asked
    for variable in board["templating"]["list"]:
        words = str(variable.get("definition", ""))
        assert set(re.findall(r"\bsunvisor_\w+", words)) <= there
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
