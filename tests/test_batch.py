"""Batches, with files that are no videos (tests/fake_files.py): what one file's failure costs, pause, time limit, watching, status, report."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import load_config
from pipeline.convert import Joining
from pipeline.errors import InputError
from pipeline.ledger import WorkLock
from pipeline.planning import Asked
from run_pipeline import main
from tests import fake_files
from tests.fake_files import make_source
from tests.here import DeskHere, PoolHere
from workers import area as areas
from workers import batch_run
from workers import status as statuses
from workers.area import Area, area_of, find_area
from workers.batch_file import Options
from workers.batch_run import BatchRun
from workers.cluster import RayLost
from workers.file_desk import Call, FileDesk
from workers.file_process import Answer, answer
from workers.jobs import Job
from workers.listeners import Listeners
from workers.progress import ProgressDisplay
from workers.span_worker import SpanTask
from workers.watch import Stillness, Watch

FAKE_PLAN, FAKE_JOIN = "tests.fake_files:plan", "tests.fake_files:join"


class FakePool(PoolHere):
    """Converts nothing."""

    def convert(self, task: SpanTask) -> dict:
        return fake_files.convert(task)


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_run, "FileDesk", DeskHere)
    monkeypatch.setattr(batch_run, "PLAN_FILE", FAKE_PLAN)
    monkeypatch.setattr(batch_run, "JOIN_FILE", FAKE_JOIN)
    monkeypatch.setattr(batch_run, "STATUS_SECONDS", 0.0)


class Batch:
    """A batch over sources in tmp_path/in; results and area in tmp_path/out."""

    def __init__(self, folder: Path, options: Options | None = None, retries: int = 2) -> None:
        self.out = folder / "out"
        self.area = area_of(self.out, one_file=False)
        self.area.open()
        self.said = io.StringIO()
        config = load_config("dashcam", None, [f"workers.retries={retries}"])
        self.progress = Listeners(ProgressDisplay(stream=self.said), config.workers)
        self.run = BatchRun(config, fake_files.MACHINE, self.progress, self.area, options or Options())
        self.pool = FakePool()

    def job(self, source: Path) -> Job:
        return Job(source, self.out / source.name)

    def go(self, sources: list[Path], workers: int = 2) -> dict[str, str]:
        """Returns what became of each file, by its name."""
        try:
            with self.run.interrupts, contextlib.suppress(KeyboardInterrupt):
                self.run.add(map(self.job, sources))
                if self.run.begin():
                    self.run.run(self.pool, workers, lookers=2)
        finally:
            self.run.close()
        self.reports = {Path(one.source).name: one for one in self.run.reports()}
        self.code = self.run.exit_code(list(self.reports.values()))
        return {name: one.status for name, one in self.reports.items()}

    def left(self) -> list[str]:
        """Names in the output folder, the area left out."""
        return sorted(path.name for path in self.out.iterdir() if path.name != areas.AREA_NAME)


# --- failures -----------------------------------------------------------------------------------------------------------


def test_what_goes_wrong_with_a_file_costs_that_file(tmp_path: Path) -> None:
    sources = [make_source(tmp_path / "in" / "good.mp4", [10, 20])]
    wrongs = [(stage, how) for stage in ("plan", "join") for how in ("input", "failed", "bug")]
    for stage, how in wrongs:
        sources.append(make_source(tmp_path / "in" / f"{stage} {how}.mp4", [10], **{stage: how}))
    batch = Batch(tmp_path)
    wanted = {"input": "refused", "failed": "failed", "bug": "failed"}
    assert batch.go(sources) == {"good.mp4": "done"} | {f"{stage} {how}.mp4": wanted[how] for stage, how in wrongs}
    assert batch.code == 1
    assert (tmp_path / "out" / "good.mp4").read_text() == "2 spans"
    for stage in ("plan", "join"):
        error = batch.reports[f"{stage} bug.mp4"].error or ""
        assert "could not be converted (ZeroDivisionError: a bug; log in " in error
        assert "Traceback" in Path(error.split("log in ")[1].rstrip(").")).read_text()
    assert not [name for name in batch.left() if name.startswith("plan") and name.endswith(".work")]
    assert (tmp_path / "out" / "join failed.mp4.work" / "ledger.jsonl").exists()  # its span is not done again
    again = Batch(tmp_path)
    make_source(tmp_path / "in" / "join failed.mp4", [10])
    assert again.go([tmp_path / "in" / "join failed.mp4"]) == {"join failed.mp4": "done"}
    assert again.reports["join failed.mp4"].spans_reused == 1


class DeskForKillers(FileDesk):
    """True processes for the calls that die, each of which costs seconds; the others are answered here."""

    def _start(self, entry: str, argument: Asked | Joining) -> Call:
        asked = argument if isinstance(argument, Asked) else argument.planned.prepared
        kind = "plan" if entry == FAKE_PLAN else "join"
        if json.loads(asked.source.read_text()).get(kind) == "die":
            return super()._start(entry, argument)
        return AnsweredHere(answer(entry, argument))


@dataclass(frozen=True, eq=False)
class AnsweredHere:
    """A call that is over."""

    answer: Answer

    def poll(self) -> Answer:
        return self.answer

    def beat(self) -> None:
        pass

    def put_down(self) -> None:
        pass

    def kill(self) -> None:
        pass


def test_a_file_that_kills_whoever_looks_at_it_costs_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In true processes, which die of a segmentation fault."""
    monkeypatch.setattr(batch_run, "FileDesk", DeskForKillers)
    sources = [
        make_source(tmp_path / "in" / "hostile.mp4", [10] * 9, plan="die"),
        make_source(tmp_path / "in" / "good.mp4", [10]),
        make_source(tmp_path / "in" / "late.mp4", [10], join="die"),
    ]
    batch = Batch(tmp_path)
    assert batch.go(sources) == {"hostile.mp4": "failed", "good.mp4": "done", "late.mp4": "failed"}
    told = (
        f"{sources[0]}: each process in which it was looked at died (2 attempts; the last: killed by SIGSEGV; log in "
    )
    assert (batch.reports["hostile.mp4"].error or "").startswith(told)
    assert "in which it was joined died (2 attempts" in (batch.reports["late.mp4"].error or "")
    log = (tmp_path / "out" / "hostile.mp4.error.log").read_text()
    assert log.count("Attempt") == 2 and "killed by SIGSEGV" in log
    assert batch.code == 1


