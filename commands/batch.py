"""The commands that speak to a run from another terminal: `status`, `pause` and `resume`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.shared import add_command, place_of, print_json
from pipeline.errors import InputError

if TYPE_CHECKING:
    from workers.area import Area

WATCH_SECONDS = 2.0
PLACE_HELP = "what the run writes: the folder, file or URL of its --output, or a .work folder"


def add_status(commands: Any) -> None:  # noqa: ANN401
    """Add it to the command line."""
    parser = add_command(
        commands,
        "status",
        _status,
        "Say how a running convert is getting on, from another terminal: files, spans, frames a second, failures, and who works there.",
        """It reads what the run writes every second into OUTPUT/.sunvisor/ (a folder of results) or OUTPUT.work/ (one file).
--json: drivers (what each run says, with alive, state, files, spans_done, frames_done, eta_seconds, now, failures), paused, work (each
.work folder: pid and since of who holds it, spans_done of spans).
States: starting, running, paused, finishing (nothing new begins), finished, stopped. After a run of one file nothing is left to say.""",
    )
    parser.add_argument("place", metavar="OUTPUT|WORKDIR", help=PLACE_HELP)
    _add_storage(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--watch", action="store_true", help=f"again every {WATCH_SECONDS:g} seconds, until it is over")


def add_pause(commands: Any) -> None:  # noqa: ANN401
    """Add it to the command line."""
    parser = add_command(
        commands,
        "pause",
        _pause,
        "Pause a running convert from another terminal: running spans finish, nothing new begins.",
        "It lasts until `resume`, or until the same command is started anew.",
    )
    parser.add_argument("place", metavar="OUTPUT|WORKDIR", help=PLACE_HELP)
    _add_storage(parser)


def add_resume(commands: Any) -> None:  # noqa: ANN401
    """Add it to the command line."""
    parser = add_command(commands, "resume", _resume, "Let a paused convert go on.", "")
    parser.add_argument("place", metavar="OUTPUT|WORKDIR", help=PLACE_HELP)
    _add_storage(parser)


def _add_storage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--storage-folder",
        type=Path,
        metavar="DIR",
        help="for a URL: the run's workers.storage_folder, if it was given one",
    )


def _storage(args: argparse.Namespace) -> Path:
    from storage.cell import storage_folder

    return storage_folder(args.storage_folder)


def _status(args: argparse.Namespace) -> int:
    from workers.status import is_over, status, status_text

    while True:
        facts = status(place_of(args.place), _storage(args))
        if args.json:
            print_json(facts)
        else:
            sys.stdout.write(status_text(facts, time.time()))
        sys.stdout.flush()
        if not args.watch or is_over(facts):
            return 0
        time.sleep(WATCH_SECONDS)


def _pause(args: argparse.Namespace) -> int:
    _running(args).pause()
    sys.stdout.write(f"{args.place}: paused: running spans finish, nothing new begins\n")
    return 0


def _resume(args: argparse.Namespace) -> int:
    _running(args).resume()
    sys.stdout.write(f"{args.place}: resumed\n")
    return 0


def _running(args: argparse.Namespace) -> Area:
    """The area of a run that is under way. Raises InputError where none is."""
    from workers.area import alive, find_area

    area = find_area(place_of(args.place), _storage(args))
    if not any(map(alive, area.statuses())):
        raise InputError(f"{args.place}: no run is under way there.")
    return area
