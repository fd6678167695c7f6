"""The `inspect` and `verify` commands."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from commands.shared import add_command, print_json, refuse_urls
from pipeline.errors import InputError


def add_inspect(commands: Any) -> None:  # noqa: ANN401
    """Add it to the command line."""
    parser = add_command(commands, "inspect", _inspect, "Say what a video file holds and how Sunvisor reads it.", "")
    parser.add_argument("file", type=Path, help="a video file")
    parser.add_argument(
        "--fps", type=Fraction, metavar="RATE", help="frame rate of a raw .h264/.hevc stream, such as 20 or 30000/1001"
    )
    parser.add_argument(
        "--overlay",
        type=Path,
        metavar="PNG",
        help="draw where convert would find burnt-in text (clock, speed, place, logo) and the bonnet",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_verify(commands: Any) -> None:  # noqa: ANN401
    """Add it to the command line."""
    parser = add_command(
        commands,
        "verify",
        _verify,
        "Check that OUTPUT is a true conversion of SOURCE.",
        "Exit code 0 when every check holds, 1 when one fails.",
    )
    parser.add_argument("source", type=Path, help="the SDR video, or the folder of pictures (or the first picture)")
    parser.add_argument("output", type=Path, help="the HDR video made from it")
    parser.add_argument("--full", action="store_true", help="decode every frame and measure its light")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _inspect(args: argparse.Namespace) -> int:
    from pipeline.describe import describe, describe_text

    refuse_urls("inspect", args.file)
    facts = describe(args.file, fps=args.fps)
    text = describe_text(facts)
    if args.overlay is not None:
        from pipeline.overlay_view import write_overlay_view

        found, bonnet = write_overlay_view(args.file, args.overlay, args.fps)
        boxes = [[box.x, box.y, box.width, box.height] for box in found]
        facts |= {"overlays": boxes, "bonnet": bonnet}
        places = "; ".join("x {} y {}, {}x{}".format(*box) for box in boxes)
        text += f"\nburnt-in text: {places or 'none found'} (drawn into {args.overlay})"
        text += f"\nbonnet: {'found, exclude.find=true keeps it as it is' if bonnet else 'none found'}"
    if args.json:
        print_json(facts)
    else:
        sys.stdout.write(text + "\n")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from pipeline.verify import verify

    refuse_urls("verify", args.source, args.output)
    with TemporaryDirectory() as folder:
        source = _as_video(args.source, args.output, Path(folder))
        report = replace(verify(source, args.output, full=args.full), source=str(args.source))
    if args.json:
        print_json(report.to_dict())
    else:
        for check in report.checks:
            told = check.detail if check.detail.startswith(check.name) else f"{check.name}: {check.detail}"
            sys.stdout.write(f"{'ok  ' if check.ok else 'FAIL'} {told}\n")
        sys.stdout.write("verified\n" if report.ok else "not a true conversion\n")
    return 0 if report.ok else 1


def _as_video(source: Path, output: Path, folder: Path) -> Path:
    """The source itself; for numbered pictures the file that stands for them, made in `folder` with the output's frame rate."""
    from pipeline.sequence import find_runs, is_picture, run_of, wrap
    from pipeline.source import open_source

    if source.is_dir():
        runs = find_runs(source)
        if len(runs) > 1:
            first = ", ".join(str(run.files[0]) for run in runs[:5])
            raise InputError(f"{source}: holds {len(runs)} runs of pictures; name the first picture of one: {first}.")
        run = runs[0]
    elif source.is_file() and is_picture(source):
        run = run_of(source)
    else:
        return source
    with open_source(output) as made:
        rate = made.streams.video[0].average_rate if made.streams.video else None
    return wrap(run, run.rate(rate), folder / "pictures.mov")
