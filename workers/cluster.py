"""Connection to Ray: our own local one, closed to everybody else, or somebody's cluster by its address."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.errors import ConversionError, InputError
from workers.ending import bounded
from workers.reaper import PREFIX, held, reaper, sweep

KNOCK_SECONDS = 10.0
NODE_SECONDS = 120.0

ROOT = Path(__file__).resolve().parents[1]

# For span descriptors and reports; frames travel in the stream topology alone (workers/placement.py). Ray's least is 75 MiB.
OBJECT_STORE_BYTES = 80 * 2**20

# What every worker process gets. OpenMP threads that spin while they wait take the cores from decoding and encoding;
# transparent huge pages halve the page faults of large frame buffers.
WORKER_ENV = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "THP_MEM_ALLOC_ENABLE": "1",
}

# What Ray itself reads. Set before Ray is imported: it reads some of them then, and never again.
RAY_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else `uv run` makes every worker build its own environment
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a worker that was given no GPU sees none
}

# Ray's switch for desktops: "0" binds every port to 127.0.0.1. A cluster that was started with it is joined with it.
LOOPBACK_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"

# Only for a Ray of our own.
LOCAL_ENV = {
    "RAY_AUTH_MODE": "token",
    LOOPBACK_SWITCH: "0",
    "RAY_ROTATION_MAX_BYTES": "10000000",
    "RAY_ROTATION_BACKUP_COUNT": "3",
    "RAY_idle_worker_killing_time_threshold_ms": "600000",  # processes that plan and join keep what they imported
    # Beside much other work Ray's agents and workers come up late; a raylet ends itself when an agent takes longer.
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_worker_register_timeout_seconds": "180",
    "RAY_gcs_server_port_wait_time_s": "120",
}

# Ray's logs are rotated (RAY_ROTATION_*), but not what the workers of a Ray of our own write themselves: for that, Ray puts a pipe and a
# thread of the same process in between, and the last words of one that crashes are lost. They write next to nothing else.
LOCAL_WORKER_RUNTIME = {"env_vars": {"RAY_ROTATION_MAX_BYTES": "0"}}

# Where Ray tells a driver what its job was submitted with.
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"

# What a cluster's nodes need not get. Ray also leaves out what .gitignore and .rayignore name.
EXCLUDES = [
    ".git",
    ".ci",
    ".venv",
    ".venv-audit",
    ".pytest_cache",
    ".ruff_cache",
    ".hypothesis",
    "__pycache__",
    "tests",
    "docs",
    "bench",
    "bench_out",
    "demo_out",
    "runs",
    "training",
    "tools",
    "*.work",
    "*.mp4",
    "*.mkv",
    "*.mov",
]

# A span is the same bytes on every node only when these agree.
VERSIONED = ("ray", "torch", "torchvision", "av", "numpy")


ESSENTIAL = ("gcs_server", "raylet")
"""Ray's own processes without which nothing goes on."""


class RayLost(ConversionError):
    """Our own Ray did not come up, or a process of it that everything hangs on has ended. Another one may do better."""


@dataclass(frozen=True)
class Cluster:
    """A live connection to Ray.

    address: "host:port" of its head
    local: True when connect() started it and will stop it
    session_dir: where a local Ray keeps its logs; None on somebody's cluster
    startup_seconds: from the call of connect() until Ray answered
    nodes: resources of each living node of somebody's cluster; it may change later
    essential: name and process of those that a Ray of our own hangs on
    """

    address: str
    local: bool
    session_dir: Path | None
    cpus: float
    gpus: float
    startup_seconds: float
    nodes: tuple[dict[str, float], ...] = ()
    essential: tuple[tuple[str, Any], ...] = ()

    def check(self) -> None:
        """Raise RayLost when one of them has ended. Costs next to nothing; its workers end after it, so whoever sees one of them dead
        knows by this whether it is the worker's own death."""
        for name, process in self.essential:
            if (code := process.poll()) is not None:
                raise RayLost(f"Ray's process {name} has ended ({ended_by(code)})")


