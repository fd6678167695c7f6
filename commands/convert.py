"""The `convert` command."""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from commands.shared import add_command, place_of, print_json
from configs.schema import Config, load_config, profiles
from pipeline.errors import InputError, SunvisorError
from storage.urls import Url, is_url

if TYPE_CHECKING:
    from workers.jobs import Job
    from workers.remote_found import Stores

REPORT_COLUMNS = 120
OVERRIDE = re.compile(r"^[a-z_]+(\.[a-z_0-9]+)*=", re.IGNORECASE)
STILL_SECONDS = 10.0
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
  run_pipeline.py convert @drives.txt --output hdr/             a list: one file, folder or glob a line, relative to the list
  run_pipeline.py convert sdcard/ --output hdr/ --watch         a folder that keeps filling; Ctrl-C ends it
  run_pipeline.py convert s3://bucket/in/ --output s3://bucket/hdr/    object stores (s3://, gs://, az://), docs/storage.md
  run_pipeline.py status hdr/     and  pause hdr/,  resume hdr/: from another terminal

Settings: any key of configs/schema.py as key=value; a misspelt key lists the legal ones.
--progress json: each line is an object. {"is": "progress", ...}, every second and at each change, with the numbers seconds (since the
start), files_done, files, spans_done, spans, frames_done, frames (frames_guessed of them are a guess: files not yet looked at),
frames_per_second, eta_seconds (null: not known yet), and now: the same numbers of each file that is being converted, beside its name,
file; note: "paused" or "". {"is": "message", "text": ...}: what people are told meanwhile, such as what became of a file.
Files are begun longest first, and each is published as soon as it is done. Done ones are recognised by content and settings, not by name or
time: size, first and last MiB. A source that changed in its middle alone is not seen by that; --paranoid reads all of it.
A folder of results gets .sunvisor/report.json and report.txt: what became of each file.
Exit code: 0 all well, 1 something failed, 2 something you can mend, 3 stopped by --max-hours, 130 interrupted, 143 ended by SIGTERM (3, 130
and 143: the same command goes on). With several files the rest goes on.""",
    )
    parser.add_argument(
        "words",
        nargs="+",
        metavar="INPUT|key=value",
        help="video files, folders, globs, URLs or @lists, and settings as key=value",
    )
    parser.add_argument(
        "--output",
        "-o",
        required=True,
        metavar="PATH|URL",
        help="file to write (.mp4 .mov .mkv), or a folder for several inputs; also in an object store",
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
        "--fps", metavar="RATE", help="frame rate of numbered pictures or a raw stream, such as 20 or 30000/1001"
    )
    parser.add_argument("--force", action="store_true", help="convert a source that is HDR already")
    parser.add_argument(
        "--strict", action="store_true", help="fail on a damaged frame instead of repeating the last good one"
    )
    parser.add_argument("--salvage", action="store_true", help="convert the readable part of a file that was cut short")
    parser.add_argument("--overwrite", action="store_true", help="replace an output that was made from something else")
    parser.add_argument("--paranoid", action="store_true", help="read a source through before calling its output done")
    parser.add_argument(
        "--max-hours", type=float, metavar="H", help="begin nothing new after so many hours; running spans finish"
    )
    parser.add_argument("--watch", action="store_true", help="go on taking files that come, until Ctrl-C")
    parser.add_argument(
        "--still",
        type=float,
        default=STILL_SECONDS,
        metavar="SECONDS",
        help="with --watch: for how long nobody may have written to a file before it is taken (default: %(default)g)",
    )
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
    from workers.jobs import find_jobs

    overrides = [word for word in args.words if OVERRIDE.match(word) and not Path(word).exists()]
    inputs = [word for word in args.words if word not in overrides]
    if not inputs:
        raise InputError("convert: no input named; give a video file, a folder, a glob or an @list.")
    config = load_config(args.profile, args.config, overrides)
    _apply_flags(config, args)
    if args.watch and args.dry_run:
        raise InputError("--watch and --dry-run do not go together; leave one out.")
    args.output = place_of(args.output)
    wanted, stores = config.output, _stores(config, args)
    find = functools.partial(
        find_jobs, inputs, args.output, wanted.container, config.extras.frames, wanted.codec, stores=stores
    )
    if args.watch:
        return _run(args, config, [], [], lambda: find(watching=True)[0])
    jobs, skipped = find()
    return _show_plans(args, config, jobs) if args.dry_run else _run(args, config, jobs, skipped, None)


def _stores(config: Config, args: argparse.Namespace) -> Stores:
    """Where URLs are looked up."""
    from storage.cell import storage_folder
    from workers.remote_found import Stores

    patience = 0.0 if args.watch else config.workers.storage_retry_seconds
    return Stores(storage_folder(config.workers.storage_folder), patience, ERRORS.print)


def _show_plans(args: argparse.Namespace, config: Config, jobs: list[Job]) -> int:
    from pipeline.file_report import FileReport, exit_code_of
    from pipeline.report import print_plan
    from workers.batch import plan_batch

    if (remote := next((job for job in jobs if job.remote is not None), None)) is not None:
        raise InputError(
            f"{remote.origin}: --dry-run plans by reading whole sources, so it works on local files only; try it on a copy of one."
        )
    console = Console()
    plans, reports = [], []
    for answer in plan_batch(jobs, config):
        if isinstance(answer, FileReport):
            reports.append(answer)
        elif args.json:
            plans.append(answer)
        else:
            print_plan(console, answer)
    if args.json:
        print_json({"plans": plans, "files": [report.to_dict() for report in reports]})
    else:
        for report in reports:
            ERRORS.print(f"{report.source}: {report.status}: {report.error}")
    return exit_code_of(reports)


def _run(
    args: argparse.Namespace,
    config: Config,
    jobs: list[Job],
    skipped: list[Path | Url],
    find: Callable[[], list[Job]] | None,
) -> int:
    """Convert. find: lists all jobs anew, for --watch"""
    from pipeline.report import print_results
    from storage.cell import storage_folder
    from workers.area import area_of
    from workers.batch import run_batch
    from workers.batch_file import Options
    from workers.watch import RESCAN_SECONDS, STORE_RESCAN_SECONDS, Watch

    one_file = len(jobs) == 1 and jobs[0].place == str(args.output)
    folder = storage_folder(config.workers.storage_folder)
    area = area_of(args.output, one_file=one_file, storage=folder)
    limit = None if args.max_hours is None else args.max_hours * 3600
    options = Options(overwrite=args.overwrite, paranoid=args.paranoid, max_seconds=limit)
    with contextlib.ExitStack() as stack:
        if find is not None:
            find()  # what can never be found is told at once
            pause = STORE_RESCAN_SECONDS if any(map(is_url, args.words)) else RESCAN_SECONDS
            watch = stack.enter_context(Watch(find, args.still, time.monotonic, ERRORS.print, pause))
            options = replace(options, watch=watch.new_jobs)
        batch = run_batch(jobs, config, progress=args.progress, options=options, area=area)
    facts = batch.to_dict() | {"skipped": [str(path) for path in skipped]}
    text = io.StringIO()
    console = Console(file=text, width=REPORT_COLUMNS)
    print_results(console, batch.files)
    try:
        area.write_report(facts, text.getvalue())
        if isinstance(args.output, Url) and not one_file:
            _send_report(area.folder, args.output)
    except SunvisorError as error:
        ERRORS.print(f"{area.folder}: the report is there, but not in the store: {error}")
    except OSError as error:
        ERRORS.print(f"{area.folder}: the report cannot be written there ({error.strerror}).")
    if args.json:
        print_json(facts)
    else:
        console = Console()
        print_results(console, batch.files)
        for path in skipped:
            console.print(
                f"{path}: skipped: neither a video by its name nor pictures to convert", markup=False, soft_wrap=True
            )
    return batch.exit_code


def _send_report(folder: Path, output: Url) -> None:
    """Publish a batch's report beside its outputs in a store. One attempt: it is here as well."""
    from storage.multipart import JOURNAL_NAME, end_leftover
    from storage.publish import send
    from storage.store import Store
    from workers.area import AREA_NAME, REPORT_NAME, REPORT_TEXT_NAME

    store, journal = Store(output.scheme), folder / JOURNAL_NAME
    end_leftover(store, journal)
    for name in (REPORT_NAME, REPORT_TEXT_NAME):
        send(store, folder / name, output.join(f"{AREA_NAME}/{name}"), journal)


def _apply_flags(config: Config, args: argparse.Namespace) -> None:
    config.input.force |= args.force
    config.input.strict |= args.strict
    config.input.salvage |= args.salvage
    config.extras.report |= args.report
    if args.video is not None:
        if args.video != "all" and not args.video.isdigit():
            raise InputError(f"--video {args.video}: legal: all, or the number of a video stream (0, 1, ...).")
        config.input.video = args.video
    for flag, value in (("--max-hours", args.max_hours), ("--still", args.still)):
        if value is not None and not 0 <= value < 1e6:
            raise InputError(f"{flag} {value:g}: legal: 0 or more.")
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
