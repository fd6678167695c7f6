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
from pipeline.verify import read_provenance

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


def plan_file(asked: Asked) -> Planned | FileReport:
    """Plan a conversion and leave the indices in its work folder; a FileReport comes back instead when the output is there already.

    Raises InputError when the source cannot be converted, or another file stands where the output would.
    """
    source, config, machine = asked.source, asked.config, asked.machine or this_machine(asked.config)
    earlier = provenance_of(asked.output) if asked.output.exists() else {}
    quick = fingerprint(source, asked.output, config, machine, asked.run)
    recorded = earlier.get(QUICK_KEY)
    quickly = not asked.paranoid and config.extras.proxy == "none"  # a proxy is known by the plan alone
    if quickly and recorded == dataclasses.asdict(quick) and _beside_is_there(asked, earlier):
        return _already_done(asked, earlier, machine.model_restores_highlights)
    if asked.run is not None:
        with no_space_named(asked.output.parent):
            source, config = wrapped(asked.run, work_folder(asked.output), config)
    stamp = stamp_of(source)
    prepared = make_plan(source, asked.output, config, asked.frames, machine=machine)
    if not asked.output.exists():
        frame_files.refuse_frames(prepared.frames, overwrite=asked.overwrite)
    else:
        same = earlier.get("identity") == prepared.plan.identity()
        if same and _beside_is_there(asked, earlier) and proxies_current(prepared):
            return _already_done(asked, earlier, prepared.plan.model_restores_highlights)
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


def provenance_of(output: Path) -> dict[str, Any]:
    """What an earlier output says of itself; empty when the file is none of ours."""
    try:
        return read_provenance(output).facts
    except InputError:
        return {}


def _beside_is_there(asked: Asked, earlier: dict[str, Any]) -> bool:
    """Is everything there that was asked for beside the output?"""
    extras, tracks = asked.config.extras, earlier["tracks"]
    wanted = [name for name, value in dataclasses.asdict(extras).items() if value is True]
    files = [file for paths in extra_files(asked.output, len(tracks), wanted).values() for file in paths]
    if extras.frames != "none":
        files += asked.frames or frame_files.frame_paths(asked.output, tracks[0]["frames"], extras.frames)
    return all(file.exists() for file in files)


def _already_done(asked: Asked, earlier: dict[str, Any], restores_highlights: bool) -> FileReport:
    return FileReport(
        str(asked.source),
        str(asked.output),
        "already done",
        frames=sum(track["frames"] for track in earlier["tracks"]),
        max_cll_nits=earlier.get("max_cll"),
        max_fall_nits=earlier.get("max_fall"),
        restores_highlights=restores_highlights,
    )
