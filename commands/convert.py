"""The `convert` command."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from rich.console import Console

from commands.shared import add_command, print_json
from configs.schema import Config, load_config, profiles
from pipeline.errors import InputError

OVERRIDE = re.compile(r"^[a-z_]+(\.[a-z_0-9]+)*=", re.IGNORECASE)
ERRORS = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def add_convert(commands: Any) -> None:  # noqa: ANN401
    """Add it to the command line."""
    parser = add_command(
        commands,
        "convert",
        _convert,
        "Convert videos to 10-bit HDR. Stop it at any time: the same command goes on where it stopped.",
        """examples:
  run_pipeline.py convert drive.mp4 --output drive_hdr.mp4
  run_pipeline.py convert sdcard/ --output hdr/                 a folder; its tree is mirrored
  run_pipeline.py convert 'trip*/*.mp4' --output hdr/ --dry-run what would happen, and why
  run_pipeline.py convert drive.mp4 --output d.mkv grade.peak_nits=600 output.codec=av1
  run_pipeline.py convert drive.mp4 --output d.mov output.codec=prores extras.proxy=sdr    for editing, with a small video beside it

Settings: any key of configs/schema.py as key=value; a misspelt key lists the legal ones.
--progress json: each line is an object. {"is": "progress", ...}, every second and at each change, with the numbers seconds (since the
start), files_done, files, spans_done, spans, frames_done, frames (frames_guessed of them are a guess: files not yet looked at),
frames_per_second, eta_seconds (null: not known yet), and now: the same numbers of each file that is being converted, beside its name,
file. {"is": "message", "text": ...}: what people are told meanwhile, such as what became of a file.
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
    parser.add_argument(
        "--address",
        metavar="ADDR",
        help="a running Ray cluster: HOST:PORT of its head, or auto inside it (default: start and stop one here)",
    )
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
    parser.add_argument(
        "--report", action="store_true", help="also write OUTPUT.report.html: the conversion in pictures and curves"
    )
    parser.add_argument(
        "--log", metavar="FILE", help="write what happens as JSON lines, rotated by size (default: no log)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and change nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON report on standard output")
    parser.add_argument(
        "--progress",
        choices=("auto", "json", "none"),
        default="auto",
        help="on standard error: bars (auto; lines of text where it is no terminal), JSON lines for programs, or warnings alone",
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
    wanted = config.output
    jobs, skipped = find_jobs(inputs, args.output, wanted.container, config.extras.frames, wanted.codec)
    console = Console(stderr=args.json)
    if args.dry_run:
        prepared, reports = plan_batch(jobs, config)
        for item in prepared:
            if not args.json:
                print_plan(console, item)
        if args.json:
            print_json(
                {"plans": [plan_facts(item) for item in prepared], "files": [report.to_dict() for report in reports]}
            )
        else:
            for report in reports:
                ERRORS.print(f"{report.source}: {report.status}: {report.error}")
        return max([report.exit_code for report in reports], default=0)
    batch = run_batch(jobs, config, overwrite=args.overwrite, progress=args.progress)
    if args.json:
        print_json(batch.to_dict() | {"skipped": [str(path) for path in skipped]})
    else:
        print_results(console, batch.files)
        for path in skipped:
            console.print(
                f"{path}: skipped: neither a video by its name nor pictures to convert", markup=False, soft_wrap=True
            )
    return batch.exit_code


def _apply_flags(config: Config, args: argparse.Namespace) -> None:
    config.input.force |= args.force
    config.input.strict |= args.strict
    config.input.salvage |= args.salvage
    config.extras.report |= args.report
    if args.video is not None:
        if args.video != "all" and not args.video.isdigit():
            raise InputError(f"--video {args.video}: legal: all, or the number of a video stream (0, 1, ...).")
        config.input.video = args.video
    if args.fps is not None:
        config.input.fps = args.fps
    if args.address is not None:
        config.workers.address = args.address
    if args.log is not None:
        config.workers.log = args.log
    if args.workers is not None:
        if args.workers < 1:
            raise InputError(f"--workers {args.workers}: legal: 1 or more.")
        config.workers.count = args.workers
