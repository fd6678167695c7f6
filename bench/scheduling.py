"""How busy workers are over an archive of uneven files: a simulation with the true order of work (workers/schedule.py) and no real work.

python -m bench.scheduling      writes bench/results/scheduling.md
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from workers.schedule import Schedule

RESULTS = Path(__file__).parent / "results" / "scheduling.md"
FRAMES_PER_SECOND = 10.0
"""Of one worker."""
LOOK_SECONDS, LOOK_FRAMES_PER_SECOND = 0.5, 2000.0
"""Planning a file: a fixed part, and reading it through. Measured 0.5 to 5 s for files of up to some minutes."""
JOIN_SECONDS, JOIN_FRAMES_PER_SECOND = 0.3, 4000.0
SPAN_FRAMES = 120
WORKERS = (4, 16, 50)

Archive = Sequence[Sequence[int]]
"""Files, each as the frames of its spans."""


@dataclass(frozen=True)
class Told:
    """busy: share of all workers' time, from the start to the last published file; finished_at: seconds at which files were published"""

    seconds: float
    frames: int
    busy: float
    finished_at: tuple[float, ...]
    frames_per_second: float = FRAMES_PER_SECOND


class _Workers:
    """Spans begin in the order in which they are handed in."""

    def __init__(self, count: int) -> None:
        self._free = [0.0] * count
        self.worked = 0.0

    def end_of(self, frames: int, now: float) -> float:
        """When a span ends that is handed in now."""
        seconds = frames / FRAMES_PER_SECOND
        self.worked += seconds
        end = max(now, heapq.heappop(self._free)) + seconds
        heapq.heappush(self._free, end)
        return end


def simulate(archive: Archive, workers: int) -> Told:
    """As Sunvisor does it: workers/batch_run.py with its clock replaced."""
    lookers = max(2, min(32, workers // 2))
    schedule = Schedule(ahead=2 * workers, lookers=lookers)
    for number, spans in enumerate(archive):
        schedule.add(str(number), sum(spans))
    pool = _Workers(workers)
    events: list[tuple[float, str, int]] = []
    left = [len(spans) for spans in archive]
    to_join: deque[int] = deque()
    in_flight = joining = 0
    now, finished = 0.0, []
    while True:
        while (name := schedule.next_file()) is not None:
            heapq.heappush(events, (now + _look_seconds(archive[int(name)]), "look", int(name)))
        while in_flight < 2 * workers and (chosen := schedule.next_span()) is not None:
            file, (_, span) = int(chosen[0]), chosen[1]
            heapq.heappush(events, (pool.end_of(archive[file][span], now), "span", file))
            in_flight += 1
        while to_join and joining < lookers:
            file = to_join.popleft()
            heapq.heappush(events, (now + _join_seconds(archive[file]), "join", file))
            joining += 1
        if not events:
            return _told(now, pool, archive, workers, finished)
        now, kind, file = heapq.heappop(events)
        if kind == "look":
            schedule.found(str(file), [((0, n), frames) for n, frames in enumerate(archive[file])], len(archive[file]))
            to_join += [] if archive[file] else [file]
        elif kind == "span":
            in_flight -= 1
            left[file] -= 1
            to_join += [] if left[file] else [file]
        else:
            joining -= 1
            finished.append(now)


def in_the_driver(archive: Archive, workers: int) -> Told:
    """What came before, to compare with: files in the order of their names, planned and joined one by one by the driver itself."""
    pool = _Workers(workers)
    ends: list[tuple[float, int]] = []
    todo = deque(range(len(archive)))
    left = [len(spans) for spans in archive]
    now, finished = 0.0, []
    while todo or ends:
        if todo and len(ends) < 2 * workers:
            file = todo.popleft()
            now += _look_seconds(archive[file])
            for frames in archive[file]:
                heapq.heappush(ends, (pool.end_of(frames, now), file))
            over = not archive[file]
        else:
            end, file = heapq.heappop(ends)
            now = max(now, end)
            left[file] -= 1
            over = left[file] == 0
        if over:
            now += _join_seconds(archive[file])
            finished.append(now)
    return _told(now, pool, archive, workers, finished)


def _told(now: float, pool: _Workers, archive: Archive, workers: int, finished: list[float]) -> Told:
    frames = sum(map(sum, archive))
    return Told(now, frames, pool.worked / (workers * now) if now else 1.0, tuple(finished))


def _look_seconds(spans: Sequence[int]) -> float:
    return LOOK_SECONDS + sum(spans) / LOOK_FRAMES_PER_SECOND


def _join_seconds(spans: Sequence[int]) -> float:
    return JOIN_SECONDS + sum(spans) / JOIN_FRAMES_PER_SECOND


def _file(frames: int, chance: random.Random) -> list[int]:
    """A file's spans: about 4 s each, cut at keyframes."""
    spans = []
    while frames > 0:
        spans.append(min(frames, chance.randint(SPAN_FRAMES // 2, SPAN_FRAMES * 2)))
        frames -= spans[-1]
    return spans


def archives() -> dict[str, Archive]:
    """What is simulated, at 30 frames a second."""
    chance = random.Random(7)
    uneven = [_file(max(30, round(chance.lognormvariate(7.5, 1.2))), chance) for _ in range(600)]
    minutes = [_file(1800, chance) for _ in range(400)]
    return {
        "600 files, uneven: median 1 minute, longest the last": sorted(uneven, key=sum),
        "400 files of a minute": minutes,
        "100 files of a minute, then one of 2 hours": [*minutes[:100], _file(216_000, chance)],
        "3000 clips of 5 s": [_file(150, chance) for _ in range(3000)],
    }


def main() -> None:
    """Write the table."""
    ways: tuple[tuple[str, Callable[[Archive, int], Told]], ...] = (
        ("in the driver", in_the_driver),
        ("now", simulate),
    )
    lines = [
        "# Scheduling, simulated",
        "",
        "`python -m bench.scheduling`: no real work; the order of work is that of `workers/schedule.py`, the same code as in a run. A worker",
        f"converts {FRAMES_PER_SECOND:g} frames a second; planning a file takes {LOOK_SECONDS} s and {LOOK_FRAMES_PER_SECOND:g} frames a "
        f"second, joining it {JOIN_SECONDS} s and {JOIN_FRAMES_PER_SECOND:g} frames a second.",
        "",
        "`busy`: share of all workers' time from the start to the last published file. `half published`: when half of the files are there, as a",
        "share of the whole time. `in the driver`: files by name, planned and joined one by one in the driver's process, as it was before.",
        "",
        "| archive | workers | way | hours | busy | half published |",
        "|---|---|---|---|---|---|",
    ]
    for name, archive in archives().items():
        for workers in WORKERS:
            for way, run in ways:
                told = run(archive, workers)
                half = sorted(told.finished_at)[len(told.finished_at) // 2] / told.seconds
                lines.append(
                    f"| {name} | {workers} | {way} | {told.seconds / 3600:.2f} | {told.busy:.1%} | {half:.0%} |"
                )
    RESULTS.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))  # noqa: T201


if __name__ == "__main__":
    main()
