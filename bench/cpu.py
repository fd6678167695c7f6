"""CPU bench: each stage alone, the whole conversion, and what overlap costs.

The yardstick is a ratio within one run, because machines are noisy: wall time once the workers are ready, divided by the larger
of the slowest stage alone and the CPU seconds of all stages alone over the number of cores. 1.0 is perfect overlap.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from bench.results_files import write_results
from bench.scattered import save_scattered
from configs.schema import load_config
from demo.dashcam import record
from demo.scene import Drive, DriveOptions
from pipeline.decode import decode_span
from pipeline.encode import SpanEncoder
from pipeline.engine_maker import engine_for
from pipeline.lanes import Lanes
from pipeline.prepare import Prepared, make_plan
from workers.batch import run_batch
from workers.jobs import Job

SAMPLE_SECONDS = 2.0
FLOOR_RATIO = 1.15
CLIP_FRAMES = 100


def run_bench(output: Path, clip: Path | None = None) -> str:
    """Measure with an untrained `tiny` network whose offsets are scattered, as a trained one's are. Returns Markdown.

    clip: what to convert; None = a stretch of the demo's drive. Writes bench.json and bench.md into `output`.
    """
    output.mkdir(parents=True, exist_ok=True)
    clip = clip or record(Drive(DriveOptions(frames=CLIP_FRAMES)), output).sdr
    checkpoint = output / "tiny_scattered.safetensors"
    save_scattered(checkpoint)
    config = load_config("dashcam", None, [f"model={checkpoint}"])
    result = output / "bench_hdr.mp4"
    shutil.rmtree(output / "bench_hdr.mp4.work", ignore_errors=True)
    result.unlink(missing_ok=True)
    with _PeakMemory() as peak:  # first, while this process holds no frames of its own
        batch = run_batch([Job(clip, result)], config)
    result.unlink(missing_ok=True)
    alone = _stages_alone(make_plan(clip, result, config), output)
    cores = os.cpu_count() or 1
    slowest = max(stage["wall_seconds"] for stage in alone.values())
    shared = sum(stage["cpu_seconds"] for stage in alone.values()) / cores
    facts = {
        "machine": f"{platform.machine()}, {cores} cores, torch {torch.__version__}",
        "frames": batch.files[0].frames,
        "status": batch.files[0].status,
        "stages_alone": alone,
        "startup_seconds": batch.startup_seconds,
        "working_seconds": batch.working_seconds,
        "floor_seconds": max(slowest, shared),
        "ratio": batch.working_seconds / max(slowest, shared),
        "peak_memory_bytes": peak.bytes,
    }
    text = _table(facts)
    write_results(output, "bench", text + "\n", facts)
    return text


def _stages_alone(prepared: Prepared, output: Path) -> dict[str, dict[str, float]]:
    """Wall and CPU seconds of decode, compute and encode, each over all frames with nothing beside it."""
    plan, track, index = prepared.plan, prepared.plan.tracks[0], prepared.indices[0]
    cores = os.cpu_count() or 1
    engine = engine_for(plan, 0)
    decoded: dict[int, list[Any]] = {}
    packed: list[Any] = []

    def decode() -> None:
        for span in track.spans:
            frames = decode_span(prepared.source, track.stream_index, index, span, deinterlace=track.deinterlace)
            decoded[span.number] = [frame.planes for frame in frames]

    def compute() -> None:
        for span in track.spans:
            owned = range(span.first_frame, span.first_frame + span.frames)
            lanes = Lanes(engine, cores, 1)
            packed.extend(lanes.run(iter(decoded[span.number]), span.first_frame - span.lead_in, owned))

    def encode() -> None:
        for span in track.spans:
            height, width = packed[0].y.shape
            with SpanEncoder(
                output / "bench_span.mp4",
                plan.encoder,
                width=width,
                height=height,
                time_base=Fraction(1, track.time_base_den),
                rate=track.rate,
                sample_aspect_ratio=track.sample_aspect_ratio,
                transfer=plan.out.transfer,
                threads=cores,
            ) as encoder:
                for number in range(span.first_frame, span.first_frame + span.frames):
                    pts = int(index.frame_pts[number] - span.first_pts) * track.ticks
                    frame = packed[number]
                    encoder.write(frame.y, frame.u, frame.v, pts, int(index.frame_duration[number]) * track.ticks)

    return {name: _timed(work) for name, work in (("decode", decode), ("compute", compute), ("encode", encode))}


def _timed(work: Callable[[], None]) -> dict[str, float]:
    wall, cpu = time.monotonic(), _cpu_seconds()
    work()
    return {"wall_seconds": time.monotonic() - wall, "cpu_seconds": _cpu_seconds() - cpu}


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class _PeakMemory:
    """Peak of the proportional memory (PSS) of this process and all its descendants, sampled."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> _PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.bytes = max(self.bytes, sum(_pss_bytes(pid) for pid in _family(os.getpid())))


def _family(root: int) -> list[int]:
    """Process ids of `root` and everything below it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue  # it ended while we looked
    family = [root]
    for pid in family:
        family += [child for child, parent in parents.items() if parent == pid]
    return family


def _pss_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return 0  # it ended while we looked
    return 0


def _table(facts: dict[str, Any]) -> str:
    rows = ["| stage alone | wall s | CPU s | ms a frame |", "|---|---|---|---|"]
    for name, stage in facts["stages_alone"].items():
        per_frame = 1000 * stage["wall_seconds"] / facts["frames"]
        rows.append(f"| {name} | {stage['wall_seconds']:.2f} | {stage['cpu_seconds']:.2f} | {per_frame:.1f} |")
    held = "holds" if facts["ratio"] <= FLOOR_RATIO else "does not hold"
    rows += [
        "",
        f"{facts['frames']} frames, tiny network, on {facts['machine']}",
        f"whole conversion once ready: {facts['working_seconds']:.2f} s; floor (slowest stage, or all CPU seconds / cores): "
        f"{facts['floor_seconds']:.2f} s; ratio {facts['ratio']:.2f} ({held}: at most {FLOOR_RATIO})",
        f"start-up: {facts['startup_seconds']:.1f} s; peak memory of all processes: {facts['peak_memory_bytes'] / 1e9:.2f} GB",
    ]
    return "\n".join(rows)