@pytest.mark.parametrize("losses", [1, 2, 3])
def test_what_a_lost_ray_had_is_done_on_the_next(tmp_path: Path, losses: int) -> None:
    """Ray is lost while spans are in flight, `losses` times in a row; with two retries three times are too many."""
    batch, checks, left = Batch(tmp_path, retries=2), [0], [losses]
    sources = [make_source(tmp_path / "in" / f"{number}.mp4", [10, 20, 30]) for number in range(2)]

    def check() -> None:
        checks[0] += 1
        if left[0] and batch.pool.tasks:
            left[0] -= 1
            raise RayLost("Ray's process raylet has ended (killed by SIGKILL)")

    def on_rays() -> None:
        again = True
        while again:
            try:
                batch.run.run(batch.pool, 2, lookers=2, check=check)
                again = False
            except RayLost as lost:
                batch.pool = FakePool()
                again = batch.run.ray_lost(lost)

    batch.run.add(map(batch.job, sources))
    assert batch.run.begin()
    try:
        on_rays()
    finally:
        batch.run.close()
    if losses == 3:
        errors = [one.error or "" for one in batch.run.reports()]
        assert all(
            "raylet has ended (killed by SIGKILL), 3 times in a row without a span done" in one for one in errors
        )
        assert batch.run.exit_code(batch.run.reports()) == 1
        return
    assert [one.status for one in batch.run.reports()] == ["done", "done"] and not left[0]
    assert {source.name: (batch.out / source.name).read_text() for source in sources} == {
        "0.mp4": "3 spans",
        "1.mp4": "3 spans",
    }
    assert batch.said.getvalue().count("Ray is started anew") == losses


