"""Faults that are injected into true spans of true workers; what comes out is compared with an undisturbed conversion, byte for byte.

Processes killed, disks full and sources changed are in test_reliability.py, nodes in test_cluster.py, parts of a stream in test_stream.py.
`python -m bench.faults` does it at moments drawn by chance.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from bench.fault_kinds import MEMORY_GROUPS, has_memory_groups, remove_group
from bench.fault_run import Run, digests
from configs.schema import load_config
from pipeline.convert import Conversion, convert, start
from pipeline.errors import ConversionError, InputError
from pipeline.file_report import FileReport
from pipeline.ledger import WorkLock
from pipeline.places import work_folder
from tests.clips import make_clip
from tests.processes import stat_fields
from tests.test_reliability import SHORT, assert_only, do_span
from workers import batch as batches
from workers import deaths
from workers.deaths import kernel_kills, wears_out
from workers.jobs import Job
from workers.pool import STARVED
from workers.span_worker import describe_error
from workers.status import status, status_text

WORDS = [*SHORT, "model=neutral", "temporal.radius=0", "workers.retries=2"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second and more with sound: two spans."""
    return make_clip(tmp_path_factory.mktemp("clip") / "drive.mp4", frames=30, width=160, height=96, gop=40, audio=True)


@pytest.fixture(scope="module")
def expected(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Of an undisturbed conversion, without Ray."""
    output = tmp_path_factory.mktemp("expected") / "o.mp4"
    convert(clip, output, load_config("dashcam", None, WORDS))
    return output.read_bytes()


# --- in workers ---------------------------------------------------------------------------------------------------------


def batch_of(
    names: tuple[str, ...], clip: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, FileReport]:
    """Convert copies of the clip with spans of tests/faulty_span.py on a Ray of two workers; returns their reports by name."""
    monkeypatch.setattr(batches, "RUN_SPAN", "tests.faulty_span:run_span")
    jobs = []
    for name in names:
        source = folder / "in" / f"{name}.mp4"
        source.parent.mkdir(exist_ok=True)
        shutil.copy(clip, source)
        jobs.append(Job(source, folder / "out" / f"{name}.mp4"))
    report = batches.run_batch(jobs, load_config("dashcam", None, [*WORDS, "workers.count=2", "workers.threads=1"]))
    for attempts in (folder / "out").glob("*.attempts"):
        for pid in attempts.read_text().split():
            remove_group(group_of(int(pid)))
    return {Path(one.source).stem: one for one in report.files}


def test_the_kernels_kills_are_those_of_ones_own_group_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files as Linux has them; elsewhere on the machine 9 processes were killed."""
    own, machine, groups = tmp_path / "cgroup", tmp_path / "vmstat", tmp_path / "groups"
    monkeypatch.setattr(deaths, "OWN_GROUP", own)
    monkeypatch.setattr(deaths, "VMSTAT", machine)
    monkeypatch.setattr(deaths, "GROUPS", groups)
    assert kernel_kills() == 0
    machine.write_text("nr_free_pages 12\noom_kill 9\nballoon_inflate 0\n")
    assert kernel_kills() == 9
    own.write_text("4:memory:/job\n0::/job\n")
    assert kernel_kills() == 9
    (groups / "job").mkdir(parents=True)
    (groups / "job" / "memory.events").write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert kernel_kills() == 2


@pytest.mark.timeout(1800)
def test_memory_gpu_and_a_poison_span_cost_attempts_and_never_a_byte(
    clip: Path, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One batch on one Ray: the kernel's OOM killer, a full and a dead GPU, and a span that kills whoever takes it."""
    names = ("plain", "starve", "gpu_memory", "gpu_dead", "poison")
    kills = kernel_kills()
    ended = batch_of(names, clip, tmp_path, monkeypatch)
    said, out = capfd.readouterr().err, tmp_path / "out"
    assert {name: one.status for name, one in ended.items()} == {name: "done" for name in names} | {
        "poison": "failed"
    }, [one.error for one in ended.values()]
    for name in names[:-1]:
        assert (out / f"{name}.mp4").read_bytes() == expected, name
        assert not work_folder(out / f"{name}.mp4").exists()
    # The poison span is given up after two attempts, each told in the log; nothing of its file appears.
    error = ended["poison"].error or ""
    assert "2 attempts; log in " in error and not (out / "poison.mp4").exists()
    log = Path(error.split("log in ")[1].rstrip(").")).read_text()
    assert log.count("Attempt ") == 2 and log.count("last words of the decoder") == 2
    # What failed once was done again in another process, and one whose GPU is dead was given nothing more.
    for name in ("starve", "gpu_memory", "gpu_dead"):
        first, second = pids(out, name, 0)
        assert first != second, name
    dead, lost = pids(out, "gpu_dead", 0)[0], (out / "gpu_dead.lost").stat().st_mtime_ns
    later = [path for path in out.glob("*.attempts") if path.stat().st_mtime_ns > lost]
    assert later and not any(path.read_text().split()[-1] == str(dead) for path in later)
    assert said.count("is tried again") >= 4
    assert "use a smaller reconstruct.tile_budget_bytes" in said and "the worker is made anew" in said
    if has_memory_groups():
        assert kernel_kills() > kills
        # Given up when the other worker is up at that moment (test_workers), made anew when that one has just failed or is not up yet.
        assert "was killed for want of memory" in said and any(words in said for words in STARVED.values())


@pytest.mark.long
@pytest.mark.skipif(not has_memory_groups(), reason="memory groups of the kernel need root")
@pytest.mark.timeout(1800)
def test_a_span_that_needs_too_much_memory_costs_one_worker_and_its_file(
    clip: Path, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = batch_of(("plain", "hungry"), clip, tmp_path, monkeypatch)
    assert (ended["plain"].status, ended["hungry"].status) == ("done", "failed")
    assert (tmp_path / "out" / "plain.mp4").read_bytes() == expected
    error = ended["hungry"].error or ""
    assert "for want of memory" in error and "use fewer workers (--workers), a smaller" in error
    assert capfd.readouterr().err.count("one worker fewer") == 1


def pids(folder: Path, name: str, span: int) -> list[int]:
    """Processes that took a span, in order."""
    return [int(line) for line in (folder / f"{name}.{span}.attempts").read_text().split()]


def group_of(pid: int) -> Path:
    """The memory group that a process was put into."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next((line.split(":")[2] for line in lines if ":memory:" in line), "")
    return MEMORY_GROUPS / own.lstrip("/") / f"sunvisor-fault-{pid}"


def test_which_errors_wear_a_process_out_and_what_is_said() -> None:
    lost = RuntimeError("CUDA error: device-side assert triggered")
    wrapped = ConversionError("the GPU has no memory; use fewer workers.per_gpu.")
    wrapped.__cause__ = torch.cuda.OutOfMemoryError("CUDA out of memory")
    worn = [torch.cuda.OutOfMemoryError("x"), torch.AcceleratorError("CUDA error: x"), lost, wrapped]
    assert [wears_out(one) for one in worn] == [True] * 4
    assert not any(
        map(wears_out, [RuntimeError("shapes differ"), MemoryError(), OSError(errno.EIO, "x"), ValueError("y")])
    )
    told = describe_error(lost)
    assert told.worn and told.retry and told.message.startswith(f"{lost}; ") and "dmesg" in told.message
    assert describe_error(wrapped).message == str(wrapped) and describe_error(wrapped).worn


# --- the output and the source ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["converting", "joining"])
def test_a_source_that_is_deleted_meanwhile_is_told_and_goes_on_once_it_is_back(
    clip: Path, expected: bytes, tmp_path: Path, when: str
) -> None:
    source, output = tmp_path / "in" / "drive.mp4", tmp_path / "out" / "o.mp4"
    source.parent.mkdir()
    shutil.copy2(clip, source)
    config = load_config("dashcam", None, WORDS)
    conversion = start(source, output, config)
    assert isinstance(conversion, Conversion)
    first, *rest = conversion.pending
    for place in [first] if when == "converting" else [first, *rest]:
        conversion.span_done(do_span(conversion, *place))
    source.unlink()
    with pytest.raises(InputError, match=r"drive\.mp4: .*(cannot be read|there is no such file)"):
        for place in rest if when == "converting" else ():
            do_span(conversion, *place)
        conversion.finish()
    conversion.close()
    assert not output.exists()
    shutil.copy2(clip, source)
    assert convert(source, output, config).spans_reused == (1 if when == "converting" else 1 + len(rest))
    assert output.read_bytes() == expected
    assert_only(output)


# --- the clock ----------------------------------------------------------------------------------------------------------


def test_a_clock_that_jumps_changes_no_byte_lock_or_status(
    clip: Path, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's time is a day late, then 400 days early, at each look at it anew."""
    real, jumps = time.time, [86_400.0, -34_560_000.0]

    def jumping() -> float:
        jumps.append(jumps.pop(0))
        return real() + jumps[-1]

    monkeypatch.setattr(time, "time", jumping)
    output = tmp_path / "out" / "o.mp4"
    conversion = start(clip, output, load_config("dashcam", None, WORDS))
    assert isinstance(conversion, Conversion)
    os.utime(work_folder(output) / "lock", (0, 0))  # an age says nothing about the owner
    with pytest.raises(InputError, match=f"another Sunvisor is working on this output .pid {os.getpid()} on .* since"):
        WorkLock(work_folder(output))
    for place in conversion.pending:
        conversion.span_done(do_span(conversion, *place))
    facts = status(output)
    assert facts["work"][0]["held"] and facts["work"][0]["spans_done"] == 2
    assert "2/2 spans done; pid" in status_text(facts, time.time())
    conversion.finish()
    assert output.read_bytes() == expected
    assert_only(output)


# --- Ray ----------------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kinds", [("raylet",), pytest.param(("gcs", "raylet"), marks=pytest.mark.long)])
def test_a_ray_that_is_lost_is_replaced_and_the_run_goes_on(
    clip: Path, expected: bytes, tmp_path: Path, short_folder: Path, kinds: tuple[str, ...]
) -> None:
    """SIGKILL of a process that our own Ray hangs on, in the midst of a span; then of another one, of the next Ray."""
    source, output = tmp_path / "in" / "o.mp4", tmp_path / "out"
    source.parent.mkdir()
    shutil.copy(clip, source)
    run = Run(source.parent, output, short_folder, "--workers", "1", *WORDS)
    try:
        before: set[int] = set()
        for number, kind in enumerate(kinds, 1):
            wait_until(lambda: run.over or set(run.find(kind)) - before)  # noqa: B023
            found = set(run.find(kind)) - before
            # A child that was forked and has not become another program yet looks like its parent.
            parents = {pid: int(fields[1]) for pid in found if (fields := stat_fields(pid))}
            (victim,) = {pid for pid, parent in parents.items() if parent not in found}
            before |= set(run.family())
            wait_until(lambda: run.over or run.progress()[1] >= number)  # noqa: B023
            os.kill(victim, signal.SIGKILL)
        assert run.wait() == 0, run.err.read_text()
        said = run.err.read_text()
        assert "Traceback" not in said
        for kind in kinds:
            name = "gcs_server" if kind == "gcs" else kind
            assert said.count(f"Ray's process {name} has ended (killed by SIGKILL): Ray is started anew") == 1, said
        assert run.report()["files"][0]["status"] == "done"
        assert digests(output) == {"o.mp4": hashlib.sha256(expected).hexdigest()}
        assert not run.survivors()
    finally:
        run.kill_all()


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 600
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """For Ray's sockets, whose paths must be short."""
    with tempfile.TemporaryDirectory(prefix="sf", dir="/tmp") as folder:
        yield Path(folder)
