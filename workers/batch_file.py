"""BatchFile: one file on its way through a batch."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.convert import Conversion
from pipeline.file_report import FileReport
from pipeline.ledger import WorkLock
from workers.jobs import Job

EXIT_TIME_OVER = 3
"""Stopped as asked by --max-hours; the same command goes on."""
EXIT_INTERRUPTED = 130


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
