"""`convert --progress json`: what a program reads of a conversion."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from run_pipeline import main
from tests.clips import make_clip
from tests.test_cli import FAST
from workers.events import Done, Progress
from workers.progress_lines import ProgressLines
from workers.span_worker import SpanTask

ROOT = Path(__file__).resolve().parents[1]


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def task(folder: str, span: int, frames: int = 10) -> SpanTask:
    return SpanTask(f"{folder}:0:{span}", folder, 0, span, frames, "here")


def test_numbers_are_counted_and_every_change_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.progress_lines.SECONDS", 3600)
    stream, clock = io.StringIO(), [100.0]
    with ProgressLines(stream=stream, now=lambda: clock[0], source_bytes=[1000, 1000, 500]) as display:
        display.add_video("/a.work", "a.mp4", 40, 4, 10, 1, 1000)
        display.show(Progress(task("/a.work", 0), 0))
        clock[0] += 2
        display.show(Progress(task("/a.work", 0), 5))
        display.show(Done(task("/a.work", 0), {}, 1.0))
        display.skip_video("b.mp4", "refused", 1000)
        display.finish_video("/a.work", "done: out/a.mp4")
        seen = lines(stream.getvalue())
    numbers = [line for line in seen if line["is"] == "progress"]
    assert numbers[0] == {
        "is": "progress", "seconds": 0.0, "files_done": 0, "files": 3, "note": "", "spans_done": 1, "spans": 4, "frames_done": 10,
        "frames": 100, "frames_guessed": 60, "frames_per_second": 0.0, "eta_seconds": None, "now": [],
    }  # fmt: skip
    done = numbers[1]
    assert (done["seconds"], done["spans_done"], done["frames_done"]) == (2.0, 2, 20)
    assert done["frames_per_second"] == 5.0 and done["eta_seconds"] == (100 - 20) / 5
    assert [one["file"] for one in done["now"]] == ["a.mp4"]
    assert done["now"][0]["frames_done"] == 20 and done["now"][0]["frames"] == 40
    assert numbers[2]["frames_guessed"] == 20 and numbers[2]["files_done"] == 1
    assert numbers[3]["now"] == [] and numbers[3]["files_done"] == 2
    assert [line["text"] for line in seen if line["is"] == "message"] == ["b.mp4: refused", "a.mp4: done: out/a.mp4"]


def test_it_speaks_while_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.progress_lines.SECONDS", 0.01)
    stream = io.StringIO()
    with ProgressLines(stream=stream):
        end = time.monotonic() + 240
        while stream.getvalue().count("\n") < 3:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]
    assert all(line["is"] == "progress" for line in lines(stream.getvalue()))


def test_convert_tells_a_program_how_far_it_is(tmp_path: Path) -> None:
    """A real run: whatever else writes to its standard error, or to its standard output, spoils it."""
    clip = make_clip(tmp_path / "drive.mp4", frames=40)
    words = [clip, "--output", tmp_path / "out.mp4", "--progress", "json", "--json", "--workers", "1", "model=neutral"]
    command = [sys.executable, str(ROOT / "run_pipeline.py"), "convert", *map(str, words), *FAST]
    told = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert told.returncode == 0
    seen = lines(told.stderr)
    assert {line["is"] for line in seen} == {"progress", "message"}
    numbers = [line for line in seen if line["is"] == "progress"]
    done = [line["frames_done"] for line in numbers]
    texts = [line["text"] for line in seen if "text" in line]
    again = any("tried again" in text or "started anew" in text for text in texts)  # a worker or Ray came up late
    assert done[-1] == 40 and (again or done == sorted(done))
    last = numbers[-1]
    assert (last["frames"], last["files_done"], last["files"], last["spans_done"]) == (40, 1, 1, last["spans"])
    assert texts[-1] == f"drive.mp4: done: {tmp_path / 'out.mp4'}" and (again or len(texts) == 1)
    assert json.loads(told.stdout)["files"][0]["status"] == "done"


@pytest.mark.usefixtures("without_ray")
def test_none_tells_nothing_but_what_goes_wrong(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.mp4").write_text("no video")
    clip = make_clip(tmp_path / "good.mp4", frames=10)
    words = ["--output", str(tmp_path / "out.mp4"), "--progress", "none", "model=neutral", *FAST]
    capfd.readouterr()
    assert main(["convert", str(tmp_path / "bad.mp4"), *words]) == 2
    told = capfd.readouterr().err
    assert len(told.splitlines()) == 1 and "bad.mp4" in told
    assert main(["convert", str(clip), *words]) == 0
    assert capfd.readouterr().err == ""


def test_help_says_what_the_lines_hold(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    text = capsys.readouterr().out
    stream = io.StringIO()
    with ProgressLines(stream=stream) as display:
        display.add_video("/a.work", "a.mp4", 40, 4)
        display.message("x")
    for line in lines(stream.getvalue()):
        for key in line:
            assert key in text, key
