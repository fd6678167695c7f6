"""What the stream topology costs and gains on this machine against the fused one: CPU time a frame, frames a second, shared memory.

    python -m bench.topology --frames 50 ../shared/data/clips/highway_960x540.mp4 ../shared/data/clips/park_street_1920x1080.mp4

The pictures of each clip, or the first of them, are converted by `run_pipeline.py convert` in a process of its own with one worker, once
alone and once as a batch of three copies; CPU time is that of the driver, Ray and all workers, and the figure is what two more copies cost
(planning them, too), so that starting up is in none. Frames a second are those of the batch from its first span to its last file. Without network (`neutral`), so that transport shows, and with `tiny`.
On one machine both topologies share the same cores; what a network between nodes adds is not measured. The tables go to
bench/results/topology.{md,json}.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import av
from rich.console import Console

from bench.results_files import write_results

ROOT = Path(__file__).resolve().parents[1]
COPIES = (1, 3)
CASES = {"neutral, ultrafast": ["model=neutral", "output.preset=ultrafast"], "tiny, veryfast": ["model=tiny"]}
SAMPLE_SECONDS = 0.1


class Watch:
    """CPU seconds of a process and all that ever came of it, and the largest use of /dev/shm beyond what was there."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ticks: dict[tuple[int, str], int] = {}
        self._shm_before = _shm_bytes()
        self.shm_bytes = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> float:
        """Stop watching; returns the CPU seconds."""
        self._end.set()
        self._thread.join()
        return sum(self._ticks.values()) / os.sysconf("SC_CLK_TCK")

    def _run(self) -> None:
        while not self._end.wait(SAMPLE_SECONDS):
            processes = _processes()
            family = {self._pid}
            for _ in range(6):  # generations
                family |= {pid for pid, fields in processes.items() if int(fields[1]) in family}
            for pid in family & processes.keys():
                fields = processes[pid]
                self._ticks[pid, fields[19]] = int(fields[11]) + int(fields[12])
            self.shm_bytes = max(self.shm_bytes, _shm_bytes() - self._shm_before)


def _processes() -> dict[int, list[str]]:
    """pid -> /proc/PID/stat from the state on."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            found[int(path.parent.name)] = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _shm_bytes() -> int:
    return shutil.disk_usage("/dev/shm").used


def first_frames(clip: Path, frames: int, folder: Path) -> Path:
    """A file with the first so many pictures of a clip, in the order in which they are decoded, and nothing else. 0: all"""
    cut = folder / clip.name
    with av.open(str(clip)) as source, av.open(str(cut), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(one for one in source.demux(video=0) if one.pts is not None):
            if frames and number == frames:
                break
            packet.stream = stream
            target.mux(packet)
    return cut


def run(clip: Path, copies: int, words: list[str]) -> dict[str, float]:
    """One batch. Returns cpu_seconds, working_seconds and shm_mb."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in"
        source.mkdir()
        for number in range(copies):
            shutil.copy(clip, source / f"{number}{clip.suffix}")
        command = ["convert", str(source), "--output", str(Path(folder) / "out"), "--workers", "1", "--json"]
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "run_pipeline.py"), *command, *words], cwd=ROOT, stdout=subprocess.PIPE
        )
        watch = Watch(process.pid)
        out, _ = process.communicate()
        cpu = watch.close()
    if process.returncode:
        raise SystemExit(f"{clip}: the conversion failed:\n{out.decode()}")
    return {
        "cpu_seconds": cpu,
        "working_seconds": json.loads(out)["working_seconds"],
        "shm_mb": watch.shm_bytes / 1e6,
    }


def measure(clip: Path, words: list[str]) -> dict[str, float]:
    """cpu_ms a frame, fps and shm_mb of one clip with these settings."""
    with av.open(str(clip)) as file:
        frames = sum(1 for packet in file.demux(video=0) if packet.pts is not None)
    few, many = (run(clip, copies, words) for copies in COPIES)
    more = (COPIES[1] - COPIES[0]) * frames
    return {
        "cpu_ms": 1000 * (many["cpu_seconds"] - few["cpu_seconds"]) / more,
        "fps": COPIES[1] * frames / many["working_seconds"],
        "shm_mb": many["shm_mb"],
    }


def row_of(row: dict[str, Any]) -> str:
    """A line of the table."""
    return f"| {row['clip']} | {row['case']} | {row['topology']} | {row['cpu_ms']:.0f} | {row['fps']:.2f} | {row['shm_mb']:.0f} |"


def main() -> None:
    """Run the bench and write its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=0, help="take so many of each clip (default: all)")
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    console = Console(stderr=True, highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        for clip in (first_frames(clip, args.frames, Path(folder)) for clip in args.clips):
            for case, words in CASES.items():
                for topology in ("fused", "stream"):
                    figures = measure(clip, [*words, f"workers.topology={topology}"])
                    rows.append({"clip": clip.name, "case": case, "topology": topology} | figures)
                    console.print(row_of(rows[-1]), markup=False, soft_wrap=True)
    shown = f" --frames {args.frames}" if args.frames else ""
    lines = [
        f"`python -m bench.topology{shown}` on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end, {time.strftime('%Y-%m-%d')}.",
        "",
        "| clip | settings | topology | CPU ms a frame | frames a second | shared memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    lines += map(row_of, rows)
    text = "\n".join(lines) + "\n"
    write_results(args.output, "topology", text, rows)
    Console().print(text, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
