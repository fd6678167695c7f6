"""How near virtual drives come to the truth: each is converted end to end by `convert`, and its decoded HDR10 file is scored.

    python -m bench.drives DRIVES --models neutral tiny small

DRIVES: a folder of drives as ../shared/bench/drivesim.py renders them (each a folder with sdr.mp4 and gt.npz), of scenes that the
models were not trained on. The tables go to bench/results/drives.{md,json}; the figures are those of evaluation.metrics.Scores, means
over drives; "better" is in how many drives hl_detail lies above the SDR's own, "worse" the largest hl_stops over the SDR's own.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
from pathlib import Path

from bench.results_files import write_results
from configs.schema import load_config
from evaluation.evaluate import Request, evaluate
from models import checkpoints
from pipeline.errors import InputError, SunvisorError
from workers.batch import run_batch
from workers.jobs import Job

FIGURES = ("hl_stops", "hl_bias", "hl_detail", "mid_stops", "flicker", "pu_psnr", "jod")
Scores = dict[str, dict[str, float]]


def convert_and_score(drives: list[Path], model: str) -> Scores:
    """Drive name -> figure -> value, of one model."""
    with tempfile.TemporaryDirectory(prefix="sunvisor-drives-") as folder:
        jobs = [Job(drive / "sdr.mp4", Path(folder) / f"{drive.name}.mp4") for drive in drives]
        batch = run_batch(jobs, load_config("dashcam", None, [f"model={model}"]))
        if batch.exit_code:
            raise SunvisorError(next(report.error for report in batch.files if report.error) or "a drive failed")
        found = {}
        for drive, job in zip(drives, jobs, strict=True):
            scores = evaluate(Request(result=job.output, truth=drive / "gt.npz")).drive
            assert scores is not None
            found[drive.name] = {name: dataclasses.asdict(scores)[name] for name in FIGURES}
            told = "  ".join(f"{name} {value:.3f}" for name, value in found[drive.name].items())
            sys.stderr.write(f"{model} {drive.name}: {told}\n")
        return found


def table(results: dict[str, Scores], header: str) -> str:
    """Markdown: means over drives, a model a row; the first row is what the others are compared with."""
    lines = [header, "", f"| model | {' | '.join(FIGURES)} | better | worse |", "|---|" + "---|" * (len(FIGURES) + 2)]
    base = next(iter(results.values()))
    for model, scores in results.items():
        means = [f"{statistics.mean(row[name] for row in scores.values()):.3f}" for name in FIGURES]
        better = sum(scores[drive]["hl_detail"] > base[drive]["hl_detail"] for drive in scores)
        worse = max(scores[drive]["hl_stops"] - base[drive]["hl_stops"] for drive in scores)
        lines.append(f"| {model} | {' | '.join(means)} | {better} of {len(scores)} | {worse:+.3f} |")
    lines += ["", "hl_stops by drive:", "", f"| drive | {' | '.join(results)} |", "|---|" + "---|" * len(results)]
    for drive in base:
        values = " | ".join(f"{scores[drive]['hl_stops']:.3f}" for scores in results.values())
        lines.append(f"| {drive} | {values} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Convert, score, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drives", type=Path, help="folder of drives")
    parser.add_argument(
        "--models", nargs="+", default=["neutral", *(n for n in checkpoints.available() if n != "neutral")]
    )
    parser.add_argument("--output", type=Path, default=Path("bench/results"), help="folder of the tables")
    args = parser.parse_args()
    drives = sorted(path.parent for path in args.drives.glob("*/gt.npz"))
    if not drives:
        raise InputError(f"{args.drives}: no drive (a folder with sdr.mp4 and gt.npz) in it.")
    results = {model: convert_and_score(drives, model) for model in args.models}
    header = f"{len(drives)} virtual drives, converted by `convert` with the profile dashcam, scored at 1000 nits."
    write_results(args.output, "drives", table(results, header), {"header": header, "results": results})
    sys.stdout.write(table(results, header))


if __name__ == "__main__":
    main()
