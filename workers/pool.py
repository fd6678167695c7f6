"""SpanPool: hands spans to SpanWorkers, one each, and survives their deaths."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from pipeline.errors import ConversionError
from workers.actors import ActorMaker
from workers.cluster import Cluster, RayLost, versions
from workers.crew import Crew, Worker
from workers.deaths import kernel_kills
from workers.elastic import Elastic
from workers.events import Done, Event, Failed, Progress, Retrying
from workers.placement import Shape
from workers.pulse import Ending, last_output
from workers.span_worker import SpanError, SpanOutcome, SpanTask, WorkerInfo
from workers.vigil import Vigil

TICK_SECONDS = 0.05
ABORT_GRACE_SECONDS = 1.0
START_SECONDS = 180.0
CLUSTER_START_SECONDS = 900.0
"""How long a pool waits for its first worker; on a cluster a node may have to be bought first."""
ONE_CPU = Shape("fused", 1, ({"CPU": 1.0},))
STARVED = {
    True: "the run goes on with one worker fewer",
    False: "use fewer workers (--workers), a smaller reconstruct.tile_budget_bytes, or a machine with more memory",
}
"""What is said of a worker for which memory did not suffice, by whether it was given up."""


class SpanPool:
    """SpanWorkers and the queue in front of them. Use it as a context manager inside workers.cluster.connect().

    entry, numerics: see SpanWorker
    workers: how many to begin with; shape: what each is made of
    elastic: asked every few seconds how many there shall be; None = always as many
    retries: how many attempts a span gets in all before it is quarantined, and a worker in a row to start
    start_seconds: how long the pool may be without any worker before it gives up
    stall_seconds: how long a worker may stand still at a span before it is killed, and the span charged one attempt; 0 = for ever
    A worker that dies, or whose node does, is started anew wherever there is room; while there is none it waits, and the others go on.
    When memory ran out there is one worker fewer instead, as long as others work; that costs a span an attempt the second time only.
    A worker runs one span at a time, spans begin in the order of submit(). A thread of the pool's own hands them out, so workers never
    wait for the caller. Workers start in the constructor: prepare plans while they import.
    """

    def __init__(
        self,
        cluster: Cluster,
        entry: str,
        numerics: str,
        *,
        workers: int,
        shape: Shape = ONE_CPU,
        elastic: Elastic | None = None,
        retries: int = 3,
        start_seconds: float | None = None,
        stall_seconds: float = 0.0,
    ) -> None:
        import ray

        self._ray = ray
        self._session_dir = cluster.session_dir
        self._retries = retries
        self._lock = threading.Lock()
        self._pending: deque[SpanTask] = deque()
        self._unstarted: list[SpanTask] = []
        self._events: queue.Queue[Event] = queue.Queue()
        self._open = 0
        self._history: dict[SpanTask, list[str]] = {}
        self._forgiven: set[SpanTask] = set()
        self._local = cluster.local
        self._draining = threading.Event()
        self._aborting = threading.Event()
        self._ray_is_lost = False
        self._crash: Exception | None = None
        self._stall_seconds = stall_seconds
        start_seconds = start_seconds or (START_SECONDS if cluster.local else CLUSTER_START_SECONDS)
        self._vigil = Vigil(stall_seconds, start_seconds)
        self._crew = Crew(
            ActorMaker(shape, entry, numerics, local=cluster.local),
            workers,
            elastic=elastic,
            retries=retries,
            start_seconds=start_seconds,
        )
        self._thread = threading.Thread(target=self._serve, name="span-pool", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ray_is_lost = isinstance(error, RayLost)
        self.abort()

    def wait_ready(self) -> list[WorkerInfo]:
        """Wait until every worker has said hello or is lost. Raises ConversionError when none is left."""
        while any(worker.info is None and not worker.lost for worker in self._crew.workers) and self._thread.is_alive():
            time.sleep(TICK_SECONDS)
        infos = [worker.info for worker in self._crew.workers if worker.info is not None]
        if not infos:
            raise ConversionError(
                f"The span pool stopped: {self._crash}" if self._crash else self._no_workers().message
            )
        return infos

    def submit(self, task: SpanTask) -> None:
        """Queue one span; never blocks. After drain() it is returned by unstarted() instead of run."""
        with self._lock:
            if self._draining.is_set():
                self._unstarted.append(task)
                return
            self._pending.append(task)
            self._open += 1

    def events(self, patience_seconds: float | None = None) -> Iterator[Event]:
        """Yield what happens, and end when every submitted span is Done, Failed or handed back by drain() or abort().

        patience_seconds: end as well when nothing happens for that long; the caller comes back for the rest
        Spans may be submitted meanwhile. Exactly one Done or Failed comes for each span that was begun, unless aborted.
        Raises ConversionError when the pool's own thread died."""
        quiet_since = time.monotonic()
        while True:
            try:
                event = self._events.get(timeout=TICK_SECONDS)
            except queue.Empty:
                if self._crash is not None:
                    raise ConversionError(f"The span pool stopped: {self._crash}") from self._crash
                with self._lock:
                    if (self._open == 0 or not self._thread.is_alive()) and self._events.empty():
                        return
                if patience_seconds is not None and time.monotonic() - quiet_since >= patience_seconds:
                    return
                continue
            yield event
            quiet_since = time.monotonic()

    @property
    def size(self) -> int:
        """How many workers there are or are being started."""
        return sum(not worker.lost for worker in self._crew.workers)

    def running(self) -> int:
        """How many spans are being converted now."""
        return sum(worker.task is not None for worker in self._crew.workers)

    def alive(self) -> int:
        """How many workers have said hello and were not lost since. May be called from any thread."""
        return sum(worker.info is not None and not worker.lost for worker in self._crew.workers)

    def unstarted(self) -> list[SpanTask]:
        """After drain() or abort(): the spans that were not begun, or not finished when aborted, in order."""
        with self._lock:
            return list(self._unstarted)

    def recall(self) -> list[SpanTask]:
        """Hand back the spans that are not begun; they may be submitted again."""
        with self._lock:
            tasks = list(self._pending)
            self._open -= len(tasks)
            self._pending.clear()
            return tasks

    def drain(self) -> list[SpanTask]:
        """Begin nothing new: running spans finish and still come out of events(). Returns the unstarted ones."""
        with self._lock:
            self._draining.set()
            self._open -= len(self._pending)
            self._unstarted += self._pending
            self._pending.clear()
            return list(self._unstarted)

    def abort(self) -> None:
        """Stop now: running spans get a second to remove their temporary files, then their processes are killed."""
        self.drain()
        self._aborting.set()
        self._thread.join(timeout=ABORT_GRACE_SECONDS + 10)

    # What follows runs in the pool's thread.

    def _serve(self) -> None:
        try:
            while not self._aborting.is_set():
                self._crew.tend(self._open)
                self._collect()
                self._hand_out()
                self._watch()
            if not self._ray_is_lost:  # which takes its workers with it
                self._kill_all()
        except Exception as error:  # noqa: BLE001 - events() and wait_ready() raise it in the caller's thread
            self._crash = error

    def _collect(self) -> None:
        """Wait a tick for answers and take in each."""
        waiting = {worker.ref: worker for worker in self._crew.workers if worker.ref is not None}
        if not waiting:
            self._aborting.wait(TICK_SECONDS)
            return
        ready, _ = self._ray.wait(list(waiting), num_returns=1, timeout=TICK_SECONDS)
        for ref in ready:
            worker = waiting[ref]
            worker.ref = None
            try:
                answer = self._ray.get(ref)
            except self._ray.exceptions.RayTaskError as error:
                self._take_task_error(worker, error)
                continue
            except self._ray.exceptions.RayError as error:
                starved = isinstance(error, self._ray.exceptions.OutOfMemoryError)
                self._take_death(worker, _reason(error), starved or (self._local and kernel_kills() > worker.kills))
                continue
            if isinstance(answer, WorkerInfo):
                self._take_hello(worker, answer)
            else:
                self._take_outcome(worker, answer)

    def _take_hello(self, worker: Worker, info: WorkerInfo) -> None:
        ours, theirs = versions(), info.versions
        wrong = [f"{name} {theirs.get(name)} (here {ours[name]})" for name in ours if theirs.get(name) != ours[name]]
        if wrong:
            self._crew.lose(
                worker,
                f"Worker host {info.host} has other versions: {', '.join(wrong)}; install requirements.lock there.",
            )
            return
        worker.info, worker.failed_starts, worker.trouble = info, 0, ""

    def _take_outcome(self, worker: Worker, outcome: SpanOutcome) -> None:
        task, worker.task = worker.task, None
        assert task is not None
        if outcome.error is not None:
            self._take_error(task, outcome.error, outcome.error.traceback)
        elif outcome.stopped or outcome.result is None:
            self._close(task, None)
        else:
            self._history.pop(task, None)
            self._close(task, Done(task, outcome.result, outcome.seconds))
        if outcome.worn:
            self._crew.renew(worker, outcome.error.message if outcome.error is not None else "it was stopped")

    def _take_task_error(self, worker: Worker, error: Exception) -> None:
        """hello() raised, or the entry's answer could not be sent; the process itself lives on."""
        task, worker.task = worker.task, None
        if task is None:
            self._crew.renew(worker, str(error).strip().splitlines()[-1])
            return
        self._take_error(
            task, SpanError("RayTaskError", _reason(error), str(error), user_error=False, retry=True), str(error)
        )

    def _take_death(self, worker: Worker, reason: str, starved: bool) -> None:
        """A worker's process or node is gone, or does not answer any more: charge the span it ran, and have another one.

        starved: memory ran out. Where there are others, this worker is given up, once for each span: a span that needs too much memory
        by itself must not take them all.
        """
        task, worker.task = worker.task, None
        info = worker.info
        fewer = starved and task is not None and task not in self._forgiven and self._crew.has_others(worker)
        if task is None or not fewer:
            self._crew.renew(worker, reason)
        else:
            self._forgiven.add(task)
            self._crew.lose(worker, reason)
        if task is not None:
            where = f"process {info.pid} on {info.host}" if info else "process"
            how = "was killed for want of memory" if starved else "died"
            message = f"The worker ({where}) {how} while it converted span {task.span} of {task.workdir}: "
            message += f"{STARVED[fewer]} ({reason})" if starved else reason
            died = SpanError("OutOfMemory" if starved else "WorkerDied", message, "", user_error=False, retry=True)
            self._take_error(task, died, last_output(self._session_dir, info.pid if info else None))

    def _take_stall(self, worker: Worker, ending: Ending) -> None:
        """A worker that stood still is ended: charge the span it had, and have another one."""
        task, worker.task = worker.task, None
        info, pulse = worker.info, worker.pulse
        still = f"stood still for {self._stall_seconds:g} s"
        self._crew.renew_hung(worker, f"it {still} while it started ({ending.words()})")
        if task is None:
            return
        frames = pulse.frames if pulse and pulse.key == task.key else 0
        message = (
            f"The worker {still} at span {task.span} of {task.workdir}, {frames} of its {task.frames} frames done, and was killed "
            f"(workers.stall_seconds={self._stall_seconds:g}; {ending.words()})."
        )
        said = last_output(self._session_dir, info.pid if info else None)
        details = "\n".join(filter(None, [ending.stacks(), said]))
        self._take_error(task, SpanError("Stalled", message, "", user_error=False, retry=True), details)

    def _take_error(self, task: SpanTask, error: SpanError, details: str) -> None:
        """Try the span again, before all others, or give it up."""
        history = self._history.setdefault(task, [])
        history.append(f"Attempt {len(history) + 1}: {error.kind}: {error.message}\n{details}".rstrip() + "\n")
        if error.retry and len(history) < self._retries + (task in self._forgiven):
            self._events.put(Retrying(task, error, len(history)))
            with self._lock:
                if self._draining.is_set():
                    self._unstarted.append(task)
                    self._open -= 1
                else:
                    self._pending.appendleft(task)
            return
        del self._history[task]
        self._close(task, Failed(task, error, len(history), "".join(history)))

    def _close(self, task: SpanTask, event: Done | Failed | None) -> None:
        """The span is over: tell the caller, or, when it was stopped, hand it back. The event goes first, so that events()
        never sees an empty queue and nothing open while an event is still to come."""
        if event is not None:
            self._events.put(event)
        self._forgiven.discard(task)
        with self._lock:
            self._open -= 1
            if event is None:
                self._unstarted.append(task)

    def _no_workers(self) -> SpanError:
        return SpanError(
            "NoWorkers", "No worker is left. " + " ".join(self._crew.losses), "", user_error=False, retry=False
        )

    def _hand_out(self) -> None:
        """Give idle workers the first pending span of their numerics class."""
        for worker in self._crew.workers:
            if worker.lost or worker.info is None or worker.pulse is None or worker.task is not None:
                continue
            with self._lock:
                task = next((one for one in self._pending if one.numerics_class == worker.info.numerics_class), None)
                if task is not None:
                    self._pending.remove(task)
            if task is not None:
                worker.task, worker.kills = task, kernel_kills()
                assert worker.started is not None
                worker.ref = worker.started.actor.run.remote(task)
                self._vigil.begin(worker)
                self._events.put(Progress(task, 0, f"{worker.info.host}:{worker.info.pid}"))
        self._refuse_homeless()

    def _refuse_homeless(self) -> None:
        """Fail the pending spans that no worker can run, once it is known what the workers are; where some work, late ones are not
        waited for."""
        alive = [worker for worker in self._crew.workers if not worker.lost]
        classes = {worker.info.numerics_class for worker in alive if worker.info is not None}
        if any(worker.info is None and not (classes and self._crew.is_late(worker)) for worker in alive):
            return
        with self._lock:
            homeless = [task for task in self._pending if task.numerics_class not in classes]
            for task in homeless:
                self._pending.remove(task)
        for task in homeless:
            if classes:
                message = (
                    f"Span {task.span} of {task.workdir} was planned for numerics class {task.numerics_class}, the workers offer "
                    f"{', '.join(sorted(classes))}: go on with such workers, or remove the .work folder to begin anew."
                )
                error = SpanError("NumericsClass", message, "", user_error=True, retry=False)
            else:
                error = self._no_workers()
            self._take_error(task, error, "")

    def _watch(self) -> None:
        """Report how far the busy workers are, and end those that stand still."""
        for progress in self._vigil.look(self._crew.workers):
            self._events.put(progress)
        for worker in self._vigil.stalled(self._crew.workers):
            worker.ref = None  # what it still answers comes too late
            worker.ending = Ending(worker.pulse.processes if worker.pulse else ())
        for worker in self._crew.workers:
            if worker.ending is not None and not worker.ending.is_alive():
                self._take_stall(worker, worker.ending)

    def _kill_all(self) -> None:
        busy = [worker for worker in self._crew.workers if worker.task is not None and worker.started is not None]
        for worker in busy:
            worker.started.actor.stop.options(concurrency_group="control").remote()
        if refs := [worker.ref for worker in busy if worker.ref is not None]:
            self._ray.wait(refs, num_returns=len(refs), timeout=ABORT_GRACE_SECONDS)
        self._crew.end()
        for worker in self._crew.workers:
            if worker.task is not None:
                self._close(worker.task, None)
                worker.task = None


def _reason(error: Exception) -> str:
    """The first sentences of Ray's account, on one line."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return " ".join(lines)[:600] or type(error).__name__
