"""Faults: what can be done to a run, each as a function that says whether it found something to hit."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.fault_run import CLOCK_NAME, Run

MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")
FROZEN_SECONDS = 8.0

Undo = Callable[[], object]


@dataclass(frozen=True)
class Scene:
    """What a fault may touch. source: the folder of clips; kept: an untouched copy of it; output: the folder of results"""

    source: Path
    kept: Path
    output: Path
    chance: random.Random


@dataclass(frozen=True)
class Fault:
    """inject: does it, and returns how to undo it, or None when there was nothing to hit yet

    gentle: the run is expected to go on; else it may end, and the same command goes on
    disk: needs an output folder that is a disk of its own; root: needs root
    """

    name: str
    inject: Callable[[Run, Scene], Undo | None]
    gentle: bool
    disk: bool = False
    root: bool = False


def nothing() -> None:
    """There is nothing to undo."""


def killed(kind: str, number: int = signal.SIGKILL) -> Callable[[Run, Scene], Undo | None]:
    """A signal for one process of a kind."""

    def inject(run: Run, scene: Scene) -> Undo | None:
        found = run.find(kind)
        if not found:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.kill(scene.chance.choice(found), number)
            return nothing
        return None

    return inject


def all_killed(run: Run, scene: Scene) -> Undo | None:
    """As when the machine goes down, but for the disk's cache."""
    if run.over:
        return None
    run.kill_all()
    return nothing


def out_of_memory(run: Run, scene: Scene) -> Undo | None:
    """The kernel kills a worker that may have no more memory: a memory group of its own with a limit of next to nothing."""
    workers = run.find("worker")
    if not workers:
        return None
    group = memory_group(scene.chance.choice(workers))
    return (lambda: remove_group(group)) if group else None


def memory_group(pid: int, limit_bytes: int = 1 << 20) -> Path | None:
    """Put a process into a group that may charge so much from now on. None where it is gone."""
    own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line).split(":")[2]
    group = MEMORY_GROUPS / own.lstrip("/") / f"sunvisor-fault-{pid}"
    group.mkdir(exist_ok=True)
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit_bytes))
        (group / "cgroup.procs").write_text(str(pid))
    except OSError:
        remove_group(group)
        return None
    return group


def remove_group(group: Path) -> None:
    """Give the memory group back once its process is gone."""
    deadline = time.monotonic() + 60
    while group.exists() and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            group.rmdir()
        time.sleep(0.2)


def has_memory_groups() -> bool:
    """Can memory groups of version 1 be made here?"""
    return os.geteuid() == 0 and (MEMORY_GROUPS / "memory.limit_in_bytes").exists()


def frozen(run: Run, scene: Scene) -> Undo | None:
    """A worker that does nothing for a while."""
    workers = run.find("worker")
    if not workers:
        return None
    victim = scene.chance.choice(workers)
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, signal.SIGSTOP)
        time.sleep(FROZEN_SECONDS)
        os.kill(victim, signal.SIGCONT)
        return nothing
    return None


def interrupted_twice(run: Run, scene: Scene) -> Undo | None:
    """Ctrl-C, and again while running spans are finished."""
    if run.over:
        return None
    run.process.send_signal(signal.SIGINT)
    time.sleep(scene.chance.uniform(0.1, 1.0))
    if not run.over:
        run.process.send_signal(signal.SIGINT)
    return nothing


def paused(run: Run, scene: Scene) -> Undo | None:
    """`pause`, and `resume` a few seconds later, as another terminal does."""
    area = scene.output / ".sunvisor"
    if run.over or not list(area.glob("status.*.json")):
        return None
    (area / "pause").touch()
    time.sleep(scene.chance.uniform(1.0, 5.0))
    (area / "pause").unlink(missing_ok=True)
    return nothing


def second_driver(run: Run, scene: Scene) -> Undo | None:
    """The same command in another terminal; both go on until they end."""
    if run.over:
        return None
    other = Run(scene.source, scene.output, run.scratch.with_name(f"{run.scratch.name}b"), "--workers", "1")

    def undo() -> None:
        other.wait()
        other.survivors()
        shutil.rmtree(other.scratch, ignore_errors=True)

    return undo


def clock_jumps(run: Run, scene: Scene) -> Undo | None:
    """The system's time is set back by three days and, a moment later, 400 days ahead, and stays so."""
    if run.over:
        return None
    clock = run.scratch / CLOCK_NAME
    clock.write_text("-259200")
    time.sleep(scene.chance.uniform(0.5, 3.0))
    clock.write_text("34560000")
    return nothing


