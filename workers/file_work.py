"""File work: what is done to a whole file, in a process that may die of a hostile one: planning it, joining it, looking at it.

A file from an object store is fetched before it is planned, and one for an object store published after it was joined.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from pipeline.convert import Joining, join
from pipeline.errors import InputError
from pipeline.file_report import FileReport
from pipeline.planning import Asked, Planned, wrapped
from pipeline.planning import plan_file as plan_here
from pipeline.prepare import make_plan, refuse_output
from pipeline.verify_report import VerifyReport
from storage.edges import RemoteAsked, RemoteJoining
from storage.edges import join as join_remote
from storage.edges import plan as plan_remote
from workers.apart import Compared, Inspected

PLAN_FILE = "workers.file_work:plan_file"
JOIN_FILE = "workers.file_work:join_file"
FORESEE_FILE = "workers.file_work:foresee_file"


def plan_file(asked: Asked | RemoteAsked) -> Planned | FileReport:
    """See pipeline.planning; the indices stay in the work folder."""
    found = plan_remote(asked, plan_here) if isinstance(asked, RemoteAsked) else plan_here(asked)
    return found if isinstance(found, FileReport) else found.without_indices()


def join_file(joining: Joining | RemoteJoining) -> FileReport:
    """See pipeline.convert; with the report where it is asked for."""
    from reporting.conversion import report_conversion

    if isinstance(joining, RemoteJoining):
        return join_remote(joining, report_conversion)
    return join(joining, report_conversion)


def foresee_file(told: tuple[Asked, Path]) -> dict[str, Any]:
    """What a conversion would do, as `--dry-run` tells it. Writes nothing but, in the folder, a file that stands for pictures.

    Raises InputError as make_plan does.
    """
    from pipeline.report import plan_facts

    asked, folder = told
    source, config = asked.source, asked.config
    refuse_output(source, asked.output)
    if asked.run is not None:
        folder.mkdir()
        source, config = wrapped(asked.run, folder, config)
    return plan_facts(make_plan(source, asked.output, config, asked.frames, machine=asked.machine))


def inspect_file(asked: Inspected) -> tuple[dict[str, Any], str]:
    """What a file holds, as data and as text. Raises InputError as `describe` does."""
    from pipeline.describe import describe, describe_text

    facts = describe(asked.file, fps=asked.fps)
    text = describe_text(facts)
    if asked.overlay is not None:
        from pipeline.overlay_view import write_overlay_view

        found, bonnet = write_overlay_view(asked.file, asked.overlay, asked.fps)
        boxes = [[box.x, box.y, box.width, box.height] for box in found]
        facts |= {"overlays": boxes, "bonnet": bonnet}
        places = "; ".join("x {} y {}, {}x{}".format(*box) for box in boxes)
        text += f"\nburnt-in text: {places or 'none found'} (drawn into {asked.overlay})"
        text += f"\nbonnet: {'found, exclude.find=true keeps it as it is' if bonnet else 'none found'}"
    return facts, text


def verify_file(asked: Compared) -> VerifyReport:
    """Is the output a true conversion of the source? Raises InputError when either cannot be read."""
    from pipeline.verify import verify

    source = _as_video(asked.source, asked.output, asked.folder)
    return dataclasses.replace(verify(source, asked.output, full=asked.full), source=str(asked.source))


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
