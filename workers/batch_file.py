"""BatchFile: one file on its way through a batch, and how a batch is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from configs.schema import Config
from pipeline.convert import Conversion, Joining
from pipeline.file_report import FileReport
from pipeline.ledger import WorkLock
from pipeline.machine import Machine
from pipeline.planning import Asked
from storage.edges import RemoteAsked, RemoteJoining
from workers.jobs import Job
from workers.span_worker import SpanTask

EXIT_TIME_OVER = 3
"""Stopped as asked by --max-hours; the same command goes on."""
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Options:
    """How a batch is run. overwrite, paranoid: see pipeline.planning.Asked

    max_seconds: no span begins later than that after the start
    watch: gives files that came lately; then the batch goes on until it is stopped
    """

    overwrite: bool = False
    paranoid: bool = False
    max_seconds: float | None = None
    watch: Callable[[], list[Job]] | None = None


@dataclass
class BatchFile:
    """One file on its way. lock: held from before it is planned; left: spans that have not ended; failed: its report once a span was given up

    again: it came anew meanwhile (--watch), and is taken once it is over
    """

    job: Job
    size: int
    lock: WorkLock | None = None
    conversion: Conversion | None = None
    left: int = 0
    failed: FileReport | None = None
    report: FileReport | None = None
    again: Job | None = None

    def to_plan(self, config: Config, machine: Machine, options: Options) -> Asked | RemoteAsked:
        """What workers.file_work.plan_file is asked."""
        job, flags = self.job, {"overwrite": options.overwrite, "paranoid": options.paranoid}
        asked = Asked(job.source, job.output, config, run=job.run, frames=job.frames, machine=machine, **flags)
        return asked if job.remote is None else RemoteAsked(asked, job.remote)

    def to_convert(self, track: int, span: int) -> SpanTask:
        """What a worker is asked."""
        assert self.conversion is not None
        plan, folder = self.conversion.plan, str(self.conversion.workdir.resolve())
        frames = plan.tracks[track].spans[span].frames
        return SpanTask(f"{folder}:{track}:{span}", folder, track, span, frames, plan.numerics_class)

    def to_join(self, storage_retry_seconds: float) -> Joining | RemoteJoining:
        """What workers.file_work.join_file is asked."""
        assert self.conversion is not None
        joining, remote = self.conversion.to_join(), self.job.remote
        return joining if remote is None else RemoteJoining(joining, remote, storage_retry_seconds)

    def interrupted(self, by_time: bool) -> FileReport:
        """The report of a file that was stopped on its way. by_time: by --max-hours, else by the user"""
        report = FileReport(self.job.origin, self.job.place, "interrupted")
        report.exit_code = EXIT_TIME_OVER if by_time else EXIT_INTERRUPTED
        conversion = self.conversion
        if conversion is not None:
            report.frames = conversion.frames_done
            report.spans_done, report.spans_reused = len(conversion.lines) - conversion.reused, conversion.reused
        begun = "the same command goes on from here" if conversion is not None else "not begun"
        report.error = f"the time allowed by --max-hours is over; {begun}" if by_time else begun
        return report


def count_files(files: Iterable[BatchFile]) -> dict[str, Any]:
    """Of the status: how many files there are, are done and have failed, and what is said of those that have."""
    files = list(files)
    over = [file.report for file in files if file.report is not None]
    bad = [report for report in over if report.exit_code]
    return {
        "files": {"all": len(files), "done": len(over) - len(bad), "failed": len(bad)},
        "failures": [{"file": one.source, "status": one.status, "error": one.error} for one in bad],
    }
