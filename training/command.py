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


def run(args: argparse.Namespace) -> int:
    """Train or prepare. Returns 0; errors are raised."""
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.words[:1] == ["prepare"]:
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

    if args.scenes is None:
        raise InputError("train prepare: name the folder of linear HDR images with --scenes DIR.")
    if args.frames < 1 or args.validation_views < 1:
        raise InputError("train prepare: --frames and --validation-views must be at least 1.")
    torch.set_num_threads(1)  # pictures are small; threads would only wait for each other
    settings = (args.frames, args.validation_views, args.seed, HELD_OUT)
    with Bar("rendering", args.frames, "frames/s") as bar:
        sums = prepare(args.scenes, args.output, *settings, bar.advance)
    for kind in ("train", "validation"):
        size = math.ceil(sums[f"{kind}_bytes"] / (1 << 20))
        sys.stdout.write(f"{args.output / kind}: {sums[f'{kind}_frames']} frames, {size} MiB\n")
    return 0