def ended_by(code: int) -> str:
    """The exit code of a process in words."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def versions() -> dict[str, str]:
    """Versions of Python and of everything that decides the bytes of a span, for comparing driver and workers."""
    found = {"python": ".".join(map(str, sys.version_info[:2]))}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@contextmanager
def connect(
    address: str | None = None, *, slots: int = 1, gpus: int = 0, store_bytes: int = OBJECT_STORE_BYTES
) -> Iterator[Cluster]:
    """Connect to Ray for the length of a with block; what was started is stopped however the block ends.

    address: None starts a Ray of our own on this machine, for which every port is on 127.0.0.1 and wants a token made for
        this run; "host:port" or "auto" joins a cluster, whose token, if it wants one, Ray reads from RAY_AUTH_TOKEN,
        RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.
    slots: how many workers run at once on a Ray of our own. It books slots, not cores; ignored with an address.
    gpus: how many GPUs a Ray of our own hands out, store_bytes: how large its shared memory is; ignored with an address.
    Call it in the main thread: the kernel kills Ray's processes when the thread that started them ends.
    Raises InputError when the cluster cannot be reached or refuses us, RayLost when our own Ray does not start.
    """
    if address is not None and "://" in address:
        raise InputError(
            f"--address {address}: Ray Client addresses are not supported; give HOST:PORT of the head, or auto."
        )
    began = time.monotonic()
    connection = _joined(address, began) if address is not None else _started(slots, gpus, store_bytes, began)
    with _environment(ray_of_our_own=address is None), connection as cluster:
        yield cluster


@contextmanager
def _started(slots: int, gpus: int, store_bytes: int, began: float) -> Iterator[Cluster]:
    """A Ray of our own, and the reaper in case that this process is killed."""
    with _own_folder() as folder, held(folder), reaper(folder), _adjusted_ray(ray_of_our_own=True):
        yield _start(slots, gpus, store_bytes, began, folder)


@contextmanager
def _joined(address: str, began: float) -> Iterator[Cluster]:
    """Somebody's cluster."""
    with _adjusted_ray(ray_of_our_own=False):
        yield _join(address, began)


@contextmanager
def _environment(ray_of_our_own: bool) -> Iterator[None]:
    """Set the variables that Ray and the workers read, and put back what was there."""
    wanted: dict[str, str | None] = dict(RAY_ENV)
    if ray_of_our_own:
        path = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        wanted |= {**WORKER_ENV, **LOCAL_ENV, "PYTHONPATH": os.pathsep.join(filter(None, path))}
        # The last two would win over what we ask for.
        wanted |= {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_AUTH_TOKEN_PATH": None, "RAY_ADDRESS": None}
    before = {name: os.environ.get(name) for name in wanted}
    _set(wanted)
    try:
        yield
    finally:
        _set(before)


def _set(variables: dict[str, str | None]) -> None:
    """Set environment variables; None removes one."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def _own_folder() -> Iterator[Path]:
    """A private folder for Ray's sockets and logs, removed afterwards. Short, because a socket's path has at most 107 bytes."""
    temporary = tempfile.gettempdir()
    if len(temporary) > 20:
        temporary = "/tmp"
    sweep(Path(temporary))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=temporary))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _adjusted_ray(ray_of_our_own: bool) -> Iterator[None]:
    """Import Ray, have it read its settings anew (it caches them per process) and keep it off stdout; shut it down at the end."""
    import ray
    from ray._private import node as ray_node
    from ray._private import parameter as ray_parameter
    from ray._private import ray_constants, services
    from ray._private import utils as ray_utils
    from ray._private import worker as ray_worker
    from ray._raylet import AuthenticationTokenLoader, Config

    if ray.is_initialized():
        raise InputError("This process is already connected to Ray; end that connection (ray.shutdown()) first.")
    on_loopback = os.environ.get(LOOPBACK_SWITCH) == "0"
    ray_constants.ENABLE_RAY_CLUSTER = not (ray_of_our_own or on_loopback)
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    # Ray prints its remarks on dead workers to stdout, log_to_driver or not. The pool reports them; stdout is for --json.
    speak, ray_worker.print_to_stdstream = ray_worker.print_to_stdstream, lambda data, ignore_prefix: None
    # ray.init() would take SIGTERM from whoever has it (workers.interrupts), and end the process without a report.
    # Ray gives its raylet 30 s to come up, and no setting of it says otherwise; beside much other work it takes longer.
    find_node, services.get_node = services.get_node, partial(_find_node, services.get_node)
    take_sigterm, ray_utils.set_sigterm_handler = ray_utils.set_sigterm_handler, lambda handler: None
    # The autoscaler, the log forwarder and the head of the dashboard serve nobody here. ray.init() has no words to leave them out, and
    # waits for the last.
    parameters, serve = ray_parameter.RayParams, ray_node.Node.start_api_server
    if ray_of_our_own:
        ray_parameter.RayParams = partial(parameters, no_monitor=True, include_log_monitor=False)
        ray_node.Node.start_api_server = lambda node, **_: None
    try:
        yield
    finally:
        node = ray_worker._global_node
        started = node.all_processes.values() if ray_of_our_own and node else ()
        with bounded([one.process for processes in started for one in processes], sys.exc_info()[1]):
            ray.shutdown()
        services.get_node = find_node
        ray_parameter.RayParams, ray_node.Node.start_api_server = parameters, serve
        ray_worker.print_to_stdstream = speak
        ray_utils.set_sigterm_handler = take_sigterm


def _find_node(find: Callable[..., Any], *about: object) -> Any:  # noqa: ANN401 - Ray's
    """What Ray knows of a node that is coming up. Raises RuntimeError when that is nothing after NODE_SECONDS."""
    deadline = time.monotonic() + NODE_SECONDS
    while True:
        try:
            return find(*about)
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def _start(slots: int, gpus: int, store_bytes: int, began: float, folder: Path) -> Cluster:
    """Start a Ray of our own. Raises RayLost when it does not come up."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "Start a Ray of our own in the main thread: its processes die with the thread that started them."
        )
    import ray

    try:
        context = ray.init(
            address="local",
            num_cpus=slots,
            num_gpus=gpus,
            include_dashboard=False,
            object_store_memory=store_bytes,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(folder),
        )
    except Exception as error:  # a Ray that is too slow to start raises no better one
        raise RayLost(
            f"Ray did not start on this machine: {_first_line(error)} The last lines of its logs: {_last_lines(folder)}"
        ) from error
    info = context.address_info
    processes = ray._private.worker._global_node.all_processes
    return Cluster(
        address=info["gcs_address"],
        local=True,
        session_dir=Path(info["session_dir"]),
        cpus=slots,
        gpus=gpus,
        startup_seconds=time.monotonic() - began,
        essential=tuple((name, one.process) for name in ESSENTIAL for one in processes[name]),
    )


