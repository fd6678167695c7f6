"""Metrics of a run for Prometheus: numbers alone, no names of files, served on this machine's loopback address only.

The names follow Prometheus' conventions: base units (seconds, bytes) in the name, `_total` for what only grows. The board for Grafana is
configs/cluster/grafana_sunvisor.json; docs/monitoring.md says how to collect them from another machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from pipeline.errors import InputError
from pipeline.file_report import FileReport
from workers.events import Done, Event, Failed, Progress, Retrying
from workers.progress import Tally
from workers.span_worker import SpanError
from workers.stage_shares import StageShares, stage_seconds

HOST = "127.0.0.1"
SPAN_SECONDS = (0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320, 640, 1280)
"""Upper ends of the classes of the histogram."""

FILE_STATES = ("waiting", "active", "done", "already_done", "failed", "refused", "interrupted")


class Metrics:
    """Listens to a batch (workers.listeners.Listener) and serves what it heard; use it as a context manager.

    port: where on 127.0.0.1, 0 = any free one (see `port`)
    tally: frames and spans of the batch as the terminal shows them, brought up to date before this hears of an event
    Raises InputError when the port is taken or not ours to open.
    """

    def __init__(self, port: int, tally: Tally) -> None:
        self.registry = CollectorRegistry()
        self.port = port
        self._tally = tally
        self._states = dict.fromkeys(FILE_STATES, 0)
        self._running: set[str] = set()
        self._shares = StageShares()
        self._make()
        self._show_files()

    def _make(self) -> None:
        """Every metric; tests and the board for Grafana know them by these names."""

        def gauge(name: str, help_text: str, *labels: str) -> Gauge:
            return Gauge(f"sunvisor_{name}", help_text, labels, registry=self.registry)

        def counter(name: str, help_text: str, *labels: str) -> Counter:
            return Counter(f"sunvisor_{name}", help_text, labels, registry=self.registry)

        self._files = gauge("files", "Files of the batch by what has become of them.", "state")
        self._spans = counter(
            "spans", "Spans that have ended, by outcome: done, or failed after all attempts.", "outcome"
        )
        self._retries = counter("span_retries", "Attempts at spans that failed and were followed by another.")
        self._spans_planned = gauge(
            "spans_planned", "Spans of the files planned so far, those of earlier runs included."
        )
        self._spans_reused = gauge("spans_reused", "Spans that an earlier run had done.")
        self._frames = counter("frames", "Frames of the spans that are done.")
        self._frames_planned = gauge("frames_planned", "Frames of the files planned so far, earlier runs' included.")
        self._frames_reused = gauge("frames_reused", "Frames that an earlier run had done.")
        self._fps = gauge("frames_per_second", "Frames a second over the last half minute, running spans included.")
        self._eta = gauge("eta_seconds", "Seconds until the batch is done at this rate; NaN while that is not known.")
        self._stage = counter("stage_busy_seconds", "Seconds for which a stage of the spans done was busy.", "stage")
        self._share = gauge(
            "stage_busy_ratio",
            "Share of the workers' time for which a stage was busy, over the last spans: the largest limits the rest.",
            "stage",
        )
        self._worker_seconds = counter("worker_busy_seconds", "Seconds that workers spent on the spans that are done.")
        self._alive = gauge("workers_alive", "Workers that are ready or busy now.")
        self._busy = gauge("workers_busy", "Workers that convert a span now.")
        self._deaths = counter("worker_deaths", "Processes of workers that ended in the middle of a span.")
        self._stalls = counter(
            "span_stalls", "Attempts at spans that ended because nothing moved for workers.stall_seconds."
        )
        self._span_bytes = counter("span_bytes", "Bytes of span files written, with what is written beside them.")
        self._output_bytes = counter("output_bytes", "Bytes of outputs published.")
        self._span_seconds = Histogram(
            "sunvisor_span_seconds",
            "Wall seconds of spans that are done.",
            buckets=SPAN_SECONDS,
            registry=self.registry,
        )
        self._last = gauge("last_event_timestamp_seconds", "Unix time of the last sign of life of a worker, 0 before.")
        begun = gauge("run_start_timestamp_seconds", "Unix time at which the run began.")
        begun.set(time.time())
        self._eta.set(float("nan"))
        for outcome in ("done", "failed"):
            self._spans.labels(outcome)

    def __enter__(self) -> Self:
        try:
            self._server, self._thread = start_http_server(self.port, HOST, self.registry)
        except OSError as error:
            raise InputError(
                f"workers.metrics_port={self.port}: cannot be opened on {HOST} ({error.strerror}); is another run using it? "
                "Name another port, or 0 for no metrics."
            ) from error
        self.port = self._server.server_port
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add_video(
        self,
        workdir: str,
        name: str,
        frames: int,
        spans: int,
        reused_frames: int = 0,
        reused_spans: int = 0,
        source_bytes: int = 0,
    ) -> None:
        """See Listener."""
        self._move("waiting", "active")
        self._frames_planned.inc(frames)
        self._spans_planned.inc(spans)
        self._frames_reused.inc(reused_frames)
        self._spans_reused.inc(reused_spans)

    def add_file(self, source_bytes: int) -> None:
        """See Listener."""
        self._states["waiting"] += 1
        self._show_files()

    def skip_video(self, name: str, note: str, source_bytes: int = 0, report: FileReport | None = None) -> None:
        """See Listener."""
        self._move("waiting", _state(report))

    def show(self, event: Event) -> None:
        """See Listener."""
        self._last.set(time.time())
        key = event.task.key
        if isinstance(event, Progress):
            self._running.add(key)
        else:
            self._running.discard(key)
        if isinstance(event, Done):
            self._take(event)
        elif isinstance(event, Retrying):
            self._retries.inc()
            self._count_loss(event.error)
        elif isinstance(event, Failed):
            self._spans.labels("failed").inc()
            self._count_loss(event.error)
        self._busy.set(len(self._running))
        self._fps.set(self._tally.fps())
        eta = self._tally.eta_seconds()
        self._eta.set(float("nan") if eta is None else eta)

    def finish_video(self, workdir: str, note: str, report: FileReport | None = None) -> None:
        """See Listener."""
        self._move("active", _state(report))
        if report is not None and report.status == "done" and Path(report.output).is_file():
            self._output_bytes.inc(Path(report.output).stat().st_size)

    def message(self, text: str) -> None:
        """Words are no number."""

    def watch_workers(self, alive: Callable[[], int]) -> None:
        """See Listener. Asked whenever somebody collects."""
        self._alive.set_function(alive)

    def _take(self, event: Done) -> None:
        result = event.result
        self._spans.labels("done").inc()
        self._frames.inc(event.task.frames)
        self._span_seconds.observe(event.seconds)
        self._worker_seconds.inc(event.seconds)
        beside = sum(one["bytes"] for one in result.get("beside", {}).values())
        self._span_bytes.inc(result.get("bytes", 0) + beside)
        for stage, seconds in stage_seconds(result).items():
            self._stage.labels(stage).inc(seconds)
        self._shares.add(result, event.seconds)
        for stage, share in self._shares.shares().items():
            self._share.labels(stage).set(share)

    def _count_loss(self, error: SpanError) -> None:
        if error.kind == "WorkerDied":
            self._deaths.inc()
        elif error.kind == "Stalled":
            self._stalls.inc()

    def _move(self, before: str, after: str) -> None:
        self._states[before] -= 1
        self._states[after] += 1
        self._show_files()

    def _show_files(self) -> None:
        for state, count in self._states.items():
            self._files.labels(state).set(count)


def _state(report: FileReport | None) -> str:
    """A report's status as a label; a file without one is counted as failed."""
    return "failed" if report is None else report.status.replace(" ", "_")
