"""Actors: how a pool's workers are started on Ray, and how they and all that belongs to them are ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workers.cluster import LOCAL_WORKER_RUNTIME
from workers.placement import Shape
from workers.span_worker import SpanWorker

CONTROL = {"control": 1}
"""Concurrency groups: calls of this one are answered while a span is converted."""
OPTIONS = {"max_restarts": 0, "max_task_retries": 0}
"""Nothing is restarted by Ray: the pool knows better what to do about a death, and a node that is gone may have been the only place."""


@dataclass(frozen=True)
class Started:
    """A worker on its way or there. group: the placement group that holds its parts, None where it is one actor."""

    actor: Any
    group: Any = None

    def ask(self) -> Any:  # noqa: ANN401 - Ray's
        """A pulse that is to come; it is answered whatever else the worker does, as long as its interpreter runs."""
        return self.actor.pulse.options(concurrency_group="control").remote()

    def is_up(self) -> bool:
        """Whether Ray has a process for it, which may yet say nothing. Asks Ray's head, which answers within milliseconds."""
        from ray._private import state

        return state.actors(self.actor._actor_id.hex()).get("State") == "ALIVE"

    def end(self) -> None:
        """Kill it with all its parts, or take the wish for it back."""
        import ray

        ray.kill(self.actor, no_restart=True)
        if self.group is not None:
            ray.util.remove_placement_group(self.group)


class ActorMaker:
    """Starts workers of one shape; none of its calls waits.

    entry, numerics: see SpanWorker; local: on a Ray of our own; else workers are spread over all nodes
    """

    def __init__(self, shape: Shape, entry: str, numerics: str, *, local: bool) -> None:
        self._shape, self._entry, self._numerics = shape, entry, numerics
        self._spread = not local
        self._runtime = {"runtime_env": LOCAL_WORKER_RUNTIME} if local else {}

    def start(self) -> Started:
        """Ask Ray for one more worker."""
        return self._stream() if self._shape.topology == "stream" else self._fused()

    def _fused(self) -> Started:
        import ray

        (bundle,) = self._shape.bundles
        options = OPTIONS | {"num_cpus": bundle["CPU"], "num_gpus": bundle.get("GPU", 0)}
        options |= {"scheduling_strategy": "SPREAD" if self._spread else "DEFAULT"} | self._runtime
        actor = ray.remote(concurrency_groups=CONTROL)(SpanWorker).options(**options)
        return Started(actor.remote(self._entry, self._numerics, self._shape.threads))

    def _stream(self) -> Started:
        """The parts' places are booked together: workers that hold half of their places each would wait for each other for ever."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        from workers.stream_worker import ENCODE, StreamWorker

        bundles = self._shape.bundles
        group = ray.util.placement_group([dict(bundle) for bundle in bundles], strategy="PACK")
        options = OPTIONS | {"num_cpus": bundles[ENCODE]["CPU"]}
        options |= {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, ENCODE)} | self._runtime
        actor = ray.remote(concurrency_groups=CONTROL)(StreamWorker).options(**options)
        return Started(actor.remote(self._numerics, self._shape.threads, group, bundles), group)
