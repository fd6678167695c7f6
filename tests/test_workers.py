"""Tests of workers/ on a real local Ray. run_fake() below stands in for pipeline.span_job.run_span inside the actors."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.errors import ConversionError, InputError
from tests.processes import LOOPBACK, descendants, listening, stat_fields, usual_environment
from workers.cluster import ROOT, Cluster, connect, runtime_env
from workers.events import Done, Event, Failed, Progress, Retrying
from workers.file_desk import FileDesk
from workers.interrupts import Interrupts, StopNow
from workers.pool import STARVED, SpanPool
from workers.progress import ProgressDisplay, clock
from workers.reaper import sweep
from workers.span_worker import SpanError, SpanTask, describe_error, load_entry

HERE = Path(__file__).resolve().parent
CLASS = "fake-class"


def fake_class() -> str:
    return CLASS


def run_fake(
    workdir: str,
    track: int,
    span: int,
    *,
    threads: int,
    on_frames: Callable[[int], None],
    should_stop: Callable[[], bool],
) -> dict:
    """Behave as WORKDIR/spans.json says for this span: "ok", or an action, alone for every attempt or "once:" for the first."""
    folder = Path(workdir)
    action = json.loads((folder / "spans.json").read_text())[span]
    with (folder / f"attempts{span}").open("a") as log:
        log.write("x")
    attempt = (folder / f"attempts{span}").stat().st_size
    if action.startswith("once:"):
        action = action.removeprefix("once:") if attempt == 1 else "ok"
    on_frames(1)
    if action.startswith("sleep:"):
        end = time.monotonic() + float(action.removeprefix("sleep:"))
        while time.monotonic() < end:
            time.sleep(0.02)
    elif action == "gate":
        end = time.monotonic() + 240
        while not (folder / "gate").exists():
            assert time.monotonic() < end, "nobody opened the gate"
            time.sleep(0.02)
    elif action == "stoppable":
        while not should_stop():
            time.sleep(0.02)
        (folder / f"stopped{span}").touch()
        raise ConversionError("stopped early")
    elif action == "exit":
        os.write(2, b"last words of the encoder\n")
        os._exit(3)
    elif action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "input":
        raise InputError(f"span {span} is no video")
    elif action == "full":
        raise OSError(errno.ENOSPC, "No space left on device")
    elif action == "flaky":
        raise RuntimeError("a hiccup")
    import torch

    return {
        "span": span,
        "threads": threads,
        "torch_threads": torch.get_num_threads(),
        "pid": os.getpid(),
        "began": time.time(),
    }


def make_tasks(folder: Path, actions: list[str], numerics_class: str = CLASS) -> list[SpanTask]:
    folder.mkdir(exist_ok=True)
    (folder / "spans.json").write_text(json.dumps(actions))
    return [SpanTask(f"{folder.name}-{n}", str(folder), 0, n, 10, numerics_class) for n in range(len(actions))]


def run_all(pool: SpanPool, tasks: list[SpanTask]) -> tuple[dict[int, Event], list[Event]]:
    for task in tasks:
        pool.submit(task)
    events = list(pool.events())
    ends = [event for event in events if isinstance(event, Done | Failed)]
    assert len(ends) == len(tasks)
    return {event.task.span: event for event in ends}, events


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HERE))
        with connect(slots=2) as found:
            yield found


@pytest.fixture(scope="module")
def pool(cluster: Cluster) -> Iterator[SpanPool]:
    with SpanPool(cluster, "test_workers:run_fake", "test_workers:fake_class", workers=2) as found:
        infos = found.wait_ready()
        assert len(infos) == 2 and {info.numerics_class for info in infos} == {CLASS}
        yield found


def test_spans_begin_in_order_and_all_complete(pool: SpanPool, tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "a", ["sleep:3", *["sleep:0.05"] * 9])
    ends, events = run_all(pool, tasks)
    assert sorted(ends) == list(range(10)) and all(isinstance(end, Done) for end in ends.values())
    begun = [event.task.span for event in events if isinstance(event, Progress) and event.frames == 0]
    assert begun == list(range(10))
    assert len({end.result["pid"] for end in ends.values()}) == 2
    assert {(end.result["threads"], end.result["torch_threads"]) for end in ends.values()} == {(1, 1)}
    assert any(isinstance(event, Progress) and event.task.span == 0 and event.frames == 1 for event in events)


def test_a_poison_span_is_quarantined_and_deaths_of_others_are_mended(
    pool: SpanPool, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another test may have the kernel kill something meanwhile.
    monkeypatch.setattr("workers.pool.kernel_kills", lambda: 0)
    tasks = make_tasks(tmp_path / "a", ["exit", "ok", "once:kill", "ok", "once:flaky", "ok"])
    ends, events = run_all(pool, tasks)
    assert [type(ends[n]) for n in range(6)] == [Failed, Done, Done, Done, Done, Done]
    poison = ends[0]
    assert (
        poison.attempts == 3 and poison.error.kind == "WorkerDied" and isinstance(poison.exception(), ConversionError)
    )
    assert poison.log.count("Attempt ") == 3 and poison.log.count("last words of the encoder") == 3
    retried = sorted(event.task.span for event in events if isinstance(event, Retrying))
    assert retried == [0, 0, 2, 4]
    assert (tmp_path / "a" / "attempts0").stat().st_size == 3
    assert capfd.readouterr().out == ""  # Ray's remarks must not spoil --json


def test_what_ray_writes_is_bounded_and_what_a_worker_writes_goes_straight_to_its_file(
    cluster: Cluster, pool: SpanPool
) -> None:
    """A pipe in between would swallow the last words of a crash."""
    assert os.environ["RAY_ROTATION_MAX_BYTES"] == "10000000" and os.environ["RAY_ROTATION_BACKUP_COUNT"] == "3"
    commands = {}
    for pid in descendants(os.getpid()):
        with suppress(OSError):  # it has ended
            commands[pid] = Path(f"/proc/{pid}/cmdline").read_bytes()
    agents = [command for command in commands.values() if b"--logging-rotate-bytes=" in command]
    assert agents and all(b"--logging-rotate-bytes=10000000" in command for command in agents)
    for info in pool.wait_ready():
        for number in (1, 2):
            assert Path(f"/proc/{info.pid}/fd/{number}").readlink().is_relative_to(cluster.session_dir or "/")


def test_spans_that_wait_can_be_recalled_and_a_quiet_pool_gives_the_caller_time(pool: SpanPool, tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "a", ["gate"] * 5)
    for task in tasks:
        pool.submit(task)
    deadline, events = time.monotonic() + 480, []
    try:
        while pool.running() < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert pool.recall() == tasks[2:]
        for _ in range(3):  # it comes back though nothing ends
            assert not [event for event in pool.events(0.1) if isinstance(event, Done)]
    finally:
        (tmp_path / "a" / "gate").touch()
    while len(events) < 2 and time.monotonic() < deadline:
        events += [event for event in pool.events(0.1) if isinstance(event, Done)]
    assert sorted(event.task.span for event in events) == [0, 1]
    assert list(pool.events()) == []  # nothing is open: it ends at once
    ends, _ = run_all(pool, tasks[4:])
    assert isinstance(ends[4], Done)


def test_a_pool_whose_workers_cannot_start_says_why(cluster: Cluster, pool: SpanPool, tmp_path: Path) -> None:
    # It borrows nothing: both slots are taken by `pool`, so its worker never starts and the deadline ends the wait.
    with SpanPool(cluster, "test_workers:run_fake", "test_workers:no_such", workers=1, start_seconds=1.0) as other:
        ends, _ = run_all(other, make_tasks(tmp_path / "a", ["ok"]))
        assert ends[0].error.kind == "NoWorkers" and "did not start within 1 s" in ends[0].error.message
        with pytest.raises(ConversionError, match="No worker is left"):
            other.wait_ready()


def test_errors_of_the_entry_come_back_with_their_type_and_are_not_retried(pool: SpanPool, tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "a", ["input", "full", "ok"])
    gone = SpanTask("gone", str(tmp_path / "nowhere"), 0, 3, 10, CLASS)
    alien = SpanTask("alien", str(tmp_path / "a"), 0, 4, 10, "cuda-sm90")
    ends, _ = run_all(pool, [*tasks, gone, alien])
    assert [ends[n].attempts for n in (0, 1, 3)] == [1, 1, 1]
    assert ends[0].error.kind == "InputError" and isinstance(ends[0].exception(), InputError)
    assert str(ends[0].exception()) == "span 0 is no video" and "run_fake" in ends[0].log
    assert ends[1].error.kind == "OSError" and "No space left" in ends[1].error.message and not ends[1].error.user_error
    assert isinstance(ends[2], Done)
    assert "does not see this folder" in ends[3].error.message
    assert (
        ends[4].error.kind == "NumericsClass"
        and "cuda-sm90" in ends[4].error.message
        and CLASS in ends[4].error.message
    )


def call_fake(action: str) -> str:
    """What a FileDesk has done elsewhere."""
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "input":
        raise InputError("no video")
    return f"{action} in {os.getpid()}"


def test_files_are_looked_at_in_tasks_that_may_die(cluster: Cluster, pool: SpanPool) -> None:
    """All slots are taken by workers; tasks book none."""
    desk = FileDesk(retries=2)
    desk.use(cluster)
    for action in ("fine", "kill", "input"):
        desk.begin("plan", action, "test_workers:call_fake", action)
    assert desk.count("plan") == 3 and desk.count("join") == 0
    ended = {}
    deadline = time.monotonic() + 300
    while desk.count("plan") and time.monotonic() < deadline:
        ended |= {one.key: one for one in desk.ended()}
        time.sleep(0.02)
    assert ended["fine"].answer.value.startswith("fine in") and str(os.getpid()) not in ended["fine"].answer.value
    assert (ended["input"].answer.error.kind, ended["input"].answer.error.user_error) == ("InputError", True)
    assert ended["kill"].answer.error.kind == "WorkerDied" and len(ended["kill"].deaths) == 2
    desk.begin("plan", "again", "test_workers:call_fake", "fine")
    desk.ray_lost()
    assert desk.ended() == [] and desk.count("plan") == 1  # it waits for another Ray
    desk.use(cluster)
    while not (ended_again := desk.ended()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert ended_again[0].answer.value.startswith("fine in")
    desk.begin("plan", "again", "test_workers:call_fake", "fine")
    assert desk.kill("plan") == ["again"] and desk.count("plan") == 0


def test_a_stranger_on_this_machine_is_refused_and_every_port_is_on_loopback(cluster: Cluster, pool: SpanPool) -> None:
    code = (
        f"from ray._raylet import GcsClient; c = GcsClient(address={cluster.address!r}); "
        "print('LET IN', len(c.internal_kv_keys(b'', b'session', timeout=60)))"
    )
    clean = usual_environment()
    ours = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.environ["RAY_AUTH_TOKEN"]}
    for auth in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}, ours):
        done = subprocess.run(
            [sys.executable, "-c", code], env=clean | auth, capture_output=True, text=True, timeout=240
        )
        if auth is ours:
            assert "LET IN 1" in done.stdout, done.stderr
        else:
            assert done.returncode != 0 and "LET IN" not in done.stdout and "InvalidAuthToken" in done.stderr, (
                done.stderr
            )
    join = f"from workers.cluster import connect\nwith connect({cluster.address!r}):\n    print('LET IN')"
    auth = {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", join], env=clean | auth, capture_output=True, text=True, timeout=240)
    assert "InputError: The Ray cluster at" in done.stderr and "refused us" in done.stderr, done.stderr
    found = listening(set(descendants(os.getpid())) | {os.getpid()})
    assert len(found) >= 5  # GCS, raylet, driver and two workers at least
    assert {address for address, _ in found} <= LOOPBACK


def alive(pids: set[int]) -> set[int]:
    """Those of the processes that are neither gone nor zombies."""
    left = set()
    for pid in pids:
        fields = stat_fields(pid)
        if fields and fields[0] != "Z":
            left.add(pid)
    return left


def test_a_worker_that_lacks_memory_is_given_up_only_while_another_works(
    pool: SpanPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last test of this pool, which has one worker after it. The kernel's count of such deaths is made up."""
    monkeypatch.setattr("workers.pool.kernel_kills", itertools.count().__next__)
    said = []
    for name in ("a", "b"):
        pool.wait_ready()
        ends, events = run_all(pool, make_tasks(tmp_path / name, ["once:kill", "ok", "ok"]))
        assert all(isinstance(end, Done) for end in ends.values())
        (retrying,) = [event for event in events if isinstance(event, Retrying)]
        assert retrying.error.kind == "OutOfMemory"
        said.append(retrying.error.message)
        pool.wait_ready()
        assert pool.alive() == 1
    assert f"was killed for want of memory while it converted span 0 of {tmp_path / 'a'}: {STARVED[True]} (" in said[0]
    assert f"was killed for want of memory while it converted span 0 of {tmp_path / 'b'}: {STARVED[False]} (" in said[1]


