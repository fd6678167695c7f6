"""Elastic: a pool that grows when nodes join a cluster and shrinks when they leave."""

from __future__ import annotations

from typing import Any

from workers.placement import Shape, living_nodes


class Elastic:
    """How many workers a cluster has room for now. Inside workers.cluster.connect().

    most: never more than that many; 0 = as many as fit. Where it is set, Ray's autoscaler, if the cluster has one, is asked for room for
        so many as long as there are spans for them: it adds nodes for what is asked, and would else never see that more are welcome.
    """

    def __init__(self, shape: Shape, most: int) -> None:
        import ray

        self._ray = ray
        self._shape, self._most = shape, most
        self._asked = 0

    def wanted(self, open_spans: int) -> int:
        """Workers to have now; at least one, which waits where there is no room at all."""
        fitting = self._shape.fitting(living_nodes(self._ray.nodes()))
        self._ask(min(self._most, open_spans))
        return max(1, min(fitting, self._most or fitting))

    def close(self) -> None:
        """Take back what the autoscaler was asked for."""
        self._ask(0)

    def _ask(self, workers: int) -> None:
        if workers == self._asked:
            return
        from ray.autoscaler.sdk import request_resources

        bundles: list[dict[str, Any]] = [dict(bundle) for bundle in self._shape.bundles] * workers
        request_resources(bundles=bundles)
        self._asked = workers
