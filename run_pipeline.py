#!/usr/bin/env python3
"""Sunvisor: turn SDR driving video into verified 10-bit HDR video.

This file is the door: it reads the command line and calls one function per command.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

from rich.console import Console

from configs.schema import Config, load_config, profiles
from pipeline.errors import InputError, SunvisorError

OVERRIDE = re.compile(r"^[a-z_]+(\.[a-z_0-9]+)*=", re.IGNORECASE)
ERRORS = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="run_pipeline.py",
        description="Turn SDR driving video (dashcam, action cam) into verified 10-bit HDR video.",
        epilog="Start with: run_pipeline.py demo    then: run_pipeline.py convert drive.mp4 --output drive_hdr.mp4",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_convert(commands)
    _add_inspect(commands)
    _add_verify(commands)
    _add_demo(commands)
    bench = _command(
        commands, "bench", _bench, "Measure this machine: stages alone, the whole, and the ratio between them.", ""
    )
    bench.add_argument(
        "--output",
        type=Path,
        default=Path("bench_out"),
        help="folder for the clip, result and tables (default: %(default)s)",
    )
    bench.add_argument("--clip", type=Path, help="a video to measure on (default: the demo's drive)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns 0, 1 (something failed), 2 (the user can mend it) or 130 (interrupted)."""
    parser = build_parser()
    args, more = parser.parse_known_args(argv)
    # argparse gives up on inputs and settings that come after an option; they belong to `convert`.
    if more and (args.command != "convert" or any(word.startswith("-") for word in more)):
        parser.error(f"{args.command} does not know: {' '.join(more)}; see {parser.prog} {args.command} --help")
    if more:
        args.words += more
    try:
        return args.run(args)
    except SunvisorError as error:
        ERRORS.print(f"error: {error}")
        if getattr(args, "json", False):
            _print_json({"error": str(error), "exit_code": error.exit_code})
        return error.exit_code
    except KeyboardInterrupt:
        ERRORS.print("interrupted")
        return 130


def _command(
    commands: Any,  # noqa: ANN401 - argparse does not name this type publicly
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
    epilog: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=text, description=text, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run=run)
    return parser


def _add_convert(commands: Any) -> None:  # noqa: ANN401
    parser = _command(
        commands,
        "convert",
        _convert,
        "Convert videos to 10-bit HDR. Stop it at any time: the same command goes on where it stopped.",
        """examples:
  run_pipeline.py convert drive.mp4 --output drive_hdr.mp4
  run_pipeline.py convert sdcard/ --output hdr/                 a folder; its tree is mirrored
  run_pipeline.py convert 'trip*/*.mp4' --output hdr/ --dry-run what would happen, and why
  run_pipeline.py convert drive.mp4 --output d.mkv grade.peak_nits=600 output.codec=av1

Settings: any key of configs/schema.py as key=value; a misspelt key lists the legal ones.
Exit code: 0 all well, 1 something failed, 2 something you can mend, 130 interrupted. With several files the rest goes on.""",
    )
    parser.add_argument(
        "words", nargs="+", metavar="INPUT|key=value", help="video files, folders or globs, and settings as key=value"
    )
    parser.add_argument(
        "--output",
        "-o",
        type=Path,
        required=True,
        metavar="PATH",
        help="file to write (.mp4 .mov .mkv), or a folder for several inputs",
    )
    parser.add_argument(
        "--profile", default="dashcam", help=f"settings to start from: {', '.join(profiles())} (default: %(default)s)"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="your own YAML on top of the profile")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="worker processes (default: one a GPU, or one for the CPU); never changes the result",
    )
    parser.add_argument("--address", metavar="ADDR", help="a running Ray cluster (default: start and stop one here)")
    parser.add_argument(
        "--video", metavar="all|N", help="which video streams to convert (default: the first); others are copied"
    )
    parser.add_argument(
        "--fps", metavar="RATE", help="frame rate of a raw .h264/.hevc stream, such as 20 or 30000/1001"
    )
    parser.add_argument("--force", action="store_true", help="convert a source that is HDR already")
    parser.add_argument(
        "--strict", action="store_true", help="fail on a damaged frame instead of repeating the last good one"
    )
    parser.add_argument("--salvage", action="store_true", help="convert the readable part of a file that was cut short")
    parser.add_argument("--overwrite", action="store_true", help="replace an output that was made from something else")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and change nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON report on standard output")


