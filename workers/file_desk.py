"""FileDesk: has files planned and joined outside the driver's process, several at a time, and survives what they do to those processes."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import Any, Protocol

from workers.cluster import ROOT, Cluster
from workers.file_process import Answer, answer
from workers.span_worker import SpanError

LAST_WORDS = 4000
"""Characters of a dead process's standard error that are kept."""


@dataclass(frozen=True)
class Ended:
    """A call that is over. kind, key: as it was begun; deaths: what was known of each process that died of it"""

    kind: str
    key: str
    answer: Answer
    deaths: tuple[str, ...] = ()


class Call(Protocol):
    """A call under way in another process."""

    def poll(self) -> Answer | str | None:
        """The answer; why the process died; None while it works."""
        ...

    def kill(self) -> None:
        """End it."""
        ...


@dataclass
class _Open:
    kind: str
    key: str
    entry: str
    argument: Any
    call: Call
    deaths: tuple[str, ...] = ()


class FileDesk:
    """Calls of workers.file_work's kind, begun here and done in processes of their own, or on a Ray once `use` told it of one.

    retries: how many processes may die of a call, before it is given up
    """

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._ray: Any = None
        self._remote: Any = None
        self._open: list[_Open] = []

    def use(self, cluster: Cluster) -> None:
        """From now on calls run as tasks of this Ray; on a cluster all over its nodes. They book nothing: they never wait for workers."""
        import ray

        self._ray = ray
        options = {"num_cpus": 0, "max_retries": 0} | ({} if cluster.local else {"scheduling_strategy": "SPREAD"})
        self._remote = ray.remote(**options)(answer)

    def begin(self, kind: str, key: str, entry: str, argument: object) -> None:
        """Start a call; `ended` tells of it later. entry: "package.module:function", argument: its only one"""
        self._open.append(_Open(kind, key, entry, argument, self._start(entry, argument)))

    def count(self, kind: str) -> int:
        """How many calls of that kind are under way."""
        return sum(one.kind == kind for one in self._open)

    def under_way(self) -> list[str]:
        """The keys of all calls that are under way."""
        return [one.key for one in self._open]

    def ended(self) -> list[Ended]:
        """The calls that are over since the last time. One whose process died is begun again, `retries` times in all."""
        over = []
        for one in list(self._open):
            found = one.call.poll()
            if found is None:
                continue
            if isinstance(found, str):
                one.deaths += (found,)
                if len(one.deaths) < self._retries:
                    one.call = self._start(one.entry, one.argument)
                    continue
                found = Answer(error=SpanError("WorkerDied", found, "", user_error=False, retry=False))
            self._open.remove(one)
            over.append(Ended(one.kind, one.key, found, one.deaths))
        return over

    def kill(self, kind: str) -> list[str]:
        """End all calls of that kind; returns their keys."""
        chosen = [one for one in self._open if one.kind == kind]
        for one in chosen:
            one.call.kill()
            self._open.remove(one)
        return [one.key for one in chosen]

    def close(self) -> None:
        """End everything."""
        for kind in {one.kind for one in self._open}:
            self.kill(kind)

    def _start(self, entry: str, argument: object) -> Call:
        if self._ray is None:
            return _Child(entry, argument)
        return _Task(self._ray, self._remote.remote(entry, argument))


class _Child:
    """A call in a process of its own."""

    def __init__(self, entry: str, argument: object) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from workers.file_process import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
            start_new_session=True,  # a Ctrl-C in the terminal is the driver's to act on
        )
        self._said = b"", b""
        self._thread = threading.Thread(
            target=self._talk, args=(pickle.dumps((entry, argument)),), name="file-call", daemon=True
        )
        self._thread.start()

    def _talk(self, request: bytes) -> None:
        self._said = self._process.communicate(request)

    def poll(self) -> Answer | str | None:
        if self._thread.is_alive():
            return None
        answered, words = self._said
        if self._process.returncode == 0:
            return pickle.loads(answered)  # noqa: S301 - from our own child
        code = self._process.returncode
        why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{why}\n{words.decode(errors='replace')[-LAST_WORDS:]}".strip()

    def kill(self) -> None:
        self._process.kill()
        self._thread.join(timeout=10)


class _Task:
    """A call as a task of Ray."""

    def __init__(self, ray: Any, ref: Any) -> None:  # noqa: ANN401
        self._ray, self._ref = ray, ref

    def poll(self) -> Answer | str | None:
        if not self._ray.wait([self._ref], timeout=0)[0]:
            return None
        try:
            return self._ray.get(self._ref)
        except self._ray.exceptions.RayTaskError as error:
            return Answer(error=SpanError("RayTaskError", str(error), str(error), user_error=False, retry=False))
        except self._ray.exceptions.RayError as error:
            return " ".join(str(error).split())[:600] or type(error).__name__

    def kill(self) -> None:
        self._ray.cancel(self._ref, force=True)
