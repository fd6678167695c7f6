"""Planning: everything that has to open a source before its spans can be handed out. A process of its own may do it and die of it.

Whoever asks holds the lock of the work folder, and writes the plan and the ledger; this writes indices (and what stands for pictures) alone.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema import Config, DriveConfig
from pipeline import frame_files
from pipeline.earlier import Earlier
from pipeline.errors import InputError
from pipeline.extras import extra_files
from pipeline.file_report import FileReport
from pipeline.fingerprint import QUICK_KEY, Fingerprint, fingerprint
from pipeline.machine import Machine, this_machine
from pipeline.places import work_folder
from pipeline.prepare import (
    Prepared,
    make_plan,
    rate_asked,
    save_indices,
    span_keys,
)
from pipeline.proxy_file import proxies_current
from pipeline.sequence import Run, wrap
from pipeline.span_job import no_space_named

WRAPPED_NAME = "pictures.mov"
"""The file in the work folder that stands for a run of pictures."""


@dataclass(frozen=True)
class Asked:
    """What is to be converted, and how.

    run: the pictures that are the source; frames: where each picture of the result goes
    overwrite: replace an output that was made from something else
    paranoid: read the whole source to see whether the output is made from it
    machine: what will convert it; None: this machine
    """

    source: Path
    output: Path
    config: Config
    overwrite: bool = False
    run: Run | None = None
    frames: tuple[Path, ...] = ()
    paranoid: bool = False
    machine: Machine | None = None


@dataclass(frozen=True)
class Planned:
    """What planning found.

    keys: (track, span) -> key of its ledger line; stamp: size and time of change of the source as it was read
    fingerprint: None where it cannot be trusted
    """

    prepared: Prepared
    keys: dict[tuple[int, int], str]
    stamp: tuple[int, int]
    fingerprint: Fingerprint | None

    def without_indices(self) -> Planned:
        """Small enough to be sent around: the indices lie in the work folder."""
        return dataclasses.replace(self, prepared=dataclasses.replace(self.prepared, indices=(), lent=()))


def plan_file(asked: Asked, earlier: Earlier | None = None) -> Planned | FileReport:
    """Plan a conversion and leave the indices in its work folder; a FileReport comes back instead when the output is there already.

    earlier: what is where the output goes; None: what the disk says
    Raises InputError when the source cannot be converted, or another file stands where the output would.
    """
    source, config, machine = asked.source, asked.config, asked.machine or this_machine(asked.config)
    earlier = earlier or Earlier(asked.output)
    facts = earlier.facts()
    quick = fingerprint(source, asked.output, config, machine, asked.run)
    if is_done(asked, earlier, facts, quick):
        return already_done(asked, facts, machine.model_restores_highlights)
    if asked.run is not None:
        with no_space_named(asked.output.parent):
            source, config = wrapped(asked.run, work_folder(asked.output), config)
    stamp = stamp_of(source)
    prepared = make_plan(source, asked.output, config, asked.frames, machine=machine)
    if not earlier.exists():
        frame_files.refuse_frames(prepared.frames, overwrite=asked.overwrite)
    else:
        same = facts.get("identity") == prepared.plan.identity()
        if same and _beside_is_there(asked, earlier, facts) and proxies_current(prepared, earlier.tags):
            return already_done(asked, facts, prepared.plan.model_restores_highlights)
        if not (same or asked.overwrite):
            raise InputError(
                f"{asked.output}: there is a file already, made from another source or with other settings; --overwrite replaces it."
            )
    with no_space_named(prepared.workdir):
        save_indices(prepared)
    trusted = quick if prepared.plan.model_sha256 == machine.model_sha256 else None
    return Planned(prepared, span_keys(prepared), stamp, trusted)


def wrapped(run: Run, folder: Path, config: Config) -> tuple[Path, Config]:
    """The file that stands for a run of pictures, made in `folder`, and the settings that it is converted with: pictures are sRGB, and no drive."""
    rate = run.rate(rate_asked(config))
    source = wrap(run, rate, folder / WRAPPED_NAME)
    transfer = "srgb" if config.input.transfer == "auto" else config.input.transfer
    told = dataclasses.replace(config.input, fps="auto", transfer=transfer)
    return source, dataclasses.replace(config, input=told, drive=DriveConfig(join=False))


def stamp_of(source: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns. Raises InputError when the file is gone."""
    try:
        facts = source.stat()
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror}).") from error
    return facts.st_size, facts.st_mtime_ns


def is_done(asked: Asked, earlier: Earlier, facts: dict[str, Any], quick: Fingerprint) -> bool:
    """Does a fingerprint tell that the output is made already? facts: earlier.facts()"""
    quickly = not asked.paranoid and asked.config.extras.proxy == "none"  # a proxy is known by the plan alone
    return quickly and facts.get(QUICK_KEY) == dataclasses.asdict(quick) and _beside_is_there(asked, earlier, facts)


def _beside_is_there(asked: Asked, earlier: Earlier, facts: dict[str, Any]) -> bool:
    """Is everything there that was asked for beside the output?"""
    extras, tracks = asked.config.extras, facts["tracks"]
    wanted = [name for name, value in dataclasses.asdict(extras).items() if value is True]
    files = [file for paths in extra_files(asked.output, len(tracks), wanted).values() for file in paths]
    if extras.frames != "none":
        files += asked.frames or frame_files.frame_paths(asked.output, tracks[0]["frames"], extras.frames)
    return all(earlier.has(file) for file in files)


def already_done(asked: Asked, facts: dict[str, Any], restores_highlights: bool) -> FileReport:
    """The report of an output that is there already. facts: what it says of itself"""
    return FileReport(
        str(asked.source),
        str(asked.output),
        "already done",
        frames=sum(track["frames"] for track in facts["tracks"]),
        max_cll_nits=facts.get("max_cll"),
        max_fall_nits=facts.get("max_fall"),
        restores_highlights=restores_highlights,
    )
