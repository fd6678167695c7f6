"""The paper's claims, re-measured: arms that differ in one thing, the same budget and data, several seeds, mean and spread.

    python -m bench.claims --data runs/data --iterations 8000 --batch 4 --seeds 3

Each run is an ordinary training run in --runs and goes on where it stopped. The tables go to bench/results/claims.{md,json}: every
figure is of the averaged weights after the last iteration, on the held-out scenes. Width 16 in all arms.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import torch

from bench.results_files import write_results
from evaluation.progress import Bar
from models import checkpoints
from pipeline.version import software
from training.processes import Processes
from training.settings import load_train_config
from training.trainer import LAST, Trainer

COMMON = ["data.crop=128", "model.width=16", "amp=bf16"]
PERCEPTUAL = ["loss.perceptual=efficientnet_lite0", "loss.perceptual_weight=0.05"]
ARMS = {
    "DCDR-UNet, perceptual loss": ["model.architecture=dcdr_unet", *PERCEPTUAL],
    "DCDR-UNet, no perceptual loss": ["model.architecture=dcdr_unet"],
    "plain residual blocks, perceptual loss": ["model.architecture=residual_unet", *PERCEPTUAL],
    "plain residual blocks, no perceptual loss": ["model.architecture=residual_unet"],
    "HDRUNet, perceptual loss": ["model.architecture=hdrunet", *PERCEPTUAL],
    "DCDR-UNet with deeper scales, perceptual loss": ["model.architecture=dcdr_unet_deep", *PERCEPTUAL],
    "DCDR-UNet, L1 in PU21": ["model.architecture=dcdr_unet", "loss.pixel=pu"],
    "DCDR-UNet, tanh-L1": ["model.architecture=dcdr_unet", "loss.pixel=tanh"],
}
FIGURES = ("hl_stops", "hl_detail", "mid_stops", "pu_psnr")


def measure(words: list[str]) -> dict[str, float]:
    """Train one run to its end (or find it done) and return its figures on the held-out scenes."""
    config = load_train_config(None, words)
    trainer = Trainer(config, Processes(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu")))
    with Bar(config.output, config.iterations, "it/s", trainer.step) as bar:
        before = trainer.step
        if before < config.iterations:

            def report(step: object) -> None:
                nonlocal before
                bar.advance(step.step - before, f"loss {step.loss:.4f}")  # type: ignore[attr-defined]
                before = step.step  # type: ignore[attr-defined]

            trainer.run(report)
    return checkpoints.load(Path(config.output) / LAST).spec.metrics


def table(results: dict[str, list[dict[str, float]]], header: str) -> str:
    """Markdown: an arm a row, mean and standard deviation over its seeds."""
    lines = [header, "", "| arm | seeds | " + " | ".join(FIGURES) + " |", "|---|---|" + "---|" * len(FIGURES)]
    for arm, runs in results.items():
        cells = []
        for name in FIGURES:
            values = [run[name] for run in runs]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            cells.append(f"{statistics.mean(values):.3f} ± {spread:.3f}")
        lines.append(f"| {arm} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/data"), help="shards of `train prepare`")
    parser.add_argument("--runs", type=Path, default=Path("runs/claims"), help="folder of the training runs")
    parser.add_argument("--output", type=Path, default=Path("bench/results"), help="folder of the tables")
    parser.add_argument("--iterations", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=4, help="squares of 128x128 an iteration")
    parser.add_argument(
        "--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help=f"any of: {' | '.join(ARMS)}"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results: dict[str, list[dict[str, float]]] = {arm: [] for arm in args.arms}
    budget = [f"iterations={args.iterations}", f"validate_every={args.iterations}", f"data.batch={args.batch}"]
    budget += [f"data.folder={args.data}"]
    for seed in range(args.seeds):
        for arm in args.arms:
            output = args.runs / f"{list(ARMS).index(arm)}-{seed}-{args.iterations}x{args.batch}"
            results[arm].append(measure([*COMMON, *budget, *ARMS[arm], f"seed={seed}", f"output={output}"]))
    header = (
        f"{args.iterations} iterations of {args.batch} x 128 x 128 in each arm, width 16, {args.seeds} seeds, mean ± standard deviation on the "
        f"held-out scenes of {args.data}; {software()}; torch {torch.__version__}."
    )
    write_results(args.output, "claims", table(results, header), {"header": header, "results": results})
    sys.stdout.write(table(results, header))


if __name__ == "__main__":
    main()
