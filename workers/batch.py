"""Batch: many files over one pool of workers. One file that fails never stops the rest."""

from __future__ import annotations

import contextlib
import errno
import os
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from configs.schema import Config
from pipeline import convert as conversions
from pipeline import engine as engines
from pipeline.convert import Conversion, FileReport
from pipeline.errors import ConversionError, SunvisorError
from pipeline.prepare import Prepared, make_plan
from workers.cluster import Cluster, connect
from workers.events import Done, Event, Failed
from workers.interrupts import Interrupts
from workers.jobs import Job
from workers.pool import SpanPool
from workers.progress import ProgressDisplay
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
            plans.append(make_plan(job.source, job.output, config))
        except SunvisorError as error:
            refused.append(_failure(job, error))
    return plans, refused


def run_batch(jobs: list[Job], config: Config, *, overwrite: bool = False) -> BatchReport:
    """Convert all files over a pool of Ray workers, with progress on standard error.

    The first Ctrl-C finishes the running spans, the second stops; what is finished is kept either way.
    """
    began = time.monotonic()
    device = engines.resolve_device(config.device)
    with ProgressDisplay() as progress:
        batch = _Batch(jobs, config, progress, overwrite)
        try:
            # Before Ray is started, so that a single bad file is told at once.
            if not batch.open_next():
                return _report(batch, began, workers=0, threads=0, exit_code=0)
            gpus = torch.cuda.device_count() if device == "cuda" else 0
            with connect(config.workers.address, slots=max(config.workers.count, gpus, 1), gpus=gpus) as cluster:
                workers = _worker_count(config, cluster, device)
                threads = config.workers.threads or max(1, (os.cpu_count() or 1) // workers)
                pool = SpanPool(
                    cluster,
                    RUN_SPAN,
                    NUMERICS_CLASS,
                    workers=workers,
                    threads=threads,
                    gpus_per_worker=1 if device == "cuda" else 0,
                    retries=config.workers.retries,
                )
                interrupts = Interrupts(lambda: batch.drain(pool), pool.abort)
                with pool, interrupts, contextlib.suppress(KeyboardInterrupt):
                    batch.run(pool, workers, lambda: interrupts.draining)
                return _report(batch, began, workers, threads, interrupts.exit_code)
        finally:
            batch.close()


def _report(batch: _Batch, began: float, workers: int, threads: int, exit_code: int) -> BatchReport:
    ready = batch.first_span or time.monotonic()
    reports = batch.reports()
    return BatchReport(
        reports, workers, threads, ready - began, time.monotonic() - ready, exit_code or _exit_code(reports)
    )


class _Batch:
    """Files on their way through the pool: prepared a little ahead of the workers, finished as their last span is done."""

    def __init__(self, jobs: list[Job], config: Config, progress: ProgressDisplay, overwrite: bool) -> None:
        self._jobs = jobs
        self._todo = deque(jobs)
        self._config = config
        self._progress = progress
        self._overwrite = overwrite
        self._opened: deque[tuple[Job, Conversion]] = deque()
        self._active: dict[str, tuple[Job, Conversion]] = {}
        self._failed: dict[str, Failed] = {}
        self._open_spans: dict[str, int] = {}
        self._reports: dict[Job, FileReport] = {}
        self.first_span: float | None = None

    def open_next(self) -> bool:
        """Plan the next file that can be converted and open its work folder; those before it get their reports."""
        while self._todo:
            job = self._todo.popleft()
            try:
                opened = conversions.start(job.source, job.output, self._config, overwrite=self._overwrite)
            except SunvisorError as error:
                self._reports[job] = _failure(job, error)
                self._progress.message(f"{job.source.name}: {error}")
                continue
            except Exception as error:  # noqa: BLE001 - one file never stops the rest; the report says what it was
                self._reports[job] = _failure(job, _unforeseen(job, error, job.output.parent))
                continue
            if isinstance(opened, FileReport):
                self._reports[job] = opened
                self._progress.message(f"{job.source.name}: {opened.status}: {job.output}")
                continue
            self._opened.append((job, opened))
            return True
        return False

    def run(self, pool: SpanPool, workers: int, draining: Callable[[], bool]) -> None:
        """Until every file is done, has failed, or the user wants no more."""
        while not draining():
            self._feed(pool, workers)
            if not self._open_spans:
                return
            for event in pool.events():
                self._take(event)
                if not draining():
                    self._feed(pool, workers)
        for event in pool.events():
            self._take(event)

    def drain(self, pool: SpanPool) -> None:
        """First Ctrl-C: begin nothing new."""
        self._progress.message(f"finishing the {pool.running()} running spans; press Ctrl-C again to stop now")
        pool.drain()

    def close(self) -> None:
        """Let go of every work folder."""
        for _, conversion in [*self._active.values(), *self._opened]:
            conversion.close()

    def reports(self) -> list[FileReport]:
        """One report a file, in the order of the jobs; what has none yet was interrupted."""
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
        for job in self._todo:
            self._reports[job] = FileReport(
                str(job.source), str(job.output), "interrupted", error="not begun", exit_code=130
            )
        return [self._reports[job] for job in self._jobs]

    def _feed(self, pool: SpanPool, workers: int) -> None:
        """Open files until the workers have enough to do."""
        while sum(self._open_spans.values()) < 2 * workers and (self._opened or self.open_next()):
            self._submit(pool, *self._opened.popleft())

    def _submit(self, pool: SpanPool, job: Job, conversion: Conversion) -> None:
        folder = str(conversion.workdir.resolve())
        self._active[folder] = (job, conversion)
        pending = conversion.pending
        spans = len(pending) + conversion.reused
        done = conversion.frames_done
        self._progress.add_video(folder, job.source.name, conversion.plan.frames, spans, done, conversion.reused)
        if not pending:
            self._finish(folder)
            return
        self._open_spans[folder] = len(pending)
        for track, span in pending:
            frames = conversion.plan.tracks[track].spans[span].frames
            key = f"{folder}:{track}:{span}"
            pool.submit(SpanTask(key, folder, track, span, frames, conversion.plan.numerics_class))

    def _take(self, event: Event) -> None:
        self.first_span = self.first_span or time.monotonic()
        folder = event.task.workdir
        _, conversion = self._active[folder]
        self._progress.show(event)
        if isinstance(event, Done):
            conversion.span_done(event.result)
        elif isinstance(event, Failed):
            log = conversion.workdir / f"failed_{event.task.track}_{event.task.span}.log"
            log.write_text(event.log)
            self._failed.setdefault(folder, event)
        else:
            return
        self._open_spans[folder] -= 1
        if self._open_spans[folder] == 0:
            del self._open_spans[folder]
            self._finish(folder)

    def _finish(self, folder: str) -> None:
        """All spans of a file have ended: join and publish it, or say why not."""
        job, conversion = self._active.pop(folder)
        try:
            if folder in self._failed:
                failed = self._failed[folder]
                report = _failure(job, failed.exception())
                report.error = f"{report.error} ({failed.attempts} attempts; log in {conversion.workdir})"
            else:
                report = conversion.finish(keep_work=self._config.workers.keep_work)
        except SunvisorError as error:
            report = _failure(job, error)
        except Exception as error:  # noqa: BLE001 - one file never stops the rest; the report says what it was
            report = _failure(job, _unforeseen(job, error, conversion.workdir))
        finally:
            conversion.close()
        self._reports[job] = report
        self._progress.finish_video(folder, report.error or f"{report.status}: {job.output}")


def _worker_count(config: Config, cluster: Cluster, device: str) -> int:
    """As asked for; else one a GPU; else one for a local CPU, or one a core of a CPU cluster."""
    if config.workers.count:
        return config.workers.count
    if device == "cuda" or cluster.gpus:
        return max(1, int(cluster.gpus))
    return 1 if cluster.local else max(1, int(cluster.cpus))


def _unforeseen(job: Job, error: Exception, folder: Path) -> SunvisorError:
    """An error that nobody named: a full disk, or a bug. Its traceback goes into a log."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ConversionError(f"{job.output}: no space left on the disk; free some and run the same command again.")
    log = folder / f"{job.output.name}.error.log"
    log.write_text("".join(traceback.format_exception(error)))
    return ConversionError(f"{job.source}: could not be converted ({type(error).__name__}: {error}); details in {log}.")


def _failure(job: Job, error: SunvisorError) -> FileReport:
    status = "refused" if error.exit_code == 2 else "failed"
    return FileReport(str(job.source), str(job.output), status, error=str(error), exit_code=error.exit_code)


def _exit_code(reports: list[FileReport]) -> int:
    """1 when something failed, else 2 when something was refused, else 0."""
    codes = {report.exit_code for report in reports}
    return 1 if 1 in codes else max(codes, default=0)
