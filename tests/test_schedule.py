"""Which file is looked at and which span is handed out: every span once, long files first, begun files before others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.scheduling import in_the_driver, simulate
from workers.schedule import Schedule

ARCHIVE = st.lists(st.lists(st.integers(1, 300), max_size=12), max_size=12)


@given(archive=ARCHIVE, workers=st.integers(1, 6), lookers=st.integers(1, 4), data=st.data())
def test_every_span_is_handed_out_once_whatever_ends_when(
    archive: list[list[int]], workers: int, lookers: int, data: st.DataObject
) -> None:
    """Files that are looked at, spans that end or are given back, in any order."""
    schedule = Schedule(ahead=2 * workers, lookers=lookers)
    for number, spans in enumerate(archive):
        schedule.add(str(number), sum(spans) * 1000)
    looked_at: list[str] = []
    running: list[tuple[str, tuple[int, int]]] = []
    done: list[tuple[str, tuple[int, int]]] = []
    while True:
        while (name := schedule.next_file()) is not None:
            looked_at.append(name)
        assert len(looked_at) <= lookers
        while len(running) < workers and (span := schedule.next_span()) is not None:
            running.append(span)
        assert len(running) == workers or not schedule.ready
        if not looked_at and not running:
            break
        if looked_at and (not running or data.draw(st.booleans())):
            name = looked_at.pop(data.draw(st.integers(0, len(looked_at) - 1)))
            spans = archive[int(name)]
            schedule.found(name, [((0, n), frames) for n, frames in enumerate(spans)], len(spans))
        else:
            name, place = running.pop(data.draw(st.integers(0, len(running) - 1)))
            if data.draw(st.integers(0, 9)) == 0:
                schedule.give_back(name, place, archive[int(name)][place[1]])
            else:
                done.append((name, place))
    assert schedule.waiting == 0
    assert sorted(done) == sorted((str(f), (0, n)) for f, spans in enumerate(archive) for n in range(len(spans)))


@given(sizes=st.lists(st.integers(0, 10**12), min_size=1, unique=True))
def test_the_longest_file_is_looked_at_first(sizes: list[int]) -> None:
    schedule = Schedule(ahead=10**9, lookers=len(sizes))
    for size in sizes:
        schedule.add(str(size), size)
    assert [schedule.next_file() for _ in sizes] == [str(size) for size in sorted(sizes, reverse=True)]
    assert schedule.next_file() is None


def test_begun_files_go_first_and_in_them_the_longest_span() -> None:
    schedule = Schedule(ahead=100, lookers=9)
    spans = {"a": [5, 9, 7], "b": [90, 80], "c": [1]}
    for name in spans:
        schedule.add(name, 1)
        assert schedule.next_file() == name
    schedule.found("a", [((0, n), frames) for n, frames in enumerate(spans["a"])], 3)
    assert schedule.next_span() == ("a", (0, 1))
    for name in ("c", "b"):
        schedule.found(name, [((0, n), frames) for n, frames in enumerate(spans[name])], len(spans[name]))
    rest = [schedule.next_span() for _ in range(5)]
    assert rest == [("a", (0, 2)), ("a", (0, 0)), ("b", (0, 0)), ("b", (0, 1)), ("c", (0, 0))]
    assert schedule.next_span() is None
    schedule.give_back("b", (0, 1), 80)
    assert schedule.next_span() == ("b", (0, 1))


def test_files_are_looked_at_only_until_enough_is_ready() -> None:
    schedule = Schedule(ahead=4, lookers=3)
    for number in range(6):
        schedule.add(str(number), 100)
    assert [schedule.next_file() for _ in range(4)] == ["0", "1", "2", None]
    schedule.found("0", [((0, n), 9) for n in range(3)], 3)
    assert (
        schedule.next_file() is None
    )  # three are ready, and two files are being looked at that have three each by guess
    schedule.drop("1")
    schedule.put_back("2")
    assert schedule.next_file() == "3"
    for _ in range(3):
        schedule.next_span()
    assert (schedule.waiting, schedule.ready) == (3, 0)


def test_the_simulation_does_all_the_work_and_keeps_workers_busy() -> None:
    """The judge of busy time is arithmetic: work over workers times the time it took."""
    archive = [[100] * 40, [60] * 3, [60], [80] * 10]
    for run in (in_the_driver, simulate):
        told = run(archive, workers=3)
        work = sum(map(sum, archive))
        assert told.frames == work
        assert told.seconds * 3 * told.busy * told.frames_per_second == pytest.approx(work)
        assert len(told.finished_at) == 4 and max(told.finished_at) <= told.seconds
