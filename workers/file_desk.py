"""FileDesk: has files planned and joined outside the driver's process, several at a time, and survives what they do to those processes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline import heartbeat
from workers.cluster import ROOT, Cluster, ended_by
from workers.file_actors import FileActors
from workers.file_process import Answer, Death
from workers.pulse import Ending, process_here
from workers.span_worker import SpanError
from workers.watchdog import Watchdog

START_SECONDS = 180.0
"""How long a process may take at least until it is there and has imported what it needs, PyTorch in one piece; a cluster's node may be busy."""
LAST_WORDS = 4000
"""Characters of a dead process's standard error that are kept."""


@dataclass(frozen=True)
class Ended:
    """A call that is over. kind, key: as it was begun; deaths: what was known of each process that died of it, why in the first line"""

    kind: str
    key: str
    answer: Answer
    deaths: tuple[str, ...] = ()


class Call(Protocol):
    """A call under way in another process."""

    def poll(self) -> Answer | Death | None:
        """The answer; how the process died; None while it works."""
        ...

    def beat(self) -> object:
        """Something else each time that anything has moved there; None while the process is not up."""
        ...

    def put_down(self) -> None:
        """End it because it stands still; poll() tells of it when that is done."""
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
    stood_still: bool = False
    deaths: tuple[str, ...] = ()


class FileDesk:
    """Calls of workers.file_work's kind, begun here and done in processes of their own, or on a Ray once `use` told it of one.

    retries: how many processes may die of a call, before it is given up
    stall_seconds: how long a process may stand still before it is killed, which counts as a death; 0 = for ever
    """

    def __init__(self, retries: int, stall_seconds: float = 0.0) -> None:
        self._retries = retries
        self._watchdog = Watchdog(stall_seconds)
        self._actors: FileActors | None = None
        self._open: list[_Open] = []

    def use(self, cluster: Cluster) -> None:
        """From now on calls run on this Ray; on a cluster all over its nodes. Calls that wait for it are begun again."""
        self._actors = FileActors(cluster)
        for one in self._open:
            if isinstance(one.call, _Waiting):
                self._watchdog.forget(one.call)
                one.call = self._start(one.entry, one.argument)

    def ray_lost(self) -> None:
        """Its Ray is gone: what was under way there waits until `use` tells it of another."""
        self._actors = None
        for one in self._open:
            if not isinstance(one.call, _Child):
                self._watchdog.forget(one.call)
                one.call, one.stood_still = _Waiting(), False

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
        """The calls that are over since the last time. One whose process died is begun again, `retries` times in all.
        Ask all the time: it also ends processes that stand still."""
        self._watchdog.turn()
        over = []
        for one in list(self._open):
            found = one.call.poll()
            if found is None:
                self._watch(one)
                continue
            self._watchdog.forget(one.call)
            if isinstance(found, Death):
                found = self._take_death(one, found)
                if found is None:
                    continue
            self._open.remove(one)
            over.append(Ended(one.kind, one.key, found, one.deaths))
        return over

    def kill(self, kind: str) -> list[str]:
        """End all calls of that kind; returns their keys."""
        chosen = [one for one in self._open if one.kind == kind]
        for one in chosen:
            one.call.kill()
            self._watchdog.forget(one.call)
            self._open.remove(one)
        return [one.key for one in chosen]

    def close(self) -> None:
        """End everything."""
        for kind in {one.kind for one in self._open}:
            self.kill(kind)
        if self._actors is not None:
            self._actors.tidy(idle_seconds=0.0)

    def _start(self, entry: str, argument: object) -> Call:
        return _Child(entry, argument) if self._actors is None else self._actors.start(entry, argument)

    def _watch(self, one: _Open) -> None:
        beat = one.call.beat()
        self._watchdog.see(one.call, beat)
        if not one.stood_still and self._watchdog.stands_still(one.call, START_SECONDS if beat is None else 0.0):
            one.stood_still = True
            one.call.put_down()

    def _take_death(self, one: _Open, death: Death) -> Answer | None:
        """Begin the call again, or give it up."""
        kind, why = "WorkerDied", death.why
        if one.stood_still:
            kind, why = "Stalled", f"stood still for {self._watchdog.limit_seconds:g} s and was killed ({death.why})"
        one.deaths += (f"{why}\n{death.words}".strip(),)
        if len(one.deaths) >= self._retries:
            return Answer(error=SpanError(kind, why, death.words, user_error=False, retry=False))
        one.call, one.stood_still = self._start(one.entry, one.argument), False
        return None


class _Child:
    """A call in a process of its own."""

    def __init__(self, entry: str, argument: object) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        self._beats, self._stacks = heartbeat.shared_memory(), os.memfd_create("sunvisor-stacks")
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from workers.file_process import main; main()",
                str(self._beats),
                str(self._stacks),
                str(os.getpid()),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
            pass_fds=(self._beats, self._stacks),
            start_new_session=True,  # a Ctrl-C in the terminal is the driver's to act on
        )
        self._ending: Ending | None = None
        self._said = b"", b""
        self._thread = threading.Thread(
            target=self._talk, args=(pickle.dumps((entry, argument)),), name="file-call", daemon=True
        )
        self._thread.start()

    def __del__(self) -> None:
        os.close(self._beats)
        os.close(self._stacks)

    def _talk(self, request: bytes) -> None:
        self._said = self._process.communicate(request)

    def poll(self) -> Answer | Death | None:
        if self._thread.is_alive() or (self._ending is not None and self._ending.is_alive()):
            return None
        answered, said = self._said
        words = said.decode(errors="replace")[-LAST_WORDS:].strip()
        if self._ending is not None:
            return Death(self._ending.words(), "\n".join(filter(None, [self._ending.stacks(), words])))
        if self._process.returncode == 0:
            return pickle.loads(answered)  # noqa: S301 - from our own child
        code = self._process.returncode
        return Death(ended_by(code), words)

    def beat(self) -> object:
        return heartbeat.beat_of(self._beats) or None

    def put_down(self) -> None:
        if self._ending is None:
            process = process_here(self._process.pid, self._stacks)
            self._ending = Ending([process] if process else [])

    def kill(self) -> None:
        self._process.kill()
        self._thread.join(timeout=10)


class _Waiting:
    """A call for which there is no Ray just now."""

    def poll(self) -> Answer | Death | None:
        return None

    def beat(self) -> object:
        return time.monotonic()  # nobody is to blame

    def put_down(self) -> None:
        pass

    def kill(self) -> None:
        pass
