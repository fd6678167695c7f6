"""BatchRun: files on their way through a pool of workers. Planned ahead of the workers, joined as their last span is done, and neither in
this process: it holds the locks, writes the ledgers, and says who does what next.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

from configs.schema import Config
from pipeline.convert import Conversion, let_go, opened, take_lock
from pipeline.errors import ConversionError
from pipeline.file_report import FileReport, exit_code_of
from pipeline.machine import Machine
from workers.area import Area
from workers.batch_file import EXIT_TIME_OVER, BatchFile, Options, count_files
from workers.cluster import RayLost
from workers.events import Done, Event, Failed
from workers.failures import Failures, failure
from workers.file_desk import Ended, FileDesk
from workers.file_work import JOIN_FILE, PLAN_FILE
from workers.interrupts import Interrupts
from workers.jobs import Job
from workers.listeners import Listeners
from workers.losses import RayLosses
from workers.pool import SpanPool
from workers.remote_notes import RemoteNotes
from workers.schedule import Schedule
from workers.span_worker import SpanTask

TICK_SECONDS = 0.05
STATUS_SECONDS = 1.0
ALONE_SECONDS = 6.0
"""How long Ray waits to be started until it is known whether the only file needs it."""


class BatchRun:
    """Make it, add() files, begin() before Ray is started, run() with a pool, then close() and reports()."""

    def __init__(
        self, config: Config, machine: Machine, progress: Listeners, area: Area | None, options: Options
    ) -> None:
        self.interrupts = Interrupts(self._drain, self._abort, lambda: self._pool is not None)
        self.desk = FileDesk(config.workers.retries, config.workers.stall_seconds)
        self.workers = self.threads = 0
        self.began = time.monotonic()
        self.first_span: float | None = None
        self.ended: float | None = None
        self._config = config
        self._machine = machine
        self._failures = Failures(progress)
        self._progress = progress
        self._area = area
        self._options = options
        self._notes = RemoteNotes(progress.message)
        self._pool: SpanPool | None = None
        self._schedule = Schedule(ahead=1, lookers=1)
        self._joiners = 1
        self._files: dict[str, BatchFile] = {}
        self._folders: dict[str, BatchFile] = {}
        self._to_join: deque[BatchFile] = deque()
        self._in_flight: dict[SpanTask, None] = {}
        self._paused = False
        self._check: Callable[[], None] = lambda: None
        self._losses = RayLosses(config.workers.retries)
        self._next_status = 0.0
        self._since = time.time()

    # --- from outside ---------------------------------------------------------------------------------------------------

    def add(self, jobs: Iterable[Job]) -> None:
        """Files to convert. One that is here already and over is taken again."""
        for job in jobs:
            name = str(job.output)
            known = self._files.get(name)
            if known is not None and known.report is None:
                known.again = job
                continue
            self._files[name] = BatchFile(job, job.source_bytes)
            self._schedule.add(name, job.source_bytes)
            self._progress.add_file(job.source_bytes)

    def begin(self) -> bool:
        """Have the first file looked at, which goes on while Ray is started. False when there is nothing to do for Ray.

        When it is the only file, what is wrong with it is said, and Ray not started for nothing.
        """
        self._turn()
        alone = len(self._files) == 1 and self._options.watch is None
        while alone and self.desk.count("plan") and time.monotonic() - self.began < ALONE_SECONDS:
            time.sleep(TICK_SECONDS)
            self._turn()
        return not self._is_over()

    def run(self, pool: SpanPool, workers: int, lookers: int, check: Callable[[], None] = lambda: None) -> None:
        """Until every file is done, has failed, or nothing more is wanted.

        workers: how many spans run at a time; lookers: how many files may be looked at at a time, and how many joined
        check: raises RayLost; called before anything is believed that a Ray tells which is lost. Then goes on after `ray_lost`
        """
        self.workers, self._pool, self._check = workers, pool, check
        self._progress.watch_workers(pool.alive)
        self._schedule.lookers, self._joiners = lookers, lookers
        self._turn()
        while not self._is_over():
            next_turn = time.monotonic() + TICK_SECONDS
            try:
                for event in pool.events(TICK_SECONDS):
                    self._check()
                    self._take(event)
                    if time.monotonic() >= next_turn:
                        break
            except RayLost:
                raise
            except ConversionError:  # the pool's thread has died
                self._check()
                raise
            time.sleep(max(0.0, next_turn - time.monotonic()) if not self._in_flight else 0.0)
            self._turn()
        self.ended = time.monotonic()

    def ray_lost(self, lost: RayLost) -> bool:
        """Its pool and what it did are gone; what was under way waits here again. Shall another Ray be started? Not when nothing is left for
        it, nor when that has been tried often enough without a span done in between: then all that is left has failed.
        """
        self._pool = None
        self.desk.ray_lost()
        for task in reversed(self._in_flight):
            self._give_back(task)
        self._in_flight.clear()
        if self._is_over() or self._losses.is_enough(lost):
            return False
        self._progress.message(f"{lost}: Ray is started anew, and the spans that ran are done again")
        return True

    def close(self) -> None:
        """End what is under way, and let go of every work folder."""
        self.desk.close()
        for file in self._files.values():
            if file.conversion is not None:
                file.conversion.close()
            elif file.lock is not None and file.report is None:
                let_go(file.lock, file.job.output)

    def reports(self) -> list[FileReport]:
        """What became of each file, in the order in which they came; what has no report yet was interrupted."""
        by_time = self._time_is_over and not self.interrupts.draining
        if (lost := self._losses.given_up) is not None:
            return [file.report or failure(file.job, lost) for file in self._files.values()]
        return [file.report or file.interrupted(by_time) for file in self._files.values()]

    def exit_code(self, reports: list[FileReport]) -> int:
        """What stopped it, when something was left; else that of the files."""
        if any(report.status == "interrupted" for report in reports):
            return self.interrupts.exit_code or EXIT_TIME_OVER
        return exit_code_of(reports)

    def tell(self, state: str, exit_code: int | None = None) -> None:
        """Write the status for other terminals."""
        if self._area is None:
            return
        facts = {"state": state, "since": self._since, "exit_code": exit_code} | count_files(self._files.values())
        facts["files"] |= {
            "planning": self.desk.count("plan"),
            "joining": self.desk.count("join") + len(self._to_join),
            "waiting": self._schedule.waiting,
        }
        facts |= {"workers": self.workers, "watching": self._options.watch is not None}
        facts |= self._progress.numbers()
        facts["storage"] = self._notes.now
        self._area.write_status(facts)

    # --- one turn of the loop -------------------------------------------------------------------------------------------

    @property
    def _time_is_over(self) -> bool:
        limit = self._options.max_seconds
        return limit is not None and time.monotonic() - self.began >= limit

    @property
    def _stopping(self) -> bool:
        """Nothing new shall begin, ever."""
        return self.interrupts.draining or self._time_is_over

    def _is_over(self) -> bool:
        if self._in_flight or self._to_join or self.desk.count("join"):
            return False
        if self._stopping:
            return True
        left = self._schedule.waiting or self._schedule.ready or self.desk.count("plan")
        return not left and self._options.watch is None

    def _turn(self) -> None:
        """Take in what came, begin what may begin."""
        self._check()
        if time.monotonic() >= self._next_status:
            self._next_status = time.monotonic() + STATUS_SECONDS
            self._listen()
            self.tell(self._state())
        for ended in self.desk.ended():
            (self._take_plan if ended.kind == "plan" else self._take_join)(self._files[ended.key], ended)
        if self._stopping or self._paused:
            self._take_back()
        else:
            if self._pool is not None:  # a pool on a cluster may grow
                self._schedule.ahead = 2 * max(self.workers, self._pool.size)
            self._look()
            self._feed()
        while self._to_join and self.desk.count("join") < self._joiners:
            file = self._to_join.popleft()
            joining = file.to_join(self._config.workers.storage_retry_seconds)
            self.desk.begin("join", str(file.job.output), JOIN_FILE, joining)

    def _state(self) -> str:
        if self._stopping:
            return "finishing"
        if self._paused:
            return "paused"
        return "running" if self._pool is not None else "starting"

    def _listen(self) -> None:
        """Has somebody asked for a pause, or its end; did files come?"""
        if self._options.watch is not None:
            self.add(self._options.watch())
        jobs = [self._files[name].job for name in self.desk.under_way()]
        self._notes.look(job.remote for job in jobs if job.remote is not None)
        paused = self._area is not None and self._area.paused
        if paused != self._paused:
            self._paused = paused
            self._progress.note = "paused" if paused else ""
            self._progress.message(
                "paused: running spans finish, nothing new begins until `run_pipeline.py resume`"
                if paused
                else "resumed"
            )

    def _take_back(self) -> None:
        """Nothing new begins: spans that wait in the pool, and when it is for good files that are being looked at, wait here again."""
        if self._pool is not None:
            for task in self._pool.drain() if self.interrupts.draining else self._pool.recall():
                if task in self._in_flight:
                    del self._in_flight[task]
                    self._give_back(task)
        if not self._stopping:
            return
        for name in self.desk.kill("plan"):
            file = self._files[name]
            self._schedule.put_back(name)
            assert file.lock is not None
            let_go(file.lock, file.job.output)
            file.lock = None

    def _give_back(self, task: SpanTask) -> None:
        name = str(self._folders[task.workdir].job.output)
        self._schedule.give_back(name, (task.track, task.span), task.frames)

    def _look(self) -> None:
        """Have files looked at."""
        while (name := self._schedule.next_file()) is not None:
            file = self._files[name]
            try:
                if file.job.remote is not None:
                    file.job.remote.make()
                file.lock = take_lock(file.job.source, file.job.output)
            except Exception as error:  # noqa: BLE001 - one file never stops the rest; the report says what it was
                self._schedule.drop(name)
                self._skip(file, self._failures.report_of(file.job, error))
                continue
            self.desk.begin("plan", name, PLAN_FILE, file.to_plan(self._config, self._machine, self._options))

    def _feed(self) -> None:
        """Give the pool as many spans as its workers run, and as many again to begin with at once."""
        pool = self._pool
        while pool is not None and len(self._in_flight) < self._schedule.ahead:
            chosen = self._schedule.next_span()
            if chosen is None:
                return
            name, (track, span) = chosen
            task = self._files[name].to_convert(track, span)
            self._in_flight[task] = None
            pool.submit(task)

    # --- what came ------------------------------------------------------------------------------------------------------

    def _take_plan(self, file: BatchFile, ended: Ended) -> None:
        """A file was looked at: its spans are ready, or it needs none, or it is refused."""
        name, lock = str(file.job.output), file.lock
        assert lock is not None
        conversion: Conversion | FileReport
        try:
            if ended.answer.error is None:
                conversion = opened(ended.answer.value, lock)
            else:
                conversion = self._failures.told(file.job, ended, "looked at")
                let_go(lock, file.job.output)
        except Exception as error:  # noqa: BLE001 - one file never stops the rest; the report says what it was
            conversion = self._failures.report_of(file.job, error)
            let_go(lock, file.job.output)
        if isinstance(conversion, FileReport):
            self._schedule.drop(name)
            self._skip(file, conversion)
            return
        file.conversion = conversion
        folder = str(conversion.workdir.resolve())
        self._folders[folder] = file
        pending = conversion.pending
        file.left = len(pending)
        in_all = len(pending) + conversion.reused
        self._progress.add_video(
            folder,
            file.job.source.name,
            conversion.plan.frames,
            in_all,
            conversion.frames_done,
            conversion.reused,
            file.size,
        )
        spans = [((track, span), conversion.plan.tracks[track].spans[span].frames) for track, span in pending]
        self._schedule.found(name, spans, in_all)
        if not pending:
            self._to_join.append(file)

    def _take(self, event: Event) -> None:
        self.first_span = self.first_span or time.monotonic()
        file = self._folders[event.task.workdir]
        assert file.conversion is not None
        self._progress.show(event)
        if isinstance(event, Done):
            self._losses.span_done()
            try:
                file.conversion.span_done(event.result)
            except Exception as error:  # noqa: BLE001 - the ledger cannot be written: this file fails, the rest goes on
                file.failed = file.failed or self._failures.report_of(file.job, error, file.conversion.workdir)
        elif isinstance(event, Failed):
            file.failed = file.failed or self._failures.given_up(file.job, event)
        else:
            return
        del self._in_flight[event.task]
        file.left -= 1
        if file.left == 0 and file.failed is None:
            self._to_join.append(file)
        elif file.left == 0:
            self._finish(file, file.failed)

    def _take_join(self, file: BatchFile, ended: Ended) -> None:
        """A file was joined and published, or that failed."""
        assert file.conversion is not None
        if ended.answer.error is None:
            report = ended.answer.value
            try:
                file.conversion.joined(report, keep_work=self._config.workers.keep_work)
            except Exception as error:  # noqa: BLE001 - one file never stops the rest; the report says what it was
                report = self._failures.report_of(file.job, error, file.conversion.workdir)
        else:
            report = self._failures.told(file.job, ended, "joined", file.conversion.workdir)
        self._finish(file, report)

    def _finish(self, file: BatchFile, report: FileReport | None) -> None:
        """A file that had been opened is over."""
        assert file.conversion is not None and report is not None
        file.conversion.close()
        report.source = str(file.job.source)
        report = file.job.told(report)
        folder = str(file.conversion.workdir.resolve())
        del self._folders[folder]
        self._progress.finish_video(folder, report.error or f"{report.status}: {file.job.place}", report)
        self._over(file, report)

    def _skip(self, file: BatchFile, report: FileReport) -> None:
        """A file that is not opened is over."""
        report = file.job.told(report)
        self._progress.skip_video(
            file.job.source.name, report.error or f"{report.status}: {file.job.place}", file.size, report
        )
        self._over(file, report)

    def _over(self, file: BatchFile, report: FileReport | None) -> None:
        file.report, file.conversion, file.lock = report, None, None
        if file.job.remote is not None:
            file.job.remote.tidy()
        if file.again is not None:
            self.add([file.again])

    # --- what is said ---------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """First Ctrl-C, in a thread of its own: begin nothing new."""
        if self._pool is not None:
            self._progress.message(
                f"finishing the {self._pool.running()} running spans; press Ctrl-C again to stop now"
            )
            self._pool.drain()

    def _abort(self) -> None:
        """Second Ctrl-C, or SIGTERM, in a thread of its own: stop."""
        if self._pool is not None:
            self._pool.abort()
