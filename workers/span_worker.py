"""SpanWorker: the actor that converts one span at a time in its own process, one or more a GPU or one a CPU slot."""

from __future__ import annotations

import errno
import importlib
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, SunvisorError
from pipeline.heartbeat import beat
from workers.deaths import advice, wears_out
from workers.pulse import Pulse, be_watched, own_pulse

# An OSError that trying again does not mend.
LASTING_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENAMETOOLONG}
)


@dataclass(frozen=True)
class SpanTask:
    """One span to convert. Small: only this and the report travel through Ray.

    key: names the span among all spans of the batch (e.g. its content hash)
    workdir: the video's OUTPUT.work folder, with plan.json in it; on a cluster every node must see it under this path
    track, span: which video stream of the source, which span of its plan
    frames: owned frames, for progress
    numerics_class: what the plan was made for; only a worker that reports the same may run it
    """

    key: str
    workdir: str
    track: int
    span: int
    frames: int
    numerics_class: str


@dataclass(frozen=True)
class SpanError:
    """Why a span was not converted, as a value.

    kind: the exception's class name, or WorkerDied / OutOfMemory / Stalled / NumericsClass / NoWorkers from the pool
    message: one sentence or more, for the user
    traceback: for the log; empty when a process died
    user_error: True when the user can mend it (InputError)
    retry: True when another attempt may succeed
    worn: the process in which it happened can do no other span
    """

    kind: str
    message: str
    traceback: str
    user_error: bool
    retry: bool
    worn: bool = False


@dataclass(frozen=True)
class SpanOutcome:
    """What came of one attempt at a span: a result, an error, or stopped is True because stop() was called meanwhile.

    worn: the worker can do no other span; the pool makes another in its place
    """

    result: dict[str, Any] | None
    error: SpanError | None
    stopped: bool
    seconds: float
    worn: bool = False


@dataclass(frozen=True)
class WorkerInfo:
    """Who a worker is, answered once its heavy imports are done.

    numerics_class: equal classes give equal bytes
    versions: of Python and the libraries that decide the bytes (workers.cluster.versions)
    gpu_ids: the GPUs Ray gave it, empty on a CPU
    warm_up_seconds: how long its imports and its first numerics_class() took
    """

    host: str
    node_id: str
    pid: int
    numerics_class: str
    versions: dict[str, str]
    gpu_ids: tuple[str, ...]
    warm_up_seconds: float


class PartFailed(Exception):
    """Another process that had a part in the span failed; error says why."""

    def __init__(self, error: SpanError) -> None:
        super().__init__(error.message)
        self.error = error


def who_is_here(numerics_class: str, began: float) -> WorkerInfo:
    """This process as a WorkerInfo. began: time.monotonic() when it began to warm up."""
    import ray

    from workers.cluster import versions

    return WorkerInfo(
        host=socket.gethostname(),
        node_id=ray.get_runtime_context().get_node_id(),
        pid=os.getpid(),
        numerics_class=numerics_class,
        versions=versions(),
        gpu_ids=tuple(map(str, ray.get_gpu_ids())),
        warm_up_seconds=time.monotonic() - began,
    )


def load_entry(entry: str) -> Callable[..., Any]:
    """The function that "package.module:function" names. Raises ValueError for any other spelling."""
    module, colon, name = entry.partition(":")
    if not (module and colon and name):
        raise ValueError(f"{entry!r} is not of the form package.module:function.")
    return getattr(importlib.import_module(module), name)


def describe_error(error: BaseException) -> SpanError:
    """Turn an exception into a SpanError: InputError and ConversionError are final unless they carry transient = True,
    a full disk and its like are final, anything else may be tried again; a PartFailed is what it carries."""
    if isinstance(error, PartFailed):
        return error.error
    if isinstance(error, SunvisorError):
        retry = bool(getattr(error, "transient", False))
    elif isinstance(error, OSError):
        retry = error.errno not in LASTING_ERRNOS
    else:
        retry = True
    return SpanError(
        kind=type(error).__name__,
        message="; ".join(filter(None, [str(error) or type(error).__name__, advice(error)])),
        traceback="".join(traceback.format_exception(error)),
        user_error=isinstance(error, InputError),
        retry=retry,
        worn=wears_out(error),
    )


class SpanWorker:
    """Runs spans, one at a time. hello() and run() share one thread; pulse() and stop() answer meanwhile from another.

    entry: "pipeline.span_job:run_span", called as entry(workdir, track, span, threads=, on_frames=, should_stop=) -> dict
    numerics: "pipeline.engine:numerics_class", called without arguments -> str
    threads: of torch inside this process, and what entry is told
    """

    def __init__(self, entry: str, numerics: str, threads: int) -> None:
        # Nothing that can fail or take long: hello() says better what went wrong.
        be_watched()
        self._entry = entry
        self._numerics = numerics
        self._threads = threads
        self._stop = threading.Event()
        self._progress: tuple[str, int] = ("", 0)

    def hello(self) -> WorkerInfo:
        """Do the heavy imports and say who this is. Raises whatever the imports raise."""
        began = time.monotonic()
        import torch

        torch.set_num_threads(self._threads)
        load_entry(self._entry)
        return who_is_here(load_entry(self._numerics)(), began)

    def run(self, task: SpanTask) -> SpanOutcome:
        """Convert one span. Every exception of the entry comes back as a value."""
        began = time.monotonic()
        self._progress = (task.key, 0)
        beat()
        try:
            self._check_folder(task)
            result = load_entry(self._entry)(
                task.workdir,
                task.track,
                task.span,
                threads=self._threads,
                on_frames=self._count_frames,
                should_stop=self._stop.is_set,
            )
        except (Exception, SystemExit) as error:  # noqa: BLE001 - returned to the pool with its traceback, never lost
            stopped = self._stop.is_set()
            told = describe_error(error)
            return SpanOutcome(None, None if stopped else told, stopped, time.monotonic() - began, worn=told.worn)
        return SpanOutcome(result, None, False, time.monotonic() - began)

    def pulse(self) -> Pulse:
        """The last span begun, how many of its frames are finished, and whether anything moves."""
        return own_pulse(*self._progress)

    def stop(self) -> None:
        """Ask the running span, through should_stop, to end early. Every later span of this process ends early too."""
        self._stop.set()

    def _count_frames(self, frames: int) -> None:
        """What the entry calls with the number of the span's owned frames finished so far."""
        self._progress = (self._progress[0], frames)

    def _check_folder(self, task: SpanTask) -> None:
        if not Path(task.workdir).is_dir():
            raise InputError(
                f"{task.workdir}: worker host {socket.gethostname()} does not see this folder; on a cluster the sources "
                "and the output must be on storage that every node mounts under the same path."
            )
