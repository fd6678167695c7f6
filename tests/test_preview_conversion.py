"""Conversions from the page: real `convert` processes that are paused, resumed, cancelled, left alone and orphaned."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from configs.schema import load_config
from pipeline.convert import convert
from pipeline.errors import InputError
from preview import conversion as conversions
from preview.conversion import Conversion
from tests.clips import cut, make_clip
from tests.oracles import digest
from tests.processes import descendants, stat_fields

YAML = (
    "model: neutral\nspan: {target_seconds: 0.6, min_seconds: 0.3}\noutput: {preset: ultrafast}\nworkers: {count: 1}\n"
)
KEYS = {"state", "output", "frames_done", "frames", "frames_per_second", "eta_seconds", "text"}
PATIENCE = 600.0
FRAMES = 600
"""So many that it is still converting when it is told to stop."""


def wait_until(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.02)


def alive(processes: dict[int, str]) -> list[int]:
    """Those of some processes (by their start times) that still run."""
    found = {pid: stat_fields(pid) for pid in processes}
    return [pid for pid, fields in found.items() if fields and fields[0] != "Z" and fields[19] == processes[pid]]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "drive.mp4", frames=FRAMES)


@contextmanager
def watched(source: Path, output: Path, yaml: str = YAML, **more: Any) -> Iterator[tuple[Conversion, list[dict]]]:  # noqa: ANN401
    """A conversion and the states that it tells; whatever happens it is closed, and leaves no process."""
    states: list[dict[str, Any]] = []
    before = descendants(os.getpid())
    conversion = Conversion([str(source)], output, yaml, states.append, **more)
    try:
        yield conversion, states
    finally:
        conversion.close(drain_seconds=0.1)
        wait_until(lambda: descendants(os.getpid()).keys() <= before.keys())


def ended(conversion: Conversion) -> bool:
    return conversion.state()["state"] != "running"


def test_paused_and_resumed_it_gives_the_same_bytes(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "yaml").write_text(YAML)
    convert(clip, tmp_path / "wanted" / "drive.mp4", load_config("dashcam", tmp_path / "yaml"))
    output = tmp_path / "drive.mp4"
    sent, send = [], Conversion._signal
    monkeypatch.setattr(Conversion, "_signal", lambda self, number: (sent.append(number), send(self, number)))
    with watched(clip, output) as (conversion, states):
        assert conversion.state()["state"] == "idle"
        for wrong in (conversion.pause, conversion.resume):
            with pytest.raises(InputError, match="cannot be"):
                wrong()
        conversion.start()
        with pytest.raises(InputError, match="is running and cannot be started"):
            conversion.start()
        wait_until(lambda: conversion.state()["frames_done"] > 0)
        conversion.pause()
        conversion.pause()  # pressed twice it is paused all the same, and not broken off
        wait_until(lambda: ended(conversion))
        paused = conversion.state()
        assert paused["state"] == "paused" and not output.exists()
        assert sent == [signal.SIGINT], "running spans are finished"
        assert 0 < paused["frames_done"] < paused["frames"] == FRAMES
        conversion.resume()
        wait_until(lambda: ended(conversion))
    assert conversion.state() == {
        "state": "done", "output": str(output), "frames_done": FRAMES, "frames": FRAMES, "frames_per_second": 0.0,
        "eta_seconds": None, "text": f"done: {output}",
    }  # fmt: skip
    assert digest([output]) == digest([tmp_path / "wanted" / "drive.mp4"])
    assert all(state.keys() == KEYS for state in states)
    order = [state["state"] for state in states]
    assert [now for place, now in enumerate(order) if place == 0 or order[place - 1] != now] == [
        "running", "paused", "running", "done",
    ]  # fmt: skip
    done = [state["frames_done"] for state in states[order.index("paused") :]]
    again = any(
        "tried again" in state["text"] or "started anew" in state["text"] for state in states
    )  # Ray came up late
    assert again or done == sorted(done), "what was done before the pause is not done again"
    assert any(state["frames_per_second"] > 0 and state["eta_seconds"] is not None for state in states)


def test_cancelled_it_leaves_work_to_go_on_from(clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "drive.mp4"
    with watched(clip, output) as (conversion, states):
        conversion.start()
        wait_until(lambda: conversion.state()["frames_done"] > 20)
        running = descendants(os.getpid())
        conversion.cancel()
        wait_until(lambda: ended(conversion))
        assert conversion.state()["state"] == "idle"
        wait_until(lambda: states[-1] == conversion.state())
        assert not output.exists() and (tmp_path / "drive.mp4.work" / "ledger.jsonl").exists()
        wait_until(lambda: not alive(running))


def test_a_closing_server_ends_it(clip: Path, tmp_path: Path) -> None:
    with watched(clip, tmp_path / "drive.mp4") as (conversion, states):
        conversion.start()
        wait_until(lambda: conversion.state()["frames"] > 0)
        running = descendants(os.getpid())
        conversion.close(drain_seconds=0.5)
        told = len(states)
        wait_until(lambda: not alive(running))
        wait_until(lambda: ended(conversion))
        assert conversion.state()["state"] == "paused"
        assert len(states) == told, "no more is told"
        wait_until(lambda: not [one for one in threading.enumerate() if one.name.startswith("conversion")])
        with pytest.raises(InputError):
            conversion.resume()


def test_a_server_that_is_killed_leaves_no_process(clip: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom preview.conversion import Conversion\n"
        "c = Conversion([sys.argv[1]], Path(sys.argv[2]), sys.argv[3], lambda state: state['frames'] and print('on', flush=True))\n"
        "c.start()\ntime.sleep(600)"
    )
    words = [sys.executable, "-c", code, str(clip), str(tmp_path / "drive.mp4"), YAML]
    server = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert server.stdout.readline() == b"on\n"
    children = descendants(server.pid)
    server.kill()
    server.wait()
    server.stdout.close()
    assert children
    wait_until(lambda: not alive(children))


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child does without Ray: for what it says before that would be needed."""
    monkeypatch.setattr(conversions, "PROGRAM", Path(__file__).with_name("program_without_ray.py"))


