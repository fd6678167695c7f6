"""The `train` command: its words, what it shows while it works, and what it prints at the end."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch

from evaluation.progress import Bar
from pipeline.errors import InputError
from training.processes import join
from training.settings import load_train_config
from training.trainer import Progress as Step
from training.trainer import Trainer

PREPARE_OPTIONS = ("scenes", "output", "frames", "validation_views", "seed")
NUMBERS = {"frames": 2190, "validation_views": 3, "seed": 0}
DATA_FOLDER = Path("runs/data")


def run(args: argparse.Namespace) -> int:
    """Train or prepare. Returns 0; errors are raised."""
    if args.threads is not None:
        if args.threads < 1:
            raise InputError(f"--threads {args.threads}: legal: 1 or more.")
        torch.set_num_threads(args.threads)
    preparing = args.words[:1] == ["prepare"]
    wrong = [name for name in (PREPARE_OPTIONS if not preparing else ("config",)) if getattr(args, name) is not None]
    if wrong:
        word = wrong[0].replace("_", "-")
        raise InputError(
            f"train: --{word} belongs to {'train without prepare' if preparing else 'train prepare'}; settings are written key=value."
        )
    if preparing:
        return _prepare(args)
    strange = [word for word in args.words if "=" not in word]
    if strange:
        raise InputError(f"train: '{strange[0]}' is neither 'prepare' nor a setting; settings are written key=value.")
    config = load_train_config(args.config, args.words)
    with join(config.device) as processes:
        trainer = Trainer(config, processes)
        best = _shown(trainer) if processes.first else trainer.run(lambda _: None)
    if processes.first:
        sys.stdout.write(f"best by validation: {best}\n")
    return 0


def _shown(trainer: Trainer) -> Path:
    """Run with a progress bar on stderr: it/s, time to go, the loss, and a line for each validation."""
    with Bar("training", trainer.config.iterations, "it/s", trainer.step) as bar:
        before = trainer.step

        def report(step: Step) -> None:
            nonlocal before
            bar.advance(step.step - before, f"loss {step.loss:.4f}")
            before = step.step
            if step.validation is not None:
                told = "  ".join(f"{name} {value:.3f}" for name, value in step.validation.figures.items())
                bar.say(f"iteration {step.step}: {told}")

        return trainer.run(report)


def _prepare(args: argparse.Namespace) -> int:
    from training.prepare import HELD_OUT, prepare

    if len(args.words) > 1:
        raise InputError(f"train prepare: takes no further words; '{args.words[1]}' is one.")
    if args.scenes is None:
        raise InputError("train prepare: name the folder of linear HDR images with --scenes DIR.")
    frames, views, seed = (
        getattr(args, name) if getattr(args, name) is not None else default for name, default in NUMBERS.items()
    )
    if frames < 1 or views < 1 or seed < 0:
        raise InputError("train prepare: --frames and --validation-views must be at least 1, --seed at least 0.")
    output = args.output or DATA_FOLDER
    torch.set_num_threads(1)  # pictures are small; threads would only wait for each other
    with Bar("rendering", frames, "frames/s") as bar:
        sums = prepare(args.scenes, output, frames, views, seed, HELD_OUT, bar.advance)
    for kind in ("train", "validation"):
        size = math.ceil(sums[f"{kind}_bytes"] / (1 << 20))
        sys.stdout.write(f"{output / kind}: {sums[f'{kind}_frames']} frames, {size} MiB\n")
    return 0
