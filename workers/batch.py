"""Batch: many files over one pool of workers. One file that fails never stops the rest."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from configs.schema import Config
from pipeline import engine as engines
from pipeline.errors import SunvisorError
from pipeline.file_report import FileReport
from pipeline.machine import this_machine
from pipeline.planning import Asked
from workers.apart import call_each
from workers.area import Area
from workers.batch_file import Options
from workers.batch_run import BatchRun
from workers.cluster import RayLost, connect
from workers.elastic import Elastic
from workers.failures import failure
from workers.file_work import FORESEE_FILE
from workers.jobs import Job
from workers.listeners import Listeners
from workers.placement import shape_for, slots_for, store_bytes_for, worker_count
from workers.pool import SpanPool
from workers.progress import ProgressDisplay
from workers.progress_lines import ProgressLines

RUN_SPAN = "pipeline.span_job:run_span"
NUMERICS_CLASS = "pipeline.engine:numerics_class"
MOST_PLANNERS = 4
"""Files that a dry run looks at at a time, at most: each process takes memory for a few frames."""
MOST_LOOKERS = 32
"""Files that are looked at at a time on a cluster, at most: each is read through."""


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


def plan_batch(jobs: list[Job], config: Config) -> Iterator[dict[str, Any] | FileReport]:
    """For each file, in their order, what its conversion would do (report.plan_facts), or a report when it cannot be converted.

    Each is looked at in a process of its own, a few at a time. Writes nothing. Raises InputError when the settings ask for what this
    machine has not.
    """
    machine = this_machine(config)
    at_once = min(MOST_PLANNERS, len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as folder:  # ours, so that it goes although a process died
        asked = []
        for number, job in enumerate(jobs):
            one = Asked(job.source, job.output, config, run=job.run, frames=job.frames, machine=machine)
            asked.append(((one, Path(folder, str(number))), job.source))
        answers = call_each(FORESEE_FILE, asked, "looked at", at_once, config.workers.stall_seconds)
        for job, answer in zip(jobs, answers, strict=True):
            yield failure(job, answer) if isinstance(answer, SunvisorError) else answer


PROGRESS: dict[str, Callable[..., ProgressDisplay]] = {
    "auto": ProgressDisplay,
    "json": ProgressLines,
    "none": partial(ProgressDisplay, quiet=True),
}
"""Ways to show progress on standard error: bars or lines of text, JSON lines, nothing but what goes wrong."""


def run_batch(
    jobs: list[Job],
    config: Config,
    *,
    overwrite: bool = False,
    progress: str = "auto",
    options: Options | None = None,
    area: Area | None = None,
) -> BatchReport:
    """Convert all files over a pool of Ray workers, with progress (a key of PROGRESS) on standard error.

    options: more than `overwrite`; area: where other terminals see the run, and speak to it
    The first Ctrl-C finishes the running spans, the second stops; what is finished is kept either way.
    Raises InputError when the settings ask for what this machine has not.
    """
    machine = this_machine(config)
    if area is not None:
        area.open()
    with Listeners(PROGRESS[progress](), config.workers) as listeners:
        run = BatchRun(config, machine, listeners, area, options or Options(overwrite=overwrite))
        try:
            with run.interrupts, contextlib.suppress(KeyboardInterrupt):
                run.add(jobs)
                if run.begin():
                    _run_on_rays(run, config)
        finally:
            run.close()
        reports = run.reports()
        code = run.exit_code(reports)
        ended = run.ended or time.monotonic()
        ready = run.first_span or ended
        report = BatchReport(reports, run.workers, run.threads, ready - run.began, ended - ready, code)
        run.tell("stopped" if any(one.status == "interrupted" for one in reports) else "finished", code)
        return report


def _run_on_rays(run: BatchRun, config: Config) -> None:
    """As below, and again on another Ray when ours is lost."""
    again = True
    while again:
        try:
            _run_on_ray(run, config)
            again = False
        except RayLost as lost:
            again = run.ray_lost(lost)


def _run_on_ray(run: BatchRun, config: Config) -> None:
    """Start or join Ray, and convert everything there."""
    device = engines.resolve_device(config.device)
    gpus = torch.cuda.device_count() if device == "cuda" else 0
    store_bytes = store_bytes_for(config, gpus)
    with connect(config.workers.address, slots=slots_for(config, gpus), gpus=gpus, store_bytes=store_bytes) as cluster:
        run.interrupts.install()
        workers = worker_count(config, cluster, device)
        shape = shape_for(config, cluster, device, workers, len(os.sched_getaffinity(0)))
        run.threads = shape.threads
        grows = not cluster.local and not config.workers.count
        with SpanPool(
            cluster,
            RUN_SPAN,
            NUMERICS_CLASS,
            workers=workers,
            shape=shape,
            elastic=Elastic(shape, config.workers.max) if grows else None,
            retries=config.workers.retries,
            stall_seconds=config.workers.stall_seconds,
        ) as pool:
            run.desk.use(cluster)
            lookers = 2 if cluster.local else min(MOST_LOOKERS, max(2, workers // 2))
            try:
                run.run(pool, workers, lookers, cluster.check)
            except RayLost:
                raise  # the tasks are gone with it, and begun again on the next
            except BaseException:
                run.desk.close()  # while there is a Ray to end tasks of
                raise
            run.desk.close()
