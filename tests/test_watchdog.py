"""The watchdog: what stands still is killed and tried again, in whatever way it does so, and what moves never is."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hanging import CLASS
from workers.cluster import Cluster, connect
from workers.events import Done, Event, Failed, Retrying
from workers.file_desk import Ended, FileDesk
from workers.pool import SpanPool
from workers.span_worker import SpanTask
from workers.watchdog import Watchdog

PATIENCE_SECONDS = 280.0
STALL_SECONDS = 3.0


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
    for way in ("wait", "once:wait", "once:hold", "once:stop", "slow"):
        desk.begin("plan", way, "tests.hanging:call", (way, str(folder / way)))
    over = ended(desk, 5)
    assert [over[way].answer.error for way in ("once:wait", "once:hold", "once:stop", "slow")] == [None] * 4
    assert [len(over[way].deaths) for way in ("wait", "once:wait", "once:hold", "once:stop", "slow")] == [2, 1, 1, 1, 0]
    error = over["wait"].answer.error
    assert error is not None and error.kind == "Stalled" and not error.retry
    for way, where in (
        ("wait", "wait_for_ever"),
        ("once:wait", "wait_for_ever"),
        ("once:hold", "hold_the_interpreter"),
    ):
        for death in over[way].deaths:
            assert death.startswith("stood still for 3 s and was killed (process ") and f" in {where}\n" in death
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


def test_a_worker_that_stands_still_costs_its_span_one_attempt(cluster: Cluster, tmp_path: Path) -> None:
    ways = ["wait", "once:wait", "once:hold", "once:stop", "slow", "pass"]
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
    assert [type(ends[number]) for number in range(6)] == [Failed, *[Done] * 5]
    retried = {event.task.span: event.error for event in events if isinstance(event, Retrying)}
    assert sorted(retried) == [0, 1, 2, 3] and {error.kind for error in retried.values()} == {"Stalled"}
    poison = ends[0]
    assert isinstance(poison, Failed) and poison.attempts == 2 and poison.log.count(" in wait_for_ever\n") == 2
    assert poison.error.message.startswith(
        f"The worker stood still for 3 s at span 0 of {tmp_path}, 7 of its 10 frames done, and was killed "
    )
    assert "it was stopped (SIGSTOP" in retried[3].message
