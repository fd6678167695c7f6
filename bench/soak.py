"""Soak: an archive of many small files, converted for hours; memory and open files of driver and workers must stay flat.

    python -m bench.soak                    two hours
    python -m bench.soak --minutes 5

One `convert` of one folder, on a Ray of its own, stopped by Ctrl-C when the time is over. Each file is a copy of one of a few clips with
bytes of its own at the end, so that none is taken for another. Outputs are removed as they come. Writes soak.md, soak.json and soak.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from bench.process_tree import children_of, folder_bytes, open_files, pss_bytes, title
from bench.results_files import write_results
from bench.svg import line_plot

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
WORDS = ["model=neutral", "span.target_seconds=0.6", "span.min_seconds=0.3", "output.preset=ultrafast"]
CLIPS = 12
WARM_UP_SHARE = 0.25
"""The slope is of the samples after this part of the run: imports, pools of memory and first files come before."""

Sample = dict[str, float]


@dataclass(frozen=True)
class Growth:
    """How a series grew. slope: least squares an hour, after the warm-up"""

    first: float
    last: float
    most: float
    slope_an_hour: float


def main() -> None:
    """Run and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120.0, help="how long (default: %(default)s)")
    parser.add_argument("--sample-seconds", type=float, default=10.0, help="between two samples (default: %(default)s)")
    parser.add_argument("--files-a-minute", type=int, default=120, help="files to lay out (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="(default: bench/results)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sunvisor-soak-") as folder:
        source = lay_out(Path(folder), max(CLIPS, round(args.minutes * args.files_a_minute)))
        samples, report = soak(source, Path(folder) / "out", args.minutes * 60, args.sample_seconds, args.workers)
    data = summary(samples, report, args.workers)
    write_results(args.output, "soak", as_markdown(data), data | {"samples": samples})
    (args.output / "soak.svg").write_text(as_plot(samples))
    Console().print(as_markdown(data), markup=False, soft_wrap=True)


def lay_out(folder: Path, count: int) -> Path:
    """A folder of `count` files of different content, in folders of a thousand."""
    clips = []
    for number in range(CLIPS):
        clips.append(folder / f"clip{number}.mp4")
        write_clip(clips[-1], frames=25 + 5 * number, shade=10 * number)
    source = folder / "archive"
    for number in range(count):
        place = source / f"{number // 1000:03d}" / f"{number:06d}.mp4"
        place.parent.mkdir(parents=True, exist_ok=True)
        # A `free` box (ISO/IEC 14496-12 clause 8.1.2) with the file's number.
        place.write_bytes(clips[number % CLIPS].read_bytes() + struct.pack(">I4sQ", 16, b"free", number))
    return source


def write_clip(path: Path, frames: int, shade: int) -> None:
    """A small moving picture at 25 frames a second."""
    import av

    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.options = {"preset": "veryfast", "threads": "1"}
        rows, columns = np.mgrid[:96, :160]
        for number in range(frames):
            luma = ((columns * 2 + rows + number * 5 + shade) % 220 + 16).astype(np.uint8)
            picture = np.concatenate([luma, np.full((48, 160), 128, np.uint8)])
            frame = av.VideoFrame.from_ndarray(picture, "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def soak(source: Path, output: Path, seconds: float, every: float, workers: int) -> tuple[list[Sample], dict[str, Any]]:
    """Run `convert` for so long; returns the samples and its report."""
    command = [sys.executable, str(ROOT / "run_pipeline.py"), "convert", str(source), "-o", str(output), "--json"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    told, errors = output.with_name("report.json"), output.with_name("errors.txt")
    samples: list[Sample] = []
    with told.open("w") as out, errors.open("w") as err:
        process = subprocess.Popen([*command, "--workers", str(workers), *WORDS], env=clean, stdout=out, stderr=err)
        began, finished = time.monotonic(), 0
        try:
            while process.poll() is None and time.monotonic() - began < seconds:
                time.sleep(every)
                finished += remove_outputs(output)
                samples.append(sample(process.pid, time.monotonic() - began, finished))
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait(timeout=600)
        finally:
            process.kill()
    text = told.read_text()
    if not text:
        raise SystemExit(f"The run gave no report (exit code {process.returncode}):\n{errors.read_text()[-3000:]}")
    return samples, json.loads(text)


def remove_outputs(output: Path) -> int:
    """Remove what is published, so that hours need no disk; returns how many."""
    files = [file for file in output.rglob("[0-9]*.mp4") if file.is_file() and not file.parent.name.endswith(".work")]
    for file in files:
        file.unlink()
    return len(files)


def sample(driver: int, seconds: float, finished: int) -> Sample:
    """Memory and files of the driver, of the workers and of Ray's own processes, and the size of Ray's folder."""
    values = Counter({"seconds": seconds, "files_finished": finished})
    folders: set[Path] = set()
    for pid in children_of(driver):
        name = title(pid)
        kind = "driver" if pid == driver else "workers" if name.startswith("ray::SpanWorker") else "ray"
        values[f"{kind}_pss_bytes"] += pss_bytes(pid)
        values[f"{kind}_open_files"] += open_files(pid)
        values[f"{kind}_processes"] += 1
        folders |= {Path(one) for one in re.findall(r"/tmp/sunvisor-ray-\w+", name)}
    values["ray_folder_bytes"] = sum(folder_bytes(folder) for folder in folders)
    return dict(values)


def growth(samples: list[Sample], name: str) -> Growth:
    """First, last and slope of one series; zeros where a process was not there yet do not count as first."""
    there = [(one["seconds"] / 3600, one[name]) for one in samples if one.get(name)]
    if not there:
        return Growth(0.0, 0.0, 0.0, 0.0)
    settled = there[int(len(there) * WARM_UP_SHARE) :]
    hours, values = np.array(settled).T
    slope = float(np.polyfit(hours, values, 1)[0]) if len(settled) > 1 else 0.0
    return Growth(float(values[0]), there[-1][1], max(value for _, value in there), slope)


SERIES = {
    "driver_pss_bytes": ("driver, memory", "MB", 1e6),
    "workers_pss_bytes": ("workers together, memory", "MB", 1e6),
    "ray_pss_bytes": ("Ray's own processes, memory", "MB", 1e6),
    "driver_open_files": ("driver, open files", "", 1),
    "workers_open_files": ("workers together, open files", "", 1),
    "ray_folder_bytes": ("Ray's folder (logs, sockets)", "MB", 1e6),
}


def summary(samples: list[Sample], report: dict[str, Any], workers: int) -> dict[str, Any]:
    """What the run did and how each series grew."""
    ends = Counter(file["status"] for file in report["files"])
    begun = sum(file["error"] != "not begun" for file in report["files"])
    return {
        "minutes": round(samples[-1]["seconds"] / 60, 1) if samples else 0.0,
        "workers": workers,
        "files": {status: count for status, count in ends.items() if status != "interrupted"},
        "begun": begun,
        "frames": sum(file["frames"] for file in report["files"] if file["status"] == "done"),
        "errors": [file["error"] for file in report["files"] if file["status"] in ("failed", "refused")][:20],
        "growth": {name: vars(growth(samples, name)) for name in SERIES},
    }


def as_markdown(data: dict[str, Any]) -> str:
    """The table for people."""
    done = ", ".join(f"{count} {status}" for status, count in sorted(data["files"].items())) or "none ended"
    lines = [
        "# Soak",
        "",
        f"`python -m bench.soak --minutes {data['minutes']:g}`: {data['minutes']:g} minutes, {data['workers']} workers, files: {done}; "
        f"{data['frames']} frames.",
        "",
        f"First is after the warm-up (a quarter of the run), the slope is by least squares from there on. Memory is PSS. {os.cpu_count()} CPUs.",
        "",
        "| | first | last | most | slope an hour |",
        "|---|---|---|---|---|",
    ]
    for name, (label, unit, scale) in SERIES.items():
        grown = data["growth"][name]
        cells = [f"{grown[key] / scale:.1f} {unit}".strip() for key in ("first", "last", "most", "slope_an_hour")]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    lines += ["", *(f"- {error}" for error in data["errors"])]
    return "\n".join(lines).rstrip() + "\n"


def as_plot(samples: list[Sample]) -> str:
    """Memory and open files over the minutes."""
    series = {}
    for name in ("driver_pss_bytes", "workers_pss_bytes", "driver_open_files", "workers_open_files"):
        label, unit, scale = SERIES[name]
        named = label.replace(" together", "") + (f" ({unit})" if unit else "")
        series[named] = [(one["seconds"] / 60, one[name] / scale) for one in samples if one.get(name)]
    return line_plot("Soak: memory and open files", "minutes", "MB, files", series, logarithmic=False)


if __name__ == "__main__":
    main()