def disk_full(run: Run, scene: Scene) -> Undo | None:
    """Somebody else fills the disk with the output and the work folders, to the last byte."""
    filler = scene.output / ".sunvisor" / "filler"
    if run.over or not filler.parent.is_dir():
        return None
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    return lambda: filler.unlink(missing_ok=True)


def read_only(run: Run, scene: Scene) -> Undo | None:
    """The output folder becomes read-only for whoever opens a file there from now on: a read-only mount over it."""
    if run.over or not scene.output.is_dir():
        return None
    place = str(scene.output)
    subprocess.run(["mount", "--bind", place, place], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
    return lambda: subprocess.run(["umount", "-l", place], check=True)


def source_replaced(run: Run, scene: Scene) -> Undo | None:
    """A clip becomes another one under our hands; later it is what it was."""
    return _source_changed(run, scene, lambda path, other: shutil.copy(other, path))


def source_deleted(run: Run, scene: Scene) -> Undo | None:
    """A clip is gone; later it is back."""
    return _source_changed(run, scene, lambda path, other: path.unlink())


def _source_changed(run: Run, scene: Scene, change: Callable[[Path, Path], object]) -> Undo | None:
    if run.over:
        return None
    clips = sorted(path for path in scene.source.iterdir() if path.is_file())
    path, other = scene.chance.sample(clips, 2)
    change(path, other)
    return lambda: restore(scene.kept, scene.source)


def restore(kept: Path, source: Path) -> None:
    """The clips as they were, times of change among it."""
    for path in kept.iterdir():
        if path.is_file():
            shutil.copy2(path, source / path.name)


def work_damaged(run: Run, scene: Scene) -> Undo | None:
    """Everything is killed, and what the work folders hold is damaged: a span file cut, half a line in a ledger, rubbish beside."""
    if run.over:
        return None
    run.kill_all()
    for folder in scene.output.glob("*.work"):
        spans = sorted(folder.glob("span_*"))
        if spans:
            victim = scene.chance.choice(spans)
            os.truncate(victim, victim.stat().st_size // 2)
        ledger = folder / "ledger.jsonl"
        if ledger.exists():
            with ledger.open("ab") as file:
                file.write(b'{"key": "half a li')
        (folder / ".span_0_00000_rubbish.mp4.1.part").write_bytes(b"rubbish")
    return nothing


FAULTS = (
    Fault("worker killed (SIGKILL)", killed("worker"), gentle=True),
    Fault("worker out of memory (the kernel's OOM killer)", out_of_memory, gentle=True),
    Fault("process that plans a file killed", killed("planner"), gentle=True),
    Fault("process that joins a file killed", killed("joiner"), gentle=True),
    Fault(f"worker frozen for {FROZEN_SECONDS:.0f} s (SIGSTOP)", frozen, gentle=True),
    Fault("pause and resume", paused, gentle=True),
    Fault("clock set back 3 days, then 400 days ahead", clock_jumps, gentle=True),
    Fault("second driver on the same output", second_driver, gentle=True),
    Fault("driver killed (SIGKILL)", killed("driver"), gentle=False),
    Fault("driver, workers and Ray killed at once", all_killed, gentle=False),
    Fault("raylet killed", killed("raylet"), gentle=True),
    Fault("GCS killed", killed("gcs"), gentle=True),
    Fault("Ctrl-C", killed("driver", signal.SIGINT), gentle=False),
    Fault("Ctrl-C twice", interrupted_twice, gentle=False),
    Fault("SIGTERM", killed("driver", signal.SIGTERM), gentle=False),
    Fault("disk full", disk_full, gentle=False, disk=True, root=True),
    Fault("output becomes read-only", read_only, gentle=False, root=True),
    Fault("source replaced, later restored", source_replaced, gentle=False),
    Fault("source deleted, later restored", source_deleted, gentle=False),
    Fault("all killed, work folders damaged", work_damaged, gentle=False),
)


@contextlib.contextmanager
def small_disk(folder: Path, mib: int = 64) -> Iterator[Path]:
    """A disk of its own at `folder`, in memory. Needs root."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def possible() -> list[Fault]:
    """Those that can be had here: mounts and memory groups need root."""
    root, groups = os.geteuid() == 0, has_memory_groups()
    return [one for one in FAULTS if (root or not one.root) and (groups or one.inject is not out_of_memory)]
