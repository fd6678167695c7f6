"""Batch: many files over one pool of workers. One file that fails never stops the rest."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from configs.schema import Config
from pipeline import convert as conversions
from pipeline import engine as engines
from pipeline.convert import Conversion
from pipeline.errors import ConversionError, SunvisorError
from pipeline.file_report import FileReport
from pipeline.prepare import Prepared, make_plan, refuse_output
from reporting.conversion import report_conversion
from workers.cluster import connect
from workers.elastic import Elastic
from workers.events import Done, Event, Failed
from workers.interrupts import Interrupts
from workers.jobs import Job
from workers.listeners import Listeners
from workers.placement import shape_for, slots_for, store_bytes_for, worker_count
from workers.pool import SpanPool
from workers.progress import ProgressDisplay
from workers.progress_lines import ProgressLines
from workers.span_worker import SpanTask

RUN_SPAN = "pipeline.span_job:run_span"
NUMERICS_CLASS = "pipeline.engine:numerics_class"


@dataclass(frozen=True)
class BatchReport:
    """What became of a batch.

    startup_seconds: until a worker took the first span; working_seconds: from then until the last file was published
    """

    files: list[FileReport]
    workers: int
    threads: int
    startup_seconds: float
    working_seconds: float
    exit_code: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        return {
            "files": [report.to_dict() for report in self.files],
            "workers": self.workers,
            "threads": self.threads,
            "startup_seconds": round(self.startup_seconds, 2),
            "working_seconds": round(self.working_seconds, 2),
            "exit_code": self.exit_code,
        }


def plan_batch(jobs: list[Job], config: Config) -> tuple[list[Prepared], list[FileReport]]:
    """Plans of all files that can be converted, and a report for each that cannot. Writes nothing."""
    plans, refused = [], []
    for job in jobs:
        try:
            refuse_output(job.source, job.output)
            with tempfile.TemporaryDirectory() as folder:
                told = (job.source, config) if job.run is None else conversions.wrapped(job.run, Path(folder), config)
                plans.append(make_plan(told[0], job.output, told[1], job.frames))
        except SunvisorError as error:
            refused.append(_failure(job, error))
    return plans, refused


PROGRESS: dict[str, Callable[..., ProgressDisplay]] = {
    "auto": ProgressDisplay,
    "json": ProgressLines,
    "none": partial(ProgressDisplay, quiet=True),
}
"""Ways to show progress on standard error: bars or lines of text, JSON lines, nothing but what goes wrong."""


def run_batch(jobs: list[Job], config: Config, *, overwrite: bool = False, progress: str = "auto") -> BatchReport:
    """Convert all files over a pool of Ray workers, with progress (a key of PROGRESS) on standard error.

    The first Ctrl-C finishes the running spans, the second stops; what is finished is kept either way.
    """
    sizes = {job: job.source_bytes for job in jobs}
    display = PROGRESS[progress](source_bytes=list(sizes.values()))
    with Listeners(display, config.workers, len(jobs)) as listeners:
        batch = _Batch(jobs, config, listeners, overwrite, sizes)
        try:
            with batch.interrupts, contextlib.suppress(KeyboardInterrupt):
                # Before Ray is started, so that a single bad file is told at once.
                if batch.open_next():
                    _run_on_ray(batch, config)
        finally:
            batch.close()
        return batch.report()


def _run_on_ray(batch: _Batch, config: Config) -> None:
    """Start or join Ray, and convert everything there."""
    device = engines.resolve_device(config.device)
    gpus = torch.cuda.device_count() if device == "cuda" else 0
    store_bytes = store_bytes_for(config, gpus)
    with connect(config.workers.address, slots=slots_for(config, gpus), gpus=gpus, store_bytes=store_bytes) as cluster:
        batch.interrupts.install()
        batch.workers = worker_count(config, cluster, device)
        shape = shape_for(config, cluster, device, batch.workers, len(os.sched_getaffinity(0)))
        batch.threads = shape.threads
        grows = not cluster.local and not config.workers.count
        with SpanPool(
            cluster,
            RUN_SPAN,
            NUMERICS_CLASS,
            workers=batch.workers,
            shape=shape,
            elastic=Elastic(shape, config.workers.max) if grows else None,
            retries=config.workers.retries,
        ) as pool:
            batch.run(pool)


class _Batch:
    """Files on their way through the pool: prepared a little ahead of the workers, finished as their last span is done."""

    def __init__(
        self, jobs: list[Job], config: Config, progress: Listeners, overwrite: bool, sizes: dict[Job, int]
    ) -> None:
        self.interrupts = Interrupts(self._drain, self._abort, lambda: self._pool is not None)
        self.workers = self.threads = 0
        self._began = time.monotonic()
        self._first_span: float | None = None
        self._ended: float | None = None
        self._jobs = jobs
        self._todo = deque(jobs)
        self._config = config
        self._progress = progress
        self._overwrite = overwrite
        self._sizes = sizes
        self._pool: SpanPool | None = None
        self._opened: deque[tuple[Job, Conversion]] = deque()
        self._active: dict[str, tuple[Job, Conversion]] = {}
        self._failed: dict[str, FileReport] = {}
        self._open_spans: dict[str, int] = {}
        self._reports: dict[Job, FileReport] = {}

    def open_next(self) -> bool:
        """Plan the next file that can be converted and open its work folder; those before it get their reports.

        A file leaves the queue last, so that a Ctrl-C on the way leaves it there.
        """
        while self._todo:
            job = self._todo[0]
            try:
                opened = conversions.start(
                    job.source, job.output, self._config, overwrite=self._overwrite, run=job.run, frames=job.frames
                )
            except Exception as error:  # noqa: BLE001 - one file never stops the rest; the report says what it was
                opened = self._report_of(job, error, job.output.parent)
            if isinstance(opened, FileReport):
                self._reports[job] = opened
                note = opened.error or f"{opened.status}: {job.output}"
                self._progress.skip_video(job.source.name, note, self._sizes[job], opened)
            else:
                self._opened.append((job, opened))
            self._todo.popleft()
            if not isinstance(opened, FileReport):
                return True
        return False

    def run(self, pool: SpanPool) -> None:
        """Until every file is done, has failed, or the user wants no more."""
        self._pool = pool
        self._progress.watch_workers(pool.alive)
        while not self.interrupts.draining:
            self._feed(pool)
            if not self._open_spans:
                break
            for event in pool.events():
                self._take(event)
                if not self.interrupts.draining:
                    self._feed(pool)
        for event in pool.events():
            self._take(event)
        self._ended = time.monotonic()

    def close(self) -> None:
        """Let go of every work folder."""
        for _, conversion in [*self._active.values(), *self._opened]:
            conversion.close()

    def report(self) -> BatchReport:
        """What became of the batch: one report a file, in the order of the jobs; what has none yet was interrupted."""
        for job, conversion in [*self._active.values(), *self._opened]:
            self._reports[job] = FileReport(
                str(job.source),
                str(job.output),
                "interrupted",
                frames=conversion.frames_done,
                spans_done=len(conversion.lines) - conversion.reused,
                spans_reused=conversion.reused,
                error="the same command goes on from here",
                exit_code=130,
            )
        for job in self._jobs:
            if job not in self._reports:
                self._reports[job] = FileReport(
                    str(job.source), str(job.output), "interrupted", error="not begun", exit_code=130
                )
        reports = [self._reports[job] for job in self._jobs]
        ended = self._ended or time.monotonic()
        ready = self._first_span or ended
        stopped = any(report.status == "interrupted" for report in reports)
        code = self.interrupts.exit_code if stopped else _exit_code(reports)
        return BatchReport(reports, self.workers, self.threads, ready - self._began, ended - ready, code)

    def _drain(self) -> None:
        """First Ctrl-C: begin nothing new."""
        if self._pool is not None:
            self._progress.message(
                f"finishing the {self._pool.running()} running spans; press Ctrl-C again to stop now"
            )
            self._pool.drain()

    def _abort(self) -> None:
        """Second Ctrl-C, or SIGTERM: stop."""
        if self._pool is not None:
            self._pool.abort()

    def _feed(self, pool: SpanPool) -> None:
        """Open files until the workers have enough to do."""
        while sum(self._open_spans.values()) < 2 * max(self.workers, pool.size) and (self._opened or self.open_next()):
            self._submit(pool, *self._opened[0])
            self._opened.popleft()

    def _submit(self, pool: SpanPool, job: Job, conversion: Conversion) -> None:
        folder = str(conversion.workdir.resolve())
        self._active[folder] = (job, conversion)
        pending = conversion.pending
        self._progress.add_video(
            folder,
            job.source.name,
            conversion.plan.frames,
            len(pending) + conversion.reused,
            conversion.frames_done,
            conversion.reused,
            self._sizes[job],
        )
        if not pending:
            self._finish(folder)
            return
        self._open_spans[folder] = len(pending)
        for track, span in pending:
            frames = conversion.plan.tracks[track].spans[span].frames
            key = f"{folder}:{track}:{span}"
            pool.submit(SpanTask(key, folder, track, span, frames, conversion.plan.numerics_class))

    def _take(self, event: Event) -> None:
        self._first_span = self._first_span or time.monotonic()
        folder = event.task.workdir
        job, conversion = self._active[folder]
        self._progress.show(event)
        if isinstance(event, Done):
            try:
                conversion.span_done(event.result)
            except Exception as error:  # noqa: BLE001 - the ledger cannot be written: this file fails, the rest goes on
                self._failed.setdefault(folder, self._report_of(job, error, conversion.workdir))
        elif isinstance(event, Failed):
            self._failed.setdefault(folder, self._given_up(job, event))
        else:
            return
        self._open_spans[folder] -= 1
        if self._open_spans[folder] == 0:
            del self._open_spans[folder]
            self._finish(folder)

    def _given_up(self, job: Job, event: Failed) -> FileReport:
        """The report of a file one span of which was given up; every attempt is told in a log."""
        report = _failure(job, event.exception())
        log = Path(event.task.workdir) / f"failed_{event.task.track}_{event.task.span}.log"
        report.error = f"{report.error} ({event.attempts} attempts{self._write_log(log, event.log)})"
        return report

    def _finish(self, folder: str) -> None:
        """All spans of a file have ended: join and publish it, or say why not."""
        job, conversion = self._active[folder]
        try:
            report = self._failed.get(folder) or conversion.finish(
                keep_work=self._config.workers.keep_work, write_report=report_conversion
            )
        except Exception as error:  # noqa: BLE001 - one file never stops the rest; the report says what it was
            report = self._report_of(job, error, conversion.workdir)
        finally:
            conversion.close()
        report.source = str(job.source)
        self._reports[job] = report
        del self._active[folder]
        self._progress.finish_video(folder, report.error or f"{report.status}: {job.output}", report)

    def _report_of(self, job: Job, error: Exception, folder: Path) -> FileReport:
        """The report of a file that failed. An error that nobody named, a bug or a failing disk, gets a log with its traceback."""
        if isinstance(error, SunvisorError):
            return _failure(job, error)
        log = folder / f"{job.output.name}.error.log"
        told = self._write_log(log, "".join(traceback.format_exception(error)))
        text = f"{job.source}: could not be converted ({type(error).__name__}: {error}{told})."
        return _failure(job, ConversionError(text))

    def _write_log(self, path: Path, text: str) -> str:
        """Write a log and say where it is; where it cannot be written (a full disk), show it instead."""
        try:
            path.write_text(text)
        except OSError:
            self._progress.message(text)
            return ""
        return f"; log in {path}"


def _failure(job: Job, error: SunvisorError) -> FileReport:
    status = "refused" if error.exit_code == 2 else "failed"
    return FileReport(str(job.source), str(job.output), status, error=str(error), exit_code=error.exit_code)


def _exit_code(reports: list[FileReport]) -> int:
    """1 when something failed, else 2 when something was refused, else 0."""
    codes = {report.exit_code for report in reports}
    return 1 if 1 in codes else max(codes, default=0)
