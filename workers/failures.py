"""Failures: from what went wrong with a file to its report, and to a log where the sentence is not enough."""

from __future__ import annotations

import traceback
from pathlib import Path

from pipeline.errors import ConversionError, InputError, SunvisorError
from pipeline.file_report import FileReport
from workers.events import Failed
from workers.file_desk import Ended
from workers.jobs import Job
from workers.listeners import Listeners
from workers.span_worker import SpanError


def failure(job: Job, error: SunvisorError) -> FileReport:
    """The report of a file that failed, or that the user can mend."""
    status = "refused" if error.exit_code == 2 else "failed"
    return FileReport(str(job.source), str(job.output), status, error=str(error), exit_code=error.exit_code)


class Failures:
    """Makes reports of files that failed. progress: shows a log that cannot be written."""

    def __init__(self, progress: Listeners) -> None:
        self._progress = progress

    def told(self, job: Job, ended: Ended, done: str, folder: Path | None = None) -> FileReport:
        """The report of a file that could not be looked at or joined. Processes that died of it are told in a log."""
        error = ended.answer.error
        assert error is not None
        if error.kind in ("InputError", "ConversionError") or error.user_error:
            return failure(job, (InputError if error.user_error else ConversionError)(error.message))
        if not ended.deaths or error.kind not in ("WorkerDied", "Stalled"):
            return self._unforeseen(job, error, folder)
        count = len(ended.deaths)
        log = "".join(f"Attempt {number}: {why}\n" for number, why in enumerate(ended.deaths, 1))
        told = self._write_log((folder or job.output.parent) / f"{job.output.name}.error.log", log)
        why = ended.deaths[-1].splitlines()[0]
        fate, cause = "died", "the file is damaged, or memory is short"
        if error.kind == "Stalled":
            fate = "died or stood still"
            cause = "the file is damaged, or a disk or network share does not answer; where it is only slow, raise workers.stall_seconds"
        text = f"{job.source}: each process in which it was {done} {fate} ({count} attempts; the last: {why}{told}); {cause}."
        return failure(job, ConversionError(text))

    def given_up(self, job: Job, event: Failed) -> FileReport:
        """The report of a file one span of which was given up; every attempt is told in a log."""
        report = failure(job, event.exception())
        log = Path(event.task.workdir) / f"failed_{event.task.track}_{event.task.span}.log"
        report.error = f"{report.error} ({event.attempts} attempts{self._write_log(log, event.log)})"
        return report

    def report_of(self, job: Job, error: Exception, folder: Path | None = None) -> FileReport:
        """The report of a file that failed here."""
        if isinstance(error, SunvisorError):
            return failure(job, error)
        trace = "".join(traceback.format_exception(error))
        return self._unforeseen(job, SpanError(type(error).__name__, str(error), trace, False, False), folder)

    def _unforeseen(self, job: Job, error: SpanError, folder: Path | None) -> FileReport:
        """An error that nobody named, a bug or a failing disk, gets a log with its traceback."""
        told = self._write_log((folder or job.output.parent) / f"{job.output.name}.error.log", error.traceback)
        text = f"{job.source}: could not be converted ({error.kind}: {error.message}{told})."
        return failure(job, ConversionError(text))

    def _write_log(self, path: Path, text: str) -> str:
        """Write a log and say where it is; where it cannot be written (a full disk), show it instead."""
        try:
            path.write_text(text)
        except OSError:
            self._progress.message(text)
            return ""
        return f"; log in {path}"
