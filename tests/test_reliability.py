"""Whatever happens to a run, running the same command again gives the bytes that an undisturbed run gives.

The runs are real ones: `run_pipeline.py convert` in a process of its own, on a Ray of its own, killed and interrupted from
outside. The judge is one undisturbed conversion without Ray, in this process.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest
import torch

from configs.schema import Config, load_config
from models import checkpoints, registry
from models.model import ModelSpec
from pipeline import convert as conversions
from pipeline import lanes, planning, span_job
from pipeline.convert import convert, start
from pipeline.errors import ConversionError, InputError
from pipeline.ledger import WorkLock
from pipeline.places import work_folder
from tests.clips import make_clip
from tests.processes import stat_fields, usual_environment
from workers import batch as batches
from workers import file_work
from workers.events import Done
from workers.jobs import Job
from workers.progress import ProgressDisplay
from workers.span_worker import SpanTask

ROOT = Path(__file__).resolve().parents[1]
SHORT = ["span.target_seconds=0.6", "span.min_seconds=0.3", "output.preset=ultrafast"]
PLAIN = [*SHORT, "model=neutral"]
"""Where no network is needed: half the time."""
PATIENCE_SECONDS = 600.0
MARK = "SUNVISOR_TEST_RUN"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `tiny` DCDR-UNet with weights by chance: offsets reach far, and every pixel changes."""
    width = registry.WIDTHS["tiny"]
    built = registry.build("dcdr_unet", width)
    chance = torch.Generator().manual_seed(1)
    for name, parameter in built.named_parameters():
        spread = 0.2 if "offset" in name else 0.03
        parameter.data.add_(torch.randn(parameter.shape, generator=chance) * spread)
    path = tmp_path_factory.mktemp("model") / "scattered.safetensors"
    checkpoints.save(
        path, built, ModelSpec("dcdr_unet", width, False, "bt1886", "bt1886", 1.0, False, "none", "Apache-2.0")
    )
    return path


