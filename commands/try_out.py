"""The `demo` and `bench` commands."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from commands.shared import add_command
from configs.schema import load_config
from pipeline.errors import SunvisorError


def add_demo(commands: Any) -> None:  # noqa: ANN401
    """Add it to the command line."""
    parser = add_command(
        commands,
        "demo",
        _demo,
        "Render a short drive with known HDR truth, convert what a dashcam would record of it, and score it.",
        "",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("demo_out"), help="folder for the results (default: %(default)s)"
    )


def add_bench(commands: Any) -> None:  # noqa: ANN401
    """Add it to the command line."""
    parser = add_command(
        commands,
        "bench",
        _bench,
        "Measure this machine: stages alone, the whole, the ratio between them, and the deformable convolution.",
        "A GPU is measured by: python -m bench.gpu",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("bench_out"),
        help="folder for the clip, result and tables (default: %(default)s)",
    )
    parser.add_argument("--clip", type=Path, help="a video to measure on (default: the demo's drive)")


def _demo(args: argparse.Namespace) -> int:
    from demo.demo import run_demo
    from workers.batch import run_batch
    from workers.jobs import Job

    def convert(source: Path, output: Path) -> Any:  # noqa: ANN401 - a FileReport
        batch = run_batch([Job(source, output)], load_config("dashcam"), overwrite=True)
        if batch.exit_code:
            raise SunvisorError(batch.files[0].error or "the demo clip could not be converted")
        return batch.files[0]

    sys.stdout.write(run_demo(args.output, convert)["text"] + "\n")
    return 0


def _bench(args: argparse.Namespace) -> int:
    from bench.cpu import run_bench
    from bench.deform import run_deform

    sys.stdout.write(run_bench(args.output, args.clip) + "\n\n")
    sys.stdout.write(run_deform(args.output) + "\n")
    return 0