def test_a_single_bad_file_needs_no_pool(tmp_path: Path) -> None:
    batch = Batch(tmp_path)
    assert batch.go([make_source(tmp_path / "in" / "bad.mp4", [], plan="input")]) == {"bad.mp4": "refused"}
    assert (batch.run.workers, batch.code, batch.left()) == (0, 2, [])


# --- order --------------------------------------------------------------------------------------------------------------


def test_long_files_begin_first_and_files_finish_one_after_the_other(tmp_path: Path) -> None:
    sizes = {"a.mp4": [5, 5], "b.mp4": [9, 30, 20, 8, 7, 6], "c.mp4": [4, 4, 4]}
    batch = Batch(tmp_path)
    batch.go([make_source(tmp_path / "in" / name, spans) for name, spans in sizes.items()], workers=1)
    begun = [(Path(task.workdir).stem, task.frames) for task in batch.pool.begun]
    assert begun == [
        *[("b.mp4", frames) for frames in (30, 20, 9, 8, 7, 6)],
        *[("c.mp4", 4)] * 3,
        *[("a.mp4", 5)] * 2,
    ]
    done = [line for line in batch.said.getvalue().splitlines() if "done:" in line]
    assert [line.split(":")[0] for line in done] == ["b.mp4", "c.mp4", "a.mp4"]
    assert list(batch.reports) == list(sizes)  # told in the order in which they were asked for


# --- pause, time, watch -------------------------------------------------------------------------------------------------


def test_pause_begins_nothing_new_and_resume_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Batch(tmp_path)
    source = make_source(tmp_path / "in" / "a.mp4", [10] * 8)
    begun_while_paused: list[int] = []
    asked_for: list[bool] = []

    def aside(task: SpanTask) -> None:
        if len(batch.pool.begun) == 3:
            assert main(["pause", str(batch.out)]) == 0

    def status_written(self: Area, facts: dict) -> None:
        if facts["state"] == "paused":
            begun_while_paused.append(len(batch.pool.begun))
            if len(begun_while_paused) == 5:
                assert main(["resume", str(batch.out)]) == 0
        asked_for.append(facts["state"] == "paused")
        write(self, facts)

    write = Area.write_status
    monkeypatch.setattr(Area, "write_status", status_written)
    monkeypatch.setattr(FakePool, "asides", staticmethod(aside))
    monkeypatch.setattr(batch_run, "TICK_SECONDS", 0.0)
    assert batch.go([source]) == {"a.mp4": "done"}
    assert len(set(begun_while_paused)) == 1 and begun_while_paused[0] < 8
    assert len(batch.pool.begun) == 8
    said = batch.said.getvalue()
    assert said.index("paused: running spans finish") < said.index("\nresumed\n") < said.index("a.mp4: done")


