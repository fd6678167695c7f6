"""What `reconstruct.scale=0.5` costs in quality and saves in time, against 1: virtual drives, thin lines, and CPU time of the stage.

    python -m bench.scale DRIVES --models small

DRIVES: a folder of drives as ../shared/bench/drivesim.py renders them (each a folder with sdr.mp4 and gt.npz). The stage runs on decoded
frames in this process, without encoding; figures are those of evaluation.metrics.Scores. Lines are drawn, with known light. Time is
CPU time of one thread, both scales in turn, medians. The tables go to bench/results/scale.{md,json}.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from bench.results_files import write_results
from evaluation.drives import read_truth
from evaluation.metrics import LUMA_709, WHITE_NITS, score
from evaluation.nits import read_nits
from models import checkpoints
from models.model import Model
from pipeline.errors import InputError
from pipeline.stages.reconstruct import Reconstruct

Array = np.ndarray
SCALES = (1.0, 0.5)
FIGURES = ("hl_stops", "hl_detail", "mid_stops")
SIZES = ((270, 480), (540, 960))
"""Height and width of the frames whose time is taken."""
HORIZON = 120
"""Row of the drawn picture where the ground begins."""
CLEAR_PX = 6
"""Sky that is further than this from any line counts as clear of lines; up to half of it, as beside one."""


def restore(model: Model, frames: Tensor, scale: float) -> Tensor:
    """Frames (N,3,H,W) of the working space through the stage in float32, one at a time."""
    stage = Reconstruct(model, "fp32", 0, scale)
    with torch.inference_mode():
        return torch.cat([stage(frame) for frame in frames.split(1)])


def score_drive(model: Model, drive: Path, count: int) -> dict[str, dict[str, float]]:
    """Scale -> figure -> value over `count` frames, spread evenly over the drive."""
    truth = list(read_truth(drive / "gt.npz", WHITE_NITS).light())
    sdr = list(read_nits(drive / "sdr.mp4", 1.0))
    picked = np.unique(np.linspace(0, len(truth) - 1, count + 2).round().astype(int)[1:-1])
    frames = torch.from_numpy(np.stack([sdr[number] for number in picked])).permute(0, 3, 1, 2).contiguous()
    light = np.stack([truth[number] for number in picked])
    found = {}
    for scale in SCALES:
        nits = restore(model, frames, scale).permute(0, 2, 3, 1).numpy() * np.float32(WHITE_NITS)
        scores = score(light, nits)
        found[f"{scale:g}"] = {name: getattr(scores, name) for name in FIGURES}
    return found


def draw_lines() -> tuple[Array, Array]:
    """A sky of 2 to 6 times white behind dark lines 1 to 3 px wide, level, steep and slanting, over dim ground.

    Returns its light (180,320,3), 1.0 = SDR white, and the share (180,320) of each pixel that a line covers.
    """
    height, width, fine = 180, 320, 8
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    sky = 2.0 + 4.0 * np.exp(-(((x - 200) / 90) ** 2 + ((y - 40) / 50) ** 2))
    cover = np.zeros((height * fine, width * fine), np.float32)

    def line(start: tuple[float, float], end: tuple[float, float], thickness: float) -> None:
        points = [tuple(round(v * fine * 16) for v in point) for point in (start, end)]
        cv2.line(cover, *points, 1.0, round(thickness * fine), cv2.LINE_8, 4)

    for number, thickness in enumerate((1, 1, 2, 2, 1.5)):
        row = 12 + 17 * number + (0.0 if number == 1 else 0.5)
        line((0, row), (width, row), thickness)
    for number, thickness in enumerate((1, 2, 1, 2)):
        line((30 + 20 * number, 0), (60 + 30 * number, 110), thickness)
    for number, thickness in enumerate((1, 2, 3)):
        line((150, 5 + 30 * number), (width, 60 + 22 * number), thickness)
    share = cv2.resize(cover, (width, height), interpolation=cv2.INTER_AREA)
    light = sky[..., None] * np.array([1.0, 0.97, 0.93], np.float32)
    light = light * (1 - share[..., None]) + 0.02 * share[..., None]
    ground = 0.18 + 0.1 * np.sin(x / 7) * np.sin(y / 5)
    return np.where(y[..., None] >= HORIZON, ground[..., None], light).astype(np.float32), share


def measure_lines(light: Array, share: Array, result: Array) -> dict[str, float]:
    """How lines stand before the sky. light, result (H,W,3), 1.0 = SDR white; share (H,W) of each pixel that a line covers.

    contrast: stops between pixels that a line covers by half at least (and that are not saturated) and the sky beside them; line_stops: mean
    |log2 Y/Y_truth| of these pixels; halo: error of the sky beside lines less that of the sky clear of them, in stops (0 = none).
    """
    sky = (np.arange(len(light)) < HORIZON - 8)[:, None]
    lines = (share > 0.5) & sky & (light.max(-1) < 1)
    away = cv2.distanceTransform((share < 0.02).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    beside, clear = (away > 0) & (away <= CLEAR_PX / 2) & sky, (away > CLEAR_PX) & sky
    stops = np.log2(np.maximum(result @ LUMA_709, 1e-3))
    error = stops - np.log2(np.maximum(light @ LUMA_709, 1e-3))
    window = (9, 9)
    around = cv2.blur(np.where(beside, stops, 0).astype(np.float32), window) / np.maximum(
        cv2.blur(beside.astype(np.float32), window), 1e-6
    )
    return {
        "contrast": float((around - stops)[lines].mean()),
        "line_stops": float(np.abs(error[lines]).mean()),
        "halo": float(error[beside].mean() - error[clear].mean()),
    }


def score_lines(model: Model) -> dict[str, dict[str, float]]:
    """ "truth", "sdr" and each scale -> figure of `measure_lines` -> value."""
    light, share = draw_lines()
    sdr = ((np.minimum(light, 1) ** (1 / 2.4) * 255).round() / 255) ** 2.4
    frames = torch.from_numpy(sdr.astype(np.float32)).permute(2, 0, 1)[None].contiguous()
    found = {"truth": measure_lines(light, share, light), "sdr": measure_lines(light, share, sdr)}
    for scale in SCALES:
        result = restore(model, frames, scale)[0].permute(1, 2, 0).numpy()
        found[f"{scale:g}"] = measure_lines(light, share, result)
    return found


def time_stage(model: Model, precision: str, height: int, width: int, rounds: int) -> dict[str, float]:
    """Scale -> median CPU seconds a frame of the whole stage, on one thread; the scales take turns."""
    light, _ = draw_lines()
    picture = cv2.resize(np.minimum(light, 1), (width, height), interpolation=cv2.INTER_LINEAR)
    frame = torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous()
    stages = {f"{scale:g}": Reconstruct(model, precision, 0, scale) for scale in SCALES}
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    with torch.inference_mode():
        for number in range(rounds + 1):
            for name, stage in stages.items():
                before = time.process_time()
                stage(frame)
                if number:  # the first is a warm-up
                    seconds[name].append(time.process_time() - before)
    return {name: statistics.median(values) for name, values in seconds.items()}


def table(model: str, results: dict[str, Any]) -> str:
    """Markdown of one model's results."""
    names = [f"{scale:g}" for scale in SCALES]
    columns = [f"{figure} {name}" for figure in FIGURES for name in names]
    lines = [f"## {model}", "", f"| drive | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    drives = results["drives"]
    rows = {drive: [found[name][figure] for figure in FIGURES for name in names] for drive, found in drives.items()}
    rows["**mean**"] = [statistics.mean(column) for column in zip(*rows.values(), strict=True)]
    lines += [f"| {drive} | {' | '.join(f'{value:.3f}' for value in row)} |" for drive, row in rows.items()]
    figures = list(results["lines"]["truth"])
    lines += ["", f"| thin lines | {' | '.join(figures)} |", "|---|" + "---|" * len(figures)]
    lines += [
        f"| {name} | {' | '.join(f'{found[figure]:.3f}' for figure in figures)} |"
        for name, found in results["lines"].items()
    ]
    lines += ["", "| stage, one thread | CPU s a frame, scale 1 | scale 0.5 | ratio |", "|---|---|---|---|"]
    lines += [
        f"| {size} | {found['1']:.3f} | {found['0.5']:.3f} | {found['1'] / found['0.5']:.2f} |"
        for size, found in results["seconds"].items()
    ]
    return "\n".join(lines) + "\n"


def measure(model: Model, drives: list[Path], frames: int, rounds: int) -> dict[str, Any]:
    """All results of one model. Times are in the precision that `precision=auto` takes here, quality is in float32."""
    precision = model.best_precision()
    found = {drive.name: score_drive(model, drive, frames) for drive in drives}
    seconds = {
        f"{width}x{height}, {precision}": time_stage(model, precision, height, width, rounds) for height, width in SIZES
    }
    return {"drives": found, "lines": score_lines(model), "seconds": seconds}


def main() -> None:
    """Score, time, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drives", type=Path, help="folder of drives")
    parser.add_argument("--models", nargs="+", default=[name for name in checkpoints.available() if name != "neutral"])
    parser.add_argument("--frames", type=int, default=3, help="of each drive (default 3)")
    parser.add_argument("--rounds", type=int, default=7, help="timed runs of each scale (default 7)")
    parser.add_argument("--output", type=Path, default=Path("bench/results"), help="folder of the tables")
    args = parser.parse_args()
    torch.set_num_threads(1)
    drives = sorted(path.parent for path in args.drives.glob("*/gt.npz"))
    if not drives:
        raise InputError(f"{args.drives}: no drive (a folder with sdr.mp4 and gt.npz) in it.")
    results = {name: measure(checkpoints.load(name, "cpu"), drives, args.frames, args.rounds) for name in args.models}
    header = (
        f"reconstruct.scale 1 against 0.5: {len(drives)} virtual drives of {args.frames} frames, the stage alone, scored "
        f"at 1000 nits; drawn thin lines; time on {torch.backends.cpu.get_cpu_capability()}, PyTorch {torch.__version__}."
    )
    text = "\n".join([header, "", *(table(name, found) for name, found in results.items())])
    write_results(args.output, "scale", text, {"header": header, "results": results})
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