def _add_inspect(commands: Any) -> None:  # noqa: ANN401
    parser = _command(commands, "inspect", _inspect, "Say what a video file holds and how Sunvisor reads it.", "")
    parser.add_argument("file", type=Path, help="a video file")
    parser.add_argument(
        "--fps", type=Fraction, metavar="RATE", help="frame rate of a raw .h264/.hevc stream, such as 20 or 30000/1001"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_verify(commands: Any) -> None:  # noqa: ANN401
    parser = _command(
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


def _add_demo(commands: Any) -> None:  # noqa: ANN401
    parser = _command(
        commands,
        "demo",
        _demo,
        "Render a short drive with known HDR truth, convert what a dashcam would record of it, and score it.",
        "",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("demo_out"), help="folder for the results (default: %(default)s)"
    )


def _convert(args: argparse.Namespace) -> int:
    from pipeline.report import plan_facts, print_plan, print_results
    from workers.batch import plan_batch, run_batch
    from workers.jobs import find_jobs

    overrides = [word for word in args.words if OVERRIDE.match(word) and not Path(word).exists()]
    inputs = [word for word in args.words if word not in overrides]
    if not inputs:
        raise InputError("convert: no input named; give a video file, a folder or a glob.")
    config = load_config(args.profile, args.config, overrides)
    _apply_flags(config, args)
    jobs, skipped = find_jobs(inputs, args.output, config.output.container)
    console = Console(stderr=args.json)
    if args.dry_run:
        prepared, reports = plan_batch(jobs, config)
        for item in prepared:
            if not args.json:
                print_plan(console, item)
        if args.json:
            _print_json(
                {"plans": [plan_facts(item) for item in prepared], "files": [report.to_dict() for report in reports]}
            )
        else:
            for report in reports:
                ERRORS.print(f"{report.source}: {report.status}: {report.error}")
        return max([report.exit_code for report in reports], default=0)
    batch = run_batch(jobs, config, overwrite=args.overwrite)
    if args.json:
        _print_json(batch.to_dict() | {"skipped": [str(path) for path in skipped]})
    else:
        print_results(console, batch.files)
        for path in skipped:
            console.print(f"{path}: skipped, not a video file by its name", markup=False, soft_wrap=True)
    return batch.exit_code


def _apply_flags(config: Config, args: argparse.Namespace) -> None:
    config.input.force |= args.force
    config.input.strict |= args.strict
    config.input.salvage |= args.salvage
    if args.video is not None:
        if args.video != "all" and not args.video.isdigit():
            raise InputError(f"--video {args.video}: legal: all, or the number of a video stream (0, 1, ...).")
        config.input.video = args.video
    if args.fps is not None:
        config.input.fps = args.fps
    if args.address is not None:
        config.workers.address = args.address
    if args.workers is not None:
        if args.workers < 1:
            raise InputError(f"--workers {args.workers}: legal: 1 or more.")
        config.workers.count = args.workers


def _inspect(args: argparse.Namespace) -> int:
    from pipeline.describe import describe, describe_text

    facts = describe(args.file, fps=args.fps)
    if args.json:
        _print_json(facts)
    else:
        sys.stdout.write(describe_text(facts) + "\n")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from pipeline.verify import verify

    report = verify(args.source, args.output, full=args.full)
    if args.json:
        _print_json(report.to_dict())
    else:
        for check in report.checks:
            told = check.detail if check.detail.startswith(check.name) else f"{check.name}: {check.detail}"
            sys.stdout.write(f"{'ok  ' if check.ok else 'FAIL'} {told}\n")
        sys.stdout.write("verified\n" if report.ok else "not a true conversion\n")
    return 0 if report.ok else 1


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

    sys.stdout.write(run_bench(args.output, args.clip) + "\n")
    return 0


def _print_json(data: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(data, indent=1, default=str) + "\n")


if __name__ == "__main__":
    sys.exit(main())