@pytest.fixture(scope="module")
def words(network: Path) -> list[str]:
    """Settings: short spans and a network that takes its time."""
    return [*SHORT, f"model={network}"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nearly four seconds with sound; the GOP is longer than a span."""
    path = tmp_path_factory.mktemp("clip") / "drive.mp4"
    return make_clip(path, frames=90, width=64, height=48, gop=40, audio=True)


@pytest.fixture(scope="module")
def short_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three spans."""
    return make_clip(tmp_path_factory.mktemp("clip") / "short.mp4", frames=45, gop=40, audio=True)


@pytest.fixture(scope="module")
def expected(clip: Path, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of an undisturbed conversion, by container."""
    folder = tmp_path_factory.mktemp("expected")
    for suffix in ("mp4", "mkv"):
        convert(clip, folder / f"o.{suffix}", load_config("dashcam", None, words))
    return {suffix: (folder / f"o.{suffix}").read_bytes() for suffix in ("mp4", "mkv")}


@pytest.fixture(scope="module")
def expected_plain(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of an undisturbed conversion with PLAIN."""
    output = tmp_path_factory.mktemp("plain") / "o.mp4"
    convert(clip, output, load_config("dashcam", None, PLAIN))
    return output.read_bytes()


class Run:
    """One `run_pipeline.py convert --json` in a session of its own."""

    def __init__(self, source: Path, output: Path, words: list[str], flags: tuple[str, ...] = ()) -> None:
        self.output, self.workdir = output, work_folder(output)
        self.mark = uuid.uuid4().hex
        environment = usual_environment()
        environment |= {"OMP_NUM_THREADS": "1", MARK: self.mark}
        command = [sys.executable, str(ROOT / "run_pipeline.py"), "convert", str(source), "--output", str(output)]
        self.process = subprocess.Popen(
            [*command, "--json", *flags, *words],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, exit_code: int = 0) -> dict[str, Any]:
        """Wait for the end; returns the first file's report."""
        return self.finish_batch(exit_code)["files"][0]

    def finish_batch(self, exit_code: int = 0) -> dict[str, Any]:
        """Wait for the end; returns the report."""
        out, err = self.process.communicate(timeout=PATIENCE_SECONDS)
        assert self.process.returncode == exit_code, (self.process.returncode, out, err)
        assert "Traceback" not in err, err
        self.stderr = err
        return json.loads(out)

    def wait_until(self, true: Callable[[], bool], pause: float = 0.005) -> bool:
        """True once the condition holds, False when the process ended before."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not true():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, "the run stands still"
            time.sleep(pause)
        return True

    def lines(self) -> int:
        """How many spans the ledger has."""
        try:
            return (self.workdir / "ledger.jsonl").read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0

    def parts(self) -> list[Path]:
        """Span files that are being written now."""
        return list(self.workdir.glob(".span_*.part"))

    def who_writes(self) -> int:
        """The process that writes a span's file, once another span is done."""
        seen: list[Path] = []

        def writing() -> bool:
            seen[:] = self.parts()
            return self.lines() >= 1 and bool(seen)

        assert self.wait_until(writing)
        return int(seen[0].name.split(".")[-2])

    def processes(self) -> dict[int, str]:
        """What this run started and what lives: pid -> command line."""
        return marked(self.mark)

    def signal_group(self, number: int) -> None:
        """What a terminal does: everybody in the foreground gets the signal."""
        os.killpg(self.process.pid, number)

    def assert_nothing_lives(self, seconds: float = 60.0) -> None:
        """Every process of the run is gone soon."""
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left, left


def marked(mark: str) -> dict[int, str]:
    """Live processes that carry a run's mark in their environment."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        try:
            if f"{MARK}={mark}".encode() not in (folder / "environ").read_bytes():
                continue
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        fields = stat_fields(pid)
        if fields and fields[0] != "Z":
            found[pid] = command
    return found


@pytest.fixture
def run(clip: Path, words: list[str]) -> Iterator[Callable[..., Run]]:
    """Starts runs, and ends what a failed test left of them."""
    started: list[Run] = []

    def begin(output: Path, *flags: str, source: Path = clip, more: tuple[str, ...] = ()) -> Run:
        started.append(Run(source, output, [*words, *more], flags))
        return started[-1]

    yield begin
    for one in started:
        for pid in one.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        one.process.communicate()


def assert_only(output: Path) -> None:
    """The output stands alone in its folder: no work folder, no partial or hidden file."""
    assert sorted(path.name for path in output.parent.iterdir()) == [output.name]


# --- the same bytes -----------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize(("workers", "threads"), [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 4)])
def test_the_same_bytes_in_every_constellation(
    run: Callable[..., Run], expected: dict[str, bytes], tmp_path: Path, suffix: str, workers: int, threads: int
) -> None:
    one = run(tmp_path / f"o.{suffix}", "--workers", str(workers), more=(f"workers.threads={threads}",))
    one.finish()
    assert one.output.read_bytes() == expected[suffix]
    assert_only(one.output)


@pytest.mark.parametrize("threads", [pytest.param(2, marks=pytest.mark.long), 3])
def test_the_same_bytes_for_other_threads_without_ray(
    clip: Path, words: list[str], expected: dict[str, bytes], tmp_path: Path, threads: int
) -> None:
    convert(clip, tmp_path / "o.mp4", load_config("dashcam", None, words), threads=threads)
    assert (tmp_path / "o.mp4").read_bytes() == expected["mp4"]


def test_the_same_bytes_when_memory_leaves_one_lane_with_more_threads_inside(
    clip: Path, words: list[str], expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "BUDGET_BYTES", 1)
    convert(clip, tmp_path / "o.mp4", load_config("dashcam", None, words), threads=3)
    assert (tmp_path / "o.mp4").read_bytes() == expected["mp4"]


# --- killed -------------------------------------------------------------------------------------------------------------


def killed_and_run_again(
    run: Callable[..., Run], output: Path, when: Callable[[Run], bool], whole_group: bool, wanted: bytes
) -> dict[str, Any]:
    """SIGKILL once `when` says so, then the same command again with fewer workers and threads; returns the second report."""
    first = run(output, "--workers", "2", more=("workers.threads=3",))
    running = first.wait_until(lambda: when(first), pause=0.0005)
    finished = first.lines()
    if running and whole_group:
        first.signal_group(signal.SIGKILL)
    elif running:
        first.process.kill()
    first.process.communicate()
    second = run(output, "--workers", "1")
    report = second.finish()
    assert report["status"] in ("done", "already done")
    if report["status"] == "done":
        assert report["spans_reused"] >= finished
    assert output.read_bytes() == wanted
    assert_only(output)
    first.assert_nothing_lives()
    second.assert_nothing_lives()
    return report


def test_a_killed_run_goes_on_where_it_was(run: Callable[..., Run], expected: dict[str, bytes], tmp_path: Path) -> None:
    report = killed_and_run_again(
        run, tmp_path / "o.mkv", lambda one: one.lines() >= 2 and bool(one.parts()), True, expected["mkv"]
    )
    assert report["spans_reused"] >= 2


@pytest.mark.long
@pytest.mark.parametrize("whole_group", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_killed_at_moments_by_chance(
    run: Callable[..., Run], expected: dict[str, bytes], tmp_path: Path, seed: int, whole_group: bool
) -> None:
    """Anywhere between the first import and the last rename."""
    began, moment = time.monotonic(), random.Random(seed).uniform(0.5, 12.0)
    killed_and_run_again(
        run, tmp_path / "o.mp4", lambda _: time.monotonic() - began > moment, whole_group, expected["mp4"]
    )


@pytest.mark.long
@pytest.mark.parametrize("whole_group", [True, False])
def test_killed_while_joining(
    run: Callable[..., Run], expected: dict[str, bytes], tmp_path: Path, whole_group: bool
) -> None:
    killed_and_run_again(
        run, tmp_path / "o.mp4", lambda one: any(one.workdir.glob("final.*")), whole_group, expected["mp4"]
    )


ZYGOTE = """
import json, os, signal, sys
from pathlib import Path
from configs.schema import load_config
from pipeline import convert as conversions, ledger, span_job
import pipeline.sidecars

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def before(owner, name, calls=1):
    real, seen = getattr(owner, name), []
    def dying(*args, **kwargs):
        seen.append(1)
        if len(seen) == calls:
            die()
        return real(*args, **kwargs)
    setattr(owner, name, dying)

def after(owner, name, calls=1):
    real, seen = getattr(owner, name), []
    def dying(*args, **kwargs):
        result = real(*args, **kwargs)
        seen.append(1)
        if len(seen) == calls:
            die()
        return result
    setattr(owner, name, dying)

def half_a_line():
    real = ledger.Ledger.append
    def dying(self, line):
        if self.path.exists():
            with self.path.open("ab") as file:
                file.write(json.dumps(line).encode()[:70])
            die()
        real(self, line)
    ledger.Ledger.append = dying

def half_joined():
    from pipeline.track_packets import TrackPackets
    real = TrackPackets.__iter__
    def dying(self):
        for number, packet in enumerate(real(self)):
            if number == 20:
                die()
            yield packet
    TrackPackets.__iter__ = dying

def half_removed():
    real, seen = Path.unlink, []
    def dying(self, missing_ok=False):
        real(self, missing_ok)
        seen.append(self.parent.suffix == ".work" and self.name.startswith("span_"))
        if sum(seen) == 2:
            die()
    Path.unlink = dying

MOMENTS = {
    "the plan is written, no span is done": lambda: before(conversions, "run_span"),
    "a span file is half written": lambda: before(span_job, "check_span", 2),
    "a span file is there, its ledger line is not": lambda: after(span_job, "publish", 2),
    "half a ledger line is written": half_a_line,
    "all spans are done": lambda: before(conversions, "assemble"),
    "the output is half joined": half_joined,
    "the output is joined": lambda: after(conversions, "assemble"),
    "the output is verified": lambda: before(conversions, "publish"),
    "the output is published": lambda: after(conversions, "publish"),
    "the work folder is half removed": half_removed,
}

source, folder, words = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
for number, moment in enumerate(MOMENTS):
    child = os.fork()
    if child == 0:
        MOMENTS[moment]()
        conversions.convert(source, folder / str(number) / "o.mp4", load_config("dashcam", None, words))
        os._exit(1)
    _, status = os.waitpid(child, 0)
    print(json.dumps([moment, os.WIFSIGNALED(status) and os.WTERMSIG(status)]), flush=True)
"""


def test_killed_at_every_kind_of_moment(short_clip: Path, tmp_path: Path) -> None:
    """Without Ray, where the moment can be hit exactly."""
    convert(short_clip, tmp_path / "wanted" / "o.mp4", load_config("dashcam", None, PLAIN))
    wanted = (tmp_path / "wanted" / "o.mp4").read_bytes()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ZYGOTE, str(short_clip), str(tmp_path), *PLAIN],
        env=environment,
        capture_output=True,
        text=True,
    )
    moments = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(moments) == 10, done.stderr
    for number, (moment, killed_by) in enumerate(moments):
        output = tmp_path / str(number) / "o.mp4"
        assert killed_by == signal.SIGKILL, (moment, done.stderr)
        assert work_folder(output).exists(), moment
        report = convert(short_clip, output, load_config("dashcam", None, PLAIN))
        assert output.read_bytes() == wanted, moment
        assert_only(output)
        assert report.status == ("already done" if number >= 8 else "done"), moment
        assert report.spans_reused >= (0 if number in (0, 1, 8, 9) else 3 if number >= 4 else 1), moment


def test_a_killed_worker_is_replaced_and_a_ctrl_c_leaves_what_it_finished(
    run: Callable[..., Run], expected: dict[str, bytes], tmp_path: Path
) -> None:
    """Two disturbances, one after the other: a worker dies in the midst of a span, later the user presses Ctrl-C."""
    first = run(tmp_path / "o.mp4", "--workers", "2")
    victim = first.who_writes()
    os.kill(victim, signal.SIGKILL)
    assert first.wait_until(lambda: first.lines() >= 2 and any(str(victim) not in part.name for part in first.parts()))
    first.signal_group(signal.SIGINT)
    report = first.finish(exit_code=130)
    assert report["status"] == "interrupted" and report["exit_code"] == 130
    assert "finishing the" in first.stderr and "press Ctrl-C again" in first.stderr
    assert report["spans_done"] == first.lines() >= 2
    assert not first.output.exists()
    first.assert_nothing_lives()
    second = run(first.output, "--workers", "1")
    again = second.finish()
    assert again["spans_reused"] == report["spans_done"]
    assert again["spans_done"] + again["spans_reused"] >= 5
    assert first.output.read_bytes() == expected["mp4"]
    assert_only(first.output)


@pytest.mark.long
def test_a_worker_killed_mid_span_costs_one_attempt(
    run: Callable[..., Run], expected: dict[str, bytes], tmp_path: Path
) -> None:
    one = run(tmp_path / "o.mp4", "--workers", "1")
    os.kill(one.who_writes(), signal.SIGKILL)
    report = one.finish()
    assert report["status"] == "done" and report["spans_reused"] == 0
    assert "is tried again" in one.stderr
    assert one.output.read_bytes() == expected["mp4"]
    assert_only(one.output)
    one.assert_nothing_lives()


# --- interrupted --------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(("signals", "code"), [((signal.SIGINT, signal.SIGINT), 130), ((signal.SIGTERM,), 143)])
def test_a_second_ctrl_c_or_sigterm_stops_within_seconds(
    run: Callable[..., Run], expected: dict[str, bytes], tmp_path: Path, signals: tuple[int, ...], code: int
) -> None:
    first = run(tmp_path / "o.mp4", "--workers", "2")
    assert first.wait_until(lambda: first.lines() >= 1 and bool(first.parts()))
    for number in signals:
        began = time.monotonic()
        first.process.send_signal(number)
        time.sleep(0.02)
    report = first.finish(exit_code=code)
    assert time.monotonic() - began < 15
    assert report["status"] == "interrupted"
    first.assert_nothing_lives()
    finished = first.lines()
    again = run(first.output, "--workers", "2").finish()
    assert again["spans_reused"] == finished >= 1
    assert first.output.read_bytes() == expected["mp4"]
    assert_only(first.output)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seconds", [0.0, 1.0, 2.0, 3.5, 5.0])
def test_stopped_while_ray_is_starting(
    run: Callable[..., Run], expected: dict[str, bytes], tmp_path: Path, number: int, seconds: float
) -> None:
    """From the first plan on, a signal leads to a report, whatever is under way."""
    first = run(tmp_path / "o.mp4", "--workers", "2")
    assert first.wait_until(lambda: (first.workdir / "plan.json").exists())
    time.sleep(seconds)
    first.signal_group(number)
    report = first.finish(exit_code=130 if number == signal.SIGINT else 143)
    assert report["status"] == "interrupted"
    first.assert_nothing_lives()
    run(first.output, "--workers", "2").finish()
    assert first.output.read_bytes() == expected["mp4"]
    assert_only(first.output)


# --- no space left ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "no space left on the disk; free some and run"),
        (errno.EROFS, r"cannot be written any more .Read-only file system.; see to the disk"),
    ],
    ids=["full", "read-only"],
)
def test_a_disk_that_fills_up_or_becomes_read_only_is_one_sentence_and_the_next_run_goes_on(
    clip: Path, expected_plain: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    """While a span is written, while the ledger is, while the spans are joined, while the result is published."""
    output, config = tmp_path / "o.mp4", load_config("dashcam", None, PLAIN)
    places = [
        (span_job, "publish"),
        (conversions.Ledger, "append"),
        (conversions, "assemble"),
        (conversions, "publish"),
    ]
    for owner, name in places:
        with monkeypatch.context() as patch:
            calls = 2 if owner is not conversions else 1
            patch.setattr(owner, name, failing_after(getattr(owner, name), calls, code))
            with pytest.raises(ConversionError, match=words) as caught:
                convert(clip, output, config)
        assert caught.value.exit_code == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["o.mp4.work"]
        assert not list(work_folder(output).glob(".span_*"))
    report = convert(clip, output, config)
    assert (report.spans_done, report.spans_reused >= 5) == (0, True)
    assert output.read_bytes() == expected_plain
    assert_only(output)


def failing_after(real: Callable[..., Any], calls: int, code: int) -> Callable[..., Any]:
    """Works `calls` - 1 times; then the disk does not. code: of its errors"""
    seen: list[int] = []

    def call(*args: object, **kwargs: object) -> object:
        seen.append(1)
        if len(seen) >= calls:
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    return call


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts (and mounts anew, larger) a disk of so many KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted: list[int] = []

    def resize(kib: int) -> Path:
        options = f"{'remount,' if mounted else ''}size={kib}k"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], check=True)
        mounted.append(kib)
        return disk

    yield resize
    if mounted:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
@pytest.mark.parametrize("spare", [0.3, 0.8, 1.3])
def test_a_disk_that_is_really_full(
    clip: Path,
    words: list[str],
    expected: dict[str, bytes],
    small_disk: Callable[[int], Path],
    tmp_path: Path,
    spare: float,
) -> None:
    """Room for part of the spans, for nearly all, or for the spans and a part of the output. The check beforehand is told a lie."""
    need = len(expected["mp4"]) / 1024
    disk = small_disk(int(need * spare) + 40)
    lie = "import shutil, sys, types; shutil.disk_usage = lambda _: types.SimpleNamespace(free=1 << 40)\n"
    lie += "import run_pipeline; sys.exit(run_pipeline.main())"
    environment = usual_environment()
    command = ["convert", str(clip), "--output", str(disk / "o.mp4"), "--workers", "2", "--json", *words]
    done = subprocess.run(
        [sys.executable, "-c", lie, *command],
        env=environment | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 1, (done.stdout, done.stderr)
    report = json.loads(done.stdout)["files"][0]
    assert report["status"] == "failed" and "no space left on the disk" in report["error"].lower(), report
    assert "Traceback (most recent call last):\n  File" not in done.stderr.split("Attempt")[0]
    assert not (disk / "o.mp4").exists()
    small_disk(64 * 1024)
    convert(clip, disk / "o.mp4", load_config("dashcam", None, words))
    assert (disk / "o.mp4").read_bytes() == expected["mp4"]
    assert_only(disk / "o.mp4")


# --- another source, another driver -------------------------------------------------------------------------------------


def test_a_source_that_grows_or_changes_while_it_is_converted_is_told_and_never_mixed(
    clip: Path, tmp_path: Path
) -> None:
    source, config = tmp_path / "source.mp4", load_config("dashcam", None, PLAIN)
    other = make_clip(tmp_path / "other.mp4", frames=90, gop=30, audio=True, width=64, height=48)
    for change in (lambda: append(source, b"\0" * 100), lambda: shutil.copy(other, source)):
        shutil.copy(clip, source)
        output = tmp_path / "out" / "o.mp4"
        conversion = start(source, output, config)
        assert isinstance(conversion, conversions.Conversion)
        first, *rest = conversion.pending
        conversion.span_done(do_span(conversion, *first))
        change()
        with pytest.raises(ConversionError, match=r"has changed: run again|changed while it was converted"):
            for place in rest:
                conversion.span_done(do_span(conversion, *place))
            conversion.finish()
        conversion.close()
        assert not output.exists()
        convert(source, output, config)
        convert(source, tmp_path / "fresh" / "o.mp4", config)
        assert output.read_bytes() == (tmp_path / "fresh" / "o.mp4").read_bytes()
        assert_only(output)
        output.unlink()
        (tmp_path / "fresh" / "o.mp4").unlink()


def test_one_byte_changed_in_place_is_noticed(clip: Path, tmp_path: Path) -> None:
    """Same sizes, same times: only the digest of each packet tells."""
    source = tmp_path / "source.mp4"
    shutil.copy(clip, source)
    conversion = start(source, tmp_path / "o.mp4", load_config("dashcam", None, PLAIN))
    assert isinstance(conversion, conversions.Conversion)
    index = conversion.prepared.indices[0]
    span = conversion.plan.tracks[0].spans[0]
    data = bytearray(source.read_bytes())
    with av.open(str(clip)) as container:
        packets = [bytes(packet) for packet in container.demux(container.streams.video[0]) if packet.size]
    assert len(packets) == len(index.pts)
    at = data.find(packets[span.end_packet - 2])
    data[at + len(packets[span.end_packet - 2]) - 2] ^= 1
    source.write_bytes(data)
    with pytest.raises(ConversionError, match="has changed: run again"):
        do_span(conversion, 0, 0)
    conversion.close()


def test_a_source_that_changed_between_runs_is_planned_anew(clip: Path, tmp_path: Path) -> None:
    source, config = tmp_path / "source.mp4", load_config("dashcam", None, PLAIN)
    output = tmp_path / "out" / "o.mp4"
    shutil.copy(clip, source)
    conversion = start(source, output, config)
    assert isinstance(conversion, conversions.Conversion)
    for place in conversion.pending[:3]:
        conversion.span_done(do_span(conversion, *place))
    conversion.close()
    make_clip(source, frames=70, gop=30, width=64, height=48)
    report = convert(source, output, config)
    assert (report.status, report.frames, report.spans_reused) == ("done", 70, 0)
    convert(source, tmp_path / "fresh" / "o.mp4", config)
    assert output.read_bytes() == (tmp_path / "fresh" / "o.mp4").read_bytes()


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def do_span(conversion: conversions.Conversion, track: int, span: int) -> dict[str, Any]:
    return span_job.run_span(
        str(conversion.workdir), track, span, threads=1, on_frames=lambda _: None, should_stop=lambda: False
    )


def test_a_second_driver_is_told_who_works_there(without_ray: None, clip: Path, tmp_path: Path) -> None:
    output, config = tmp_path / "o.mp4", load_config("dashcam", None, PLAIN)
    conversion = start(clip, output, config)
    assert isinstance(conversion, conversions.Conversion)
    (report,) = batches.run_batch([Job(clip, output)], config).files
    assert report.status == "refused"
    assert (
        f"another Sunvisor is working on this output (pid {os.getpid()} on {socket.gethostname()} since" in report.error
    )
    conversion.close()


def test_a_published_output_does_not_take_the_work_folder_from_a_living_driver(clip: Path, tmp_path: Path) -> None:
    """A driver replaces the output with other settings; meanwhile somebody asks for what is there already."""
    output, config = tmp_path / "o.mp4", load_config("dashcam", None, PLAIN)
    convert(clip, output, config)
    replacing = start(clip, output, load_config("dashcam", None, SHORT), overwrite=True)
    assert isinstance(replacing, conversions.Conversion)
    with pytest.raises(InputError, match="another Sunvisor is working on this output"):
        convert(clip, output, config)
    assert (replacing.workdir / "plan.json").exists()
    replacing.close()


def test_the_lock_of_a_folder_that_is_just_removed_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    folder = tmp_path / "o.mp4.work"
    first = WorkLock(folder)
    (folder / "span").touch()
    first.remove_folder()
    assert not folder.exists()
    second = WorkLock(folder)
    with pytest.raises(InputError):
        WorkLock(folder)
    second.remove_folder()
    assert list(tmp_path.iterdir()) == []


# --- a batch ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def batch(without_ray: None, short_clip: Path, tmp_path: Path) -> Callable[..., batches.BatchReport]:
    """Runs a batch of copies of the short clip in this process."""

    def begin(count: int = 3) -> batches.BatchReport:
        jobs = []
        for number in range(count):
            source = tmp_path / "card" / f"{number}.mp4"
            source.parent.mkdir(exist_ok=True)
            shutil.copy(short_clip, source)
            jobs.append(Job(source, tmp_path / "out" / f"{number}.mp4"))
        return batches.run_batch(jobs, settings())

    return begin


def settings() -> Config:
    return load_config("dashcam", None, PLAIN)


def fails_for(real: Callable[..., Any], is_it: Callable[..., bool], error: BaseException) -> Callable[..., Any]:
    """Raises the error for the calls meant, else does what it always did."""

    def call(*args: object, **kwargs: object) -> object:
        if is_it(*args):
            raise error
        return real(*args, **kwargs)

    return call


@pytest.mark.parametrize("stage", ["planning", "noting", "joining"])
def test_an_error_that_nobody_foresaw_costs_one_file(
    batch: Callable[..., batches.BatchReport], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: str
) -> None:
    bug = ZeroDivisionError("a bug")
    conversion = conversions.Conversion
    if stage == "planning":
        is_it = lambda source, *_: Path(source).name == "1.mp4"  # noqa: E731
        monkeypatch.setattr(planning, "make_plan", fails_for(planning.make_plan, is_it, bug))
    elif stage == "noting":
        is_it = lambda self, *_: self.prepared.output.name == "1.mp4"  # noqa: E731
        monkeypatch.setattr(conversion, "span_done", fails_for(conversion.span_done, is_it, bug))
    else:
        is_it = lambda joining, *_: joining.planned.prepared.output.name == "1.mp4"  # noqa: E731
        monkeypatch.setattr(file_work, "join", fails_for(file_work.join, is_it, bug))
    report = batch()
    assert [file.status for file in report.files] == ["done", "failed", "done"]
    assert report.exit_code == 1
    assert "could not be converted (ZeroDivisionError: a bug; log in" in (report.files[1].error or "")
    log = Path((report.files[1].error or "").split("log in ")[1].rstrip(")."))
    assert "Traceback" in log.read_text()
    assert [(tmp_path / "out" / f"{number}.mp4").exists() for number in range(3)] == [True, False, True]


def test_a_full_disk_does_not_stop_a_batch_even_when_the_log_cannot_be_written(
    batch: Callable[..., batches.BatchReport], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    is_it = lambda folder, *_: "1.mp4" in str(folder)  # noqa: E731
    told = ConversionError("no space left on the disk")
    monkeypatch.setattr(conversions, "run_span", fails_for(conversions.run_span, is_it, told))
    is_log = lambda path, *_: path.suffix == ".log"  # noqa: E731
    monkeypatch.setattr(Path, "write_text", fails_for(Path.write_text, is_log, full))
    report = batch()
    assert [file.status for file in report.files] == ["done", "failed", "done"]
    assert report.files[1].error == "no space left on the disk (1 attempts)"
    assert "Attempt 1: no space left on the disk" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["planning", "joining"])
def test_a_second_ctrl_c_while_the_driver_itself_is_busy_gives_a_report(
    batch: Callable[..., batches.BatchReport], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: str
) -> None:
    """StopNow rises in the midst of a file that is being planned or joined: it is told as interrupted, and goes on later."""
    owner, name = {"planning": (planning, "make_plan"), "joining": (conversions, "assemble")}[stage]
    real = getattr(owner, name)

    def interrupted(source: Path, *args: object, **kwargs: object) -> object:
        if source.name == "1.mp4":
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return real(source, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        report = batch()
    # The second file is planned while the last spans of the first are converted, and joined when the first is done.
    first = "interrupted" if stage == "planning" else "done"
    assert [file.status for file in report.files] == [first, "interrupted", "interrupted"]
    assert report.exit_code == 130
    again = batch()
    assert [file.exit_code for file in again.files] == [0, 0, 0]
    for before, after in zip(report.files, again.files, strict=True):
        assert after.spans_reused == (before.spans_done if before.status == "interrupted" else 0)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.mp4", "1.mp4", "2.mp4"]


def test_progress_counts_files_that_are_not_open_yet() -> None:
    stream, clock_now = io.StringIO(), [0.0]
    with ProgressDisplay(stream=stream, now=lambda: clock_now[0], source_bytes=[1000, 500, 3000, 700]) as display:
        display.skip_video("bad.mp4", "no video", 700)
        display.add_video("/w/a", "a.mp4", 100, 4, source_bytes=1000)
        clock_now[0] = 10.0
        display.show(Done(SpanTask("k", "/w/a", 0, 0, 25, "c"), {}, 1.0))
        assert "1/4 videos, 25/~450 frames" in stream.getvalue()
        display.add_video("/w/b", "b.mp4", 60, 2, source_bytes=500)
        display.add_video("/w/c", "c.mp4", 300, 9, source_bytes=3000)
        clock_now[0] = 20.0
        display.show(Done(SpanTask("l", "/w/a", 0, 1, 25, "c"), {}, 1.0))
        assert "1/4 videos, 50/460 frames, 2/15 spans, 2.5 fps, ETA 2:44" in stream.getvalue()


# --- memory -------------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_memory_does_not_grow_with_the_length(run: Callable[..., Run], tmp_path: Path) -> None:
    """A video twenty times as long takes the worker less than a tenth more memory at its peak.

    The driver is not quite flat: the check of seams keeps twelve small pictures a border, here (spans of 0.6 s, small frames)
    about 1.2 MB each. What is pinned down is that there is nothing more.
    """
    peaks = []
    for frames in (100, 2000):
        source = make_clip(tmp_path / f"{frames}.mp4", frames=frames, width=320, height=240, gop=50, audio=True)
        one = run(tmp_path / f"out{frames}" / "o.mp4", "--workers", "1", source=source, more=("model=neutral",))
        peak = {"worker": 0, "driver": 0}
        while one.process.poll() is None:
            peak["driver"] = max(peak["driver"], peak_bytes(one.process.pid))
            for part in one.parts():
                peak["worker"] = max(peak["worker"], peak_bytes(int(part.name.split(".")[-2])))
            time.sleep(0.05)
        spans = one.finish()["spans_done"]
        peaks.append(peak)
    short, long = peaks
    assert min(short.values()) > 0
    assert long["worker"] < 1.1 * short["worker"], peaks
    assert long["driver"] - short["driver"] < 1_600_000 * spans, peaks


def peak_bytes(pid: int) -> int:
    """Largest resident size that a process has had so far; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
