#!/usr/bin/env python3
"""Sunvisor: turn SDR driving video into verified 10-bit HDR video.

This file is the door: it reads the command line and calls one function per command.
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

from commands.batch import add_pause, add_resume, add_status
from commands.check import add_inspect, add_verify
from commands.convert import add_convert
from commands.preview import add_preview
from commands.shared import print_json
from commands.study import add_evaluate, add_figures, add_train
from commands.try_out import add_bench, add_demo
from pipeline.errors import SunvisorError

COMMANDS = (
    add_convert,
    add_status,
    add_pause,
    add_resume,
    add_preview,
    add_inspect,
    add_verify,
    add_demo,
    add_evaluate,
    add_figures,
    add_train,
    add_bench,
)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="run_pipeline.py",
        description="Turn SDR driving video (dashcam, action cam) into verified 10-bit HDR video.",
        epilog="Start with: run_pipeline.py demo    then: run_pipeline.py convert drive.mp4 --output drive_hdr.mp4",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns 0, 1 (something failed), 2 (the user can mend it) 3 (time over), 130 (interrupted) or 143 (SIGTERM)."""
    parser = build_parser()
    errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    args, more = parser.parse_known_args(argv)
    # argparse gives up on inputs and settings that come after an option; they belong to `convert`, `preview` or `train`.
    if more and (args.command not in ("convert", "preview", "train") or any(word.startswith("-") for word in more)):
        parser.error(f"{args.command} does not know: {' '.join(more)}; see {parser.prog} {args.command} --help")
    if more:
        args.words += more
    try:
        return args.run(args)
    except SunvisorError as error:
        errors.print(f"error: {error}")
        if getattr(args, "json", False):
            print_json({"error": str(error), "exit_code": error.exit_code})
        return error.exit_code
    except KeyboardInterrupt:
        errors.print("interrupted")
        return 130


if __name__ == "__main__":
    sys.exit(main())
