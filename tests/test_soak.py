"""The soak bench: what it lays out, measures and concludes. The hours themselves are run by hand."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench.process_tree import children_of, folder_bytes, open_files, pss_bytes, title
from bench.soak import CLIPS, as_markdown, as_plot, growth, lay_out, remove_outputs, summary
from bench.svg import line_plot
from tests.oracles import frame_times


def made_up(hours: int = 2) -> list[dict[str, float]]:
    """Every six minutes: the driver grows by 3 MB an hour after a warm-up, the workers not at all; they are there from the second on."""
    samples = []
    for number in range(hours * 10 + 1):
        seconds = number * 360.0
        grown = 500e6 + 3e6 * seconds / 3600 - (400e6 if number == 0 else 0)
        samples.append({"seconds": seconds, "driver_pss_bytes": grown, "driver_open_files": 40.0})
        samples[-1] |= {"workers_pss_bytes": 900e6, "workers_open_files": 90.0} if number else {}
    return samples


def test_the_slope_is_that_of_the_time_after_the_warm_up() -> None:
    samples = made_up()
    driver = growth(samples, "driver_pss_bytes")
    assert driver.slope_an_hour == pytest.approx(3e6) and driver.last == pytest.approx(506e6)
    assert driver.first == pytest.approx(501.5e6)  # at half an hour
    workers = growth(samples, "workers_pss_bytes")
    assert workers.slope_an_hour == pytest.approx(0, abs=1) and workers.first == 900e6
    assert growth(samples, "ray_pss_bytes").most == 0


def test_the_table_tells_files_and_failures() -> None:
    files = [{"status": "done", "frames": 30, "error": None}] * 3
    files += [{"status": "interrupted", "frames": 0, "error": "not begun"}] * 5
    files += [{"status": "failed", "frames": 0, "error": "a.mp4: it broke"}]
    data = summary(made_up(), {"files": files}, 2)
    assert data["files"] == {"done": 3, "failed": 1} and (data["begun"], data["frames"]) == (4, 90)
    text = as_markdown(data)
    assert "120 minutes, 2 workers, files: 3 done, 1 failed; 90 frames" in text
    assert "| driver, memory | 501.5 MB | 506.0 MB | 506.0 MB | 3.0 MB |" in text and "- a.mp4: it broke" in text
    picture = ET.fromstring(as_plot(made_up()))
    assert len(picture.findall(".//{*}line")) > 4 * 19


def test_linear_axes_begin_at_zero_and_end_on_a_tick() -> None:
    text = line_plot("t", "x", "y", {"a": [(0, 0), (7.3, 90)]}, logarithmic=False)
    labels = [one.text for one in ET.fromstring(text).findall("{*}text")]
    assert {"0", "2", "4", "6", "8"} <= set(labels) and {"20", "40", "60", "80", "100"} <= set(labels)
    with pytest.raises(ValueError, match="none of them below 0"):
        line_plot("t", "x", "y", {"a": [(0, -1)]}, logarithmic=False)


def test_every_file_of_the_archive_is_of_its_own_and_a_video(tmp_path: Path) -> None:
    source = lay_out(tmp_path, CLIPS + 2)
    files = sorted(source.rglob("*.mp4"))
    assert len({file.read_bytes() for file in files}) == len(files) == CLIPS + 2
    assert [len(frame_times(file)) for file in files[:3]] == [25, 30, 35]


def test_what_is_under_way_is_not_removed(tmp_path: Path) -> None:
    done, work = tmp_path / "000" / "000001.mp4", tmp_path / "000" / "000002.mp4.work"
    work.mkdir(parents=True)
    for file in (done, work / "span_0_00000_aa.mp4", work / "000003.mp4"):
        file.write_bytes(b"x")
    assert remove_outputs(tmp_path) == 1
    assert not done.exists() and sorted(file.name for file in work.iterdir()) == ["000003.mp4", "span_0_00000_aa.mp4"]
    assert folder_bytes(tmp_path) == 2


def test_a_process_and_its_children_are_measured() -> None:
    code = "import sys; big = bytearray(b'x' * 50_000_000); print('ready', flush=True); sys.stdin.readline(); "
    code += "one = open(sys.executable); print('open', flush=True); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None and child.stdout is not None
    with child:
        assert child.stdout.readline() == "ready\n"
        assert child.pid in children_of(os.getpid()) and sys.executable in title(child.pid)
        assert 50_000_000 < pss_bytes(child.pid) < 100_000_000
        before = open_files(child.pid)
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "open\n" and open_files(child.pid) == before + 1
        child.kill()
    assert (pss_bytes(child.pid), open_files(child.pid), title(child.pid)) == (0, 0, "")
