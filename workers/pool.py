"""SpanPool: hands spans to SpanWorkers, one each, and survives their deaths."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from pipeline.errors import ConversionError
from workers.cluster import Cluster, versions
from workers.events import Done, Event, Failed, Progress, Retrying
from workers.span_worker import SpanError, SpanOutcome, SpanTask, SpanWorker, WorkerInfo

TICK_SECONDS = 0.05
PROGRESS_SECONDS = 0.5
ABORT_GRACE_SECONDS = 1.0
RESTART_PAUSE_SECONDS = 0.5
LOG_TAIL_BYTES = 4000


@dataclass
class _Worker:
    """The pool's view of one actor: it says hello (info is None until then), is idle, or runs one task."""

    actor: Any
    info: WorkerInfo | None = None
    task: SpanTask | None = None
    ref: Any = None
    asked: Any = None
    failed_starts: int = 0
    retry_at: float = 0.0
    lost: bool = False
    trouble: str = ""
    began: float = field(default_factory=time.monotonic)


class SpanPool:
    """A fixed number of SpanWorkers and the queue in front of them. Use it as a context manager inside workers.cluster.connect().

    entry, numerics: see SpanWorker
    workers: how many actors; threads: of torch and codec in each
    gpus_per_worker: what a worker books of a GPU, 1 or a part, 0 on CPUs; on a cluster a worker books `threads` CPUs as well
    retries: how many attempts a span gets in all before it is quarantined
    start_seconds: how long a worker may take until it says hello
    A worker runs one span at a time, spans begin in the order of submit(). A thread of the pool's own hands them out, so
    workers never wait for the caller. Workers start in the constructor: prepare plans while they import.
    """

    def __init__(
        self,
        cluster: Cluster,
        entry: str,
        numerics: str,
        *,
        workers: int,
        threads: int = 1,
        gpus_per_worker: float = 0,
        retries: int = 3,
        start_seconds: float = 180.0,
    ) -> None:
        import ray

        self._ray = ray
        self._session_dir = cluster.session_dir
        self._retries = retries
        self._start_seconds = start_seconds
        self._lock = threading.Lock()
        self._pending: deque[SpanTask] = deque()
        self._unstarted: list[SpanTask] = []
        self._events: queue.Queue[Event] = queue.Queue()
        self._open = 0
        self._history: dict[SpanTask, list[str]] = {}
        self._draining = threading.Event()
        self._aborting = threading.Event()
        self._crash: Exception | None = None
        self._losses: dict[str, None] = {}
        self._next_progress = 0.0
        actor = ray.remote(concurrency_groups={"control": 1})(SpanWorker)
        options = {"max_restarts": -1, "max_task_retries": 0, "num_gpus": gpus_per_worker}
        options["num_cpus"] = 1 if cluster.local else threads
        self._workers = [_Worker(actor.options(**options).remote(entry, numerics, threads)) for _ in range(workers)]
        for worker in self._workers:
            worker.ref = worker.actor.hello.remote()
        self._thread = threading.Thread(target=self._serve, name="span-pool", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def wait_ready(self) -> list[WorkerInfo]:
        """Wait until every worker has said hello or is lost. Raises ConversionError when none is left."""
        while any(worker.info is None and not worker.lost for worker in self._workers) and self._thread.is_alive():
            time.sleep(TICK_SECONDS)
        infos = [worker.info for worker in self._workers if worker.info is not None]
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

    def running(self) -> int:
        """How many spans are being converted now."""
        return sum(worker.task is not None for worker in self._workers)

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
                self._collect()
                self._hand_out()
                self._watch()
            self._kill_all()
        except Exception as error:  # noqa: BLE001 - events() and wait_ready() raise it in the caller's thread
            self._crash = error

    def _collect(self) -> None:
        """Wait a tick for answers and take in each."""
        waiting = {worker.ref: worker for worker in self._workers if worker.ref is not None}
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
                self._take_death(worker, _reason(error))
                continue
            if isinstance(answer, WorkerInfo):
                self._take_hello(worker, answer)
            else:
                self._take_outcome(worker, answer)

    def _take_hello(self, worker: _Worker, info: WorkerInfo) -> None:
        ours, theirs = versions(), info.versions
        wrong = [f"{name} {theirs.get(name)} (here {ours[name]})" for name in ours if theirs.get(name) != ours[name]]
        if wrong:
            self._lose(
                worker,
                f"Worker host {info.host} has other versions: {', '.join(wrong)}; install requirements.lock there.",
            )
            return
        worker.info, worker.failed_starts, worker.trouble = info, 0, ""

    def _take_outcome(self, worker: _Worker, outcome: SpanOutcome) -> None:
        task, worker.task = worker.task, None
        assert task is not None
        if outcome.error is not None:
            self._take_error(task, outcome.error, outcome.error.traceback)
        elif outcome.stopped or outcome.result is None:
            self._close(task, None)
        else:
            self._history.pop(task, None)
            self._close(task, Done(task, outcome.result, outcome.seconds))

    def _take_task_error(self, worker: _Worker, error: Exception) -> None:
        """hello() raised, or the entry's answer could not be sent; the process itself lives on."""
        task, worker.task = worker.task, None
        if task is not None:
            self._take_error(
                task, SpanError("RayTaskError", _reason(error), str(error), user_error=False, retry=True), str(error)
            )
            return
        worker.failed_starts += 1
        worker.retry_at = time.monotonic() + RESTART_PAUSE_SECONDS
        if worker.failed_starts >= self._retries:
            self._lose(worker, f"A worker could not start: {str(error).strip().splitlines()[-1]}")

    def _take_death(self, worker: _Worker, reason: str) -> None:
        """A worker's process is gone: charge the span it ran, let Ray restart the process, say hello again.

        While Ray restarts it, each hello() fails at once: how often says nothing, only start_seconds ends the trying."""
        task, worker.task = worker.task, None
        info, worker.info, worker.asked = worker.info, None, None
        worker.retry_at = time.monotonic() + RESTART_PAUSE_SECONDS
        worker.trouble = reason
        if task is not None:
            worker.began = time.monotonic()
            where = f"process {info.pid} on {info.host}" if info else "process"
            message = f"The worker ({where}) died while it converted span {task.span} of {task.workdir}: {reason}"
            died = SpanError("WorkerDied", message, "", user_error=False, retry=True)
            self._take_error(task, died, self._last_output(info))

    def _take_error(self, task: SpanTask, error: SpanError, details: str) -> None:
        """Try the span again, before all others, or give it up."""
        history = self._history.setdefault(task, [])
        history.append(f"Attempt {len(history) + 1}: {error.kind}: {error.message}\n{details}".rstrip() + "\n")
        if error.retry and len(history) < self._retries:
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
        with self._lock:
            self._open -= 1
            if event is None:
                self._unstarted.append(task)

    def _lose(self, worker: _Worker, reason: str) -> None:
        """Give a worker up for good; the others go on."""
        worker.lost, worker.ref = True, None
        self._losses[reason] = None
        self._ray.kill(worker.actor, no_restart=True)

    def _no_workers(self) -> SpanError:
        return SpanError("NoWorkers", "No worker is left. " + " ".join(self._losses), "", user_error=False, retry=False)

    def _hand_out(self) -> None:
        """Say hello to restarted workers, give idle ones the first pending span of their numerics class."""
        now = time.monotonic()
        for worker in self._workers:
            if worker.lost:
                continue
            if worker.info is None:
                if now - worker.began > self._start_seconds:
                    self._lose(
                        worker, f"A worker did not start within {self._start_seconds:.0f} s. {worker.trouble}".strip()
                    )
                elif worker.ref is None and now >= worker.retry_at:
                    worker.ref = worker.actor.hello.remote()
            if worker.info is None or worker.ref is not None:
                continue
            with self._lock:
                task = next((one for one in self._pending if one.numerics_class == worker.info.numerics_class), None)
                if task is not None:
                    self._pending.remove(task)
            if task is not None:
                worker.task = task
                worker.ref = worker.actor.run.remote(task)
                self._events.put(Progress(task, 0))
        self._refuse_homeless()

    def _refuse_homeless(self) -> None:
        """Fail the pending spans that no worker can run, once it is known what the workers are."""
        alive = [worker for worker in self._workers if not worker.lost]
        if any(worker.info is None for worker in alive):
            return
        classes = {worker.info.numerics_class for worker in alive if worker.info is not None}
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
        """Ask the busy workers now and then how far they are; report what has been answered."""
        now = time.monotonic()
        for worker in self._workers:
            if worker.asked is not None and self._ray.wait([worker.asked], timeout=0)[0]:
                asked, worker.asked = worker.asked, None
                try:
                    key, frames = self._ray.get(asked)
                except self._ray.exceptions.RayError:
                    continue  # the worker died; its span's own answer says so
                if worker.task is not None and worker.task.key == key and frames:
                    self._events.put(Progress(worker.task, frames))
        if now < self._next_progress:
            return
        self._next_progress = now + PROGRESS_SECONDS
        for worker in self._workers:
            if worker.task is not None and worker.asked is None:
                worker.asked = worker.actor.frames_done.options(concurrency_group="control").remote()

    def _kill_all(self) -> None:
        busy = [worker for worker in self._workers if worker.task is not None]
        for worker in busy:
            worker.actor.stop.options(concurrency_group="control").remote()
        if busy:
            self._ray.wait([worker.ref for worker in busy], num_returns=len(busy), timeout=ABORT_GRACE_SECONDS)
        for worker in self._workers:
            if not worker.lost:
                self._ray.kill(worker.actor, no_restart=True)
            if worker.task is not None:
                self._close(worker.task, None)
                worker.task = None

    def _last_output(self, info: WorkerInfo | None) -> str:
        """The end of what a dead worker of our own Ray wrote: x265's words, or the stack of a segmentation fault."""
        if info is None or self._session_dir is None:
            return ""
        parts = []
        for path in sorted((self._session_dir / "logs").glob(f"worker-*-{info.pid}.*")):
            text = path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
            if text:
                parts.append(f"{path.name}:\n{text}")
        return "\n".join(parts)


def _reason(error: Exception) -> str:
    """The first sentences of Ray's account, on one line."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return " ".join(lines)[:600] or type(error).__name__
