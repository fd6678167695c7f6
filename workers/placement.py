"""Placement: how many workers there are, with how many threads, and what each books of Ray's resources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from configs.schema import Config
from pipeline.errors import InputError
from workers.cluster import OBJECT_STORE_BYTES, Cluster

RAY_UNITS = 10_000
"""Ray books resources in ten-thousandths."""
PARTS = 3
"""Actors of a worker in the stream topology: encode, compute, decode."""

STREAM_BYTES = 384 * 2**20
"""Of shared memory for a worker in the stream topology: two streams with a chunk being made, two waiting and one being read in each, of
workers.chunks.CHUNK_BYTES and up to a frame more; a frame of 8K in 10 bits takes 100 MB."""

Node = Mapping[str, float]
"""Resources of a living node, as Ray names them: CPU, GPU."""


@dataclass(frozen=True)
class Shape:
    """What a worker is made of. bundles: what each of its actors books, the pool's own first; one node holds a bundle, not always all."""

    topology: str
    threads: int
    bundles: tuple[dict[str, float], ...]

    def fitting(self, nodes: Sequence[Node]) -> int:
        """How many such workers the nodes hold when nothing else runs there."""
        count = 0
        while self._fit(nodes, count + 1):
            count += 1
        return count

    def _fit(self, nodes: Sequence[Node], count: int) -> bool:
        """Whether the nodes hold so many. What needs a GPU goes first, then what needs most; cores beside GPUs are kept for the GPUs."""
        left = [dict(node) for node in nodes]
        wanted = sorted(self.bundles * count, key=lambda one: (one.get("GPU", 0), one.get("CPU", 0)), reverse=True)
        return all(_book(left, bundle) for bundle in wanted)


def shape_for(config: Config, cluster: Cluster, device: str, workers: int, local_cores: int) -> Shape:
    """What each of `workers` workers is made of. local_cores: of this machine, which a Ray of our own shares out."""
    stream = config.workers.topology == "stream"
    threads = config.workers.threads or _threads(config, cluster, device, workers, local_cores)
    booked = 1.0 if cluster.local else float(threads)  # a Ray of our own books slots, not cores
    gpu = {"GPU": gpu_share(workers, cluster.gpus)} if device == "cuda" else {}
    if not stream:
        return Shape("fused", threads, ({"CPU": booked} | gpu,))
    compute = {"CPU": 1.0 if gpu else booked} | gpu
    return Shape("stream", threads, ({"CPU": booked}, compute, {"CPU": 1.0}))


def _threads(config: Config, cluster: Cluster, device: str, workers: int, local_cores: int) -> int:
    """Cores a worker, when nobody said: all of them shared out, and no more than the nodes have together or alone."""
    if cluster.local or not cluster.nodes:
        return max(1, (local_cores if cluster.local else int(cluster.cpus)) // workers)
    hosts = [node for node in cluster.nodes if node.get("GPU")] if device == "cuda" else list(cluster.nodes)
    if config.workers.topology == "fused":
        if device != "cuda":
            return 1 if not config.workers.count else max(1, _least_share(hosts, workers))
        return max(
            1,
            min(
                (int(node["CPU"] // (node["GPU"] * config.workers.per_gpu)) for node in hosts if "CPU" in node),
                default=1,
            ),
        )
    rest = int(cluster.cpus) // workers - (PARTS - 1 if device == "cuda" else 1)
    share = rest if device == "cuda" else rest // 2
    return max(1, min(share, int(max((node.get("CPU", 0) for node in cluster.nodes), default=1))))


def _least_share(nodes: Sequence[Node], workers: int) -> int:
    """The most threads with which so many workers of one bundle fit on the nodes."""
    for threads in range(int(max((node.get("CPU", 0) for node in nodes), default=1)), 1, -1):
        if sum(int(node.get("CPU", 0) // threads) for node in nodes) >= workers:
            return threads
    return 1


def _book(left: list[dict[str, float]], bundle: Mapping[str, float]) -> bool:
    """Take a bundle from the node that holds it, one without a GPU where there is one, with the fewest cores; False when none does."""
    for node in sorted(left, key=lambda one: ("GPU" in one, one.get("CPU", 0))):
        if all(node.get(name, 0) >= amount - 1e-9 for name, amount in bundle.items()):
            for name, amount in bundle.items():
                node[name] -= amount
            return True
    return False


def slots_for(config: Config, gpus: int) -> int:
    """How many actors a Ray of our own runs at once."""
    parts = PARTS if config.workers.topology == "stream" else 1
    return parts * max(config.workers.count, gpus * config.workers.per_gpu, 1)


def store_bytes_for(config: Config, gpus: int) -> int:
    """How large a Ray of our own makes its shared memory for objects. It is taken only as far as it is used."""
    if config.workers.topology == "fused":
        return OBJECT_STORE_BYTES
    return OBJECT_STORE_BYTES + STREAM_BYTES * slots_for(config, gpus) // PARTS


def gpu_share(workers: int, gpus: float) -> float:
    """What a worker books of a GPU: as little as lets all fit, rounded down to Ray's unit, so that they spread over all GPUs.

    One worker a GPU or fewer book a whole one each: with less, Ray would put two on one GPU and leave another idle.
    """
    together = -(-workers // max(1, int(gpus)))
    return RAY_UNITS // together / RAY_UNITS


def worker_count(config: Config, cluster: Cluster, device: str) -> int:
    """As asked for; else `workers.per_gpu` a GPU; else one for a local CPU, or one a core (or `workers.threads` cores) of a CPU cluster.

    Raises InputError when more are asked for than our own Ray has places on GPUs: those would wait for ever. A cluster may grow.
    """
    asked = config.workers.count
    places = max(1, int(cluster.gpus)) * config.workers.per_gpu
    if asked and device == "cuda" and cluster.local and asked > places:
        raise InputError(
            f"workers.count={asked}: this machine has {int(cluster.gpus)} GPU(s) and workers.per_gpu={config.workers.per_gpu}, "
            f"which makes {places} worker(s); legal: 0 to {places}, or more with a larger workers.per_gpu."
        )
    if asked:
        return asked
    if device == "cuda":
        found = places
    elif cluster.gpus:
        found = max(1, int(cluster.gpus))
    elif cluster.local:
        found = 1
    else:
        threads = max(1, config.workers.threads)
        cores = threads if config.workers.topology == "fused" else 2 * threads + 1
        found = max(1, sum(int(node.get("CPU", 0)) // cores for node in cluster.nodes or [{"CPU": cluster.cpus}]))
    return min(found, config.workers.max or found)


def living_nodes(nodes: Sequence[Mapping[str, Any]]) -> tuple[Node, ...]:
    """Resources of the nodes that live, out of what ray.nodes() says."""
    return tuple(node["Resources"] for node in nodes if node["Alive"])
