"""The `inspect` and `verify` commands."""

from __future__ import annotations

import argparse
import sys
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from commands.shared import add_command, print_json, refuse_urls
from workers.apart import Compared, Inspected, call_apart

INSPECT_FILE = "workers.file_work:inspect_file"
VERIFY_FILE = "workers.file_work:verify_file"


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
    refuse_urls("inspect", args.file)
    facts, text = call_apart(INSPECT_FILE, Inspected(args.file, args.fps, args.overlay), args.file, "looked at")
    if args.json:
        print_json(facts)
    else:
        sys.stdout.write(text + "\n")
    return 0


def _verify(args: argparse.Namespace) -> int:
    refuse_urls("verify", args.source, args.output)
    with TemporaryDirectory() as folder:
        asked = Compared(args.source, args.output, args.full, Path(folder))
        report = call_apart(VERIFY_FILE, asked, args.output, "compared with its source")
    if args.json:
        print_json(report.to_dict())
    else:
        for check in report.checks:
            told = check.detail if check.detail.startswith(check.name) else f"{check.name}: {check.detail}"
            sys.stdout.write(f"{'ok  ' if check.ok else 'FAIL'} {told}\n")
        sys.stdout.write("verified\n" if report.ok else "not a true conversion\n")
    return 0 if report.ok else 1
