"""A driver on a cluster of tests/ray_nodes.py, with spans that do nothing: `python -m tests.cluster_driver ADDRESS FOLDER JOB`.

JOB: JSON of {"classes": [numerics class of each span], "max": workers at most, "here": versions the driver says it has,
"size": how many workers it waits for at the end}. A span leaves a
file `began_SPAN_NODE_PID` in FOLDER, waits until there is a file `go`, and tells its node. Prints one line of JSON: what became of each.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from workers import pool as pools
from workers.cluster import connect
from workers.elastic import Elastic
from workers.events import Done, Failed
from workers.pool import SpanPool
from workers.span_worker import SpanTask


def numerics_class() -> str:
    """Of the node this worker runs on: the name of its own resource that begins with "class-", else "plain"."""
    here = ray.get_runtime_context().get_node_id()
    resources = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    return next((name for name in resources if name.startswith("class-")), "plain")


def run_span(
    workdir: str,
    track: int,
    span: int,
    *,
    threads: int,
    on_frames: Callable[[int], None],
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    """See the module."""
    folder, node = Path(workdir), ray.get_runtime_context().get_node_id()
    (folder / f"began_{span}_{node}_{os.getpid()}").touch()
    while not (folder / "go").exists():
        time.sleep(0.05)
    return {"node": node}


def main(address: str, folder: str, job: dict[str, Any]) -> None:
    """Run the spans."""
    if "here" in job:
        pools.versions = lambda: job["here"]
    ended: dict[int, Any] = {}
    with connect(address) as cluster:
        elastic = Elastic(pools.ONE_CPU, job["max"])
        names = ("tests.cluster_driver:run_span", "tests.cluster_driver:numerics_class")
        workers = elastic.wanted(1)
        with SpanPool(cluster, *names, workers=workers, elastic=elastic, retries=3, start_seconds=280) as pool:
            for span, wanted in enumerate(job["classes"]):
                pool.submit(SpanTask(str(span), folder, 0, span, 1, wanted))
            for event in pool.events():
                if isinstance(event, Done):
                    ended[event.task.span] = event.result["node"]
                elif isinstance(event, Failed):
                    ended[event.task.span] = [event.error.kind, event.error.message]
            deadline = time.monotonic() + 240
            while pool.size != job.get("size", pool.size) and time.monotonic() < deadline:
                time.sleep(0.1)
            size = pool.size
    sys.stdout.write(json.dumps({"ended": [ended[span] for span in sorted(ended)], "workers": size}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
