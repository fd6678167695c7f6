"""File actors: processes on a Ray that do calls about whole files, one at a time each, and say meanwhile whether anything moves."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from workers.actors import CONTROL, OPTIONS
from workers.cluster import LOCAL_WORKER_RUNTIME, Cluster
from workers.file_process import Answer, Death, answer
from workers.pulse import Ending, Pulse, own_pulse
from workers.span_worker import SpanError

ASK_SECONDS = 0.5
IDLE_SECONDS = 600.0
"""How long a process that has nothing to do is kept: it has imported much."""


class FileActor:
    """One process. run() does a call, pulse() answers meanwhile."""

    def run(self, entry: str, argument: object) -> Answer:
        """See workers.file_process.answer."""
        return answer(entry, argument)

    def pulse(self) -> Pulse:
        """Whether anything moves here."""
        return own_pulse()


class FileActors:
    """Starts actors as they are needed and uses those again that have nothing to do. They book nothing: they never wait for workers."""

    def __init__(self, cluster: Cluster) -> None:
        import ray

        self._ray = ray
        options = OPTIONS | {"num_cpus": 0}
        options |= {"runtime_env": LOCAL_WORKER_RUNTIME} if cluster.local else {"scheduling_strategy": "SPREAD"}
        self._maker = ray.remote(concurrency_groups=CONTROL)(FileActor).options(**options)
        self._idle: list[tuple[Any, float]] = []

    def start(self, entry: str, argument: object) -> ActorCall:
        """Begin a call, in a process that is there already or in a new one."""
        self.tidy()
        actor = self._idle.pop()[0] if self._idle else self._maker.remote()
        return ActorCall(self, actor, entry, argument)

    def give_back(self, actor: Any) -> None:  # noqa: ANN401 - a Ray actor
        """Its call is over, and it lives."""
        self._idle.append((actor, time.monotonic()))

    def tidy(self, idle_seconds: float = IDLE_SECONDS) -> None:
        """End those that have had nothing to do for that long."""
        now = time.monotonic()
        for actor, since in self._idle:
            if now - since >= idle_seconds:
                self._ray.kill(actor, no_restart=True)
        self._idle = [(actor, since) for actor, since in self._idle if now - since < idle_seconds]


class ActorCall:
    """A call in an actor; see file_desk.Call."""

    def __init__(self, actors: FileActors, actor: Any, entry: str, argument: object) -> None:  # noqa: ANN401 - a Ray actor
        import ray

        self._ray, self._actors, self._actor = ray, actors, actor
        self._asked: Any = self._ask()
        self._next_ask = 0.0
        self._call = entry, argument
        self._ref: Any = None  # begun once the actor has answered, so that it is known which process it is
        self._pulse: Pulse | None = None
        self._ending: Ending | None = None

    def poll(self) -> Answer | Death | None:
        if self._ending is not None:
            if self._ending.is_alive():
                return None
            self._ray.kill(self._actor, no_restart=True)
            return Death(self._ending.words(), self._ending.stacks())
        waited = self._asked if self._ref is None else self._ref
        if not self._ray.wait([waited], timeout=0)[0]:
            return None
        try:
            found = self._ray.get(waited)
            if self._ref is None:
                self._pulse, self._asked = found, None
                self._ref = self._actor.run.remote(*self._call)
                return None
        except self._ray.exceptions.RayTaskError as error:
            found = Answer(error=SpanError("RayTaskError", str(error), str(error), user_error=False, retry=False))
        except self._ray.exceptions.RayError as error:
            self.kill()  # it may be out of reach only, and must not write beside the next
            return Death(" ".join(str(error).split())[:600] or type(error).__name__)
        self._actors.give_back(self._actor)
        return found

    def beat(self) -> object:
        if self._ref is None:
            return None
        now = time.monotonic()
        if self._asked is None and now >= self._next_ask:
            self._asked, self._next_ask = self._ask(), now + ASK_SECONDS
        if self._asked is not None and self._ray.wait([self._asked], timeout=0)[0]:
            asked, self._asked = self._asked, None
            with contextlib.suppress(self._ray.exceptions.RayError):  # it is dead, and poll() says so
                self._pulse = self._ray.get(asked)
        return self._pulse if self._pulse and any(self._pulse.beats) else None

    def put_down(self) -> None:
        self._ending = self._ending or Ending(self._pulse.processes if self._pulse else ())

    def kill(self) -> None:
        self._ray.kill(self._actor, no_restart=True)

    def _ask(self) -> Any:  # noqa: ANN401 - Ray's
        return self._actor.pulse.options(concurrency_group="control").remote()