DRIVER = """
import json, sys
from pathlib import Path
from workers.cluster import connect
from workers.events import Done, Progress
from workers.file_desk import FileDesk
from workers.interrupts import Interrupts, StopNow
from workers.pool import SpanPool
from workers.progress import ProgressDisplay
import test_workers
import workers.pool

workers.pool.ABORT_GRACE_SECONDS = 5.0  # for a span that heeds it on a busy machine
folder, actions = Path(sys.argv[1]), json.loads(sys.argv[2])
tasks = test_workers.make_tasks(folder, actions)
done, code = [], 0
try:
    with connect(slots=2) as cluster, SpanPool(
        cluster, "test_workers:run_fake", "test_workers:fake_class", workers=2
    ) as pool, ProgressDisplay() as display:
        (folder / "ray").write_text(str(cluster.session_dir.parent))
        def drain():
            display.message(f"finishing the {pool.running()} running spans; press Ctrl-C again to stop now")
            pool.drain()
            (folder / "draining").touch()
        with Interrupts(drain, pool.abort) as interrupts:
            display.add_video(str(folder), "clip.mp4", 10 * len(tasks), len(tasks))
            for task in tasks:
                pool.submit(task)
            begun = 0
            for event in pool.events():
                display.show(event)
                begun += isinstance(event, Progress) and event.frames == 0
                if begun == 2:
                    (folder / "two-run").touch()
                if isinstance(event, Done):
                    done.append(event.task.span)
            code = interrupts.exit_code
            print(json.dumps([done, [task.span for task in pool.unstarted()]]), flush=True)
except StopNow as stop:
    code = stop.exit_code
    print("stopped now", flush=True)
sys.exit(code)
"""


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Callable[[list[str]], tuple[subprocess.Popen[str], Path]]]:
    started = []

    def start(actions: list[str]) -> tuple[subprocess.Popen[str], Path]:
        environment = usual_environment() | {"PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}"}
        folder = tmp_path / "clip.work"
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(folder), json.dumps(actions)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        deadline = time.monotonic() + 240
        while not (folder / "two-run").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return process, folder

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_until_gone(pids: set[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(pids)


@pytest.mark.long
def test_first_ctrl_c_finishes_the_running_spans(driver: Callable) -> None:
    process, _ = driver(["sleep:3", "sleep:3", "sleep:0.1", "sleep:0.1"])
    family = set(descendants(process.pid))
    assert len(family) >= 4
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: the whole foreground group gets it
    out, err = process.communicate(timeout=40)
    assert process.returncode == 130, err
    assert json.loads(out) == [[0, 1], [2, 3]] or json.loads(out) == [[1, 0], [2, 3]], err
    assert "finishing the 2 running spans; press Ctrl-C again to stop now" in err
    assert "failed" not in err
    wait_until_gone(family, 60)


def test_second_ctrl_c_stops_at_once(driver: Callable) -> None:
    process, folder = driver(["stoppable", "sleep:100", "ok"])
    family = set(descendants(process.pid))
    os.killpg(process.pid, signal.SIGINT)
    deadline = time.monotonic() + 240
    while not (folder / "draining").exists():  # two signals at once would be one
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out.strip()) == (130, "stopped now"), err
    assert time.monotonic() - began < 90
    assert (folder / "stopped0").exists()  # a span that heeds should_stop cleans up
    wait_until_gone(family, 60)


def test_a_killed_driver_leaves_no_process(driver: Callable) -> None:
    """And no folder of its Ray; one of somebody else's is let be."""
    process, folder = driver(["sleep:100", "sleep:100"])
    family = set(descendants(process.pid))
    assert len(family) >= 4
    own = Path((folder / "ray").read_text())
    stranger = Path(tempfile.mkdtemp(prefix="sunvisor-ray-", dir=own.parent))
    try:
        process.kill()
        wait_until_gone(family, 120)
        assert own.name.startswith("sunvisor-ray-") and not own.exists() and stranger.exists()
    finally:
        stranger.rmdir()


def test_the_next_run_removes_what_a_killed_driver_and_its_killed_reaper_left(tmp_path: Path) -> None:
    """And lets be what a live driver holds, and what was never locked."""
    program = (
        "import pathlib, sys, subprocess; from workers.reaper import held; folder = pathlib.Path(sys.argv[1]); folder.mkdir()\n"
        "with held(folder):\n    log = (folder / 'agent.log').open('w'); print(subprocess.Popen(['sleep', '100'], stdout=log).pid, flush=True)\n"
        "    input()"
    )
    folders = {name: tmp_path / f"sunvisor-ray-{name}" for name in ("killed", "alive", "unlocked")}
    folders["unlocked"].mkdir()
    drivers, agents = {}, {}
    try:
        for name in ("killed", "alive"):
            command = [sys.executable, "-c", program, str(folders[name])]
            drivers[name] = subprocess.Popen(
                command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            agents[name] = int(drivers[name].stdout.readline())
        sweep(tmp_path)
        assert all(folders[name].exists() for name in ("killed", "alive", "unlocked"))
        drivers["killed"].kill()
        drivers["killed"].wait()
        sweep(tmp_path)
        assert [name for name in folders if folders[name].exists()] == ["alive", "unlocked"]
        wait_until_gone({agents["killed"]}, 60)
        assert drivers["alive"].poll() is None and Path(f"/proc/{agents['alive']}").exists()
    finally:
        for process in drivers.values():
            process.kill()
            process.wait()
        for agent in agents.values():
            with suppress(ProcessLookupError):
                os.kill(agent, signal.SIGKILL)


def test_the_reaper_lets_its_driver_live(tmp_path: Path) -> None:
    """A driver that ends in order still has Ray's logs open; it must come to its own exit code."""
    folder = tmp_path / "sunvisor-ray-x"
    program = (
        "import pathlib, sys; from workers.reaper import reaper; folder = pathlib.Path(sys.argv[1]); folder.mkdir()\n"
        "with reaper(folder):\n    log = (folder / 'driver.log').open('w')\n"
        "sys.exit(7)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder)], cwd=ROOT, timeout=120)
    assert done.returncode == 7
    assert not folder.exists()


def test_the_reaper_finds_a_process_that_overwrote_its_environment(tmp_path: Path) -> None:
    """As Ray's agents do when they set their title. It is known by the log it writes; one that only reads it is let live."""
    folder = tmp_path / "sunvisor-ray-x"
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "SUNVISOR_RAY_FOLDER"}
    with (folder / "agent.log").open("w") as log:
        agent = subprocess.Popen(["sleep", "100"], stdout=log, env=environment)
    with (folder / "agent.log").open() as log:
        stranger = subprocess.Popen(["sleep", "100"], stdin=log, env=environment)
    try:
        # An empty standard input is what the reaper sees when its driver was killed.
        subprocess.run(
            [sys.executable, str(ROOT / "workers/reaper.py"), str(folder)], stdin=subprocess.DEVNULL, timeout=120
        )
        assert agent.wait(60) == -signal.SIGKILL
        assert stranger.poll() is None
        assert not folder.exists()
    finally:
        agent.kill()
        stranger.kill()
        stranger.wait()


def test_interrupts_restore_the_handlers_and_call_each_action_once() -> None:
    before = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    called: list[str] = []
    drained = threading.Event()

    def drain() -> None:
        called.append("drain")
        drained.set()

    with pytest.raises(StopNow) as caught, Interrupts(drain, lambda: called.append("abort")) as interrupts:
        assert not interrupts.draining
        signal.raise_signal(signal.SIGINT)
        assert interrupts.draining and interrupts.exit_code == 130
        assert drained.wait(60)
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.exit_code == 143 and called == ["drain", "abort"]
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == before


def test_plain_progress_is_a_line_every_few_seconds_and_quiet_shows_messages_only() -> None:
    task = SpanTask("k", "/w/a.work", 0, 0, 100, CLASS)
    for quiet in (False, True):
        stream, clock_now = io.StringIO(), [0.0]
        with ProgressDisplay(quiet=quiet, stream=stream, now=lambda now=clock_now: now[0]) as display:
            display.add_video("/w/a.work", "a[1].mp4", 400, 4, reused_frames=100, reused_spans=1)
            for second in range(12):
                clock_now[0] = float(second)
                display.show(Progress(task, second * 10))
            display.show(Done(task, {}, 1.0))
            error = SpanError("WorkerDied", "The worker died.", "", False, True)
            display.show(Retrying(SpanTask("l", "/w/a.work", 0, 1, 100, CLASS), error, 1))
            display.finish_video("/w/a.work", "done")
        lines = stream.getvalue().splitlines()
        retry = "a[1].mp4: span 1 failed and is tried again. The worker died."
        if quiet:
            assert lines == [retry]
        else:
            assert lines[0] == "0/1 videos, 150/400 frames, 1/4 spans, 10.0 fps, ETA 0:25; now: a[1].mp4"
            assert len(lines) == 4 and lines[2:] == [retry, "a[1].mp4: done"]
    assert (clock(59.6), clock(3725)) == ("1:00", "1:02:05")


def test_a_terminal_gets_live_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with ProgressDisplay(stream=stream) as display:
        display.add_video("/w", "a.mp4", 10, 1)
        display.show(Progress(SpanTask("k", "/w", 0, 0, 10, CLASS), 5))
        time.sleep(0.4)
    assert "a.mp4" in stream.getvalue() and "5/10 frames" in stream.getvalue()


def test_which_errors_may_be_tried_again() -> None:
    transient = ConversionError("x")
    transient.transient = True
    cases = [
        InputError("x"),
        ConversionError("x"),
        transient,
        OSError(errno.ENOSPC, "x"),
        OSError(errno.EIO, "x"),
        ValueError(),
    ]
    assert [describe_error(case).retry for case in cases] == [False, False, True, False, True, True]
    assert describe_error(ValueError()).message == "ValueError"
    with pytest.raises(ValueError, match="is not of the form"):
        load_entry("pipeline.span_job")


def test_an_address_where_nobody_answers_is_a_quick_error() -> None:
    code = "from workers.cluster import connect\nwith connect('127.0.0.1:1'):\n    pass"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=180)
    assert "InputError: Could not join the Ray cluster at 127.0.0.1:1" in done.stderr and time.monotonic() - began < 90


def test_a_cluster_gets_the_code_and_not_the_rest() -> None:
    shipped = runtime_env()
    assert shipped["working_dir"] == str(ROOT) and {".git", ".venv", "tests"} <= set(shipped["excludes"])
    with pytest.raises(InputError, match="HOST:PORT"), connect("ray://somewhere:10001"):
        pass
