"""What temporal smoothing does to flicker, highlights and blinking lamps, and what it costs: off against radius 1, 2 and 3.

    python -m bench.temporal DRIVES --model tiny

DRIVES: a folder of drives as ../shared/bench/drivesim.py renders them (each a folder with sdr.mp4 and gt.npz), some of them with `--hunt 0.3`
or `--lamp 2`. `--flow tensor` uses a GPU's method of optical flow, on the CPU. Frames are decoded and restored in this process, without encoding, and smoothed with one thread. Figures are those of
evaluation.metrics.Meter; excess flicker is `flicker` less that of the SDR clip itself, `lamp` is that of ../shared/bench/score.py. The tables
go to bench/results/temporal.{md,json}, with `--flow tensor` to temporal_tensor.{md,json}.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.results_files import write_results
from evaluation.drives import read_truth
from evaluation.metrics import LUMA_709, WHITE_NITS, Meter, limit
from evaluation.nits import read_nits
from models import checkpoints
from models.model import Model
from pipeline.errors import InputError
from pipeline.stages.reconstruct import Reconstruct
from pipeline.stages.temporal import METHODS, Temporal

Array = np.ndarray
RADII = (1, 2, 3)
LIMIT_NITS = 800.0
"""What score.py limits both sides to, at its peak of 1000 nits."""
LEAST_FALL, LOW_EXCESS = 0.4, 0.005
"""The aim: excess flicker falls by that share at least, or is at most the second."""
SIZES = ((540, 960), (1080, 1920))
"""Height and width of the frames whose time is taken."""


def restored_drive(model: Model, drive: Path) -> tuple[list[Tensor], list[Tensor]]:
    """Working-space frames (3,H,W) of a drive's SDR clip, and restored in float32."""
    stage = Reconstruct(model, "fp32", 0)
    sdr = [torch.from_numpy(frame).permute(2, 0, 1).contiguous() for frame in read_nits(drive / "sdr.mp4", 1.0)]
    with torch.inference_mode():
        return sdr, [stage(frame[None])[0] for frame in sdr]


def smoothed(sdr: list[Tensor], restored: list[Tensor], radius: int, method: str) -> list[Tensor]:
    """The restored frames after the stage."""
    stage = Temporal(radius, method)
    samples = [stage.sample(before, after) for before, after in zip(sdr, restored, strict=True)]
    return [stage(samples, place) for place in range(len(samples))]


def figures(drive: Path, frames: Iterable[Tensor]) -> dict[str, float]:
    """flicker, hl_stops, hl_detail, mid_stops of working-space frames (3,H,W), and lamp where the drive has one."""
    truth = read_truth(drive / "gt.npz", WHITE_NITS)
    meter = Meter(WHITE_NITS, pose=truth.pose)
    with np.load(drive / "gt.npz") as stored:
        lamp = stored.get("lamp")
    levels: list[tuple[float, float]] = []
    for light, frame in zip(truth.light(), frames, strict=True):
        nits = frame.permute(1, 2, 0).numpy() * np.float32(WHITE_NITS)
        meter.add(light, nits)
        if lamp is not None:
            wanted = light.astype(np.float32) * np.float32(WHITE_NITS)
            levels.append((lamp_stops(wanted, lamp), lamp_stops(nits, lamp)))
    scores = meter.scores()
    found = {name: getattr(scores, name) for name in ("flicker", "hl_stops", "hl_detail", "mid_stops")}
    if levels:
        wanted_range, range_ = (max(column) - min(column) for column in zip(*levels, strict=True))
        found["lamp"] = range_ / wanted_range
    return found


def lamp_stops(nits: Array, lamp: Array) -> float:
    """Mean log2 luminance of the lamp's disc in a frame in nits (H,W,3). lamp: x, y and radius in pixels, and hertz."""
    y, x = np.mgrid[: nits.shape[0], : nits.shape[1]]
    disc = np.hypot(x - lamp[0], y - lamp[1]) < lamp[2] - 1
    return float(np.log2(limit(nits[disc], LIMIT_NITS) @ LUMA_709).mean())


def measure(model: Model, drive: Path, method: str) -> dict[str, dict[str, float]]:
    """ "sdr", "off" and each radius -> figure -> value; all but "sdr" have `excess` too."""
    sdr, restored = restored_drive(model, drive)
    found = {"sdr": figures(drive, sdr), "off": figures(drive, restored)}
    for radius in RADII:
        found[str(radius)] = figures(drive, smoothed(sdr, restored, radius, method))
    for name, values in found.items():
        if name != "sdr":
            values["excess"] = values["flicker"] - found["sdr"]["flicker"]
    return found


def steady(off: float, excess: float) -> bool:
    """Whether the aim for excess flicker is met."""
    return excess <= max(LOW_EXCESS, (1 - LEAST_FALL) * off)