def test_what_fails_is_told_in_the_words_of_convert(without_ray: None, clip: Path, tmp_path: Path) -> None:
    bad = cut(clip, tmp_path / "bad.mp4", 0.5)
    with watched(bad, tmp_path / "out.mp4") as (conversion, _):
        conversion.start()
        wait_until(lambda: ended(conversion))
        state = conversion.state()
        assert state["state"] == "failed"
        assert state["text"].startswith(f"{bad}: ") and "moov" in state["text"]
        conversion.start()
        conversion.cancel()
        wait_until(lambda: ended(conversion))
        assert conversion.state()["state"] in ("idle", "failed")
    with watched(clip, tmp_path / "out.mp4", "grade: {peek_nits: 3}\n") as (conversion, _):
        conversion.start()
        wait_until(lambda: ended(conversion))
        assert conversion.state()["state"] == "failed" and "did you mean grade.peak_nits?" in conversion.state()["text"]


def test_a_pause_while_it_starts_is_a_pause(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the midst of imports, where a Ctrl-C may come to nothing, as here."""
    program = tmp_path / "program.py"
    program.write_text(
        "import pathlib, signal, sys, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"pathlib.Path({str(tmp_path / 'up')!r}).touch()\ntime.sleep(1000)"
    )
    monkeypatch.setattr(conversions, "PROGRAM", program)
    with watched(clip, tmp_path / "out.mp4") as (conversion, states):
        conversion.start()
        wait_until((tmp_path / "up").exists)
        conversion.pause()
        wait_until(lambda: ended(conversion))
        assert (conversion.state()["state"], conversion.state()["text"]) == (
            "paused",
            "paused; what is converted is kept",
        )
        wait_until(lambda: states[-1]["state"] == "paused")


def test_an_output_of_other_settings_is_replaced_only_when_that_is_wanted(
    without_ray: None, clip: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.mp4"
    output.write_text("something of the user's")
    with watched(clip, output) as (conversion, _):
        conversion.start()
        wait_until(lambda: ended(conversion))
        assert conversion.state()["state"] == "failed" and "there is a file already" in conversion.state()["text"]
        assert output.read_text() == "something of the user's"
    with watched(clip, output, overwrite=True) as (conversion, _):
        conversion.start()
        wait_until(lambda: ended(conversion) or conversion.state()["frames"] > 0)
        assert conversion.state()["state"] in ("running", "done"), (
            "it is not refused; replacing it is the work of `convert`"
        )
