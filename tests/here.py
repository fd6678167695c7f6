"""Stand-ins for SpanPool and FileDesk that do everything in this process, when they are asked for what happened."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from pipeline import convert as conversions
from workers import apart, batch_run
from workers import batch as batches
from workers.events import Done, Event, Failed
from workers.file_desk import Ended
from workers.file_process import answer
from workers.span_worker import SpanTask, describe_error


class PoolHere:
    """Stands in for SpanPool. asides: called before each span, with its task"""

    asides: Callable[[SpanTask], object] = staticmethod(lambda task: None)
    size = 1

    def alive(self) -> int:
        return 1

    def __init__(self, *_: object, **__: object) -> None:
        self.tasks: list[SpanTask] = []
        self.begun: list[SpanTask] = []

    def __enter__(self) -> PoolHere:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def submit(self, task: SpanTask) -> None:
        self.tasks.append(task)

    def running(self) -> int:
        return len(self.tasks)

    def recall(self) -> list[SpanTask]:
        tasks, self.tasks = self.tasks, []
        return tasks

    drain = abort = recall

    def events(self, patience_seconds: float | None = None) -> Iterator[Event]:
        while self.tasks:
            task = self.tasks.pop(0)
            self.begun.append(task)
            type(self).asides(task)
            try:
                line = self.convert(task)
            except Exception as error:  # noqa: BLE001 - as a worker does
                yield Failed(task, describe_error(error), 1, f"Attempt 1: {error}")
                continue
            yield Done(task, line, 0.1)

    def convert(self, task: SpanTask) -> dict:
        return conversions.run_span(
            task.workdir, task.track, task.span, threads=1, on_frames=lambda _: None, should_stop=lambda: False
        )


class DeskHere:
    """Stands in for FileDesk."""

    def __init__(self, retries: int, stall_seconds: float = 0.0) -> None:
        self._ended: list[Ended] = []

    def use(self, cluster: object) -> None:
        pass

    def ray_lost(self) -> None:
        pass

    def begin(self, kind: str, key: str, entry: str, argument: object) -> None:
        self._ended.append(Ended(kind, key, answer(entry, argument)))

    def count(self, kind: str) -> int:
        return sum(one.kind == kind for one in self._ended)

    def under_way(self) -> list[str]:
        return [one.key for one in self._ended]

    def ended(self) -> list[Ended]:
        ended, self._ended = self._ended, []
        return ended

    def kill(self, kind: str) -> list[str]:
        keys = [one.key for one in self._ended if one.kind == kind]
        self._ended = [one for one in self._ended if one.kind != kind]
        return keys

    def close(self) -> None:
        self._ended = []


def stand_in(patch: Callable[[object, str, object], None]) -> None:
    """Let `convert` do everything here. patch: called as setattr is"""
    cluster = type("Cluster", (), {"gpus": 0, "cpus": 1, "local": True, "check": lambda _: None})()
    patch(batches, "connect", lambda *_, **__: contextlib.nullcontext(cluster))
    patch(batches, "SpanPool", PoolHere)
    patch(batch_run, "FileDesk", DeskHere)
    patch(apart, "FileDesk", DeskHere)
