"""The `inspect` and `verify` commands."""

from __future__ import annotations

import argparse
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

from commands.shared import add_command, print_json


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
    parser.add_argument("source", type=Path, help="the SDR video")
    parser.add_argument("output", type=Path, help="the HDR video made from it")
    parser.add_argument("--full", action="store_true", help="decode every frame and measure its light")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _inspect(args: argparse.Namespace) -> int:
    from pipeline.describe import describe, describe_text

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

    report = verify(args.source, args.output, full=args.full)
    if args.json:
        print_json(report.to_dict())
    else:
        for check in report.checks:
            told = check.detail if check.detail.startswith(check.name) else f"{check.name}: {check.detail}"
            sys.stdout.write(f"{'ok  ' if check.ok else 'FAIL'} {told}\n")
        sys.stdout.write("verified\n" if report.ok else "not a true conversion\n")
    return 0 if report.ok else 1