def _last_lines(folder: Path) -> str:
    """The last line of each of Ray's error logs, for a start that failed."""
    logs = sorted(folder.glob("session_2*/logs/*.err")) + sorted(folder.glob("session_2*/logs/gcs_server.out"))
    ends = [(path.name, path.read_text(errors="replace").strip().splitlines()[-1:]) for path in logs]
    return "; ".join(f"{name}: {lines[0]}" for name, lines in ends if lines) or "(empty)"


def _join(address: str, began: float) -> Cluster:
    """Join a cluster and ship this project's code to it. Raises InputError when that fails, with what to do."""
    import ray

    try:
        _knock(address)
        context = ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=runtime_env())
    except ray.exceptions.AuthenticationError as error:
        raise InputError(
            f"The Ray cluster at {address} refused us for want of its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH to what its nodes were started with."
        ) from error
    except (ConnectionError, RuntimeError, OSError, ValueError, ray.exceptions.RayError) as error:
        raise InputError(
            f"Could not join the Ray cluster at {address}: {_first_line(error)} Is it up, and is this HOST:PORT of its head?"
        ) from error
    resources = ray.cluster_resources()
    return Cluster(
        address=context.address_info["gcs_address"],
        local=False,
        session_dir=None,
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        startup_seconds=time.monotonic() - began,
        nodes=tuple(node["Resources"] for node in ray.nodes() if node["Alive"]),
    )


def _knock(address: str) -> None:
    """See within seconds whether anybody answers at host:port and lets us in; ray.init() would take minutes over a "no".
    Raises OSError, ValueError or Ray's AuthenticationError."""
    from ray._raylet import GcsClient

    host, colon, port = address.rpartition(":")
    if not colon:
        return  # "auto": Ray looks the address up itself
    socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()
    GcsClient(address=address)


def runtime_env() -> dict[str, Any]:
    """What a cluster's workers run: this checkout's code (a few MiB) in their own Python, and our environment variables.

    Inside a job that `ray job submit` started, the job's own working folder and variables stand, and only what it lacks is added: Ray
    refuses a driver that names again what its job has named.
    """
    job = json.loads(os.environ.get(JOB_CONFIG, "{}")).get("runtime_env") or {}
    taken = job.get("env_vars") or {}
    ours: dict[str, Any] = {"env_vars": {name: value for name, value in WORKER_ENV.items() if name not in taken}}
    return ours if "working_dir" in job else ours | {"working_dir": str(ROOT), "excludes": EXCLUDES}


def _first_line(error: BaseException) -> str:
    """The first line of an error's message, as a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".:") + "."
