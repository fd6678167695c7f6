"""The watchdog: what stands still is killed and tried again, in whatever way it does so, and what moves never is."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import signal
import subprocess
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.schema import load_config
from pipeline.convert import convert
from tests.clips import make_clip
from tests.hanging import CLASS
from workers import batch as batches
from workers import crew as crews
from workers import pulse
from workers import vigil as vigils
from workers.cluster import Cluster, connect
from workers.crew import Worker
from workers.events import Done, Event, Failed, Retrying
from workers.failures import Failures
from workers.file_desk import Ended, FileDesk
from workers.file_process import Answer
from workers.jobs import Job
from workers.listeners import Listeners
from workers.pool import SpanPool
from workers.progress import ProgressDisplay
from workers.pulse import process_here
from workers.span_worker import SpanError, SpanTask
from workers.watchdog import Watchdog

PATIENCE_SECONDS = 280.0
STALL_SECONDS = 8.0
"""Shorter, and a busy machine's processes count as standing still."""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def watch(dog: Watchdog, clock: Clock, seconds: float, states: dict[str, object] | None = None) -> None:
    """Turn after turn for some seconds, seeing the same."""
    end = clock.now + seconds
    while clock.now < end:
        clock.now += 0.5
        dog.turn()
        for who, state in (states or {}).items():
            dog.see(who, state)


def test_only_who_does_not_move_for_too_long_stands_still() -> None:
    clock = Clock()
    dog = Watchdog(100.0, clock)
    watch(dog, clock, 100, {"a": 1, "b": 1})
    assert not dog.stands_still("a") and dog.still_seconds("a") == 99.5
    watch(dog, clock, 1, {"a": 1, "b": 2})
    assert dog.stands_still("a") and not dog.stands_still("b") and not dog.stands_still("c")
    assert not dog.stands_still("a", least_seconds=180.0)
    dog.forget("a")
    assert not dog.stands_still("a")
    watch(dog, clock, 50, {"a": 1})
    watch(dog, clock, 0.5, {"a": 0})  # any change counts, not only growth
    assert dog.still_seconds("a") == 0


def test_nobody_is_blamed_for_the_time_in_which_the_watcher_slept() -> None:
    clock = Clock()
    dog = Watchdog(100.0, clock)
    watch(dog, clock, 90, {"a": 1})
    clock.now += 11.0  # less would be a busy machine's doing
    watch(dog, clock, 99, {"a": 1})
    assert not dog.stands_still("a")
    watch(dog, clock, 2, {"a": 1})
    assert dog.stands_still("a")


def test_0_seconds_is_never() -> None:
    clock = Clock()
    dog = Watchdog(0.0, clock)
    watch(dog, clock, 1e4, {"a": 1})
    assert not dog.stands_still("a")


# --- starting ------------------------------------------------------------------------------------------------------------


class FakeRay:
    """Whose references are the answers, or None where there will be none."""

    exceptions = types.SimpleNamespace(RayError=RuntimeError)

    @staticmethod
    def wait(refs: list[list], timeout: float) -> tuple[list, list]:
        return [ref for ref in refs if ref], [ref for ref in refs if not ref]

    @staticmethod
    def get(ref: list) -> object:
        return ref[0]


class FakeStarted:
    """A worker's actor: `up` as Ray says; it answers `said`, or nothing."""

    def __init__(self, up: bool, said: list) -> None:
        self.up, self.said, self.ended = up, said, False
        self.actor = types.SimpleNamespace(hello=types.SimpleNamespace(remote=lambda: []))

    def ask(self) -> list:
        return self.said

    def is_up(self) -> bool:
        return self.up

    def end(self) -> None:
        self.ended = True


