"""The `preview` command."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.shared import add_command, refuse_urls
from configs.schema import load_config, profiles
from pipeline.errors import InputError

if TYPE_CHECKING:
    from preview.sources import Source

OVERRIDE = re.compile(r"^[a-z_]+(\.[a-z_0-9]+)*=", re.IGNORECASE)
PORT = 8765


def add_preview(commands: Any) -> None:  # noqa: ANN401
    """Add it to the command line."""
    parser = add_command(
        commands,
        "preview",
        _preview,
        "Look at the result live in a browser, turn the settings, and save those you like.",
        """examples:
  run_pipeline.py preview drive.mp4                        opens http://127.0.0.1:8765/
  run_pipeline.py preview sdcard/ --output hdr/            a folder of videos; conversions started on the page go to hdr/
  run_pipeline.py preview frames/ --fps 30                 a folder of numbered pictures
  run_pipeline.py preview /dev/video0 --profile preview    a camera; rtsp:// and http:// streams likewise
  run_pipeline.py preview drive.mp4 grade.peak_nits=600    starts with these settings

A paused picture is exactly what `convert` would encode. While it plays, quality is lowered to keep up, and the page says how.
Only this machine can reach the page, unless --host says otherwise; then the address holds a token, and whoever has it sees your videos.
Ctrl-C ends it; a conversion that was started on the page is stopped with it, and the same conversion goes on later where it stopped.""",
    )
    parser.add_argument(
        "words",
        nargs="+",
        metavar="INPUT|key=value",
        help="videos, folders, cameras or streams, and settings as key=value",
    )
    parser.add_argument(
        "--profile", default="dashcam", help=f"settings to start from: {', '.join(profiles())} (default: %(default)s)"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="your own YAML on top of the profile, such as one saved on the page"
    )
    parser.add_argument(
        "--output",
        "-o",
        type=Path,
        metavar="FOLDER",
        help="where conversions started on the page go (default: beside the source)",
    )
    parser.add_argument(
        "--fps", metavar="RATE", help="frame rate of numbered pictures or a raw stream, such as 20 or 30000/1001"
    )
    parser.add_argument("--port", type=int, default=PORT, help="0 takes any free one (default: %(default)s)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; other than loopback it needs a token (default: %(default)s)",
    )
    parser.add_argument("--token", help="what the address must hold (default: none on loopback, else a new one)")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")


def _preview(args: argparse.Namespace) -> int:
    from preview.run import run

    overrides = [word for word in args.words if OVERRIDE.match(word) and not Path(word).exists()]
    inputs = [word for word in args.words if word not in overrides]
    refuse_urls("preview", *inputs, args.output or "")
    if args.fps is not None:
        overrides.append(f"input.fps={args.fps}")
    if not inputs:
        raise InputError("preview: no input named; give a video, a folder, a camera such as /dev/video0, or a stream.")
    if not 0 <= args.port <= 65535:
        raise InputError(f"--port {args.port}: legal: 0 to 65535.")
    if args.token is not None and not re.fullmatch(r"[A-Za-z0-9_.~-]{8,}", args.token):
        raise InputError("--token: legal are 8 or more letters, digits and -._~")
    if args.output is not None and args.output.exists() and not args.output.is_dir():
        raise InputError(f"--output {args.output}: is a file; name a folder.")
    load_config(args.profile, args.config, overrides)
    run(
        args.host,
        args.port,
        args.token,
        lambda: _sources(inputs, args.output),
        args.profile,
        args.config,
        overrides,
        browser=not args.no_browser,
    )
    return 0


def _sources(inputs: list[str], output: Path | None) -> tuple[Source, ...]:
    """What is to be shown, as `convert` finds it. Raises InputError when there is nothing."""
    from preview.live import is_live
    from preview.sources import live_source, pictures_source, video_source, with_own_outputs
    from workers.jobs import find_jobs

    found: list[Source] = []
    for word in inputs:
        if is_live(word):
            found.append(live_source(word))
            continue
        root = Path(word)
        target = output or (root if root.is_dir() else Path("preview.mp4"))
        jobs, _ = find_jobs([word], target)
        for job in jobs:
            if job.run is None:
                found.append(video_source(job.source, output))
            else:
                found.append(pictures_source(job.run, output, alone=root.is_dir() and len(jobs) == 1))
    return with_own_outputs(found)
