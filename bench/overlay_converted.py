"""Burnt-in text in drives converted end to end by `convert` with the profile dashcam: how bright it is in the decoded HDR10 file.

    python -m bench.overlay_converted DRIVES --model tiny

DRIVES: a folder of drives NAME-overlay as ../shared/bench/drivesim.py renders them with --overlay; others in it are left out.

    overlay     share of text pixels (cover above 200 of 255) above 1.1 x white, as ../shared/bench/score.py has it, chroma put where it belongs
    brightest   largest channel of any text pixel, x white
    usual       its median

The tables go to bench/results/overlay_converted.{md,json}.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from bench.results_files import write_results
from configs.schema import load_config
from evaluation.nits import read_nits
from pipeline.errors import InputError, SunvisorError
from workers.batch import run_batch
from workers.jobs import Job

SOLID = 200
OVER = 1.1
FIGURES = ("overlay", "brightest", "usual")


def convert(drives: list[Path], model: str, folder: Path) -> dict[str, Path]:
    """Drive name -> its HDR10 file in folder."""
    jobs = [Job(drive / "sdr.mp4", folder / f"{drive.name}.mp4") for drive in drives]
    batch = run_batch(jobs, load_config("dashcam", None, [f"model={model}"]))
    if batch.exit_code:
        raise SunvisorError(next(report.error for report in batch.files if report.error) or "a drive failed")
    return {drive.name: job.output for drive, job in zip(drives, jobs, strict=True)}


def measure(result: Path, truth: Path) -> dict[str, float]:
    """Figures of one conversion. truth: the drive's gt.npz."""
    config = load_config("dashcam")
    covers = np.load(truth)["overlay"]
    frames = list(read_nits(result, config.grade.white_nits))
    if len(frames) != len(covers):
        raise InputError(f"{result}: {len(frames)} frames, the truth has {len(covers)}.")
    levels = np.concatenate([frame.max(axis=2)[cover > SOLID] for frame, cover in zip(frames, covers, strict=True)])
    levels = levels / config.grade.white_nits
    return {
        "overlay": float((levels > OVER).mean()),
        "brightest": float(levels.max()),
        "usual": float(np.median(levels)),
    }


def table(results: dict[str, dict[str, float]], header: str) -> str:
    """Markdown, a drive a row."""
    lines = [header, "", f"| drive | {' | '.join(FIGURES)} |", "|---|" + "---|" * len(FIGURES)]
    lines += [f"| {name} | {' | '.join(f'{row[key]:.4f}' for key in FIGURES)} |" for name, row in results.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Convert, measure, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drives", type=Path, help="folder of drives with burnt-in text")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--videos", type=Path, help="folder to keep the conversions in; a temporary one if not given")
    parser.add_argument("--output", type=Path, default=Path("bench/results"), help="folder of the tables")
    args = parser.parse_args()
    drives = sorted(path.parent for path in args.drives.glob("*-overlay/gt.npz"))
    if not drives:
        raise InputError(f"{args.drives}: no drive NAME-overlay (a folder with sdr.mp4 and gt.npz) in it.")
    with tempfile.TemporaryDirectory(prefix="sunvisor-overlay-") as folder:
        made = convert(drives, args.model, args.videos or Path(folder))
        results = {drive.name: measure(made[drive.name], drive / "gt.npz") for drive in drives}
    header = f"{len(drives)} virtual drives with burnt-in text, converted by `convert` with the profile dashcam and {args.model}; 1.0 = SDR white."
    text = table(results, header)
    write_results(args.output, "overlay_converted", text, {"header": header, "results": results})
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