def test_a_worker_that_starts_and_never_says_who_it_is_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(vigils, "ASK_SECONDS", 0.0)
    vigil = vigils.Vigil(5.0, start_seconds=20.0)
    vigil._ray, vigil._watchdog = FakeRay, Watchdog(5.0, clock)
    silent, hung, slow = (Worker(started=FakeStarted(True, [])) for _ in range(3))
    for second in range(40):
        clock.now += 1.0
        hung.started.said = [pulse.Pulse("", 0, (7,), ())]
        slow.started.said = [pulse.Pulse("", 0, (second // 15,), ())]
        assert list(vigil.look([silent, hung, slow])) == []
        assert vigil.stalled([silent, hung, slow]) == ([hung] if second > 21 else []), second
    hung.pulse = None  # as when it is made anew
    list(vigil.look([hung]))
    assert vigil.stalled([hung]) == []


def test_a_worker_without_a_word_is_made_anew_where_it_is_there_and_else_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(crews, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(crews, "RESTART_PAUSE_SECONDS", 0.0)
    made: list[FakeStarted] = []

    def start() -> FakeStarted:
        made.append(FakeStarted(len(made) < 2, []))
        return made[-1]

    crew = crews.Crew(types.SimpleNamespace(start=start), 1, elastic=None, retries=5, start_seconds=0.05)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not crew.workers[0].lost and time.monotonic() < deadline:
        crew.tend(1)
        time.sleep(0.01)
    assert [one.ended for one in made] == [True] * 3  # two that were there, then one that did not come
    assert list(crew.losses) == ["A worker did not start within 0 s. it was there and said nothing for 0 s"]


# --- whole files --------------------------------------------------------------------------------------------------------


def ended(desk: FileDesk, count: int) -> dict[str, Ended]:
    """What became of the calls of a desk, by their keys."""
    over: dict[str, Ended] = {}
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(over) < count:
        assert time.monotonic() < deadline
        over |= {one.key: one for one in desk.ended()}
        time.sleep(0.02)
    return over


def judge_calls(desk: FileDesk, folder: Path) -> None:
    """Calls that stand still in all ways, side by side with one that is slow."""
    ways = ("wait", "once:hold", "once:stop", "slow")
    for way in ways:
        desk.begin("plan", way, "tests.hanging:call", (way, str(folder / way)))
    over = ended(desk, 4)
    assert [over[way].answer.error for way in ways[1:]] == [None] * 3
    assert [len(over[way].deaths) for way in ways] == [2, 1, 1, 0]
    error = over["wait"].answer.error
    assert error is not None and error.kind == "Stalled" and not error.retry
    for way, where in (("wait", "wait_for_ever"), ("once:hold", "hold_the_interpreter")):
        for death in over[way].deaths:
            assert (
                death.startswith(f"stood still for {STALL_SECONDS:g} s and was killed (process ")
                and f" in {where}\n" in death
            )
    assert "it was stopped (SIGSTOP" in over["once:stop"].deaths[0]
    assert (folder / "wait").stat().st_size == 2


def test_a_child_that_stands_still_is_killed_and_followed_by_another(tmp_path: Path) -> None:
    judge_calls(FileDesk(retries=2, stall_seconds=STALL_SECONDS), tmp_path)


def test_a_machine_that_slept_kills_nobody(tmp_path: Path) -> None:
    """Driver and child stand still together, and go on together."""
    desk = FileDesk(retries=1, stall_seconds=STALL_SECONDS)
    desk.begin("plan", "a", "tests.hanging:call", ("slow", str(tmp_path / "a")))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (tmp_path / "a").exists():
        assert time.monotonic() < deadline and desk.ended() == []
        time.sleep(0.02)
    (pid,) = (one.call._process.pid for one in desk._open)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(2 * STALL_SECONDS)
    found = desk.ended()
    os.kill(pid, signal.SIGCONT)
    assert found == []
    assert ended(desk, 1)["a"].answer.value == pid


def test_what_is_said_of_a_file_whose_processes_stood_still(tmp_path: Path) -> None:
    error = SpanError("Stalled", "stood still for 3 s and was killed (it waits)", "stacks", False, False)
    deaths = ("killed by SIGSEGV", f"{error.message}\nstacks")
    failures = Failures(Listeners(ProgressDisplay(stream=io.StringIO()), load_config("dashcam").workers))
    job = Job(Path("/card/a.mp4"), tmp_path / "a.mp4")
    report = failures.told(job, Ended("join", str(job.output), Answer(error=error), deaths), "joined")
    assert (report.status, report.exit_code) == ("failed", 1)
    assert report.error == (
        f"/card/a.mp4: each process in which it was joined died or stood still (2 attempts; the last: {error.message}; log in "
        f"{tmp_path}/a.mp4.error.log); the file is damaged, or a disk or network share does not answer; where it is only slow, raise "
        "workers.stall_seconds."
    )
    assert (tmp_path / "a.mp4.error.log").read_text() == f"Attempt 1: {deaths[0]}\nAttempt 2: {deaths[1]}\n"


# --- workers ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with connect(slots=2) as found:
        yield found


def test_calls_on_ray(cluster: Cluster, tmp_path: Path) -> None:
    desk = FileDesk(retries=2, stall_seconds=STALL_SECONDS)
    desk.use(cluster)
    try:
        judge_calls(desk, tmp_path)
    finally:
        desk.close()


def test_a_process_of_another_node_is_ended_there(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a task; this is its node too."""
    import ray

    child = subprocess.Popen(["sleep", "1000"])
    here = process_here(child.pid, stacks=-1)
    assert here is not None
    process = dataclasses.replace(here, node=ray.get_runtime_context().get_node_id())
    os.kill(child.pid, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(pulse, "ELSEWHERE_SECONDS", PATIENCE_SECONDS)
        found = pulse._end_elsewhere(dataclasses.replace(process, started=process.started - 1))
        assert found.words == "it was gone already" and child.poll() is None  # the number is another process's now
        found = pulse._end_elsewhere(process)
    assert child.wait(60) == -signal.SIGKILL and found.words.startswith("it was stopped")
    nowhere = dataclasses.replace(process, node="e" * 56)
    assert pulse._end_elsewhere(nowhere).words.startswith("its node could not be asked")


@pytest.mark.long
def test_a_worker_that_stands_still_costs_its_span_one_attempt(cluster: Cluster, tmp_path: Path) -> None:
    ways = ["wait", "once:hold", "once:stop", "slow", "pass"]
    (tmp_path / "ways").write_text(" ".join(ways))
    tasks = [SpanTask(f"k{number}", str(tmp_path), 0, number, 10, CLASS) for number in range(len(ways))]
    events: list[Event] = []
    began = time.monotonic()
    with SpanPool(
        cluster,
        "tests.hanging:span",
        "tests.hanging:fake_class",
        workers=2,
        retries=2,
        stall_seconds=STALL_SECONDS,
    ) as pool:
        pool.wait_ready()
        for task in tasks:
            pool.submit(task)
        for event in pool.events():
            events.append(event)
            assert time.monotonic() - began < PATIENCE_SECONDS
    ends = {event.task.span: event for event in events if isinstance(event, Done | Failed)}
    assert [type(ends[number]) for number in range(5)] == [Failed, *[Done] * 4]
    retried = {event.task.span: event.error for event in events if isinstance(event, Retrying)}
    assert sorted(retried) == [0, 1, 2] and {error.kind for error in retried.values()} == {"Stalled"}
    poison = ends[0]
    assert isinstance(poison, Failed) and poison.attempts == 2 and poison.log.count(" in wait_for_ever\n") == 2
    assert poison.error.message.startswith(
        f"The worker stood still for {STALL_SECONDS:g} s at span 0 of {tmp_path}, 7 of its 10 frames done, and was killed "
    )
    assert "it was stopped (SIGSTOP" in retried[2].message


def test_a_decoder_that_hangs_once_costs_no_byte_and_one_that_always_hangs_costs_its_file(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """True conversions on true workers."""
    (tmp_path / "card").mkdir()
    good = make_clip(tmp_path / "card" / "good.mp4", frames=45, width=64, height=48, gop=40, audio=True)
    poison = make_clip(tmp_path / "card" / "poison.mp4", frames=8, width=64, height=48)
    words = ["model=neutral", "span.target_seconds=0.6", "span.min_seconds=0.3", "output.preset=ultrafast"]
    words += ["workers.count=2", "workers.threads=1", "workers.retries=2", "workers.stall_seconds=12"]
    config = load_config("dashcam", None, words)
    convert(good, tmp_path / "expected.mp4", config)
    monkeypatch.setattr(batches, "connect", lambda *_, **__: contextlib.nullcontext(cluster))
    monkeypatch.setattr(batches, "RUN_SPAN", "tests.hanging_decoder:run_span")
    out = tmp_path / "out"
    report = batches.run_batch([Job(one, out / one.name) for one in (good, poison)], config)
    done, failed = report.files
    assert (done.status, failed.status, report.exit_code) == ("done", "failed", 1)
    assert (out / "good.mp4").read_bytes() == (tmp_path / "expected.mp4").read_bytes()
    assert (out / "hung").exists() and "good.mp4: span " in capfd.readouterr().err
    error = failed.error or ""
    assert "stood still for 12 s at span " in error and "(2 attempts; log in " in error
    log = Path(error.split("log in ")[1].rstrip(")"))
    assert log.parent == out / "poison.mp4.work" and log.read_text().count(" in wait_for_ever\n") == 2
    assert sorted(path.name for path in out.iterdir()) == ["good.mp4", "hung", "poison.mp4.work"]
    assert not list(log.parent.glob("*.mp4"))