def test_pause_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no conversion is or was under way there \(.*\.sunvisor does not exist\)"):
        find_area(tmp_path)
    Batch(tmp_path)
    assert main(["pause", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out" / ".sunvisor" / "pause").exists()


def test_a_pause_ends_with_its_run(tmp_path: Path) -> None:
    batch = Batch(tmp_path)
    batch.run.tell("paused")
    batch.area.pause()
    batch.area.open()
    assert batch.area.paused  # its driver lives
    batch.run.tell("stopped", 130)
    batch.area.open()
    assert not batch.area.paused


def test_after_max_hours_nothing_begins_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [make_source(tmp_path / "in" / f"{n}.mp4", [10] * size) for n, size in enumerate((6, 4, 2))]
    batch = Batch(tmp_path, Options(max_seconds=3600.0))

    def aside(task: SpanTask) -> None:
        if len(batch.pool.begun) == 7:
            batch.run.began -= 3600

    monkeypatch.setattr(FakePool, "asides", staticmethod(aside))
    monkeypatch.setattr(batch_run, "TICK_SECONDS", 0.0)
    became = batch.go(sources, workers=1)
    assert became == {"0.mp4": "done", "1.mp4": "interrupted", "2.mp4": "interrupted"}
    assert batch.code == batch.reports["1.mp4"].exit_code == 3
    assert "--max-hours" in (batch.reports["1.mp4"].error or "")
    assert batch.reports["1.mp4"].spans_done == len(batch.pool.begun) - 6
    again = Batch(tmp_path)
    assert again.go(sources) == {"0.mp4": "already done", "1.mp4": "done", "2.mp4": "done"}
    assert again.reports["1.mp4"].spans_reused == batch.reports["1.mp4"].spans_done
    assert (again.code, again.left()) == (0, ["0.mp4", "1.mp4", "2.mp4"])


def test_no_time_at_all_begins_nothing(tmp_path: Path) -> None:
    batch = Batch(tmp_path, Options(max_seconds=0.0))
    assert batch.go([make_source(tmp_path / "in" / "a.mp4", [10])]) == {"a.mp4": "interrupted"}
    assert (batch.code, batch.run.workers, batch.left()) == (3, 0, [])
    assert batch.reports["a.mp4"].error == "the time allowed by --max-hours is over; not begun"


def test_watching_takes_files_as_they_come_and_a_mended_one_again(tmp_path: Path) -> None:
    first, bad = make_source(tmp_path / "in" / "a.mp4", [10]), make_source(tmp_path / "in" / "b.mp4", [], plan="input")
    turns: list[int] = []

    def come() -> list[Job]:
        turns.append(1)
        if len(turns) == 2:
            return [batch.job(first), batch.job(bad)]
        if len(turns) == 20:
            return [batch.job(make_source(bad, [10, 10]))]
        if len(turns) == 40:
            batch.run.interrupts.exit_code = 130  # as the first Ctrl-C does
        return []

    batch = Batch(tmp_path, Options(watch=come))
    assert batch.go([]) == {"a.mp4": "done", "b.mp4": "done"}
    assert "b.mp4: this is no video." in batch.said.getvalue()
    assert batch.code == 0


@given(
    writes=st.lists(st.integers(0, 60), max_size=8, unique=True),
    looks=st.lists(st.integers(0, 100), unique=True, min_size=1).map(sorted),
    still=st.integers(1, 20),
)
def test_a_file_is_taken_once_for_each_time_it_was_seen_still(writes: list[int], looks: list[int], still: int) -> None:
    """By a plain account of what was seen when."""
    stillness = Stillness(float(still))
    taken, seen, last = [], [], -1
    for now in looks:
        stamp = sum(write <= now for write in writes)
        seen = [*seen, now] if seen and stamp == last else [now]
        last = stamp
        wanted = now - seen[0] >= still and stamp not in taken
        assert stillness.ready({"a": stamp}, float(now)) == (["a"] if wanted else [])
        taken += [stamp] if wanted else []


def test_watch_tells_of_trouble_once_and_leaves_empty_files(tmp_path: Path) -> None:
    clock, told = [0.0], []
    found: list[Callable[[], list[Job]]] = []
    watch = Watch(lambda: found[-1](), 5.0, lambda: clock[0], told.append, rescan_seconds=0.01)
    empty, full = tmp_path / "a.mp4", tmp_path / "b.mp4"
    empty.touch()
    full.write_bytes(b"x")
    found.append(lambda: [Job(path, tmp_path / "out" / path.name) for path in (empty, full)])
    for now, wanted in ((0.0, []), (4.0, []), (5.0, ["b.mp4"]), (9.0, [])):
        clock[0] = now
        watch.rescan()
        assert [job.source.name for job in watch.new_jobs()] == wanted

    looks = 0

    def clash() -> list[Job]:
        nonlocal looks
        looks += 1
        raise InputError("two of one name")

    found.append(clash)
    with watch:
        deadline = time.monotonic() + 60
        while looks < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert looks >= 3 and told == ["watching: two of one name"]


# --- status and report --------------------------------------------------------------------------------------------------


def test_another_terminal_sees_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = [make_source(tmp_path / "in" / "a.mp4", [10, 10, 10, 10])]
    sources += [make_source(tmp_path / "in" / "bad.mp4", [], plan="input")]
    batch = Batch(tmp_path)
    seen: list[dict] = []

    def aside(task: SpanTask) -> None:
        if len(batch.pool.begun) == 3:
            assert main(["status", str(batch.out), "--json"]) == 0
            seen.append(json.loads(capsys.readouterr().out))
            assert main(["status", str(batch.out)]) == 0
            seen.append({"text": capsys.readouterr().out})

    monkeypatch.setattr(FakePool, "asides", staticmethod(aside))
    monkeypatch.setattr(batch_run, "TICK_SECONDS", 0.0)
    batch.go(sources)
    driver = seen[0]["drivers"][0]
    assert (driver["pid"], driver["state"], driver["alive"]) == (os.getpid(), "running", True)
    assert driver["files"] | {"planning": 0} == {
        "all": 2,
        "done": 0,
        "failed": 1,
        "planning": 0,
        "joining": 0,
        "waiting": 0,
    }
    assert driver["spans"] == 4 and driver["now"][0]["file"] == "a.mp4"
    assert driver["failures"][0]["error"] == "this is no video."
    (work,) = seen[0]["work"]
    assert work["folder"] == str(batch.out / "a.mp4.work")
    assert (work["pid"], work["held"], work["spans"], work["spans_done"]) == (os.getpid(), True, 4, 2)
    text = seen[1]["text"]
    assert f"pid {os.getpid()} on " in text and "refused: this is no video." in text and "2/4 spans done; pid" in text
    batch.run.tell("finished", batch.code)
    facts = statuses.status(batch.out)
    assert statuses.is_over(facts) and facts["drivers"][0]["exit_code"] == 2 and facts["work"] == []
    assert main(["status", str(batch.out), "--watch"]) == 0  # ends by itself
    assert "finished, exit code 2" in capsys.readouterr().out


def test_a_driver_that_was_killed_is_told_as_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Batch(tmp_path)
    batch.run.tell("running")
    monkeypatch.setattr(areas, "process_lives", lambda pid: False)
    facts = statuses.status(batch.out)
    assert "gone without a word" in statuses.status_text(facts, time.time())
    batch.area.open()  # the next driver forgets it
    assert batch.area.statuses() == []
    elsewhere = {"version": 1, "host": "elsewhere", "pid": 1, "state": "running", "updated": time.time()}
    assert areas.alive(elsewhere) and not areas.alive(elsewhere | {"updated": time.time() - 3600})


def test_one_file_s_area_is_its_work_folder(tmp_path: Path) -> None:
    output = tmp_path / "o.mp4"
    area = area_of(output, one_file=True)
    area.open()
    area.write_status({"state": "starting"})  # the folder is not there yet
    assert list(tmp_path.iterdir()) == []
    lock = WorkLock(area.folder)
    area.write_status({"state": "running"})
    for named in (output, area.folder):
        assert find_area(named).statuses()[0]["state"] == "running"
    lock.remove_folder()
    area.write_status({"state": "finished"})
    area.write_report({}, "")
    assert list(tmp_path.iterdir()) == []
    output.touch()
    with pytest.raises(InputError, match=r"o\.mp4 is there, complete"):
        find_area(output)


def test_a_full_disk_does_not_stop_the_telling_and_a_place_that_cannot_be_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    area = area_of(tmp_path / "out", one_file=False)
    area.open()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written there"):
        area_of(tmp_path / "file" / "out", one_file=False).open()

    def full(self: Path, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    area.write_status({"state": "running"})
    with pytest.raises(OSError, match="No space left"):
        area.write_report({}, "")


def test_a_folder_of_results_keeps_the_report(tmp_path: Path) -> None:
    area = area_of(tmp_path / "out", one_file=False)
    area.open()
    area.write_report({"files": [{"source": Path("a.mp4")}]}, "a table\n")
    assert json.loads((tmp_path / "out/.sunvisor/report.json").read_text()) == {"files": [{"source": "a.mp4"}]}
    assert sorted(path.name for path in area.folder.iterdir()) == ["report.json", "report.txt"]