def time_stage(model: Model, drive: Path, height: int, width: int, rounds: int, method: str) -> dict[str, float]:
    """Median CPU seconds a frame on one thread: "sample", and `forward` for each radius, of a drive's frames enlarged to that size."""
    pair = restored_drive(model, drive)
    count = 2 * max(RADII) + 1
    sdr, restored = (
        [
            torch.nn.functional.interpolate(frame[None], (height, width), mode="bilinear")[0].contiguous()
            for frame in frames[:count]
        ]
        for frames in pair
    )
    stages = {str(radius): Temporal(radius, method) for radius in RADII}
    samples = [stages["1"].sample(before, after) for before, after in zip(sdr, restored, strict=True)]
    seconds: dict[str, list[float]] = {name: [] for name in ("sample", *stages)}
    for _ in range(rounds):
        before = time.process_time()
        stages["1"].sample(sdr[0], restored[0])
        seconds["sample"].append(time.process_time() - before)
        for name, stage in stages.items():
            before = time.process_time()
            stage(samples, len(samples) // 2)
            seconds[name].append(time.process_time() - before)
    return {name: statistics.median(values) for name, values in seconds.items()}


def table(results: dict[str, Any]) -> str:
    """Markdown of the results."""
    names = ["off", *(str(radius) for radius in RADII)]
    columns = [f"excess {name}" for name in names] + [f"hl_stops {name}" for name in names]
    columns += [f"hl_detail {name}" for name in names] + [f"lamp {name}" for name in names]
    lines = [f"| drive | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for drive, found in results["drives"].items():
        cells = [f"{found[name]['excess']:+.4f}" for name in names]
        cells += [f"{found[name]['hl_stops']:.3f}" for name in names]
        cells += [f"{found[name]['hl_detail']:.3f}" for name in names]
        cells += [f"{found[name]['lamp']:.3f}" if "lamp" in found[name] else "" for name in names]
        lines.append(f"| {drive} | {' | '.join(cells)} |")
    lines += [
        "",
        "| radius | mean excess flicker | drives that meet the aim | worst hl_stops against off | worst hl_detail against off | mid_stops, largest change | lowest lamp |",
        "|---|---|---|---|---|---|---|",
    ]
    drives = list(results["drives"].values())
    for name in names:
        met = sum(steady(found["off"]["excess"], found[name]["excess"]) for found in drives)
        worst = max(found[name]["hl_stops"] / found["off"]["hl_stops"] - 1 for found in drives)
        detail = min(found[name]["hl_detail"] - found["off"]["hl_detail"] for found in drives)
        mid = max(abs(found[name]["mid_stops"] - found["off"]["mid_stops"]) for found in drives)
        lamps = [found[name]["lamp"] for found in drives if "lamp" in found[name]]
        lines.append(
            f"| {name} | {statistics.mean(found[name]['excess'] for found in drives):+.4f} | {met} of {len(drives)} | {worst:+.1%} "
            f"| {detail:+.3f} | {mid:.6f} | {f'{min(lamps):.3f}' if lamps else ''} |"
        )
    if not results["seconds"]:
        return "\n".join(lines) + "\n"
    lines += ["", f"| one thread, CPU s a frame | sample | {' | '.join(f'radius {radius}' for radius in RADII)} |"]
    lines.append("|---|" + "---|" * (1 + len(RADII)))
    lines += [
        f"| {size} | {' | '.join(f'{value:.3f}' for value in found.values())} |"
        for size, found in results["seconds"].items()
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Restore, smooth, score, time, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drives", type=Path, help="folder of drives")
    parser.add_argument("--model", default="tiny", help="checkpoint (default tiny)")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each size (default 5; 0: no times)")
    parser.add_argument("--flow", default="dis", choices=tuple(METHODS), help="method of optical flow (default dis)")
    parser.add_argument("--output", type=Path, default=Path("bench/results"), help="folder of the tables")
    args = parser.parse_args()
    torch.set_num_threads(1)
    drives = sorted(path.parent for path in args.drives.glob("*/gt.npz"))
    if not drives:
        raise InputError(f"{args.drives}: no drive (a folder with sdr.mp4 and gt.npz) in it.")
    model = checkpoints.load(args.model, "cpu")
    results = {
        "drives": {drive.name: measure(model, drive, args.flow) for drive in drives},
        "seconds": {
            f"{width}x{height}": time_stage(model, drives[0], height, width, args.rounds, args.flow)
            for height, width in (SIZES if args.rounds else ())
        },
    }
    header = (
        f"Temporal smoothing of what `{args.model}` restores (`--flow {args.flow}`), {len(drives)} virtual drives scored at 1000 nits. "
        f"Aim: excess flicker falls by {LEAST_FALL:.0%} or is at most {LOW_EXCESS}; hl_stops at most 2 % worse; lamp at least 0.9. "
        + ("Time on " if args.rounds else "Not timed; ")
        + f"{torch.backends.cpu.get_cpu_capability()}, PyTorch {torch.__version__}"
        + ("; `sample` is once a frame, the rest is on top." if args.rounds else ".")
    )
    text = "\n".join([header, "", table(results)])
    name = "temporal" if args.flow == "dis" else f"temporal_{args.flow}"
    write_results(args.output, name, text, {"header": header, "results": results})
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
